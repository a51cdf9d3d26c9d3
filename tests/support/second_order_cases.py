"""Recorded scenes as the second-order solver takes them, shared by its tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import fit_cases
import jax
import jax.numpy as jnp
import numpy as np
from helpers import REPO

from annyfit_jax.fit import second_order
from annyfit_jax.fit.config import FitConfig, load_config
from annyfit_jax.fit.fit_body import anny_body
from annyfit_jax.fit.packing import capacity
from annyfit_jax.fit.second_order.map_objective import Context, reference_of
from annyfit_jax.fit.starts import PreparedScene, prepare
from annyfit_jax.people.scene import Scene
from annyfit_jax.records.settings import apply_overrides
from body_models.anny import AnnyModel


def plus_config(*overrides: str) -> FitConfig:
    """`experiments/configs/annyfit_plus.py` with changes."""
    return apply_overrides(load_config(REPO / "experiments" / "configs" / "annyfit_plus.py"), overrides)


def scene(index: int, **changes: Any) -> Scene:
    """A recorded scene with its start: 0 one person, 1 and 2 three, 3 five."""
    found, start = fit_cases.trajectory(index)
    return dataclasses.replace(found, start=start, **changes)


def prepared(scenes: Sequence[Scene], config: FitConfig) -> list[PreparedScene]:
    """Prepared scenes; all of them have usable starts, so no search for one is needed."""
    starter: Any = no_starter
    return [prepare(one, config, starter) for one in scenes]


def no_starter(*_: Any) -> Any:
    """In place of the search for a start from keypoints, which compiles for long."""
    raise AssertionError("these scenes bring their start")


def on_device(scenes: Sequence[Scene], config: FitConfig, length: int, dtype: Any = np.float32) -> tuple[Any, Any]:
    """`MapProblem` and start as jax arrays."""
    return jax.tree.map(jnp.asarray, second_order.assemble(prepared(scenes, config), config, capacity(length), dtype))


def map_body(model: AnnyModel, config: FitConfig) -> Any:
    """The body of the MAP objective."""
    return second_order.prepare_body(model, anny_body(model, config), config)


def context(config: FitConfig, body: Any, problem: Any, variables: Any) -> Context:
    """What the MAP energy reads besides its unknowns, at the prepared start (no closed form, no compilation)."""
    return Context(
        body, problem.problem, problem.cues, reference_of(config.map, body, problem.cues, variables), variables
    )
