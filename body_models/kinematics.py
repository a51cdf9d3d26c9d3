"""Kinematic chains over a bone tree, with people as the last (contiguous) array axis.

Matrices are (3, 3, bone, person), rigid or affine maps [A|a] are (3, 4, bone, person). With three-vectors in front and
people last every product is a handful of fused multiply-adds over long contiguous rows, which is what CPUs and GPUs like;
a batched 3x3 `dot_general` is not. The products carry their own transposes (custom VJP): plain autodiff turns the
broadcasts of the forward pass into strided reductions that cost more than the products themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclass(frozen=True)
class BoneTree:
    """A bone hierarchy in breadth-first order, cut into depth levels. Hashable: static data for `jit`."""

    order: tuple[int, ...]
    """Breadth-first position -> original bone index."""
    level_sizes: tuple[int, ...]
    """Bones per depth level; their sum is len(order)."""
    parent_slots: tuple[tuple[int, ...], ...]
    """Per level: position of each bone's parent within the level above (empty for the roots)."""

    @functools.cached_property
    def inverse(self) -> np.ndarray:
        """(bones,) original bone index -> breadth-first position. Only for trees that keep every bone."""
        return np.argsort(np.asarray(self.order)).astype(np.int32)


def bone_tree(parents: Sequence[int], keep: Sequence[int] | None = None) -> BoneTree:
    """Levels of a tree given by parent indices (-1 for the root), optionally only bones `keep` (closed under parents)."""
    parents = [int(p) for p in parents]
    kept = set(range(len(parents)) if keep is None else (int(k) for k in keep))
    level = [b for b in range(len(parents)) if parents[b] < 0 and b in kept]
    order: list[int] = []
    sizes: list[int] = []
    slots: list[tuple[int, ...]] = []
    above: dict[int, int] = {}
    while level:
        order.extend(level)
        sizes.append(len(level))
        slots.append(tuple(above[parents[b]] for b in level) if above else ())
        above = {b: i for i, b in enumerate(level)}
        level = [b for p in level for b in range(len(parents)) if parents[b] == p and b in kept]
    if len(order) != len(kept):
        raise ValueError("bone_tree: `keep` must contain the parents of every kept bone")
    return BoneTree(tuple(order), tuple(sizes), tuple(slots))


def with_ancestors(parents: Sequence[int], bones: Sequence[int]) -> list[int]:
    """The bones and all their ancestors, increasing."""
    bones_above: set[int] = set()
    for bone in bones:
        while bone >= 0 and bone not in bones_above:
            bones_above.add(int(bone))
            bone = int(parents[bone])
    return sorted(bones_above)


def _product(a: Array, b: Array) -> Array:
    """sum_j a[i, j] b[j, k] over leading matrix axes, trailing axes elementwise."""
    return a[:, 0, None] * b[None, 0] + a[:, 1, None] * b[None, 1] + a[:, 2, None] * b[None, 2]


def _product_transpose_left(a: Array, b: Array) -> Array:
    """a^T b."""
    return a[0, :, None] * b[0, None] + a[1, :, None] * b[1, None] + a[2, :, None] * b[2, None]


def _product_transpose_right(a: Array, b: Array) -> Array:
    """a b^T for a (i, k, ...) and b (j, k, ...)."""
    total = a[:, None, 0] * b[None, :, 0]
    for k in range(1, a.shape[1]):
        total = total + a[:, None, k] * b[None, :, k]
    return total


@jax.custom_vjp
def matmul(a: Float[Array, "3 3 *batch"], b: Float[Array, "3 k *batch"]) -> Float[Array, "3 k *batch"]:
    """a b with matrix axes first."""
    return _product(a, b)


def _matmul_forward(a, b):
    return _product(a, b), (a, b)


def _matmul_backward(residual, cotangent):
    a, b = residual
    return _product_transpose_right(cotangent, b), _product_transpose_left(a, cotangent)


matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def matmul_transposed(a: Float[Array, "3 3 *batch"], b: Float[Array, "3 3 *batch"]) -> Float[Array, "3 3 *batch"]:
    """a b^T with matrix axes first."""
    return _product_transpose_right(a, b)


def _matmul_transposed_forward(a, b):
    return _product_transpose_right(a, b), (a, b)


def _matmul_transposed_backward(residual, cotangent):
    a, b = residual
    return _product(cotangent, b), _product_transpose_left(cotangent, a)


matmul_transposed.defvjp(_matmul_transposed_forward, _matmul_transposed_backward)


def matvec(a: Float[Array, "3 3 *batch"], x: Float[Array, "3 *batch"]) -> Float[Array, "3 *batch"]:
    """a x with matrix axes first."""
    return matmul(a, x[:, None])[:, 0]


@jax.custom_vjp
def compose(outer: Float[Array, "3 4 *batch"], inner: Float[Array, "3 4 *batch"]) -> Float[Array, "3 4 *batch"]:
    """[A|a][B|b] = [AB | Ab + a]."""
    product = _product(outer[:, :3], inner)
    return product.at[:, 3].add(outer[:, 3])


def _compose_forward(outer, inner):
    return compose(outer, inner), (outer, inner)


def _compose_backward(residual, cotangent):
    outer, inner = residual
    rotation = _product_transpose_right(cotangent, inner)
    return jnp.concatenate([rotation, cotangent[:, 3:]], axis=1), _product_transpose_left(outer[:, :3], cotangent)


compose.defvjp(_compose_forward, _compose_backward)


def chain(tree: BoneTree, local: Float[Array, "3 4 bone person"]) -> Float[Array, "3 4 bone person"]:
    """Products of affine maps from the root to every bone: T_c = T_parent(c) local_c, T_root = local_root.

    Bones are in the tree's breadth-first order. One batched product per depth level.
    """
    levels = jax.lax.split(local, tree.level_sizes, axis=2)
    results = [levels[0]]
    for level, slots in zip(levels[1:], tree.parent_slots[1:]):
        above = results[-1]
        if slots != tuple(range(above.shape[2])):
            above = gather(above, slots, 2)
        results.append(compose(above, level))
    return jnp.concatenate(results, axis=2)


def rotations_about(
    rotations: Float[Array, "3 3 bone person"], pivots: Float[Array, "3 bone person"]
) -> Float[Array, "3 4 bone person"]:
    """Affine maps [G | h - G h]: rotation G about the point h."""
    return jnp.concatenate([rotations, (pivots - matvec(rotations, pivots))[:, None]], axis=1)


def take(x: Array, index: tuple[int, ...], axis: int) -> Array:
    """x at static indices. Nothing is filled in: the default of `jnp.take` writes NaN for indices out of range, at a cost."""
    if index == tuple(range(x.shape[axis])):
        return x
    return jnp.take(x, np.asarray(index, np.int32), axis=axis, mode="clip")


def gather(x: Array, index: tuple[int, ...], axis: int) -> Array:
    """x taken at static indices along one axis. Its transpose is gathers and sums, where autodiff would scatter."""
    return _gather(x, index, axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(x: Array, index: tuple[int, ...], axis: int) -> Array:
    return take(x, index, axis)


def _gather_forward(x, index, axis):
    return _gather(x, index, axis), x.shape[axis]


def _gather_backward(index, axis, length, cotangent):
    return (sum_taken(cotangent, index, axis, length),)


def sum_taken(taken: Array, index: tuple[int, ...], axis: int, length: int) -> Array:
    """The transpose of taking `index` along an axis of the given length: rows summed back to where they were taken."""
    order, groups, place = _transpose_plan(index, length)
    rows = take(taken, order, axis)
    parts = jax.lax.split(rows, [members * count for members, count in groups], axis=axis)
    before = taken.shape[:axis]
    sums = [
        part if count == 1 else part.reshape(*before, count, members, *part.shape[axis + 1 :]).sum(axis)
        for part, (members, count) in zip(parts, groups)
    ]
    if max(place) == sum(members for members, _ in groups):  # some rows were not taken: they get zero
        sums.append(jnp.zeros((*before, 1, *taken.shape[axis + 1 :]), taken.dtype))
    total = jnp.concatenate(sums, axis=axis) if len(sums) > 1 else sums[0]
    return take(total, place, axis)


@functools.lru_cache(maxsize=256)
def _transpose_plan(
    index: tuple[int, ...], length: int
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...], tuple[int, ...]]:
    """How to sum taken rows back: an order of the rows (grouped by how often their source was taken, slot-major), the groups
    (sources, times taken), and for every source its position among the sums (the last, a zero row, if never taken)."""
    takes: list[list[int]] = [[] for _ in range(length)]
    for position, source in enumerate(index):
        takes[source].append(position)
    order: list[int] = []
    groups: list[tuple[int, int]] = []
    place = [-1] * length
    summed = 0
    for count in sorted({len(t) for t in takes if t}):
        members = [source for source in range(length) if len(takes[source]) == count]
        order.extend(takes[source][slot] for slot in range(count) for source in members)
        groups.append((len(members), count))
        for source in members:
            place[source] = summed
            summed += 1
    return tuple(order), tuple(groups), tuple(p if p >= 0 else summed for p in place)


_gather.defvjp(_gather_forward, _gather_backward)


@jax.custom_vjp
def rotate(
    rotation: Float[Array, "3 3 person"], points: Float[Array, "3 point person"]
) -> Float[Array, "3 point person"]:
    """R x for all points of each person."""
    return jnp.stack([sum(rotation[i, j] * points[j] for j in range(3)) for i in range(3)])


def _rotate_forward(rotation, points):
    return rotate(rotation, points), (rotation, points)


def _rotate_backward(residual, g):
    rotation, points = residual
    to_points = jnp.stack([sum(rotation[i, j] * g[i] for i in range(3)) for j in range(3)])
    to_rotation = jnp.stack([jnp.stack([(g[i] * points[j]).sum(0) for j in range(3)]) for i in range(3)])
    return to_rotation, to_points


rotate.defvjp(_rotate_forward, _rotate_backward)
