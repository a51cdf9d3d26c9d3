"""Linear blend skinning in blocks: most skinning weights are zero, and a product with a dense table multiplies by all of them.

Vertices are sorted by the bones that move them and cut into blocks of equal size, so that the bones of a block are few; the
blended transforms of all blocks are then one batched matrix product of small dense tables.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from body_models import kinematics, linear, skeleton
from body_models.linear import PRECISION


@dataclass(frozen=True)
class Blocks:
    """Static plan of blocks. Hashable."""

    bones: tuple[int, ...]
    """Rows of the transforms, block by block, each block padded with its first bone."""
    vertices: tuple[int, ...]
    """Vertices, block by block, the last ones padded with vertex 0."""
    position: tuple[int, ...]
    """Vertex -> its position in `vertices`."""

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.bones, self.vertices))

    def __hash__(self) -> int:  # a whole mesh has thousands of entries, and `jit` hashes its static data at every call
        return self._hash


@struct.dataclass
class BlockedSkin:
    """Skinning weights in blocks."""

    table: Float[Array, "block vertex bone"]
    blocks: Blocks = struct.field(pytree_node=False)


def blocked(
    skin: Float[np.ndarray, "vertex bone"], parents: Sequence[int], dtype: Any, block: int = 24, most_bones: int = 16
) -> BlockedSkin:
    """Cut a table of skinning weights into blocks.

    Args:
      parents: parent of each bone (column), -1 for roots.
      block: vertices per block.
      most_bones: a block is closed before it needs more bones than this (a single vertex may).
    """
    skin = np.asarray(skin)
    rank = _depth_first_rank(parents)
    heavy = np.argsort(-skin, axis=1, kind="stable")[:, :3]
    keys = np.where(np.take_along_axis(skin, heavy, 1) > 0, rank[heavy], -1)
    linked = skin != 0
    members: list[list[int]] = []
    used: list[np.ndarray] = []
    for vertex in np.lexsort(keys.T[::-1]):
        union = linked[vertex] | used[-1] if members else linked[vertex]
        if not members or len(members[-1]) == block or union.sum() > most_bones:
            members.append([])
            used.append(linked[vertex])
        else:
            used[-1] = union
        members[-1].append(int(vertex))
    width, height = max(1, *(int(u.sum()) for u in used), 1), max(1, *map(len, members), 1)
    table = np.zeros((len(members), height, width))
    bones = np.zeros((len(members), width), int)
    vertices = np.zeros((len(members), height), int)
    position = np.zeros(len(skin), int)
    for k, (rows, mask) in enumerate(zip(members, used)):
        columns = np.flatnonzero(mask)
        table[k, : len(rows), : len(columns)] = skin[rows][:, columns]
        bones[k] = np.pad(columns, (0, width - len(columns)), mode="edge" if len(columns) else "constant")
        vertices[k, : len(rows)] = rows
        position[rows] = k * height + np.arange(len(rows))
    blocks = Blocks(*(tuple(int(i) for i in x.ravel()) for x in (bones, vertices, position)))
    return BlockedSkin(linear.on_device(table, dtype), blocks)


def _depth_first_rank(parents: Sequence[int]) -> np.ndarray:
    children: list[list[int]] = [[] for _ in parents]
    stack = []
    for bone, parent in enumerate(parents):
        (children[parent] if parent >= 0 else stack).append(bone)
    order: list[int] = []
    while stack:
        order.append(stack.pop())
        stack.extend(reversed(children[order[-1]]))
    rank = np.empty(len(parents), int)
    rank[order] = np.arange(len(parents))
    return rank


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _skin(
    blocks: Blocks,
    table: Float[Array, "block row entry"],
    rotation: Float[Array, "bone 3 3 person"],
    shift: Float[Array, "bone 3 person"],
    vertices: Float[Array, "3 vertex person"],
) -> Float[Array, "vertex 3 person"]:
    return _skin_forward(blocks, table, rotation, shift, vertices)[0]


def _skin_forward(blocks, table, rotation, shift, vertices):
    def blend(rows: Array) -> Array:
        taken = kinematics.take(rows.reshape(rows.shape[0], -1), blocks.bones, 0)
        taken = taken.reshape(table.shape[0], table.shape[2], -1)
        product = jnp.einsum("gvb,gbn->gvn", table, taken, precision=PRECISION)
        return product.reshape(len(blocks.vertices), *rows.shape[1:])

    x = kinematics.take(jnp.moveaxis(vertices, 0, 1), blocks.vertices, 0)
    blended = blend(rotation)
    placed = skeleton.apply(blended, x) + blend(shift)
    return kinematics.take(placed, blocks.position, 0), (table, x, blended, rotation.shape[0])


def _skin_backward(blocks, residual, g):
    table, x, blended, bones = residual
    # A padded row repeats vertex 0; its row of the table is zero.
    g = kinematics.take(g, blocks.vertices, 0)

    def back(rows: Array) -> Array:
        product = jnp.einsum("gvb,gvn->gbn", table, rows.reshape(*table.shape[:2], -1), precision=PRECISION)
        return kinematics.sum_taken(product.reshape(len(blocks.bones), -1), blocks.bones, 0, bones)

    # The outer product g x^T row by row, as flat tables: fused with a reshape of (3, 3, people) it would not vectorise.
    people, flat = x.shape[-1], x.reshape(x.shape[0], -1)
    to_rotation = jnp.stack(
        [back(jnp.tile(g[:, i], (1, 3)) * flat).reshape(bones, 3, people) for i in range(3)], axis=1
    )
    to_vertices = kinematics.take(skeleton.apply_transposed(blended, g), blocks.position, 0)
    return None, to_rotation, back(g).reshape(bones, 3, people), jnp.moveaxis(to_vertices, 0, 1)


_skin.defvjp(_skin_forward, _skin_backward)


def skin(
    skin: BlockedSkin,
    rotation: Float[Array, "bone 3 3 person"],
    shift: Float[Array, "bone 3 person"],
    vertices: Float[Array, "3 vertex person"],
) -> Float[Array, "vertex 3 person"]:
    """sum_b S_vb (A_b x_v + a_b) of all vertices. The weights are constants: they get no gradient."""
    return _skin(skin.blocks, skin.table, rotation, shift, vertices)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def sum_pairs(
    pair_bone: tuple[int, ...],
    groups: tuple[tuple[int, int], ...],
    omega: Float[Array, "P"],
    rotation: Float[Array, "bone 3 3 person"],
    shift: Float[Array, "bone 3 person"],
    moments: Float[Array, "3 P person"],
) -> Float[Array, "point 3 person"]:
    """sum_b (A_b m_kb + omega_kb a_b): points of many vertices, see `contraction`.

    Args:
      pair_bone: bone of every (point, bone) pair.
      groups: (points, bones per point), pairs of a group bone-slot major.
    """
    return _sum_pairs_forward(pair_bone, groups, omega, rotation, shift, moments)[0]


def _sum_pairs_forward(pair_bone, groups, omega, rotation, shift, moments):
    m = jnp.moveaxis(moments, 0, 1)
    per_pair = kinematics.take(rotation, pair_bone, 0)
    contribution = skeleton.apply(per_pair, m) + kinematics.take(shift, pair_bone, 0) * omega[:, None, None]
    parts = jax.lax.split(contribution, [members * count for members, count in groups])
    sums = [part.reshape(count, members, *part.shape[1:]).sum(0) for part, (members, count) in zip(parts, groups)]
    return jnp.concatenate(sums), (omega, m, per_pair, rotation.shape[0])


def _sum_pairs_backward(pair_bone, groups, residual, g):
    omega, m, per_pair, bones = residual
    parts = jax.lax.split(g, [members for members, _ in groups])
    g = jnp.concatenate([jnp.tile(part, (count, 1, 1)) for part, (_, count) in zip(parts, groups)])
    to_rotation = kinematics.sum_taken(g[:, :, None] * m[:, None], pair_bone, 0, bones)
    to_shift = kinematics.sum_taken(g * omega[:, None, None], pair_bone, 0, bones)
    return None, to_rotation, to_shift, jnp.moveaxis(skeleton.apply_transposed(per_pair, g), 0, 1)


sum_pairs.defvjp(_sum_pairs_forward, _sum_pairs_backward)
