"""Body models as compiled programs. Called without `jit` they are hundreds of small programs, each compiled on its own."""

from __future__ import annotations

import jax

from body_models import anny, smplx

anny_forward = jax.jit(anny.forward)
anny_rest = jax.jit(anny.rest)
anny_points = jax.jit(anny.points)
smplx_forward = jax.jit(smplx.forward)


@jax.jit
def anny_bones(model: anny.AnnyModel, params: anny.Params) -> jax.Array:
    """Poses of all bones (..., 163, 4, 4): without the mesh, it compiles in a fraction of the time."""
    return anny.forward(model, params).bone_poses


@jax.jit
def anny_keypoints(model: anny.AnnyModel, params: anny.Params) -> jax.Array:
    """The model's keypoints in metres, (..., 23, 3)."""
    return anny.forward(model, params).keypoints
