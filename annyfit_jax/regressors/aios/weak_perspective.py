"""The weak-perspective camera of AiOS and what it stands for."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

FOCAL_PX = 5000.0
"""Published focal length in pixels of the resized picture; the principal point is the centre of its unpadded part."""
_SCALE_FLOOR = 1e-9


def translation(camera: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """(s, tx, ty) to the position (tx / s, ty / s, 1 / s) of the body model's origin in the camera frame, metres."""
    scale = camera[..., :1] + _SCALE_FLOOR
    return jnp.concatenate([camera[..., 1:] / scale, 1.0 / scale], axis=-1)


def project(
    points: Float[Array, "*batch point 3"],
    camera: Float[Array, "*batch 3"],
    image_size: Float[Array, "*batch 2"],
    focal: float = FOCAL_PX,
) -> Float[Array, "*batch point 2"]:
    """Pixels of points of the body model before its translation.

    u = f (s X + tx) / (1 + s Z) + w / 2: the perspective projection at `translation`, without its huge depths for
    s near 0. `image_size` is (width, height).
    """
    scale, shift = camera[..., None, :1], camera[..., None, 1:]
    return focal * (scale * points[..., :2] + shift) / (1.0 + scale * points[..., 2:]) + image_size[..., None, :] / 2.0
