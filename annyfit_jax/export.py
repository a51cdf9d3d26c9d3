"""Former place of `annyfit_jax.exports.scene_files`, and of what is `SceneFit.parameters` now."""

from __future__ import annotations

from annyfit_jax.results import SceneFit
from annyfit_jax.scene import BodyParameters


def fit_parameters(fit: SceneFit) -> BodyParameters:
    """`fit.parameters`."""
    return fit.parameters
