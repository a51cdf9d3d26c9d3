"""Surface points of a skinned body without its mesh.

A point is a weighted sum of skinned vertices,

    point_k = sum_v w_kv sum_b S_bv (A_b x_v + a_b)

with S the skinning weights, x_v the rest (or corrected) vertex and [A_b|a_b] the skinning transform of bone b. Two kinds:

* points of ONE vertex (dense surface points, mesh samples): blend the transforms, M_v = sum_b w S_bv T_b, and apply them
  (`skinning`).
* points of MANY vertices (keypoint regressors): sum_b (A_b m_kb + omega_kb a_b), with the moments
  m_kb = sum_v w_kv S_bv x_v and omega_kb = sum_v w_kv S_bv. No vertex is formed.

Where x_v is linear in some coefficients, so are the moments. People are the last array axis throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from body_models import kinematics, linear, skinning
from body_models.kinematics import BoneTree
from body_models.linear import Field


@dataclass(frozen=True)
class PointLayout:
    """Static layout: which points are vertices, and the (point, bone) pairs of the others, grouped by bone count."""

    tree: BoneTree
    """Only the bones that move a point, and their ancestors."""
    pair_bone: tuple[int, ...]
    """Per pair: bone, as a breadth-first position in `tree`."""
    groups: tuple[tuple[int, int], ...]
    """(points, bones per point) of each group, pairs stored bone-slot major."""
    point_order: tuple[int, ...]
    """Original point index -> position among [distinct vertices, points of many vertices in group order]."""


@struct.dataclass
class Contraction:
    """A regressor contracted with the skinning weights. K points, V of one vertex, P pairs of the others, B bones."""

    vertex: Field
    """(3, V)."""
    vertex_skin: Float[Array, "V B"]
    """Skinning weights times the regressor weight."""
    skin: skinning.BlockedSkin
    """The same in blocks."""
    moment: Field
    """(3, P)."""
    omega: Float[Array, "P"]
    weight_sum: Float[Array, "K"]
    """Sum of each point's regressor weights (float32 regressors miss 1 by 1e-7, which camera distances amplify)."""
    layout: PointLayout = struct.field(pytree_node=False)

    @property
    def num_points(self) -> int:
        """How many points: K of the regressor."""
        return len(self.layout.point_order)


def contract(
    regressor: Float[np.ndarray, "K vertex"],
    skin: Float[np.ndarray, "bone vertex"],
    parents: Sequence[int],
    mean: Float[np.ndarray, "3 vertex"],
    basis: Float[np.ndarray, "rank 3 vertex"],
    dtype,
) -> Contraction:
    """Contract a regressor of surface points, once, on the host in float64.

    Args:
      regressor: weights of each point over the vertices; rows need not sum to 1, but none may be empty (ValueError).
      skin: skinning weights.
      parents: parent of each bone, -1 for the root, which is bone 0.
      mean, basis: the linear field x_v = mean_v + sum_k z_k basis_kv.
    """
    weights = np.asarray(regressor, np.float64)
    if weights.ndim != 2 or weights.shape[1] != skin.shape[1]:
        raise ValueError(f"regressor must be (K, {skin.shape[1]}), got {weights.shape}")
    filled = weights != 0
    if not filled.any(1).all():
        raise ValueError(f"regressor row {np.flatnonzero(~filled.any(1))[0]} has no non-zero weight")
    skin = np.asarray(skin, np.float64)
    single = filled.sum(1) == 1
    at = filled[single].argmax(1)
    # Points that are the same vertex (dense points that also sample the mesh) are skinned once.
    rows, slots = np.unique(np.stack([at, weights[single, at]], 1), axis=0, return_inverse=True)
    vertex, scale = rows[:, 0].astype(int), rows[:, 1]

    many, used = np.flatnonzero(~single), np.flatnonzero(filled[~single].any(0))
    linked = filled[np.ix_(many, used)].astype(np.float32) @ (skin[:, used] != 0).T.astype(np.float32) > 0
    point, bone, groups, order = group_pairs(linked)
    pair_weights = weights[np.ix_(many, used)][point] * skin[bone][:, used]

    moving = np.union1d(bone, np.flatnonzero((skin[:, vertex] != 0).any(1)))
    tree = kinematics.bone_tree(parents, kinematics.with_ancestors(parents, [0, *moving]))
    bones = np.asarray(tree.order, np.int32)
    slot = np.full(len(parents), -1)
    slot[bones] = np.arange(len(bones))
    position = np.empty(len(weights), int)
    position[single], position[many] = slots.ravel(), len(vertex) + np.asarray(order, int)

    cast = lambda x: linear.on_device(x, dtype)  # noqa: E731
    # One large product: numpy would run one small one per basis vector.
    flat = basis[:, :, used].astype(np.float64).reshape(basis.shape[0] * basis.shape[1], len(used))
    vertex_skin = (skin[bones][:, vertex] * scale).T
    return Contraction(
        vertex=linear.field(mean[:, vertex], basis[:, :, vertex], dtype),
        vertex_skin=cast(vertex_skin),
        skin=skinning.blocked(vertex_skin, [int(slot[p]) if (p := parents[b]) >= 0 else -1 for b in bones], dtype),
        moment=linear.field(
            mean[:, used].astype(np.float64) @ pair_weights.T,
            (flat @ pair_weights.T).reshape(*basis.shape[:2], len(pair_weights)),
            dtype,
        ),
        omega=cast(pair_weights.sum(1)),
        weight_sum=cast(weights.sum(1)),
        layout=PointLayout(tree, tuple(int(s) for s in slot[bone]), groups, tuple(int(p) for p in position)),
    )


def group_pairs(
    linked: Bool[np.ndarray, "point bone"],
) -> tuple[np.ndarray, np.ndarray, tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Pairs of a (K, J) table, points grouped by bone count; within a group slot-major: (slot, point).

    Returns (point of each pair, bone of each pair, groups, position of each point in group order).
    """
    counts = linked.sum(1)
    points, bones, groups, order = [np.zeros(0, int)], [np.zeros(0, int)], [], []
    for count in np.unique(counts):
        members = np.flatnonzero(counts == count)
        table = np.stack([np.flatnonzero(linked[k]) for k in members])  # (members, count)
        points.append(np.tile(members, count))
        bones.append(table.T.ravel())
        groups.append((len(members), int(count)))
        order.extend(members)
    return np.concatenate(points), np.concatenate(bones), tuple(groups), tuple(int(i) for i in np.argsort(order))


def evaluate(
    c: Contraction,
    rotation: Float[Array, "B 3 3 person"],
    shift: Float[Array, "B 3 person"],
    z: Float[Array, "rank person"],
) -> Float[Array, "K 3 person"]:
    """The points under skinning transforms [A|a] in the order of `layout.tree`, in the transforms' frame."""
    layout = c.layout
    points = []
    if c.vertex.mean.shape[-1]:
        points.append(skinning.skin(c.skin, rotation, shift, linear.evaluate(c.vertex, z)))
    if layout.pair_bone:
        moments = linear.evaluate(c.moment, z)
        points.append(skinning.sum_pairs(layout.pair_bone, layout.groups, c.omega, rotation, shift, moments))
    return kinematics.gather(jnp.concatenate(points), layout.point_order, 0)


@jax.custom_vjp
def place(
    points: Float[Array, "K 3 person"],
    weight_sum: Float[Array, "K"],
    root_head: Float[Array, "3 person"],
    root_rotation: Float[Array, "3 3 person"],
    translation: Float[Array, "3 person"],
) -> Float[Array, "3 K person"]:
    """R (p - s h_root) + s t: points of the unrotated body about its root head, placed last: float32 keeps detail.

    s is the sum of a point's regressor weights, a constant: it gets no gradient.
    """
    in_root, r = points - weight_sum[:, None, None] * root_head, root_rotation
    rows = [r[i, 0] * in_root[:, 0] + r[i, 1] * in_root[:, 1] + r[i, 2] * in_root[:, 2] for i in range(3)]
    return jnp.stack([row + weight_sum[:, None] * t for row, t in zip(rows, translation)])


def _place_forward(points, weight_sum, root_head, root_rotation, translation):
    return place(points, weight_sum, root_head, root_rotation, translation), (
        points, weight_sum, root_head, root_rotation,
    )  # fmt: skip


def _place_backward(residual, g):
    points, weight_sum, root_head, r = residual
    in_root = points - weight_sum[:, None, None] * root_head
    to_points = jnp.stack([r[0, j] * g[0] + r[1, j] * g[1] + r[2, j] * g[2] for j in range(3)], axis=1)
    to_rotation = jnp.stack([jnp.stack([(g[i] * in_root[:, j]).sum(0) for j in range(3)]) for i in range(3)])
    to_translation = (g * weight_sum[:, None]).sum(1)
    to_head = -jnp.stack([(r[:, j] * to_translation).sum(0) for j in range(3)])
    return to_points, None, to_head, to_rotation, to_translation


place.defvjp(_place_forward, _place_backward)
