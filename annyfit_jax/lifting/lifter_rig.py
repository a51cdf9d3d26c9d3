"""What the lifter predicts of Anny's rig: which bones, and where the keypoints are once they have turned.

A bone's rotation is written from the root: how far it has turned from rest in the body's own axes (`turns`). A keypoint is then
the sum of the resting segments on its way from the root, each turned with its bone: one matrix product, where rotations about
the parent bones would need a chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from annyfit_jax.people.anatomy import other_side
from annyfit_jax.people.scene import COCO17
from body_models import anny, contraction, linear

_SPINE = ("spine05", "spine04", "spine03", "spine02", "spine01", "neck01", "neck02", "neck03", "head")
_LIMBS = ("clavicle", "shoulder01", "upperarm01", "lowerarm01", "upperleg01", "lowerleg01", "foot")
BONES: tuple[str, ...] = (*_SPINE, *(f"{stem}.{side}" for stem in _LIMBS for side in "LR"))
"""Bones that are predicted, beside the root; all others keep to rest."""
NUM_BONES = len(BONES)
_RIDES = {
    "nose": "head", "eye": "head", "ear": "head", "shoulder": "shoulder01", "elbow": "upperarm01", "wrist": "lowerarm01",
    "hip": "", "knee": "upperleg01", "ankle": "lowerleg01",
}  # fmt: skip
"""The bone that each keypoint moves with; hips with the root."""
HIPS = (COCO17.index("left_hip"), COCO17.index("right_hip"))
BODY = slice(5, None)
"""Keypoints below the face."""


MIRRORED_KEYPOINTS, MIRRORED_BONES = (
    np.array([names.index(other_side(name)) for name in names]) for names in (COCO17, BONES)
)
"""Row of the keypoint, and of the bone, on the other side."""
_MIRROR = np.array([-1.0, 1.0, 1.0])
_NOSE, _ANKLES = COCO17.index("nose"), (COCO17.index("left_ankle"), COCO17.index("right_ankle"))


def mirror_vectors(vectors: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """The same in a mirror: x, which is to the side for bodies and cameras alike, points the other way."""
    return vectors * jnp.asarray(_MIRROR, vectors.dtype)


def mirror_rotations(rotation: Float[Array, "*n 3 3"]) -> Float[Array, "*n 3 3"]:
    """What a turn looks like in a mirror; rows keep their bones."""
    return rotation * jnp.asarray(_MIRROR[:, None] * _MIRROR, rotation.dtype)


@dataclass(frozen=True)
class RigLayout:
    """Static facts of the rig (hashable). Bone 0 is the root, bone 1 + b is `BONES[b]`."""

    rows: tuple[int, ...]
    """Row of each of `BONES` among Anny's 162 posed bones."""
    slots: tuple[int, ...]
    """Place of the root and of each of `BONES` in the bone tree of the keypoints."""
    parents: tuple[int, ...]
    """The next predicted bone on the way to the root, of each of `BONES`."""
    rides: tuple[int, ...]
    """The bone that each keypoint moves with."""


@struct.dataclass
class LifterRig:
    """Anny's 17 keypoints and predicted bones: a pytree, passed into compiled functions."""

    points: anny.AnnyPoints
    path: Float[Array, "17 Q B"]
    """1 where the step from the parent to bone b turns with bone q on the way to keypoint j."""
    last: Float[Array, "17 Q"]
    """1 at the bone that keypoint j moves with."""
    layout: RigLayout = struct.field(pytree_node=False)


def load_rig(model: anny.AnnyModel) -> LifterRig:
    """The rig of a body model with Anny's bones."""
    names, above = list(model.labels.bones), model.labels.parents
    points = anny.contract(model, np.asarray(model.keypoint_regressor, np.float64)[: len(COCO17)])
    place = {0: 0} | {names.index(name): 1 + b for b, name in enumerate(BONES)}
    parents = [_next(place, above, names.index(name)) for name in BONES]
    rides = []
    for name in COCO17:
        side, _, part = name.rpartition("_")
        stem = _RIDES[part]
        rides.append(0 if not stem else place[names.index(stem if stem in names else f"{stem}.{side[0].upper()}")])
    path, last = np.zeros((len(rides), 1 + NUM_BONES, NUM_BONES)), np.zeros((len(rides), 1 + NUM_BONES))
    for j, bone in enumerate(rides):
        last[j, bone] = 1.0
        while bone:
            path[j, parents[bone - 1], bone - 1] = 1.0
            bone = parents[bone - 1]
    order = [int(bone) for bone in points.layout.tree.order]
    return LifterRig(
        points=points,
        path=jnp.asarray(path, model.dtype),
        last=jnp.asarray(last, model.dtype),
        layout=RigLayout(
            rows=tuple(names.index(name) - 1 for name in BONES),
            slots=tuple(order.index(bone) for bone in place),
            parents=tuple(parents),
            rides=tuple(rides),
        ),
    )


def _next(place: dict[int, int], parents: Sequence[int], bone: int) -> int:
    bone = parents[bone]
    while bone not in place:
        bone = parents[bone]
    return place[bone]


def _coefficients(rig: LifterRig, shape: Float[Array, "n 6"]) -> Float[Array, "rank n"]:
    return anny.coefficients(rig.points.rest, shape.T, None)


def rest_keypoints(rig: LifterRig, shape: Float[Array, "n 6"]) -> Float[Array, "n 17 3"]:
    """Keypoints of resting bodies about the root's head, body axes, metres."""
    z = _coefficients(rig, shape)
    bones = len(rig.points.layout.tree.order)
    eye = jnp.broadcast_to(jnp.eye(3, dtype=z.dtype)[None, :, :, None], (bones, 3, 3, z.shape[-1]))
    at = contraction.evaluate(rig.points.contraction, eye, jnp.zeros((bones, 3, z.shape[-1]), z.dtype), z)
    head = linear.evaluate(rig.points.heads, z)[:, 0]
    return jnp.moveaxis(at - rig.points.contraction.weight_sum[:, None, None] * head, -1, 0)


def span(rest: Float[Array, "n 17 3"]) -> Float[Array, "n"]:
    """From the nose to the middle of the ankles of resting bodies (`rest_keypoints`), metres."""
    return jnp.sqrt(((rest[:, _NOSE] - rest[:, np.array(_ANKLES)].mean(1)) ** 2).sum(-1))


def segments(rig: LifterRig, shape: Float[Array, "n 6"]) -> Float[Array, "n 17 Q 3"]:
    """What turns with each bone on the way to each keypoint, at rest, metres; from the middle of the hips."""
    heads = linear.evaluate(rig.points.heads, _coefficients(rig, shape))  # (3, bone, n)
    at = jnp.moveaxis(heads[:, np.array(rig.layout.slots)] - heads[:, :1], -1, 0).swapaxes(1, 2)  # (n, Q, 3)
    steps = at[:, 1:] - at[:, np.array(rig.layout.parents)]
    rest = rest_keypoints(rig, shape) - at[:, np.array(rig.layout.rides)]
    out = jnp.einsum("jqb,nbc->njqc", rig.path, steps) + rig.last[None, :, :, None] * rest[:, :, None]
    return out - out[:, np.array(HIPS)].mean(1, keepdims=True)


def keypoints(
    segment: Float[Array, "n 17 Q 3"], root: Float[Array, "n K 3 3"], turns: Float[Array, "n K B 3 3"]
) -> Float[Array, "n K 17 3"]:
    """Keypoints about the middle of the hips, in the axes that `root` leads to, metres."""
    n, count = root.shape[:2]
    bones = jnp.swapaxes(turns, -1, -2).reshape(n, count, 3 * NUM_BONES, 3)
    in_body = (
        jnp.einsum("njq,nkqi->nkji", segment[:, :, 1:].reshape(n, -1, 3 * NUM_BONES), bones) + segment[:, None, :, 0]
    )
    return jnp.einsum("nkij,nkmj->nkmi", root, in_body)


def posed(
    rig: LifterRig, shape: Float[Array, "n 6"], pose: Float[Array, "n B 3"]
) -> tuple[Float[Array, "n 17 3"], Float[Array, "n B 3 3"]]:
    """Keypoints of posed bodies (body axes, about the root's head, metres, skinned exactly) and the turns of their bones.

    `pose`: rotation vectors of `BONES` in their own rest frames, radians.
    """
    whole = jnp.zeros((3, anny.NUM_BONES - 1, len(pose)), pose.dtype)
    whole = whole.at[:, np.array(rig.layout.rows)].set(jnp.moveaxis(pose, -1, 0).swapaxes(1, 2))
    points, turns = anny.points_and_turns(rig.points, shape.T, whole)
    return jnp.moveaxis(points, -1, 0).swapaxes(1, 2), jnp.moveaxis(turns[np.array(rig.layout.slots[1:])], -1, 0)


def local_rotations(
    rig: LifterRig, shape: Float[Array, "n 6"], turns: Float[Array, "n *K B 3 3"]
) -> Float[Array, "n *K B 3 3"]:
    """Rotations of `BONES` in their own rest frames, from their turns: the inverse of what `posed` does to its pose."""
    axes = linear.evaluate(rig.points.axes, _coefficients(rig, shape))
    rest = anny.rest_orientations(axes, rig.points.roll)[:, :, np.array(rig.layout.slots[1:]) - 1]
    rest = jnp.moveaxis(rest, (0, 1, 2, 3), (2, 3, 1, 0))  # (n, B, 3, 3)
    rest = rest.reshape(rest.shape[0], *(1,) * (turns.ndim - 4), *rest.shape[1:])
    eye = jnp.broadcast_to(jnp.eye(3, dtype=turns.dtype), (*turns.shape[:-3], 1, 3, 3))
    above = jnp.concatenate([eye, turns], -3)[..., np.array(rig.layout.parents), :, :]
    return jnp.swapaxes(rest, -1, -2) @ jnp.swapaxes(above, -1, -2) @ turns @ rest
