"""The camera of AiOS against recordings."""

from __future__ import annotations

import aios_golden as golden
import jax.numpy as jnp
import numpy as np

from annyfit_jax.regressors.aios import (
    weak_perspective,
)


def test_projection():
    found = golden.arrays("ops")
    points, camera_, size = (jnp.asarray(found[f"proj_{key}"]) for key in ("points", "cam", "wh"))
    got = weak_perspective.project(points, camera_, size)
    # Pixels of order 1e3 and more: relative.
    np.testing.assert_allclose(got, found["proj_out"], rtol=1e-4, atol=1e-2)
    plain = points + weak_perspective.translation(camera_)[:, None]
    perspective = weak_perspective.FOCAL_PX * plain[..., :2] / plain[..., 2:] + size[:, None] / 2
    np.testing.assert_allclose(got, perspective, rtol=1e-3, atol=0.1)
