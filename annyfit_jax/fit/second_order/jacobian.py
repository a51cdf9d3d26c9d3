"""Analytic derivatives of contracted surface points with respect to translation, root rotation, shape and free bones.

With the skinning transforms T_b = [A_b|a_b] in the root's frame, every point is a sum of parts that hang on one bone,
c_kb = A_b m_kb + omega_kb a_b. A small change moves each part rigidly:

* a free bone c, rotation vector v: everything below it turns about its posed joint x_c,
  dp_k / dv = (A_p R_c J(v)) x (P_ck - Omega_ck x_c), with P_ck, Omega_ck the sums of c_kb, omega_kb over the bones b below c,
  R_c the rest orientation, A_p the parent's rotation and J the left Jacobian of the rotation vector;
* shape: rest joints h, rest orientations (angular velocity omega) and moments m change. A bone's own map [G|h - G h] changes
  by the twist (Omega, upsilon) = (D omega, D dh - Omega x x_c) with D = A_p - A_c; twists add up along the chain;
* root and translation: a rigid motion of the whole body.

People are the last axis until blocks are multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from annyfit_jax.fit.problem import AnyArray, Variables
from annyfit_jax.fit.second_order.linear_plan import NUM_RIGID, Plan
from body_models import anny, kinematics, linear, rotations
from body_models.anny import AnnyPoints
from body_models.contraction import Contraction


class Linearization(NamedTuple):
    """Points of N bodies and what their derivatives are made of."""

    points: tuple[Float[Array, "3 K N"], ...]
    """Camera points of each kind, metres."""
    arms: tuple[Float[Array, "3 K N"], ...]
    """The same relative to the translation (times the summed regressor weight)."""
    weight_sum: tuple[Float[Array, "K"], ...]
    by_shape: tuple[Float[Array, "3 S K N"], ...]
    """Per kind: derivative of the points by the shape in the root's frame."""
    levers: tuple[tuple[Float[Array, "3 bones K N"], ...], ...]
    """Per group and kind: P_ck - Omega_ck x_c in the root's frame."""
    axes: Float[Array, "3 3 bone N"]
    """Per free bone, columns in the second axis: A_p R_c J(v_c)."""
    bone_rotations: Float[Array, "3 3 B N"]
    """Rotation of every bone of the tree from rest, in the root's frame."""
    root: Float[Array, "3 3 N"]
    """Root rotation."""
    root_axes: Float[Array, "3 3 N"]
    """Left Jacobian of the root's rotation vector."""


class Posed(NamedTuple):
    """Bodies in their poses and how they change with the shape, in the root's frame: what `assembled` makes points of. B bones
    in tree order, Q pairs of a point and a bone."""

    transforms: Float[Array, "3 4 B N"]
    """Skinning transforms."""
    heads: Float[Array, "3 B N"]
    """Of the bones at rest."""
    d_heads: Float[Array, "3 S B N"]
    frames: Float[Array, "3 3 B-1 N"]
    """Of all bones but the root: what stands to the left of a bone's own rotation, from the frame of its parent."""
    joints: Float[Array, "3 B N"]
    """Heads of the posed bones."""
    parts: Float[Array, "3 Q N"]
    """The parts of points that hang on one bone."""
    d_parts: Float[Array, "3 S Q N"]


def cross(a: Float[Array, "3 *#batch"], b: Float[Array, "3 *#batch"]) -> Float[Array, "3 *batch"]:
    """a x b with the vector axis first; trailing axes broadcast."""
    return jnp.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def left_jacobian(rotvec: Float[Array, "3 *batch"]) -> Float[Array, "3 3 *batch"]:
    """J with d exp(v) = [J dv]x exp(v): I + b [v]x + c [v]x^2, b = (1 - cos t)/t^2, c = (t - sin t)/t^3, t = |v|."""
    squared = (rotvec**2).sum(0)
    small = squared < 0.04
    safe = jnp.where(small, 1.0, squared)
    angle = jnp.sqrt(safe)
    b = jnp.where(
        small,
        0.5 - squared / 24.0 * (1.0 - squared / 30.0 * (1.0 - squared / 56.0 * (1.0 - squared / 90.0))),
        2.0 * jnp.sin(0.5 * angle) ** 2 / safe,
    )
    c = jnp.where(
        small,
        1.0 / 6.0 - squared / 120.0 * (1.0 - squared / 42.0 * (1.0 - squared / 72.0 * (1.0 - squared / 110.0))),
        (angle - jnp.sin(angle)) / (angle * safe),
    )
    return _of_skew(rotvec, b, c)


def inverse_left_jacobian(rotvec: Float[Array, "3 *batch"]) -> Float[Array, "3 3 *batch"]:
    """J^-1 = I - [v]x / 2 + c [v]x^2, c = (1 - (t/2) cot(t/2)) / t^2, t = |v| < 2 pi (Sola et al. 2018, eq. 146)."""
    squared = (rotvec**2).sum(0)
    small = squared < 0.04
    half = 0.5 * jnp.sqrt(jnp.where(small, 1.0, squared))
    c = jnp.where(
        small,
        1.0 / 12.0 + squared / 720.0 * (1.0 + squared / 42.0 * (1.0 + squared / 40.0)),
        (1.0 - half * jnp.cos(half) / jnp.sin(half)) / jnp.where(small, 1.0, squared),
    )
    return _of_skew(rotvec, -0.5, c)


def _of_skew(rotvec: Float[Array, "3 *batch"], b: Array | float, c: Array) -> Float[Array, "3 3 *batch"]:
    """I + b [v]x + c [v]x^2."""
    x, y, z = rotvec
    zero = jnp.zeros_like(x)
    skew = jnp.stack([jnp.stack([zero, -z, y]), jnp.stack([z, zero, -x]), jnp.stack([-y, x, zero])])
    outer = rotvec[:, None] * rotvec[None]
    eye = jnp.eye(3, dtype=rotvec.dtype).reshape(3, 3, *(1,) * (rotvec.ndim - 1))
    return eye * (1.0 - c * (rotvec**2).sum(0)) + b * skew + c * outer


def hat_slopes(value: Float[Array, "*batch"], anchors: tuple[float, ...]) -> list[Float[Array, "*batch"]]:
    """Derivatives of `anny.hat_weights`: of the segment to the left on an anchor, to the right on the first one."""
    a = np.asarray(anchors)
    segment = sum((value > jnp.asarray(x, value.dtype)).astype(jnp.int32) for x in a[1:-1]) if len(a) > 2 else 0
    outside = (value < jnp.asarray(a[0], value.dtype)) | (value > jnp.asarray(a[-1], value.dtype))
    slopes: list = [0.0] * len(a)
    for s in range(len(a) - 1):
        inside = ~outside & (segment == s if len(a) > 2 else True)
        rate = jnp.where(inside, jnp.asarray(1.0 / (a[s + 1] - a[s]), value.dtype), 0.0)
        slopes[s] = slopes[s] - rate
        slopes[s + 1] = slopes[s + 1] + rate
    return slopes


def coefficient_slopes(rest: anny.RestBasis, phenotypes: Float[Array, "S N"]) -> Float[Array, "rank S N"]:
    """Derivatives of `anny.coefficients` of the six-phenotype body by each phenotype."""
    if rest.corner_map is None:
        raise ValueError("second-order fits use the six-phenotype Anny: anny.load(phenotypes='default')")
    people = phenotypes.shape[-1]
    hats = [jnp.stack(anny.hat_weights(phenotypes[i], anny.ANCHORS[n])) for i, n in enumerate(anny.PHENOTYPE_LABELS)]
    slopes = [jnp.stack(hat_slopes(phenotypes[i], anny.ANCHORS[n])) for i, n in enumerate(anny.PHENOTYPE_LABELS)]
    products = []
    for moved in range(len(hats)):
        weights = jnp.ones((1, people), phenotypes.dtype)
        for i, hat in enumerate(hats):
            factor = slopes[i] if i == moved else hat
            weights = (weights[:, None] * factor[None]).reshape(-1, people)
        products.append(weights)
    stacked = jnp.stack(products, axis=1)
    return linear.times(rest.corner_map, stacked.reshape(len(stacked), -1)).reshape(-1, len(hats), people)


def orientation_velocity(axes: Float[Array, "3 B N"], moved: Float[Array, "3 S B N"]) -> Float[Array, "3 S B N"]:
    """Angular velocity of `anny.rest_orientations` when the bone's axis (tail minus head) moves.

    The shortest-arc rotation takes Y to y = e/|e|; it is two half turns, about Y and about the bisector of Y and y, so its
    velocity is (Y + y) x dy / (1 + Y.y). The roll is about the moving axis and adds nothing.
    """
    length = jnp.sqrt((axes**2).sum(0))
    y = axes / length
    # Written out: for 48 people and more, XLA's CPU backend (jaxlib 0.10.2) gets (y[:, None] * moved).sum(0) wrong.
    along = y[0] * moved[0] + y[1] * moved[1] + y[2] * moved[2]
    dy = (moved - y[:, None] * along) / length
    c = y[1]
    radial = y[0] * y[0] + y[2] * y[2]
    below = c < 0
    parallel = radial <= float(jnp.finfo(axes.dtype).eps) ** 2
    inverse = jnp.where(
        below, (1.0 - c) / jnp.where(parallel | ~below, 1.0, radial), 1.0 / jnp.where(below, 1.0, 1.0 + c)
    )
    up = jnp.asarray([0.0, 1.0, 0.0], axes.dtype)[:, None, None]
    return jnp.where(parallel & below, 0.0, cross((y + up)[:, None], dy) * inverse)


def linearize(plan: Plan, mp: AnnyPoints, variables: Variables) -> Linearization:
    """Points and derivatives of all people. `variables` are inside the body's ranges (shape in [0, 1], pose within pi)."""
    layout, c = plan.layout, mp.contraction
    tree = mp.layout.tree
    shape, pose = jnp.asarray(variables.shape), jnp.asarray(variables.pose)
    z = anny.coefficients(mp.rest, shape, None)
    dz = coefficient_slopes(mp.rest, shape)

    def slope(basis: Array) -> Array:
        """(rank, 3, K) -> (3, S, K, N): derivative of a linear field by the shape."""
        rank, _, points = basis.shape
        by = (basis.reshape(rank, -1).T @ flat_dz).reshape(3, points, *dz.shape[1:])
        return jnp.swapaxes(by, 1, 2)

    transforms, heads, bone_axes, orientation = transforms_of(mp, pose, z)

    # Barriers keep XLA from fusing one stage into the next, which would compute the first again for every use of it.
    transforms, heads, bone_axes, orientation, dz = jax.lax.optimization_barrier(
        (transforms, heads, bone_axes, orientation, dz)
    )
    flat_dz = dz.reshape(dz.shape[0], -1)

    # Twists of all bones by the shape, in the root's frame.
    joints = kinematics.matvec(transforms[:, :3], heads) + transforms[:, 3]
    parent = tuple(parent_slots(tree))
    difference = (kinematics.gather(transforms[:, :3], parent, 2) - transforms[:, :3, 1:])[:, :, None]
    d_heads = slope(mp.heads.basis)
    velocity = orientation_velocity(bone_axes, slope(mp.axes.basis))
    spin = _apply(difference, velocity)
    drift = _apply(difference, d_heads[:, :, 1:]) - cross(spin, joints[:, None, 1:])
    twists = jnp.concatenate([spin, drift])  # (6, S, B-1, N)
    twists = jax.lax.optimization_barrier(jnp.moveaxis(twists, 2, 0))
    summed = (plan.ancestors[:, 1:] @ twists.reshape(twists.shape[0], -1)).reshape(-1, *twists.shape[1:])
    summed = jax.lax.optimization_barrier(jnp.moveaxis(summed, 0, 2))  # (6, S, B, N)

    # Parts of points, and their change with the shape.
    weight = plan.vertex_weight[:, None]
    parts_moment = moments_of(plan, c, z)
    d_rows = kinematics.gather(slope(c.vertex.basis), layout.pair_vertex, 2) * weight
    d_moment = jnp.concatenate([d_rows, kinematics.gather(slope(c.moment.basis), layout.pair_moment, 2)], axis=2)
    maps = kinematics.gather(transforms, layout.pair_bone, 2)
    omega = plan.pair_weight[:, None]
    parts = kinematics.matvec(maps[:, :3], parts_moment) + maps[:, 3] * omega
    twist = kinematics.gather(summed, layout.pair_bone, 2)
    d_parts = cross(twist[:3], parts[:, None]) + twist[3:] * omega + _apply(maps[:, :3, None], d_moment)

    parts, d_parts = jax.lax.optimization_barrier((parts, d_parts))

    return assembled(plan, c, variables, Posed(transforms, heads, d_heads, orientation, joints, parts, d_parts))


def moments_of(plan: Plan, c: Contraction, z: Float[Array, "rank N"]) -> Float[Array, "3 Q N"]:
    """Of every pair of a point and a bone, at rest."""
    rows = kinematics.gather(linear.evaluate(c.vertex, z), plan.layout.pair_vertex, 1) * plan.vertex_weight[:, None]
    moments = kinematics.gather(linear.evaluate(c.moment, z), plan.layout.pair_moment, 1)
    return jnp.concatenate([rows, moments], axis=1)


def assembled(plan: Plan, c: Contraction, variables: Variables, posed: Posed) -> Linearization:
    """Points and derivatives of all people, from the parts of their points."""
    layout = plan.layout
    transforms, heads, d_heads, frames, joints, parts, d_parts = posed
    transl, root_rotvec, _, pose = (jnp.asarray(v) for v in variables)
    free_pose = pose[:, np.asarray(layout.bones, np.int32)]
    turning = kinematics.gather(frames, tuple(s - 1 for s in layout.slots), 2)
    above = kinematics.gather(transforms[:, :3], layout.parents, 2)
    free_axes = kinematics.matmul(kinematics.matmul(above, turning), left_jacobian(free_pose))
    pivots = kinematics.gather(joints, layout.slots, 1)
    free_axes, pivots = jax.lax.optimization_barrier((free_axes, pivots))

    whole: list[list] = [[] for _ in layout.kinds]
    d_whole: list[list] = [[] for _ in layout.kinds]
    levers = []
    for index, group in enumerate(layout.groups):
        sizes = [len(p) for p in group.points]
        mine = kinematics.gather(parts, group.pairs, 1)
        cells = _mix(plan.cells[index], mine)
        padded = jnp.concatenate([cells, jnp.zeros_like(cells[:, :1])], axis=1)
        apart = kinematics.gather(padded, group.spread, 1)
        apart = apart.reshape(3, 1 + len(group.bones), -1, apart.shape[-1])
        hung = _mix(plan.below[index], apart)  # (3, bones, points, N)
        pivot = kinematics.gather(pivots, group.bones, 1)[:, :, None]
        lever = hung - plan.moved[index][None, ..., None] * pivot
        by_shape = _mix(plan.whole[index], kinematics.gather(d_parts, group.pairs, 2), axis=2)
        cuts = np.cumsum(sizes)[:-1]
        levers.append(tuple(jnp.split(lever, cuts, axis=2)))
        for kind, (p, d) in enumerate(zip(jnp.split(apart.sum(1), cuts, axis=1), jnp.split(by_shape, cuts, axis=2))):
            whole[kind].append(p)
            d_whole[kind].append(d)

    root = rotations.rotvec_to_matrix_axes_first(root_rotvec)
    sums = jnp.split(c.weight_sum, np.cumsum(layout.kinds)[:-1])
    points, arms, slopes = [], [], []
    for kind, size in enumerate(layout.kinds):
        back = tuple(int(i) for i in np.argsort([p for group in layout.groups for p in group.points[kind]]))
        assert len(back) == size
        s = sums[kind][:, None]
        body = kinematics.gather(jnp.concatenate(whole[kind], axis=1), back, 1) - s * heads[:, :1]
        arm = kinematics.rotate(root, body)
        arms.append(arm)
        points.append(arm + s * transl[:, None])
        slopes.append(kinematics.gather(jnp.concatenate(d_whole[kind], axis=2), back, 2) - s * d_heads[:, :, :1])
    return jax.lax.optimization_barrier(
        Linearization(
            points=tuple(points),
            arms=tuple(arms),
            weight_sum=tuple(sums),
            by_shape=tuple(slopes),
            levers=tuple(levers),
            axes=free_axes,
            bone_rotations=transforms[:, :3],
            root=root,
            root_axes=left_jacobian(root_rotvec),
        )
    )


def transforms_of(mp: AnnyPoints, pose: Array, z: Array) -> tuple[Array, Array, Array, Array]:
    """Skinning transforms in the root's frame, rest heads, bone axes and rest orientations (of all but the root)."""
    tree = mp.layout.tree
    heads = linear.evaluate(mp.heads, z)
    bone_axes = linear.evaluate(mp.axes, z)
    orientation = anny.rest_orientations(bone_axes, mp.roll)
    pose = kinematics.gather(pose, tuple(b - 1 for b in tree.order[1:]), 1)
    turned = kinematics.matmul(orientation, rotations.rotvec_to_matrix_axes_first(pose))
    conjugated = kinematics.matmul_transposed(turned, orientation)
    local = kinematics.rotations_about(conjugated, heads[:, 1:])
    still = jnp.broadcast_to(jnp.eye(3, 4, dtype=heads.dtype)[:, :, None, None], (3, 4, 1, heads.shape[-1]))
    return kinematics.chain(tree, jnp.concatenate([still, local], axis=2)), heads, bone_axes, orientation


def blocks(
    plan: Plan, lin: Linearization, rows: Sequence[Float[Array, "_ 3 _ N"]]
) -> list[Float[Array, "columns rows N"]]:
    """Per group: derivatives of the row values sum_i rows[..., i, k] p_ik by the group's columns (`Layout.columns`).

    Args:
      rows: per kind (r, 3, K, N), linear functionals of its points in camera axes; rows of a group are ordered
        (kind, r, point).
    """
    layout = plan.layout
    # Row functionals in the root's frame, moments of the rigid motion.
    in_root = [jnp.einsum("rikn,ijn->rjkn", f, lin.root) for f in rows]
    rigid = []
    for f, body_f, arm, s, by_shape in zip(rows, in_root, lin.arms, lin.weight_sum, lin.by_shape):
        f_first = jnp.moveaxis(f, 1, 0)
        turn = cross(arm[:, None], f_first)
        turn = jnp.stack([sum(lin.root_axes[i, j] * turn[i] for i in range(3)) for j in range(3)])
        shape = sum(body_f[:, i][None] * by_shape[i][:, None] for i in range(3))
        rigid.append(jnp.concatenate([f_first * s[:, None], turn, shape]))  # (6 + S, r, K, N)
    in_root, rigid = jax.lax.optimization_barrier((in_root, rigid))
    out = []
    for group, levers in zip(layout.groups, lin.levers):
        axes = kinematics.gather(lin.axes, group.bones, 2)
        parts = []
        for kind, index in enumerate(group.points):
            if not index:
                continue
            f = jnp.moveaxis(kinematics.gather(in_root[kind], index, 2), 1, 0)[:, :, None]  # (3, r, 1, k, N)
            turn = jax.lax.optimization_barrier(cross(levers[kind][:, None], f))  # (3, r, bones, k, N)
            by_bone = jnp.stack(
                [sum(axes[i, j][None, :, None] * turn[i] for i in range(3)) for j in range(3)], axis=1
            )  # (r, 3, bones, k, N)
            by_bone = jnp.transpose(by_bone, (2, 1, 0, 3, 4))
            mine = kinematics.gather(rigid[kind], index, 2)
            columns = NUM_RIGID + layout.num_shape + 3 * len(group.bones)
            bones = by_bone.reshape(3 * len(group.bones), *by_bone.shape[2:])
            parts.append(jnp.concatenate([mine, bones]).reshape(columns, -1, mine.shape[-1]))
        out.append(jax.lax.optimization_barrier(jnp.concatenate(parts, axis=1)))
    return out


def normal_equations(
    plan: Plan,
    lin: Linearization,
    rows: Sequence[Float[Array, "_ 3 _ N"]],
    values: Sequence[Float[Array, "v _ _ N"]],
) -> tuple[Float[Array, "N D D"], Float[Array, "D v N"]]:
    """J^T J (lower triangle; the rest is zero) and J^T values of the row functionals, people first in the matrix.

    There are v values to each row: residuals, derivatives by something else than the columns.
    """
    layout = plan.layout
    per_group = []
    for group, jacobian in zip(layout.groups, blocks(plan, lin, rows)):
        mine = [
            kinematics.gather(v, index, 2).reshape(v.shape[0], -1, v.shape[-1])
            for v, index in zip(values, group.points)
            if index
        ]
        augmented = jnp.concatenate([jacobian, jnp.concatenate(mine, axis=1)])
        people_first = jnp.transpose(augmented, (2, 0, 1))
        per_group.append(jax.lax.optimization_barrier(jnp.einsum("nar,nbr->nab", people_first, people_first)))
    matrix, vector = [], []
    count = values[0].shape[0]
    where = [{int(c): i for i, c in enumerate(layout.columns(group))} for group in layout.groups]
    for start, size, owners in layout.segments:
        line = []
        for other, width, others in layout.segments:
            shared = [g for g in owners if g in others]
            if other > start or not shared:
                line.append(jnp.zeros((per_group[0].shape[0], size, width), per_group[0].dtype))
                continue
            block = 0.0
            for g in shared:
                i, j = where[g][start], where[g][other]
                block = block + per_group[g][:, i : i + size, j : j + width]
            line.append(block)
        matrix.append(jnp.concatenate(line, axis=2))
        vector.append(sum(per_group[g][:, -count:, where[g][start] : where[g][start] + size] for g in owners))
    return jnp.concatenate(matrix, axis=1), jnp.transpose(jnp.concatenate(vector, axis=2), (2, 1, 0))


def dense_jacobian(plan: Plan, lin: Linearization, kind: int) -> Float[Array, "3 K D N"]:
    """The whole Jacobian of one kind's camera points, zeros and all."""
    layout = plan.layout
    people = lin.root.shape[-1]
    eye = jnp.eye(3, dtype=lin.root.dtype)[:, :, None, None]
    rows = [
        jnp.broadcast_to(eye if k == kind else eye[:0], (3 if k == kind else 0, 3, size, people))
        for k, size in enumerate(layout.kinds)
    ]
    out = jnp.zeros((layout.num_columns, 3, layout.kinds[kind], people), lin.root.dtype)
    for group, block in zip(layout.groups, blocks(plan, lin, rows)):
        index = group.points[kind]
        if index:
            columns = layout.columns(group)
            block = block.reshape(len(columns), 3, len(index), people)
            out = out.at[columns[:, None, None], np.arange(3)[:, None], np.asarray(index)].set(block)
    return jnp.transpose(out, (1, 2, 0, 3))


def _apply(matrix: Float[Array, "3 3 *#batch"], vectors: Float[Array, "3 *#batch"]) -> Float[Array, "3 *batch"]:
    """Matrices times vectors, trailing axes broadcast."""
    return matrix[:, 0] * vectors[0] + matrix[:, 1] * vectors[1] + matrix[:, 2] * vectors[2]


def _mix(table: Float[Array, "rows columns"], x: Array, axis: int = 1) -> Array:
    """The table applied along one axis."""
    moved = jnp.moveaxis(x, axis, 0)
    mixed = (table @ moved.reshape(moved.shape[0], -1)).reshape(-1, *moved.shape[1:])
    return jnp.moveaxis(mixed, 0, axis)


def parent_slots(tree: kinematics.BoneTree) -> list[int]:
    """Slot of the parent of every bone but the root."""
    slots, start = [], 0
    for size, level in zip(tree.level_sizes, tree.parent_slots[1:]):
        slots += [start + s for s in level]
        start += size
    return slots


def projection_rows(points: Float[Array, "3 K N"], intrinsics: Float[AnyArray, "3 3 N"]) -> Float[Array, "2 3 K N"]:
    """Derivative of `objective.project` by the point: the row functionals of its pixels."""
    x, y, z = points
    k = intrinsics[:, :, None]
    safe = jnp.where(jnp.abs(z) > 1e-6, z, 1e-6)
    per_depth = 1.0 / safe
    x, y = x * per_depth, y * per_depth
    zero = jnp.zeros_like(x)
    return jnp.stack(
        [
            jnp.stack([k[0, 0] * per_depth, k[0, 1] * per_depth, -(k[0, 0] * x + k[0, 1] * y) * per_depth]),
            jnp.stack([k[1, 0] * per_depth + zero, k[1, 1] * per_depth, -(k[1, 0] * x + k[1, 1] * y) * per_depth]),
        ]
    )


def add_blocks(
    matrix: Float[Array, "N D D"],
    diagonal: Float[Array, "D N"],
    rigid: Float[Array, "R R N"],
    bones: Float[Array, "F 3 3 N"],
) -> Float[Array, "N D D"]:
    """The matrix plus a diagonal, a block of the first R columns and one block per bone."""
    people, size = matrix.shape[0], matrix.shape[1]
    first, count = rigid.shape[0], bones.shape[0]
    eye = jnp.eye(count, dtype=matrix.dtype)
    spread = jnp.transpose(bones, (3, 0, 1, 2))[:, :, :, None, :] * eye[:, None, :, None]
    spread = spread.reshape(people, 3 * count, 3 * count)
    added = jnp.pad(jnp.transpose(rigid, (2, 0, 1)), ((0, 0), (0, size - first), (0, size - first)))
    added = added + jnp.pad(spread, ((0, 0), (first, 0), (first, 0)))
    return matrix + added + jnp.eye(size, dtype=matrix.dtype) * diagonal.T[:, :, None]
