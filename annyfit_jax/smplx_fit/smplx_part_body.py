"""Hands, head and feet of SMPL-X, as `fit.parts` takes them: its own joints, points and expressions, Anny's motions and priors.

Motions of Anny's bones are those of the joints that have the bone (`bone_frames`). Where several bones make one joint, ranges
and variances add up. What SMPL-X has no joint for, the palm, lips, brows and lids, is left out; the face has its expressions
instead, with N(0, 1). Joints of fingers, the jaw and toes turn about all three axes: about those that no motion has, only a
little.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from annyfit_jax.fit.parts.part_body import (
    BodyMotion,
    FixedFrames,
    PartBody,
    PartLayout,
    PartPlace,
    PartsBody,
    is_below,
    motion_arrays,
    pairs_of,
    rest_moments,
)
from annyfit_jax.fit.parts.part_cues import PART_POINTS, POINTS
from annyfit_jax.people import part_motion
from annyfit_jax.people.named_points import NamedPoints
from annyfit_jax.people.part_motion import Motion
from annyfit_jax.smplx_fit import smplx_jacobian
from annyfit_jax.smplx_fit.smplx_jacobian import FramedPoints, framed
from annyfit_jax.smplx_fit.smplx_map_body import Laying
from annyfit_jax.smplx_fit.smplx_points import smplx_points
from body_models import kinematics, linear, smplx
from body_models.kinematics import BoneTree

_ROOTS = {"hand": "elbow", "head": "neck", "foot": "ankle"}
"""The first joint of a part that its points may move."""
_FREE_SD, _FREE_RANGE = 0.06, 0.3
"""Of joints about axes that no motion has, radians."""
_EXPRESSION_RANGE = 4.0


def smplx_parts_body(laying: Laying) -> PartsBody:
    """Prepare SMPL-X for the fit of its parts; poses in the frames of Anny's bones."""
    model = laying.model
    anatomy = part_motion.Anatomy(laying.anny_model)
    points = smplx_points(laying.laid, laying.anny_model, model)
    joints = framed(smplx.contract(model, np.asarray(model.keypoint_regressor, np.float64)), laying.frames)
    whole = framed(smplx.contract(model, _regressor(points.select(POINTS))), laying.frames)
    first, bodies, places = 0, {}, {}
    pieces = {}
    for part, names in PART_POINTS.items():
        pieces[part] = _piece(laying, part, anatomy.motions(part), points.select(names))
    for part, names in PART_POINTS.items():
        kind = part_motion.kind(part)
        # Left and right share a program: what hangs on a bone on one side only has no weight on the other.
        alike = [other for name, other in pieces.items() if part_motion.kind(name) == kind]
        pairs = sorted({pair for other in alike for pair in other.pairs})
        body = _part_body(laying, pieces[part], pairs)
        root = smplx.JOINTS.index(pieces[part].joints[0])
        outer = list(joints.layout.tree.order).index(model.labels.parents[root])
        place = PartPlace(
            tuple(smplx.JOINTS.index(j) - 1 for j in pieces[part].joints), outer, (first, first + len(names))
        )
        bodies.setdefault(kind, []).append(body)
        places.setdefault(kind, []).append(place)
        first += len(names)
    stacked = [jax.tree.map(lambda *leaves: jax.device_put(np.stack(leaves)), *alike) for alike in bodies.values()]
    return PartsBody(
        joints, tuple(stacked), tuple(tuple(alike) for alike in places.values()), BodyMotion(_posed, _place), whole
    )


def _regressor(points: NamedPoints) -> np.ndarray:
    """Weights over vertices, then joints."""
    rows = np.zeros((len(points), smplx.NUM_VERTICES + smplx.NUM_JOINTS))
    for row, *of in zip(rows, points.vertices, points.vertex_weights, points.bones, points.bone_weights, strict=True):
        np.add.at(row, of[0], of[1])
        np.add.at(row, smplx.NUM_VERTICES + of[2], of[3])
    return rows


def _posed(joints: FramedPoints, shape: Array, pose: Array) -> tuple[Array, Array, Array]:
    z, frames, heads, delta = smplx_jacobian.transforms_of(joints, shape, pose)
    return jnp.concatenate([z, smplx.pose_feature(delta)]), frames, heads[:, 0]


def _place(joints: FramedPoints, shape: Array, root_rotvec: Array, pose: Array, transl: Array, face: Array) -> Array:
    return smplx_jacobian.place(joints, shape, root_rotvec, pose, transl, face if len(face) else None)


class _Piece(NamedTuple):
    """One part before its two sides are made alike."""

    kind: str
    joints: tuple[str, ...]
    """In the order of the chain."""
    tree: BoneTree
    motions: list[Motion]
    """Turns and `read` name joints, by rotation vectors in the frames of Anny's bones."""
    pairs: dict[tuple[int, int], tuple[float, dict[int, float]]]
    """(point, slot of its joint) -> weight, and what makes up the rest position (`part_body.pairs_of`)."""
    num_points: int


def _piece(laying: Laying, part: str, motions: list[Motion], points: NamedPoints) -> _Piece:
    labels, kind = laying.model.labels, part_motion.kind(part)
    joints = joints_of(laying.model, part)
    bone_tree = kinematics.bone_tree(_parents(labels, joints))
    order = [smplx.JOINTS.index(joint) for joint in joints]
    slot = {joint: k for k, joint in enumerate(order)}
    found, weights, rests = pairs_of(np.asarray(laying.model.skin, np.float64), points)
    inside = [k for k, (_, joint) in enumerate(found.tolist()) if joint in slot]
    total = np.bincount(found[inside, 0], weights[inside], len(points))
    if total.min() < 0.5:
        raise ValueError(
            f"{labels.asset_version}: {points.names[int(total.argmin())]} hangs on joints outside the {part.replace('_', ' ')}"
        )
    pairs = {(int(found[k, 0]), slot[int(found[k, 1])]): (float(weights[k]), rests[k]) for k in inside}
    tree = BoneTree(tuple(range(len(order))), bone_tree.level_sizes, bone_tree.parent_slots)
    return _Piece(kind, joints, tree, joint_motions(laying, motions, joints), pairs, len(points))


def joints_of(model: smplx.SmplxModel, part: str) -> tuple[str, ...]:
    """The joints of a part of `people.fitted.PARTS`, in the order of the chain."""
    labels, kind = model.labels, part_motion.kind(part)
    prefix = f"{part.partition('_')[0]}_" if kind != "head" else ""
    root = smplx.JOINTS.index(prefix + _ROOTS[kind])
    own = tuple(smplx.JOINTS[j] for j in range(len(smplx.JOINTS)) if is_below(labels.parents, j, root))
    return tuple(own[i] for i in kinematics.bone_tree(_parents(labels, own)).order)


def _parents(labels: smplx.Labels, joints: tuple[str, ...]) -> tuple[int, ...]:
    """Per joint the place of the one above it among the joints, -1 where it is not one of them."""
    above = [labels.parents[smplx.JOINTS.index(joint)] for joint in joints]
    return tuple(joints.index(smplx.JOINTS[p]) if p >= 0 and smplx.JOINTS[p] in joints else -1 for p in above)


def joint_motions(laying: Laying, motions: list[Motion], joints: tuple[str, ...]) -> list[Motion]:
    """Motions of Anny's bones as those of joints, and turns of the joints about their other axes.

    Args:
      joints: those of the part; motions of none of them are left out.
    """
    frames, bones = laying.frames, laying.anny_model.labels.bones[1:]
    of_bone = {bones[frames.own_bones[smplx.JOINTS.index(j) - 1]]: j for j in joints}
    made = []
    for joint in joints:
        path = [bones[row] for row in frames.paths[smplx.JOINTS.index(joint) - 1]]
        known = [[m for m in motions if m.read is not None and m.read[0] == bone] for bone in path]
        if not known[-1]:
            continue
        several = [three for three in known if three]
        for k, last in enumerate(known[-1]):
            assert last.read is not None  # chosen by it
            low, high = sum(three[k].low for three in several), sum(three[k].high for three in several)
            row = smplx.JOINTS.index(joint) - 1
            if np.isfinite(laying.known.limit_low[row]).all():
                low, high = min(low, laying.known.limit_low[row, k]), max(high, laying.known.limit_high[row, k])
            sd = float(np.linalg.norm([three[k].sd for three in several]))
            made.append(Motion(f"{joint} {k}", ((joint, last.turns[0][1]),), low, high, 0.0, sd, (joint, last.read[1])))
    for motion in motions:
        turns = tuple((of_bone[bone], vector) for bone, vector in motion.turns if bone in of_bone)
        if motion.read is None and turns:
            made.append(dataclasses.replace(motion, turns=turns))
    for joint in joints:
        vectors = [np.array(vector) for motion in made for bone, vector in motion.turns if bone == joint]
        if not vectors or "eye" in joint:
            continue  # both eyes look the same way
        # Axes at right angles to those that it has.
        _, size, axes = np.linalg.svd(np.stack(vectors))
        rank = int((size > 1e-6 * size.max()).sum())
        for k, axis in enumerate(axes[rank:]):
            turn = (joint, (float(axis[0]), float(axis[1]), float(axis[2])))
            made.append(Motion(f"{joint} other {k}", (turn,), -_FREE_RANGE, _FREE_RANGE, 0.0, _FREE_SD))
    return made


def _part_body(laying: Laying, piece: _Piece, pairs: list[tuple[int, int]]) -> PartBody:
    """
    Args:
      pairs: a point and the slot of a joint each; those of both sides.
    """
    model, labels = laying.model, laying.model.labels
    rows = np.array([smplx.JOINTS.index(joint) for joint in piece.joints])
    slot = {joint: k for k, joint in enumerate(piece.joints)}
    faces = labels.num_expression if piece.kind == "head" else 0
    motions = [
        *piece.motions,
        *(Motion(f"expression {k}", (), -_EXPRESSION_RANGE, _EXPRESSION_RANGE, 0.0, 1.0) for k in range(faces)),
    ]
    count = len(motions)
    given = [piece.pairs.get(pair, (0.0, {})) for pair in pairs]
    scale = np.array([weight for weight, _ in given])
    mean, basis = rest_moments(model.vertices, model.joints, [rest for _, rest in given])
    mean, basis = mean * scale, basis * scale
    shape = labels.num_betas
    correctives = basis[shape + labels.num_expression :].reshape(9, len(smplx.JOINTS) - 1, 3, -1)[:, rows - 1]
    turns = [(slot[joint], d, vector) for d, m in enumerate(motions) for joint, vector in m.turns]
    by_motion = np.zeros((3, len(rows), count))
    for bone, d, vector in turns:
        by_motion[:, bone, d] += vector
    parents = _parents(labels, piece.joints)
    hangs = np.array([[is_below(parents, b, t) for _, b in pairs] for t, _, _ in turns], np.float64)
    face = slice(shape, shape + faces)
    array = lambda x: linear.on_device(x, model.dtype)  # noqa: E731
    last = lambda matrices: array(np.moveaxis(matrices[rows - 1], 0, -1))  # noqa: E731
    return PartBody(
        heads=model.joints.select((slice(None), rows)),
        axes=None,
        roll=None,
        moments=linear.field(mean, basis, model.dtype),
        omega=array(scale),
        collect=array(np.arange(piece.num_points)[:, None] == np.array([k for k, _ in pairs])),
        hangs=array(hangs),
        turn=array(np.array([vector for _, _, vector in turns]).T),
        **motion_arrays(motions, model.dtype),
        layout=PartLayout(
            kind=piece.kind,
            tree=piece.tree,
            pair_bone=tuple(b for _, b in pairs),
            pair_point=tuple(k for k, _ in pairs),
            turn_bone=tuple(t for t, _, _ in turns),
            turn_motion=tuple(d for _, d, _ in turns),
            read_bone=tuple(slot[m.read[0]] if m.read else -1 for m in motions),
            moved=tuple(sorted({t for t, _, _ in turns})),
            twist=-1,
            expression=tuple(range(count - faces, count)),
        ),
        fixed=FixedFrames(
            left=last(laying.frames.left),
            right=last(laying.frames.right),
            correctives=array(np.moveaxis(correctives.reshape(-1, *mean.shape), 0, -1)),
            slides=array(np.moveaxis(basis[face], 0, -1)),
            head_slides=array(np.moveaxis(np.asarray(model.joints.basis, np.float64)[face][:, :, rows], 0, -1)),
            motions=array(np.linalg.pinv(by_motion.reshape(-1, count))),
        ),
    )
