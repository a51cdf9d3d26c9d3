"""Rotation vectors and rotation matrices.

Rotation vectors (rotvec) are axis * angle in radians. Every function is finite, with finite derivatives, at zero rotation.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

# Below this angle the release uses the first-order map I + [v]x; above it, Rodrigues. Kept for parity.
SMALL_ANGLE = 1e-6


def rodrigues_coefficients(
    squared_angle: Float[Array, "*batch"],
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """sin(t)/t and (1 - cos(t))/t^2 from t^2, with the limits (1, 0) below `SMALL_ANGLE`.

    The zero (not 1/2) second coefficient in the small-angle branch is the first-order map I + [v]x: the derivative at
    exactly zero is the generator, never NaN, because the square root only ever sees a guarded argument.
    """
    small = squared_angle < SMALL_ANGLE**2
    safe = jnp.where(small, 1.0, squared_angle)
    angle = jnp.sqrt(safe)
    a = jnp.where(small, 1.0, jnp.sin(angle) / angle)
    # 2 sin^2(t/2) does not cancel where 1 - cos(t) does.
    b = jnp.where(small, 0.0, 2.0 * jnp.square(jnp.sin(0.5 * angle)) / safe)
    return a, b


def rotvec_to_matrix_axes_first(rotvec: Float[Array, "3 *batch"]) -> Float[Array, "3 3 *batch"]:
    """Rodrigues' formula with the vector axis first: (3, ...) -> (3, 3, ...)."""
    x, y, z = rotvec[0], rotvec[1], rotvec[2]
    xx, yy, zz = x * x, y * y, z * z
    a, b = rodrigues_coefficients(xx + yy + zz)
    ax, ay, az = a * x, a * y, a * z
    bxy, bxz, byz = b * x * y, b * x * z, b * y * z
    rows = (
        (1.0 - b * (yy + zz), bxy - az, bxz + ay),
        (bxy + az, 1.0 - b * (xx + zz), byz - ax),
        (bxz - ay, byz + ax, 1.0 - b * (xx + yy)),
    )
    return jnp.stack([jnp.stack(row) for row in rows])


def compose(outer: Float[Array, "3 *batch"], inner: Float[Array, "3 *batch"]) -> Float[Array, "3 *batch"]:
    """Rotation vector of R(outer) R(inner), angle at most pi; through quaternions, exact at every angle."""
    (wa, va), (wb, vb) = _quaternion(outer), _quaternion(inner)
    w = wa * wb - (va * vb).sum(0)
    v = wa * vb + wb * va + jnp.cross(va, vb, axis=0)
    v = jnp.where(w < 0, -v, v)
    squared = (v**2).sum(0)
    small = squared < 1e-12
    sine = jnp.sqrt(jnp.where(small, 1.0, squared))
    return v * jnp.where(small, 2.0, 2.0 * jnp.arctan2(sine, jnp.abs(w)) / sine)


def _quaternion(rotvec: Float[Array, "3 *batch"]) -> tuple[Float[Array, "*batch"], Float[Array, "3 *batch"]]:
    """Real and imaginary part."""
    squared = (rotvec**2).sum(0)
    small = squared < 1e-12
    angle = jnp.sqrt(jnp.where(small, 1.0, squared))
    half_sinc = jnp.where(small, 0.5, jnp.sin(0.5 * angle) / angle)
    return jnp.where(small, 1.0, jnp.cos(0.5 * angle)), half_sinc * rotvec


def rotvec_to_matrix(rotvec: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3 3"]:
    """Rodrigues' formula: rotation vectors (..., 3) in radians to matrices (..., 3, 3)."""
    return jnp.moveaxis(rotvec_to_matrix_axes_first(jnp.moveaxis(rotvec, -1, 0)), (0, 1), (-2, -1))
