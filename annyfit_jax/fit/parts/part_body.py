"""What the fit of a part must know about a body: its bones, its points as sums over bones, its motions and their prior."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Float
from numpy.typing import DTypeLike

from annyfit_jax.fit.parts.part_cues import PART_POINTS
from annyfit_jax.fit.second_order import jacobian
from annyfit_jax.people import part_motion
from annyfit_jax.people.named_points import NamedPoints, named_points
from annyfit_jax.people.part_motion import Motion
from annyfit_jax.people.scene import COCO17
from body_models import anny, kinematics, linear
from body_models.anny import AnnyModel, AnnyPoints
from body_models.kinematics import BoneTree
from body_models.linear import Field


@dataclass(frozen=True)
class PartLayout:
    """Static facts of a part, alike for the left and the right one (hashable). Bones are in the order of `tree`."""

    kind: str
    """`hand`, `head` or `foot`."""
    tree: BoneTree
    pair_bone: tuple[int, ...]
    pair_point: tuple[int, ...]
    turn_bone: tuple[int, ...]
    """Slot of the bone that each turn turns."""
    turn_motion: tuple[int, ...]
    read_bone: tuple[int, ...]
    """Per motion: slot of the bone whose angle the body's fit knows, -1 where it does not."""
    moved: tuple[int, ...]
    """Slots of the bones that a motion turns; the others rest."""
    twist: int
    """The motion that twists the forearm, -1 where the part has none."""
    expression: tuple[int, ...] = ()
    """The motions that are coefficients of the face."""


@struct.dataclass
class FixedFrames:
    """Of a body whose bones turn from frames that do not depend on its shape: the turn of a bone is left exp(v) right."""

    left: Float[Array, "3 3 B"]
    right: Float[Array, "3 3 B"]
    correctives: Float[Array, "3 Q 9B"]
    """Of the moments, by the entries of the bones' turns less the identity, in (row, column, bone) order."""
    slides: Float[Array, "3 Q E"]
    """Of the moments, by the coefficients of the face."""
    head_slides: Float[Array, "3 B E"]
    motions: Float[Array, "D 3B"]
    """From rotation vectors, component by component, to the motions that come nearest: where the fit of a part starts."""


@struct.dataclass
class PartBody:
    """One part: a pytree. B bones, Q pairs of a point and a bone, E turns of a bone, D motions, G grasps, K points."""

    heads: Field
    """(3, B), metres at rest."""
    axes: Field | None
    """(3, B), of bones with rest orientations that depend on the shape."""
    roll: Float[Array, "2 B"] | None
    moments: Field
    """(3, Q): weighted rest positions."""
    omega: Float[Array, "Q"]
    collect: Float[Array, "K Q"]
    """1 where the pair belongs to the point."""
    hangs: Float[Array, "E Q"]
    """1 where the pair hangs on a bone that the turn moves."""
    turn: Float[Array, "3 E"]
    """Rotation vector per unit of the turn's motion."""
    read: Float[Array, "3 D"]
    """Axis whose angle the body's fit knows; zeros where it does not."""
    known: Float[Array, "D"]
    """1 where it does."""
    low: Float[Array, "D 1"]
    high: Float[Array, "D 1"]
    means: Float[Array, "G D"]
    precision: Float[Array, "D D"]
    sd: Float[Array, "D"]
    layout: PartLayout = struct.field(pytree_node=False)
    fixed: FixedFrames | None = None
    """Of the other bodies. Their parts start from the pose that they have, with the nearest grasp as the prior's mean."""


@dataclass(frozen=True)
class PartPlace:
    """Where a part is in its body (static)."""

    rows: tuple[int, ...]
    """Row of the pose of each of its bones."""
    outer: int
    """Slot of the bone that it hangs on in the tree of `PartsBody.joints`."""
    points: tuple[int, int]
    """First and last + 1 of its points among all of them."""


class BodyMotion(NamedTuple):
    """How a whole body is posed (static): functions of `PartsBody.joints`, people last."""

    posed: Callable[..., tuple[Array, Array, Array]]
    """(joints, shape, pose) -> coefficients of the parts' fields (rank, N), skinning transforms about the root (3, 4, B, N) and
    the root's resting place (3, N)."""
    place: Callable[..., Float[Array, "3 K N"]]
    """(joints, shape, root_rotvec, pose, transl, expression) -> points in camera axes."""


@struct.dataclass
class PartsBody:
    """All parts of a body: a pytree, passed to the compiled fit as an argument."""

    joints: Any
    """COCO's 17 keypoints, as `BodyMotion` takes them: their bones are what the parts hang on."""
    kinds: tuple[PartBody, ...]
    """Hands, head and feet: every array with a leading axis of the parts of a kind."""
    places: tuple[tuple[PartPlace, ...], ...] = struct.field(pytree_node=False)
    """Of the same."""
    motion: BodyMotion = struct.field(pytree_node=False)
    whole: Any = None
    """All points of the parts as those of the whole body, of bodies whose points keep what hangs on bones outside the part; in
    others that moves with the part."""
    shown: tuple[bool, ...] = struct.field(pytree_node=False, default=(True, True, True))
    """Whether somebody shows points of that kind; the others are not computed."""

    def with_shown(self, confidence: Float[np.ndarray, "*lists K N"]) -> PartsBody:
        """The body for lists of people of whom only some kinds of parts are seen, by the confidences of all points."""
        points = np.moveaxis(np.asarray(confidence) > 0, -2, 0)
        seen = points.reshape(len(points), -1).sum(1) > 0
        shown = tuple(any(bool(seen[slice(*own.points)].any()) for own in alike) for alike in self.places)
        return dataclasses.replace(self, shown=shown)  # pyright: ignore[reportArgumentType]


def parts_body(model: AnnyModel) -> PartsBody:
    """Prepare Anny for the fit of its parts. Raises ValueError for a body of another version than the named points."""
    anatomy, points = part_motion.Anatomy(model), named_points(model.labels)
    joints = anny.contract(model, np.asarray(model.keypoint_regressor, np.float64)[: len(COCO17)])
    bodies: dict[str, list[PartBody]] = {}
    places: dict[str, list[PartPlace]] = {}
    first = 0
    for part, names in PART_POINTS.items():
        body, place = _part_body(model, joints, anatomy, part, points.select(names), first)
        bodies.setdefault(body.layout.kind, []).append(body)
        places.setdefault(body.layout.kind, []).append(place)
        first += len(names)
    stacked = [jax.tree.map(lambda *leaves: jax.device_put(np.stack(leaves)), *alike) for alike in bodies.values()]
    return PartsBody(
        joints, tuple(stacked), tuple(tuple(alike) for alike in places.values()), BodyMotion(_posed, _place)
    )


def _posed(joints: AnnyPoints, shape: Array, pose: Array) -> tuple[Array, Array, Array]:
    z = anny.coefficients(joints.rest, shape, None)
    frames, heads = jacobian.transforms_of(joints, pose, z)[:2]
    return z, frames, heads[:, 0]


def _place(joints: AnnyPoints, shape: Array, root_rotvec: Array, pose: Array, transl: Array, _: Array) -> Array:
    return anny.points_people_last(joints, shape, root_rotvec, pose, transl)


def _part_body(
    model: AnnyModel, joints: AnnyPoints, anatomy: part_motion.Anatomy, part: str, points: NamedPoints, first: int
) -> tuple[PartBody, PartPlace]:
    labels = model.labels
    names = {name: i for i, name in enumerate(labels.bones)}
    root = names[part_motion.ROOT_BONES[part_motion.kind(part)] + part_motion.side(part)]
    bones, weights, rest_of = pairs_of(np.asarray(model.skin, np.float64), points)
    motions = anatomy.motions(part)
    moving = [names[bone] for motion in motions for bone, _ in motion.turns]
    own = kinematics.with_ancestors(labels.parents, [*(int(b) for _, b in bones), *moving])
    own = [b for b in own if is_below(labels.parents, b, root)]
    parents = [own.index(p) if (p := labels.parents[b]) in own else -1 for b in own]
    tree = kinematics.bone_tree(parents)
    order = [own[i] for i in tree.order]
    slot = {bone: k for k, bone in enumerate(order)}
    inside = np.array([int(b) in slot for _, b in bones])
    bones, weights, rest_of = bones[inside], weights[inside], [r for r, keep in zip(rest_of, inside) if keep]
    total = np.bincount(bones[:, 0], weights, len(points))
    if total.min() < 0.5:
        raise ValueError(f"{part}: {points.names[int(total.argmin())]} hangs on bones outside the part")
    scale = weights / total[bones[:, 0]]  # what hangs on bones outside the part moves with the part
    mean, basis = rest_moments(model.vertices, model.heads, rest_of)
    turns = [(slot[names[bone]], d, vector) for d, m in enumerate(motions) for bone, vector in m.turns]
    pair_bone = [slot[int(b)] for _, b in bones]
    collect = (np.arange(len(points))[:, None] == bones[:, 0]).astype(np.float64)
    hangs = np.array([[is_below(labels.parents, order[b], order[t]) for b in pair_bone] for t, _, _ in turns])
    dtype = model.dtype
    array = lambda x: linear.on_device(x, dtype)  # noqa: E731
    index = np.asarray(order, np.int32)
    place = PartPlace(
        rows=tuple(int(b) - 1 for b in order),
        outer=list(joints.layout.tree.order).index(labels.parents[root]),
        points=(first, first + len(points)),
    )
    body = PartBody(
        heads=model.heads.select((slice(None), index)),
        axes=model.axes.select((slice(None), index)),
        roll=array(np.asarray(model.roll)[:, index]),
        moments=linear.field(mean * scale, basis * scale, dtype),
        omega=array(scale),
        collect=array(collect),
        hangs=array(hangs),
        turn=array(np.array([vector for _, _, vector in turns]).T),
        **motion_arrays(motions, dtype),
        layout=PartLayout(
            kind=part_motion.kind(part),
            tree=BoneTree(tuple(range(len(order))), tree.level_sizes, tree.parent_slots),
            pair_bone=tuple(pair_bone),
            pair_point=tuple(int(k) for k in bones[:, 0]),
            turn_bone=tuple(t for t, _, _ in turns),
            turn_motion=tuple(d for _, d, _ in turns),
            read_bone=tuple(slot[names[m.read[0]]] if m.read else -1 for m in motions),
            moved=tuple(sorted({t for t, _, _ in turns})),
            twist=next(
                (d for d, m in enumerate(motions) if m.name.startswith("lowerarm02") and m.name.endswith(" 2")), -1
            ),
        ),
    )
    return body, place


def motion_arrays(motions: list[Motion], dtype: DTypeLike) -> dict[str, Any]:
    """Fields of a `PartBody` that follow from its motions alone: how they are read, their ranges and their prior."""
    array = lambda x: linear.on_device(x, dtype)  # noqa: E731
    return {
        "read": array(np.array([m.read[1] if m.read else (0.0, 0.0, 0.0) for m in motions]).T),
        "known": array([m.read is not None for m in motions]),
        "low": array([[m.low] for m in motions]),
        "high": array([[m.high] for m in motions]),
        "means": array(part_motion.grasp_means(motions)),
        "precision": array(part_motion.prior_precision(motions)),
        "sd": array([m.sd for m in motions]),
    }


def pairs_of(
    skin: Float[np.ndarray, "B V"], points: NamedPoints
) -> tuple[np.ndarray, np.ndarray, list[dict[int, float]]]:
    """(point, bone) pairs, their weights, and which vertices (or -1 - bone: heads of bones) make up the rest position."""
    found: dict[tuple[int, int], dict[int, float]] = {}
    for k in range(len(points)):
        for bone, weight in zip(points.bones[k], points.bone_weights[k], strict=True):
            if weight:
                parts = found.setdefault((k, int(bone)), {})
                parts[-1 - int(bone)] = parts.get(-1 - int(bone), 0.0) + weight
        for vertex, weight in zip(points.vertices[k], points.vertex_weights[k], strict=True):
            for bone in np.flatnonzero(skin[:, vertex]) if weight else ():
                parts = found.setdefault((k, int(bone)), {})
                parts[int(vertex)] = parts.get(int(vertex), 0.0) + weight * skin[bone, vertex]
    weights = np.array([sum(parts.values()) for parts in found.values()])
    rests = [{v: w / total for v, w in parts.items()} for parts, total in zip(found.values(), weights, strict=True)]
    return np.array(list(found)), weights, rests


def rest_moments(vertices: Field, heads: Field, rest_of: list[dict[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and basis of weighted means of vertices and heads of bones, (3, Q) and (rank, 3, Q); the heads' field may have fewer
    coefficients, the first ones."""
    fields = {False: vertices, True: heads}
    mean, basis = np.zeros((3, len(rest_of))), np.zeros((vertices.rank, 3, len(rest_of)))
    arrays = {h: (np.asarray(f.mean, np.float64), np.asarray(f.basis)) for h, f in fields.items()}
    for q, parts in enumerate(rest_of):
        for place, weight in parts.items():
            of_mean, of_basis = arrays[place < 0]
            row = -1 - place if place < 0 else place
            mean[:, q] += weight * of_mean[:, row]
            basis[: len(of_basis), :, q] += weight * of_basis[:, :, row]
    return mean, basis


def is_below(parents: tuple[int, ...], bone: int, top: int) -> bool:
    """Whether a bone is another one or hangs on it."""
    while bone >= 0 and bone != top:
        bone = parents[bone]
    return bone == top
