"""How hands, head and feet move: the motions of each part, their anatomical ranges, and a few named grasps.

A motion is a number that turns one bone or several together: an angle in radians, or a shift of soft parts of the face in
centimetres. What a motion turns comes from the geometry of the resting body: fingers bend towards the side of the palm that
they bend to at rest, and a bone of the face turns so that its skin moves the wanted way. Ranges of joints are textbook
ranges of motion (AAOS; fingers from the straight finger), means and spreads are of our own choosing. Body axes: x = the
body's left, y = back, z = up.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from annyfit_jax.people import anatomy
from annyfit_jax.people.named_points import FINGER_BONES
from body_models import anny

ROOT_BONES = {"hand": "lowerarm01", "head": "neck01", "foot": "lowerleg02"}
"""The first bone of a part that its points may move."""


@dataclass(frozen=True)
class Motion:
    """One number that moves a part."""

    name: str
    turns: tuple[tuple[str, tuple[float, float, float]], ...]
    """Bone, and its rotation vector in its own rest frame per unit of the motion."""
    low: float
    high: float
    mean: float
    sd: float
    """What people do; about what the fit of the body says where `read` is given."""
    read: tuple[str, tuple[float, float, float]] | None = None
    """Bone and axis whose angle the fit of the body has estimated."""


def kind(part: str) -> str:
    """`hand`, `head` or `foot`."""
    return part.rpartition("_")[2]


def side(part: str) -> str:
    """`.L`, `.R` or nothing: the ending of the names of the part's bones."""
    return {"left": ".L", "right": ".R"}.get(part.partition("_")[0], "")


class Anatomy:
    """The motions of every part of one body model."""

    def __init__(self, model: anny.AnnyModel) -> None:
        self._names = {name: i for i, name in enumerate(model.labels.bones)}
        matrices = jax.jit(anny.rest_orientations)(jnp.asarray(np.asarray(model.axes.mean)[..., None]), model.roll)
        self._frames = np.moveaxis(np.asarray(matrices, np.float64)[..., 0], -1, 0)
        self._heads = np.asarray(model.heads.mean, np.float64).T
        self._vertices = np.asarray(model.vertices.mean, np.float64).T
        self._skin = np.asarray(model.skin, np.float64)
        bones, axes, ranges = anatomy.joint_axes(model)
        self._joints = {model.labels.bones[b]: (a, r) for b, a, r in zip(bones, axes, ranges, strict=True)}

    def motions(self, part: str) -> list[Motion]:
        """The motions of a part of `people.fitted.PARTS`."""
        return {"hand": self._hand, "head": self._head, "foot": self._foot}[kind(part)](side(part))

    # ---------------------------------------------------------------------------------------- joints that the body's fit knows

    def _known(self, bone: str, sds: tuple[float, float, float], wider: float = 1.0) -> list[Motion]:
        """The three axes of a joint of `anatomy`, about where the body's fit has it."""
        axes, ranges = self._joints[bone]
        columns = np.linalg.inv(axes).T
        return [
            Motion(f"{bone} {k}", ((bone, _triple(columns[k])),), wider * ranges[k, 0], wider * ranges[k, 1], 0.0, sd,
                   (bone, _triple(axes[k])))
            for k, sd in enumerate(sds)
        ]  # fmt: skip

    def _turn(self, bone: str, axis: np.ndarray) -> tuple[str, tuple[float, float, float]]:
        """A turn of a bone about an axis of the resting body."""
        return bone, _triple(self._frames[self._names[bone]].T @ axis)

    # ---------------------------------------------------------------------------------------- hand

    def _hand(self, end: str) -> list[Motion]:
        at = lambda bone: self._heads[self._names[bone + end]]  # noqa: E731
        along = lambda bone: self._frames[self._names[bone + end]][:, 1]  # noqa: E731
        across = np.cross(at("finger2-1") - at("wrist"), at("finger5-1") - at("wrist"))
        curl = sum(along(f"finger{f}-3") - along(f"finger{f}-1") for f in (2, 3, 4, 5))
        palm = _unit(across * np.sign(across @ curl))
        motions = [
            *self._known(f"lowerarm01{end}", (0.15, 0.05, 0.1), 1.2),
            *self._known(f"lowerarm02{end}", (0.02, 0.02, 0.8), 1.3),
            *self._known(f"wrist{end}", (0.5, 0.3, 0.15), 1.2),
        ]
        # The thumb bends towards the knuckles of the ring and little finger, in front of the palm.
        goal = 0.5 * (at("finger4-1") + at("finger5-1")) + 0.25 * palm * np.linalg.norm(at("finger3-1") - at("wrist"))
        bend = _unit(np.cross(along("finger1-2"), goal - at("finger1-2")))
        side_axis = _unit(np.cross(along("finger1-1"), bend))
        ball, middle, tip = (f"{bone}{end}" for bone in FINGER_BONES["thumb"])
        motions += [
            Motion("thumb_1 bend", (self._turn(ball, bend),), -0.7, 0.9, 0.1, 0.3),
            Motion("thumb_1 side", (self._turn(ball, side_axis),), -0.7, 0.7, 0.0, 0.3),
            Motion("thumb_1 twist", (self._turn(ball, along("finger1-1")),), -0.6, 0.6, 0.0, 0.2),
            Motion("thumb_2 bend", (self._turn(middle, bend),), -0.4, 1.0, 0.1, 0.3),
            Motion("thumb_2 side", (self._turn(middle, side_axis),), -0.3, 0.3, 0.0, 0.1),
            Motion("thumb_3 bend", (self._turn(tip, bend),), -0.6, 1.3, 0.1, 0.4),
        ]
        for f, finger in ((2, "index"), (3, "middle"), (4, "ring"), (5, "little")):
            first, second, third = FINGER_BONES[finger]
            back = f"metacarpal{f - 1}"
            bend = _unit(np.cross(along(first), palm))
            straight = lambda bone, above, bend=bend: _angle(along(above), along(bone), bend)  # noqa: E731
            knuckle, joint, last = straight(first, back), straight(second, first), straight(third, second)
            if f >= 4:
                motions.append(Motion(f"{finger} cup", (self._turn(back + end, bend),), -0.05, 0.3, 0.03, 0.08))
            motions += [
                Motion(f"{finger}_1 bend", (self._turn(first + end, bend),), -0.4 - knuckle, 1.6 - knuckle, 0.3 - knuckle, 0.5),
                Motion(f"{finger}_1 side", (self._turn(first + end, palm),), -0.35, 0.35, 0.0, 0.12),
                # The last joint follows the one before it by some two thirds.
                Motion(
                    f"{finger}_2 bend",
                    (self._turn(second + end, bend), self._turn(third + end, _FOLLOWS * bend)),
                    -0.1 - joint, 1.9 - joint, 0.5 - joint, 0.5,
                ),
                Motion(f"{finger}_3 bend", (self._turn(third + end, bend),), -0.4, 0.4, 0.2 - last, 0.2),
            ]  # fmt: skip
        return [dataclasses.replace(m, mean=float(np.clip(m.mean, m.low, m.high))) for m in motions]

    # ---------------------------------------------------------------------------------------- head

    def _head(self, _: str) -> list[Motion]:
        x, z = np.eye(3)[0], np.eye(3)[2]
        motions = [
            motion
            for bone, sd in (("neck01", 0.08), ("neck02", 0.08), ("neck03", 0.08), ("head", 0.15))
            for motion in self._known(bone, (sd, sd, sd), 1.2)
        ]
        motions += [
            Motion("jaw open", (self._turn("jaw", x),), -0.05, 0.55, 0.03, 0.15),
            Motion("jaw side", (self._turn("jaw", z),), -0.12, 0.12, 0.0, 0.03),
            Motion(
                "upper lip up", self._soft({"oris05": 1.0, "oris03.L": 0.7, "oris03.R": 0.7}, z), -0.4, 0.7, 0.0, 0.2
            ),
            Motion(
                "lower lip down", self._soft({"oris01": 1.0, "oris07.L": 0.7, "oris07.R": 0.7}, -z), -0.4, 0.7, 0.0, 0.2
            ),
            Motion("look aside", (self._turn("eye.L", z), self._turn("eye.R", z)), -0.6, 0.6, 0.0, 0.2),
            Motion("look down", (self._turn("eye.L", x), self._turn("eye.R", x)), -0.4, 0.5, 0.0, 0.15),
        ]
        for end, sign in ((".L", 1.0), (".R", -1.0)):
            corner = {f"oris03{end}": 1.0, f"oris07{end}": 1.0}
            lids = (self._turn(f"orbicularis03{end}", 0.45 * x), self._turn(f"orbicularis04{end}", -0.15 * x))
            motions += [
                Motion(f"smile{end}", self._soft(corner | {f"risorius03{end}": 0.7}, np.array([0.6 * sign, 0.2, 0.8])),
                       -0.6, 1.0, 0.0, 0.3),
                Motion(f"mouth out{end}", self._soft(corner, sign * x), -0.6, 0.6, 0.0, 0.2),
                Motion(f"brow up{end}", self._soft({f"oculi01{end}": 1.0}, z), -0.6, 1.0, 0.0, 0.3),
                Motion(f"lids closed{end}", lids, -0.5, 1.2, 0.1, 0.35),
            ]  # fmt: skip
        return motions

    def _soft(
        self, bones: dict[str, float], direction: np.ndarray
    ) -> tuple[tuple[str, tuple[float, float, float]], ...]:
        """Turns that move the skin of bones by some share of a centimetre in a direction."""
        turns = []
        for bone, share in bones.items():
            row = self._names[bone]
            lever = self._skin[row] @ self._vertices / self._skin[row].sum() - self._heads[row]
            turns.append(self._turn(bone, 0.01 * share * np.cross(lever, direction) / (lever @ lever)))
        return tuple(turns)

    # ---------------------------------------------------------------------------------------- foot

    def _foot(self, end: str) -> list[Motion]:
        toes = tuple(self._turn(f"toe{k}-1{end}", np.eye(3)[0]) for k in range(1, 6))
        return [
            *self._known(f"lowerleg02{end}", (0.03, 0.03, 0.15), 1.2),
            *self._known(f"foot{end}", (0.3, 0.2, 0.2), 1.2),
            Motion("toes bend", toes, -0.9, 0.5, 0.0, 0.15),
        ]


_FOLLOWS = 0.6
_LONG = ("index", "middle", "ring", "little")
_FIST = {f"{finger}_{k} bend": angle for finger in _LONG for k, angle in ((1, 1.2), (2, 1.5))}
GRASPS: dict[str, dict[str, float]] = {
    "relaxed": {},
    "flat": {f"{finger}_{k} bend": 0.0 for finger in _LONG for k in (1, 2)},
    "fist": _FIST | {"thumb_1 bend": 0.5, "thumb_3 bend": 0.5},
    "point": {name: angle for name, angle in _FIST.items() if not name.startswith("index")}
    | {"index_1 bend": 0.0, "index_2 bend": 0.0, "thumb_1 bend": 0.4},
}
"""Named grasps: the means of some motions, in radians from where they are at rest; the others keep their own."""

ALIKE: tuple[tuple[str, str, float], ...] = (
    *((f"{a}_1 bend", f"{b}_1 bend", 0.35) for a, b in itertools.pairwise(_LONG)),
    *((f"{a}_2 bend", f"{b}_2 bend", 0.4) for a, b in itertools.pairwise(_LONG)),
    *((f"{name}.L", f"{name}.R", sd) for name, sd in (("smile", 0.2), ("mouth out", 0.15), ("brow up", 0.2))),
    ("lids closed.L", "lids closed.R", 0.2),
)
"""Motions that go together, and the spread of their difference: neighbouring fingers, the two sides of a face."""


def prior_precision(motions: list[Motion]) -> Float[np.ndarray, "D D"]:
    """Precision of the Gaussian prior over a part's motions: their own spreads and those of `ALIKE`."""
    place = {motion.name: i for i, motion in enumerate(motions)}
    precision = np.diag([motion.sd**-2.0 for motion in motions])
    for a, b, sd in ALIKE:
        if a in place and b in place:
            pair = np.ix_([place[a], place[b]], [place[a], place[b]])
            precision[pair] += np.array([[1.0, -1.0], [-1.0, 1.0]]) / sd**2
    return precision


def grasp_means(motions: list[Motion]) -> Float[np.ndarray, "G D"]:
    """The prior's means, one row per grasp of `GRASPS`; one row for parts without fingers."""
    rows = [[grasp.get(m.name, m.mean) for m in motions] for grasp in GRASPS.values()]
    means = np.clip(rows, [m.low for m in motions], [m.high for m in motions])
    return means if any(m.name == "index_1 bend" for m in motions) else means[:1]


def _angle(start: np.ndarray, end: np.ndarray, axis: np.ndarray) -> float:
    """How far `end` is turned from `start` about an axis."""
    return float(np.arctan2(axis @ np.cross(start, end), start @ end))


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def _triple(v: np.ndarray) -> tuple[float, float, float]:
    return float(v[0]), float(v[1]), float(v[2])
