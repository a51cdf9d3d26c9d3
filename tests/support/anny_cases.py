"""Recorded, drawn and contracted bodies of the tests of `body_models.anny`, and its functions as programs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from compiled_bodies import anny_forward, anny_points, anny_rest

from body_models import anny

PEOPLE = 16
"""As many as the goldens have: another number would be another program, which takes seconds to compile."""
POSITION = {"float64": 1e-9, "float32": 1e-5}
"""Largest error against the goldens in metres; gradients in float64: 1e-8 of the largest entry of a person."""
GRADIENT = 1e-8
ORIENTATION = {"float64": 1e-9, "float32": 5e-5}
"""Entries of bone orientations: the shortest bones are 2.4 mm, where 1e-7 m of float32 rounding is 4e-5 rad."""

forward, points, rest = anny_forward, anny_points, anny_rest
forward_transforms = jax.jit(anny.forward_transforms, static_argnames="pose_mode")


def golden_params(golden: dict[str, np.ndarray], block: str, dtype) -> anny.Params:
    rotvec = golden[f"{block}_rotvec"]
    return anny.Params(
        jnp.asarray(golden[f"{block}_phenotypes"], dtype),
        jnp.asarray(rotvec[:, 0], dtype),
        jnp.asarray(rotvec[:, 1:], dtype),
        jnp.asarray(golden[f"{block}_translation"], dtype),
        jnp.asarray(golden["b_local_changes"], dtype) if block == "b" else None,
    )


def random_params(people: int | tuple[int, ...], dtype, seed: int = 0, angle: float = 0.3) -> anny.Params:
    """Six phenotypes over the whole range and a little beyond, everything bent, three metres away."""
    rng = np.random.default_rng(seed)
    batch = (people,) if isinstance(people, int) else people
    return anny.Params(
        jnp.asarray(rng.uniform(-0.4, 1.1, (*batch, 6)), dtype),
        jnp.asarray(rng.normal(0, 1.0, (*batch, 3)), dtype),
        jnp.asarray(rng.normal(0, angle, (*batch, 162, 3)), dtype),
        jnp.asarray(rng.normal((0, 0, 3), 0.5, (*batch, 3)), dtype),
    )


def surface_regressor(model: anny.AnnyModel, kind: str) -> np.ndarray:
    rng = np.random.default_rng(8)
    if kind == "keypoints":
        return np.asarray(model.keypoint_regressor)
    if kind == "vertices":
        return anny.vertex_regressor(model, rng.integers(0, 13718, 64))
    rows = np.zeros((64, 13718))
    for row, face in zip(rows, rng.integers(0, 27420, 64)):
        row[np.asarray(model.faces)[face]] = rng.dirichlet(np.ones(3))
    rows[0] *= 0.7  # a row whose sum is not 1 is still linear in the vertices
    return rows
