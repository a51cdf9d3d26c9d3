"""Cameras of square pictures: rays, distances, and how both are coded for the network. Pixels; metres."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_FOURIER_FREQUENCIES = np.linspace(1.0, 32.0, 16)
CAMERA_CHANNELS = 3 + 2 * 3 * len(_FOURIER_FREQUENCIES)
"""Numbers of a ray's embedding."""
_DISTANCE_FLOOR = 1e-10
_FARTHEST_M = 50.0
_LEAST_NEARNESS = 1e-5


def intrinsics(focal: Float[Array, "*batch"], size: int) -> Float[Array, "*batch 3 3"]:
    """Pinhole matrices with the principal point in the middle of the picture."""
    zero, one = jnp.zeros_like(focal), jnp.ones_like(focal)
    middle = one * (size / 2)
    rows = [[focal, zero, middle], [zero, focal, middle], [zero, zero, one]]
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def focal_of_fov(fov: Float[Array, "*batch"], size: int) -> Float[Array, "*batch"]:
    """Focal length in pixels of a field of view (radians) over the picture's side."""
    return size / 2 / jnp.tan(fov / 2)


def reference_focal(size: int) -> float:
    """Focal length of a field of view of 60 degrees."""
    return size / 2 / math.tan(math.radians(30.0))


def unproject(
    uv: Float[Array, "*#batch 2"], depth: Float[Array, "*#batch 1"], K: Float[Array, "*#batch 3 3"]
) -> Float[Array, "*batch 3"]:
    """K^-1 (u, v, 1) times depth; K is upper triangular without skew."""
    x = (uv[..., 0] - K[..., 0, 2]) / K[..., 0, 0]
    y = (uv[..., 1] - K[..., 1, 2]) / K[..., 1, 1]
    return jnp.stack([x, y, jnp.ones_like(x)], -1) * depth


def nearness_to_depth(raw: Float[Array, "*#batch 1"], focal: Float[Array, "*batch 1"]) -> Float[Array, "*batch 1"]:
    """Depth from what the Anny variant regresses, log(focal / depth)."""
    return focal / jnp.maximum(jnp.exp(raw), _LEAST_NEARNESS)


def sine_table(width: int, side: int) -> Float[np.ndarray, "side side width"]:
    """Fixed position table: the first half of the channels codes the column, the second the row; [sines, cosines] each."""
    quarter = width // 4
    angles = np.arange(side)[:, None] * 10000.0 ** (-np.arange(quarter) / quarter)
    one = np.concatenate([np.sin(angles), np.cos(angles)], -1)
    column = np.broadcast_to(one[None], (side, side, 2 * quarter))
    return np.concatenate([column, column.transpose(1, 0, 2)], -1)


# ------------------------------------------------------------------------------------------------ SMPL-X variant


def relative_to_depth(
    raw: Float[Array, "*#batch 1"], focal: Float[Array, "*batch 1"], size: int
) -> Float[Array, "*#batch 1"]:
    """Depth from what the SMPL-X variant regresses, log(depth) at the focal length of 60 degrees."""
    return jnp.clip(jnp.exp(raw * focal / reference_focal(size)) - _DISTANCE_FLOOR, 0.0, _FARTHEST_M)


def relative_of_depth(
    depth: Float[Array, "*batch"], focal: Float[Array, "*batch"], size: int
) -> Float[Array, "*batch"]:
    """Target of the SMPL-X variant's distance; the inverse of `relative_to_depth`."""
    return jnp.log(depth + _DISTANCE_FLOOR) * reference_focal(size) / focal


def fourier(rays: Float[Array, "*batch 3"]) -> Float[Array, "*batch 99"]:
    """[r, sin(pi r f), cos(pi r f)] with 16 frequencies per coordinate, coordinate by coordinate."""
    angles = (math.pi * rays[..., None] * jnp.asarray(_FOURIER_FREQUENCIES, rays.dtype)).reshape(*rays.shape[:-1], -1)
    return jnp.concatenate([rays, jnp.sin(angles), jnp.cos(angles)], -1)


def ray_embedding(K: Float[Array, "batch 3 3"], rows: int, columns: int, patch: int) -> Float[Array, "batch r c 99"]:
    """Embedding of every patch's ray. The row is taken for x: the published weights were trained so."""
    i, j = jnp.meshgrid(jnp.arange(rows, dtype=K.dtype), jnp.arange(columns, dtype=K.dtype), indexing="ij")
    uv = (jnp.stack([i, j], -1) + 0.5) * patch
    uv = jnp.broadcast_to(uv, (len(K), *uv.shape))
    return fourier(unproject(uv, jnp.ones_like(uv[..., :1]), K[:, None, None]))
