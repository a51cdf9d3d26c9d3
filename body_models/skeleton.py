"""Rigid bone chains, bones first: rotations (bone, 3, 3, person), vectors (bone, 3, person), people last and contiguous.

The counterpart of `kinematics` (affine maps, matrix axes first) for bodies whose bones only turn about their heads, which is
what a fit differentiates thousands of times. Bones first makes a level of the tree, and the bones of a group of vertices,
contiguous rows of a matrix. Backward passes are written out: what autodiff builds from slices and stacks (pads inside
fused loops) costs several times the products themselves.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from body_models import kinematics, rotations
from body_models.kinematics import BoneTree

# ------------------------------------------------------------------------------------------------ rotations


@jax.custom_vjp
def rotation_matrices(rotvec: Float[Array, "3 bone person"]) -> Float[Array, "bone 3 3 person"]:
    """Rodrigues' formula: `rotations.rotvec_to_matrix_axes_first` in the layout of this module, with its values at zero."""
    x, y, z = rotvec[0], rotvec[1], rotvec[2]
    a, b = rotations.rodrigues_coefficients(x * x + y * y + z * z)
    ax, ay, az = a * x, a * y, a * z
    bx, by, bz = b * x, b * y, b * z
    entries = [
        1.0 - (by * y + bz * z), bx * y - az, bx * z + ay,
        bx * y + az, 1.0 - (bx * x + bz * z), by * z - ax,
        bx * z - ay, by * z + ax, 1.0 - (bx * x + by * y),
    ]  # fmt: skip
    return jnp.stack(entries, axis=1).reshape(rotvec.shape[1], 3, 3, rotvec.shape[2])


def _rotation_matrices_forward(rotvec):
    return rotation_matrices(rotvec), rotvec


def _rotation_matrices_backward(rotvec, g):
    # R = (1 - b s) I + a [v]x + b v v^T with s = |v|^2; da/ds = (cos - a)/(2 s), db/ds = (a - 2 b)/(2 s),
    # d(1 - b s)/ds = -a/2; all three 0 in the first-order branch, where a and b are constants.
    x, y, z = rotvec[0], rotvec[1], rotvec[2]
    s = x * x + y * y + z * z
    a, b = rotations.rodrigues_coefficients(s)
    small = s < rotations.SMALL_ANGLE**2
    half_inverse = jnp.where(small, 0.0, 0.5 / jnp.where(small, 1.0, s))
    slope_a, slope_b = (1.0 - b * s - a) * half_inverse, (a - 2.0 * b) * half_inverse
    slope_diagonal = jnp.where(small, 0.0, -0.5 * a)
    trace = g[:, 0, 0] + g[:, 1, 1] + g[:, 2, 2]
    axial = jnp.stack([g[:, 2, 1] - g[:, 1, 2], g[:, 0, 2] - g[:, 2, 0], g[:, 1, 0] - g[:, 0, 1]])
    xy, xz, yz = g[:, 0, 1] + g[:, 1, 0], g[:, 0, 2] + g[:, 2, 0], g[:, 1, 2] + g[:, 2, 1]
    symmetric = jnp.stack(
        [
            2.0 * g[:, 0, 0] * x + xy * y + xz * z,
            xy * x + 2.0 * g[:, 1, 1] * y + yz * z,
            xz * x + yz * y + 2.0 * g[:, 2, 2] * z,
        ]
    )  # (g + g^T) v
    along = x * axial[0] + y * axial[1] + z * axial[2]
    quadratic = 0.5 * (x * symmetric[0] + y * symmetric[1] + z * symmetric[2])
    radial = 2.0 * (slope_diagonal * trace + slope_a * along + slope_b * quadratic)
    return (a * axial + b * symmetric + radial * rotvec,)


rotation_matrices.defvjp(_rotation_matrices_forward, _rotation_matrices_backward)


@jax.custom_vjp
def rotate_by_constant(matrices: Float[Array, "3 3 bone"], vectors: Float[Array, "3 bone person"]) -> Array:
    """One constant matrix per bone times vectors: (3, bone, person). The matrices get no gradient."""
    m = matrices[..., None]
    return m[:, 0] * vectors[0] + m[:, 1] * vectors[1] + m[:, 2] * vectors[2]


def _rotate_by_constant_forward(matrices, vectors):
    return rotate_by_constant(matrices, vectors), matrices


def _rotate_by_constant_backward(matrices, g):
    m = matrices[..., None]
    return None, m[0] * g[0] + m[1] * g[1] + m[2] * g[2]


rotate_by_constant.defvjp(_rotate_by_constant_forward, _rotate_by_constant_backward)


def roll_matrices(roll: Float[Array, "2 bone"]) -> Float[Array, "3 3 bone"]:
    """Turns about Y from cosines and sines."""
    cos, sin = roll
    zero, one = jnp.zeros_like(cos), jnp.ones_like(cos)
    return jnp.stack([jnp.stack([cos, zero, sin]), jnp.stack([zero, one, zero]), jnp.stack([-sin, zero, cos])])


def _ends(axes, vectors):
    """What the shortest arc from Y to the direction of `axes` needs; see `aim`."""
    squared = axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2
    inverse_length = jax.lax.rsqrt(jnp.where(squared == 0, 1.0, squared))
    y = axes * inverse_length
    radial = y[0] * y[0] + y[2] * y[2]
    # Within rounding of the axis the twist is noise, and 1/radial^2 of the derivative would overflow in float32.
    parallel = radial <= float(jnp.finfo(axes.dtype).eps) ** 2
    below = y[1] < 0
    safe = jnp.where(parallel, 1.0, radial)
    k = jnp.where(below, 1.0 - y[1], 1.0) / jnp.where(below, safe, 1.0 + y[1])
    s = y[0] * vectors[0] + y[2] * vectors[2]
    return inverse_length, y, parallel, below, safe, k, s, vectors[1] - k * s


_ACROSS = np.array([1.0, 0.0, 1.0])[:, None, None]
_ALONG = np.array([0.0, 1.0, 0.0])[:, None, None]
_LAST = np.array([0.0, 0.0, 1.0])[:, None, None]


def _masks(dtype):
    # Components are picked by products with constants: sums over whole (3, bone, person) arrays stay vectorised.
    return jnp.asarray(_ACROSS, dtype), jnp.asarray(_ALONG, dtype), jnp.asarray(_LAST, dtype)


@jax.custom_vjp
def aim(axes: Float[Array, "3 bone person"], vectors: Float[Array, "3 bone person"]) -> Float[Array, "3 bone person"]:
    """Vectors turned by the shortest arc that takes Y to the direction of `axes`.

    With y the unit axis, u = (y_0, 0, y_2) and s = u . v:  v - v_1 e_1 + y v_1 - s e_1 - k s u, k = 1/(1 + y_1), for y_1 < 0
    as (1 - y_1)/|u|^2, which is the same number and does not cancel. The matrix is that of `anny.rest_orientations`
    (without its roll), of which it also has the half turn at y = -e_1.
    """
    _, y, parallel, below, _, _, s, e = _ends(axes, vectors)
    across, along, last = _masks(axes.dtype)
    flip = across + last * jnp.where(parallel & below, -2.0, 0.0)
    return flip * vectors + across * y * e + along * (y[1] * vectors[1] - s)


def _aim_forward(axes, vectors):
    return aim(axes, vectors), (axes, vectors)


def _aim_backward(residual, g):
    axes, v = residual
    inverse_length, y, parallel, below, safe, k, s, e = _ends(axes, v)
    across, along, last = _masks(axes.dtype)
    flip = across + last * jnp.where(parallel & below, -2.0, 0.0)
    to_e = y[0] * g[0] + y[2] * g[2]
    to_s = -g[1] - k * to_e
    to_k = -s * to_e
    to_radial = jnp.where(below & ~parallel, -2.0 * k / safe * to_k, 0.0)
    to_first = g[1] * v[1] + to_k * jnp.where(below, -1.0 / safe, -k * k)
    to_y = across * (g * e + to_s * v + to_radial * y) + along * to_first
    to_vectors = flip * g + across * to_s * y + along * (y[1] * g[1] + to_e)
    dot = y[0] * to_y[0] + y[1] * to_y[1] + y[2] * to_y[2]
    return inverse_length * (to_y - y * dot), to_vectors


aim.defvjp(_aim_forward, _aim_backward)

# ------------------------------------------------------------------------------------------------ the chain


def times(a: Array, b: Array) -> Array:
    """a b for (bone, 3, 3, person)."""
    return a[:, :, 0, None] * b[:, 0, None] + a[:, :, 1, None] * b[:, 1, None] + a[:, :, 2, None] * b[:, 2, None]


def _times_transposed(a: Array, b: Array) -> Array:
    """a b^T."""
    return (
        a[:, :, None, 0] * b[:, None, :, 0] + a[:, :, None, 1] * b[:, None, :, 1] + a[:, :, None, 2] * b[:, None, :, 2]
    )


def _transposed_times(a: Array, b: Array) -> Array:
    """a^T b."""
    return a[:, 0, :, None] * b[:, 0, None] + a[:, 1, :, None] * b[:, 1, None] + a[:, 2, :, None] * b[:, 2, None]


def apply(
    matrices: Float[Array, "row 3 3 person"], vectors: Float[Array, "row 3 person"]
) -> Float[Array, "row 3 person"]:
    """M x, row by row."""
    m, x = matrices, vectors
    return m[:, :, 0] * x[:, 0, None] + m[:, :, 1] * x[:, 1, None] + m[:, :, 2] * x[:, 2, None]


def apply_transposed(matrices: Array, vectors: Array) -> Array:
    """M^T x, row by row."""
    m, x = matrices, vectors
    return m[:, 0] * x[:, 0, None] + m[:, 1] * x[:, 1, None] + m[:, 2] * x[:, 2, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def chain(
    tree: BoneTree, turns: Float[Array, "moving 3 3 person"], heads: Float[Array, "3 bone person"]
) -> tuple[Float[Array, "bone 3 3 person"], Float[Array, "bone 3 person"]]:
    """Skinning transforms [A|a] of all bones, the root the identity:  A_c = A_p G_c,  a_c = a_p + (A_p - A_c) h_c.

    Args:
      tree: one root; arrays are in its breadth-first order.
      turns: G, rotation of every bone but the root about its head, in the body's rest axes.
      heads: h, rest positions of all heads.
    """
    return _chain_forward(tree, turns, heads)[0]


def _chain_forward(tree, turns, heads):
    people = turns.shape[-1]
    at = jnp.moveaxis(heads, 0, 1)
    levels = tree.level_sizes[1:]
    rotation = [jnp.broadcast_to(jnp.eye(3, dtype=turns.dtype)[None, :, :, None], (1, 3, 3, people))]
    shift = [jnp.zeros((1, 3, people), turns.dtype)]
    above = []
    parts = (jax.lax.split(turns, levels), jax.lax.split(at[1:], levels))
    for depth, (turn, head, slots) in enumerate(zip(*parts, tree.parent_slots[1:])):
        parent = kinematics.take(rotation[-1], slots, 0)
        mine = times(parent, turn) if depth else turn
        shift.append(kinematics.take(shift[-1], slots, 0) + apply(parent - mine, head))
        rotation.append(mine)
        above.append(parent)
    rotations_, shifts = jnp.concatenate(rotation), jnp.concatenate(shift)
    return (rotations_, shifts), (turns, at, rotations_[1:] if levels else turns, above)


def _chain_backward(tree, residual, cotangent):
    turns, at, rotation, above = residual
    sizes = tree.level_sizes
    if len(sizes) == 1:
        return jnp.zeros_like(turns), jnp.zeros_like(jnp.moveaxis(at, 0, 1))
    to_rotation, to_shift = (list(jax.lax.split(part, sizes)) for part in cotangent)
    turn_levels, head_levels = jax.lax.split(turns, sizes[1:]), jax.lax.split(at[1:], sizes[1:])
    for depth in range(len(sizes) - 1, 0, -1):
        turn, head = turn_levels[depth - 1], head_levels[depth - 1]
        lever = to_shift[depth][:, :, None] * head[:, None]
        to_rotation[depth] = to_rotation[depth] - lever
        if depth > 1:
            slots, length = tree.parent_slots[depth], sizes[depth - 1]
            up = lever + _times_transposed(to_rotation[depth], turn)
            to_rotation[depth - 1] = to_rotation[depth - 1] + kinematics.sum_taken(up, slots, 0, length)
            to_shift[depth - 1] = to_shift[depth - 1] + kinematics.sum_taken(to_shift[depth], slots, 0, length)
    total, total_shift = jnp.concatenate(to_rotation[1:]), jnp.concatenate(to_shift[1:])
    parents = jnp.concatenate(above)
    to_heads = apply_transposed(parents - rotation, total_shift)
    to_heads = jnp.concatenate([jnp.zeros_like(to_heads[:1]), to_heads])
    return _transposed_times(parents, total), jnp.moveaxis(to_heads, 0, 1)


chain.defvjp(_chain_forward, _chain_backward)
