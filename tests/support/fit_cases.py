"""Recorded scenes, goldens and small helpers of the fitting tests."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np

from annyfit_jax.fit import adam
from annyfit_jax.fit import config as configs
from annyfit_jax.fit.config import FitConfig
from annyfit_jax.fit.fit_body import FitBody
from annyfit_jax.fit.problem import Capacity, Problem, Variables, assemble
from annyfit_jax.people.scene import BodyParameters, Scene
from annyfit_jax.records import settings

Case = tuple[Scene, BodyParameters]
"""A scene and the start of its people."""
TRAJECTORIES = range(4)
GROUPS: tuple[str, ...] = ("transl", "root_rotvec", "shape", "pose")
GOLDEN_TERMS = {
    "keypoints": "keypoints_2d",
    "dense": "dense_kp",
    "pose_prior": "pose_init",
    "shape_prior": "shape_init",
    "mesh_prior": "verts_init",
    "words": "shape_attr",
    "depth_order": "ordering_depth",
}
"""Our name of each term -> its name in the goldens."""


@functools.cache
def golden(name: str) -> dict[str, np.ndarray]:
    """All arrays of `tests/goldens/annyfit/<name>.npz`, read-only."""
    return helpers.read_only(helpers.GOLDENS / "annyfit" / f"{name}.npz")


@functools.cache
def released_config() -> FitConfig:
    """The released schedule."""
    return configs.load_config(helpers.REPO / "experiments" / "configs" / "annyfit.py")


def short_config(*overrides: str, steps: int = 3, mesh_samples: int = 24) -> FitConfig:
    """The released schedule with few steps and few mesh points: everything is exercised and it compiles fast."""
    steps_of = [f"stages.{stage.name}.steps={steps}" for stage in released_config().stages]
    return settings.apply_overrides(released_config(), [*steps_of, f"mesh_samples={mesh_samples}", *overrides])


def trajectory(index: int) -> tuple[Scene, BodyParameters]:
    """The scene of a recorded trajectory and its start, words inserted, in arrays of their own."""
    z = {key: array.copy() for key, array in golden(f"traj_{index:03d}_scene").items()}
    scene = make_scene(
        f"traj_{index:03d}",
        intrinsics=z["K"],
        image_size=(int(z["image_size"][0]), int(z["image_size"][1])),
        keypoints=z["keypoints_2d"],
        dense_keypoints=z["dense_kp"],
        median_depth=z["median_depth"],
        age=z["vlm_age"],
        gender=z["vlm_gender"],
    )
    shape = z["init_shape"]
    for column, words in enumerate((scene.gender, scene.age)):
        shape[words >= 0, column] = words[words >= 0]
    return scene, BodyParameters(z["init_root_rotvec"], z["init_transl"], z["init_pose"], shape)


def make_scene(name: str, keypoints: np.ndarray, **fields) -> Scene:
    """A scene from its keypoints; every other cue is absent unless given."""
    n = len(keypoints)
    defaults = {
        "image_size": (640, 480),
        "intrinsics": np.array([[550.0, 0, 320], [0, 550, 240], [0, 0, 1]]),
        "dense_keypoints": np.zeros((n, 138, 3)),
        "median_depth": np.full(n, np.nan),
        "depth_layer": np.full(n, -1),
        "age": np.full(n, -1.0),
        "gender": np.full(n, -1.0),
    }
    return Scene(name=name, keypoints=keypoints, **(defaults | fields))


def select(scene: Scene, start: BodyParameters, people: Sequence[int] | np.ndarray) -> tuple[Scene, BodyParameters]:
    """The named people of a scene, in the order given."""
    index = np.asarray(people)
    names = ("keypoints", "dense_keypoints", "median_depth", "depth_layer", "age", "gender")
    return dataclasses.replace(scene, **{n: np.asarray(getattr(scene, n))[index] for n in names}), start.select(index)


def flatten(
    config: FitConfig, cases: Sequence[Case], capacity: Capacity | None = None, dtype: Any = np.float64
) -> tuple[Problem, Variables]:
    """One problem and its start from a list of (scene, start), as jax arrays."""
    return on_device(assemble([s for s, _ in cases], [p for _, p in cases], config, capacity, dtype))


def fit(
    config: FitConfig, body: FitBody, cases: Sequence[Case], capacity: Capacity | None = None, dtype: Any = np.float64
) -> tuple[Problem, Variables, adam.BatchFit]:
    """Assemble and fit a list of (scene, start); returns the problem, the start and the outcome."""
    problem, start = flatten(config, cases, capacity, dtype)
    return problem, start, jax.block_until_ready(adam.fit_batch(config, body, problem, start))


def on_device(tree: Any) -> Any:
    """numpy leaves -> jax arrays."""
    return jax.tree.map(jnp.asarray, tree)
