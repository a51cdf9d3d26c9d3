"""Surface points of a skinned body without its vertices.

A point is a weighted sum of skinned vertices,

    point_k = sum_v w_kv sum_b S_bv (A_b x_v + a_b) = sum_b (A_b m_kb + omega_kb a_b),
    m_kb = sum_v w_kv S_bv x_v,    omega_kb = sum_v w_kv S_bv,

with S the skinning weights, x_v the rest (or corrected) vertex and [A_b|a_b] the skinning transform of bone b. Where
x_v is linear in some coefficients, so is the moment m_kb. Only the (point, bone) pairs with a non-zero weight are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from body_models import kinematics
from body_models.kinematics import BoneTree


@dataclass(frozen=True)
class PointLayout:
    """Static layout of the (point, bone) pairs: points grouped by their number of bones, so sums are reshapes."""

    tree: BoneTree
    """Only the bones that move a point, and their ancestors."""
    pair_bone: tuple[int, ...]
    """Per pair: bone, as a breadth-first position in `tree`."""
    groups: tuple[tuple[int, int], ...]
    """(points, bones per point) of each group, pairs stored bone-slot major."""
    point_order: tuple[int, ...]
    """Original point index -> position in group order."""


class PointPairs(NamedTuple):
    """Host-side tables of a contraction, float64: pairs of one vertex (most surface points) apart from the others."""

    single: Bool[np.ndarray, "pair"]
    """Pairs whose point is a single vertex: their moment is a scaled copy of that vertex."""
    vertex: Int[np.ndarray, "single"]
    scale: Float[np.ndarray, "single"]
    used: Int[np.ndarray, "used"]
    """Vertices with a non-zero weight in a row of several."""
    weights: Float[np.ndarray, "several used"]
    """w_kv S_bv of the other pairs."""
    layout: PointLayout

    @property
    def omega(self) -> Float[np.ndarray, "pair"]:
        """omega_kb per pair."""
        out = np.empty(len(self.single))
        out[self.single], out[~self.single] = self.scale, self.weights.sum(1)
        return out

    def moments(self, field: Float[np.ndarray, "*batch vertex"]) -> Float[np.ndarray, "*batch pair"]:
        """m_kb of a field over all vertices, per pair, float64."""
        out = np.empty((*field.shape[:-1], len(self.single)))
        out[..., self.single] = field[..., self.vertex] * self.scale
        out[..., ~self.single] = field[..., self.used].astype(np.float64) @ self.weights.T
        return out


def point_pairs(
    regressor: Float[np.ndarray, "point vertex"], skin: Float[np.ndarray, "bone vertex"], parents: Sequence[int]
) -> PointPairs:
    """Pairs, their weights and their layout for a regressor of surface points.

    Args:
      regressor: (K, V) weights of each point; rows need not sum to 1, but none may be empty.
      skin: (J, V) skinning weights.
      parents: (J,) parent of each bone, -1 for the root, which is bone 0.
    """
    weights = np.asarray(regressor, np.float64)
    if weights.ndim != 2 or weights.shape[1] != skin.shape[1]:
        raise ValueError(f"regressor must be (K, {skin.shape[1]}), got {weights.shape}")
    empty = np.flatnonzero(~(weights != 0).any(1))
    if len(empty):
        raise ValueError(f"regressor row {empty[0]} has no non-zero weight")
    skin = np.asarray(skin, np.float64)
    count = (weights != 0).sum(1)
    linked = (weights != 0).astype(np.float32) @ (skin != 0).T.astype(np.float32) > 0
    point, bone, groups, point_order = group_pairs(linked)
    kept = kinematics.with_ancestors(parents, [0, *np.unique(bone)])
    tree = kinematics.bone_tree(parents, kept)
    slot = np.full(len(parents), -1)
    slot[np.asarray(tree.order)] = np.arange(len(tree.order))
    layout = PointLayout(tree, tuple(int(s) for s in slot[bone]), groups, point_order)
    single = count[point] == 1
    vertex = (weights != 0).argmax(1)[point[single]]
    used = np.flatnonzero((weights[count > 1] != 0).any(0))
    return PointPairs(
        single=single,
        vertex=vertex,
        scale=weights[point[single], vertex] * skin[bone[single], vertex],
        used=used,
        weights=weights[np.ix_(point[~single], used)] * skin[np.ix_(bone[~single], used)],
        layout=layout,
    )


def group_pairs(
    linked: Bool[np.ndarray, "point bone"],
) -> tuple[np.ndarray, np.ndarray, tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Pairs of a (K, J) table, points grouped by bone count; within a group slot-major: (slot, point).

    Returns (point of each pair, bone of each pair, groups, point_order), the last two as in `PointLayout`.
    """
    counts = linked.sum(1)
    points, bones, groups, order = [], [], [], []
    for count in np.unique(counts):
        members = np.flatnonzero(counts == count)
        table = np.stack([np.flatnonzero(linked[k]) for k in members])  # (members, count)
        points.append(np.tile(members, count))
        bones.append(table.T.ravel())
        groups.append((len(members), int(count)))
        order.extend(members)
    return np.concatenate(points), np.concatenate(bones), tuple(groups), tuple(int(i) for i in np.argsort(order))


def linear(
    mean: Float[Array, "*shape"], basis: Float[Array, "rank *shape"], z: Float[Array, "rank person"]
) -> Float[Array, "*shape person"]:
    """mean + sum_k z_k basis_k, people last."""
    flat = basis.reshape(basis.shape[0], -1)
    return (flat.T @ z).reshape(*mean.shape, z.shape[-1]) + mean[..., None]


def sum_pairs(
    layout: PointLayout,
    transforms: Float[Array, "3 4 bone person"],
    moments: Float[Array, "3 pair person"],
    omega: Float[Array, "pair"],
) -> Float[Array, "3 point person"]:
    """point_k = sum_b (A_b m_kb + omega_kb a_b), transforms in the order of `layout.tree`."""
    per_pair = jnp.take(transforms, np.asarray(layout.pair_bone, np.int32), axis=2)
    weighted = jnp.concatenate([moments, jnp.broadcast_to(omega[None, :, None], (1, *moments.shape[1:]))])
    contribution = (per_pair * weighted[None]).sum(1)
    parts = jax.lax.split(contribution, [members * count for members, count in layout.groups], axis=1)
    sums = [
        part.reshape(3, count, members, part.shape[-1]).sum(1) for part, (members, count) in zip(parts, layout.groups)
    ]
    return jnp.take(jnp.concatenate(sums, axis=1), np.asarray(layout.point_order, np.int32), axis=1)


def place(
    points: Float[Array, "3 point person"],
    weight_sum: Float[Array, "point"],
    root_head: Float[Array, "3 person"],
    root_rotation: Float[Array, "3 3 person"],
    translation: Float[Array, "3 person"],
) -> Float[Array, "3 point person"]:
    """R (p - s h_root) + s t: points of the unrotated body about its root head, placed last: float32 keeps detail.

    s is the sum of a point's regressor weights: float32 regressors miss 1 by 1e-7, which camera distances amplify.
    """
    in_root = points - weight_sum[None, :, None] * root_head[:, None]
    rotation = jnp.broadcast_to(root_rotation[:, :, None], (3, 3, *in_root.shape[1:]))
    return kinematics.matvec(rotation, in_root) + weight_sum[None, :, None] * translation[:, None]
