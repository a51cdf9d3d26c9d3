"""Rotations as the heads give them, and back to rotation vectors."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

_NORM_FLOOR = 1e-12
_SMALL = 1e-12
"""Squared sine of half the angle below which its ratio to the angle is taken from the series."""


def _normalise(v: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """v / max(|v|, 1e-12), with a zero derivative (not NaN) at zero."""
    squared = jnp.square(v).sum(-1, keepdims=True)
    tiny = squared < _NORM_FLOOR**2
    return jnp.where(tiny, v / _NORM_FLOOR, v / jnp.sqrt(jnp.where(tiny, 1.0, squared)))


def matrix_from_6d(six: Float[Array, "*batch six"]) -> Float[Array, "*batch bone 3 3"]:
    """Gram-Schmidt (Zhou et al., CVPR 2019, sec. B): `6 * bone` numbers, each six a 3x2 matrix row by row.

    All zeros give the zero matrix.
    """
    columns = six.reshape(*six.shape[:-1], -1, 3, 2)
    first = _normalise(columns[..., 0])
    second = columns[..., 1]
    second = _normalise(second - (first * second).sum(-1, keepdims=True) * first)
    return jnp.stack([first, second, jnp.cross(first, second)], axis=-1)


def rotvec_from_matrix(matrix: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 3"]:
    """Rotation vectors of length at most pi, through the quaternion's largest component. Radians."""
    m = matrix
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    sums = [m[..., j, i] + m[..., i, j] for i, j in ((1, 2), (0, 2), (0, 1))]  # yz, xz, xy
    differences = [m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]]
    (yz, xz, xy), (x, y, z) = sums, differences
    # Row k of q q^T for the quaternion q = (w, x, y, z): any row of a non-zero component is q up to scale.
    rows = jnp.stack(
        [
            jnp.stack([1.0 + xx + yy + zz, x, y, z], -1),
            jnp.stack([x, 1.0 + xx - yy - zz, xy, xz], -1),
            jnp.stack([y, xy, 1.0 - xx + yy - zz, yz], -1),
            jnp.stack([z, xz, yz, 1.0 - xx - yy + zz], -1),
        ],
        axis=-2,
    )
    largest = jnp.argmax(jnp.diagonal(rows, axis1=-2, axis2=-1), axis=-1)
    q = jnp.take_along_axis(rows, largest[..., None, None], axis=-2)[..., 0, :]
    q = q / jnp.sqrt(jnp.square(q).sum(-1, keepdims=True))
    q = jnp.where(q[..., :1] < 0, -q, q)
    squared = jnp.square(q[..., 1:]).sum(-1, keepdims=True)
    small = squared < _SMALL
    sine = jnp.sqrt(jnp.where(small, 1.0, squared))
    angle = 2.0 * jnp.arctan2(sine, q[..., :1])
    return q[..., 1:] * jnp.where(small, 2.0, angle / sine)
