"""Postures within anatomical limits: what a person does, with which parts on the ground (numpy).

A posture is written in angles about the anatomical axes of `annyfit_jax.people.anatomy`. Legs are written by the
directions that thigh and shin have in the world, in the plane the person faces: 0 hangs straight down, `thigh` forward
and up, `shin` with the ankle behind the knee; pitch is the trunk's, forward. Then hip = -(thigh + pitch), knee = thigh
+ shin, and an ankle of -shin puts the sole level. What is left (unequal legs, rounding) is settled by a small turn of
the whole body (`floor_contact.settle`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from annyfit_jax.people import anatomy
from annyfit_jax.synthetic.world_config import PoseConfig
from body_models import anny

_FLEX, _SIDE, _TWIST = range(3)
_SPINE = ("spine05", "spine04", "spine03", "spine02", "spine01")
_NECK = ("neck01", "neck02", "neck03", "head")

# Standard deviation of the individual variation about (flexion, side, twist), radians, by the beginning of the bone's name.
_SPREAD: dict[str, tuple[float, float, float]] = {
    "spine": (0.03, 0.035, 0.04), "neck": (0.05, 0.04, 0.09), "head": (0.08, 0.06, 0.12), "clavicle": (0.04, 0.04, 0.03),
    "shoulder01": (0.04, 0.04, 0.03), "upperarm01": (0.10, 0.08, 0.15), "upperarm02": (0.0, 0.0, 0.1),
    "lowerarm01": (0.12, 0.02, 0.05), "lowerarm02": (0.0, 0.0, 0.25), "wrist": (0.15, 0.1, 0.06),
    "upperleg01": (0.02, 0.03, 0.06), "upperleg02": (0.0, 0.0, 0.05), "foot": (0.02, 0.02, 0.05),
}  # fmt: skip
_FACE = ("oris", "levator", "eye", "temporalis", "orbicularis", "oculi", "risorius", "jaw", "tongue", "special")
_DIGITS = ("toe", "finger", "metacarpal")
_FACE_SPREAD, _DIGIT_SPREAD = 0.02, 0.06

ESTIMATE_ERROR: dict[str, float] = {
    **dict.fromkeys(_FACE, 0.01), **dict.fromkeys(_DIGITS, 0.08),
    **dict.fromkeys(("upperarm01", "lowerarm01", "upperleg01", "lowerleg01", "wrist", "foot", "head"), 0.12),
}  # fmt: skip
"""Error of a feed-forward estimator by the beginning of the bone's name, radians about each axis; others 0.04."""
_ESTIMATE_ERROR_ELSEWHERE = 0.04

POSTURES = ("stand", "walk", "reach", "bend", "squat", "kneel", "sit", "floor", "crawl", "lie")
USUAL = ("stand", "walk", "sit")
SHARES: tuple[tuple[float, dict[str, float]], ...] = (
    (0.5, {"lie": 0.8, "floor": 0.2}),
    (0.9, {"lie": 0.25, "floor": 0.4, "crawl": 0.35}),
    (1.5, {"stand": 0.25, "floor": 0.35, "crawl": 0.3, "squat": 0.05, "lie": 0.05}),
    (4.0, {"stand": 0.3, "walk": 0.15, "squat": 0.13, "floor": 0.15, "sit": 0.1, "reach": 0.1, "crawl": 0.04, "kneel": 0.03}),
    (70.0, {"stand": 0.34, "walk": 0.16, "sit": 0.16, "reach": 0.12, "bend": 0.05, "squat": 0.05, "kneel": 0.04, "floor": 0.06,
            "crawl": 0.01, "lie": 0.01}),
    (200.0, {"stand": 0.38, "walk": 0.12, "sit": 0.34, "reach": 0.1, "bend": 0.06}),
)  # fmt: skip
"""Up to an age in years: share of each posture."""


@dataclass(frozen=True)
class Posture:
    """A person's pose and how it rests on the ground."""

    name: str
    pose: Float[np.ndarray, "162 3"]
    """Rotation vectors in each bone's rest frame."""
    pitch: float
    """Forward turn of the trunk about the body's left-right axis: 0 upright, pi / 2 face down."""
    contacts: tuple[str, ...]
    """Parts (`floor_contact.PARTS`) that touch the ground together."""
    max_tilt: float
    """How far settling may turn the body."""
    seated: bool = False
    """On something as high as the seat."""


class PoseSampler:
    """Draws postures for one body model."""

    def __init__(self, model: anny.AnnyModel, config: PoseConfig) -> None:
        self.config = config
        bones, axes, ranges = anatomy.joint_axes(model)
        # The limited angle is the component along an axis, and the axes of an arm are not orthogonal.
        self._to_rotvec = np.linalg.inv(axes)
        self._ranges = ranges
        names = model.labels.bones
        self._rows = np.array(bones) - 1
        self._index = {names[bone]: i for i, bone in enumerate(bones)}
        self._spread = np.array([_by_prefix(names[bone], _SPREAD, (0.0, 0.0, 0.0)) for bone in bones])
        small = {**dict.fromkeys(_FACE, _FACE_SPREAD), **dict.fromkeys(_DIGITS, _DIGIT_SPREAD)}
        self._small = np.array([_by_prefix(name, small, 0.0) for name in names[1:]])
        self._small[self._rows] = 0.0
        self.estimate_error = np.array(
            [_by_prefix(name, ESTIMATE_ERROR, _ESTIMATE_ERROR_ELSEWHERE) for name in names[1:]]
        )
        """(162,) standard deviation of a feed-forward estimator's error per axis, radians."""
        self.extremities = np.array([name.startswith((*_FACE, *_DIGITS)) for name in names[1:]])
        """(162,) bones of face, fingers and toes."""

    def with_config(self, config: PoseConfig) -> PoseSampler:
        """The same body's sampler with other parameters."""
        other = copy.copy(self)
        other.config = config
        return other

    def draw(self, rng: np.random.Generator, years: float) -> Posture:
        """A posture that a person of this age takes."""
        shares = next(shares for limit, shares in SHARES if years <= limit)
        weight = np.array([share * (1.0 if name in USUAL else self.config.unusual) for name, share in shares.items()])
        name = list(shares)[int(rng.choice(len(weight), p=weight / weight.sum()))]
        return self.draw_posture(rng, name, years)

    def draw_posture(self, rng: np.random.Generator, name: str, years: float = 30.0) -> Posture:
        """A posture of `POSTURES` by name."""
        angles = _Angles(self._index)
        pitch, contacts, max_tilt = _MAKERS[name](rng, angles, years)
        values = angles.values + self.config.spread * self._spread * rng.normal(size=angles.values.shape)
        values = values.clip(*(self.config.limit_share * np.moveaxis(self._ranges, -1, 0)))
        pose = rng.normal(size=(len(self._small), 3)) * self._small[:, None]
        pose[self._rows] = np.einsum("bja,ba->bj", self._to_rotvec, values)
        return Posture(name, pose, pitch, contacts, max_tilt, seated=name == "sit")


class _Angles:
    """Angles (bone, 3) of a posture under construction. Sides: +1 left, -1 right."""

    def __init__(self, index: dict[str, int]) -> None:
        self._index = index
        self.values = np.zeros((len(index), 3))

    def add(self, bone: str, axis: int, angle: float) -> None:
        self.values[self._index[bone], axis] += angle

    def leg(
        self, side: int, thigh: float, shin: float, pitch: float, foot: float | None = None, spread: float = 0.0
    ) -> None:
        """Thigh and shin by their world directions; `foot` None = sole level; `spread` outwards."""
        s = "L" if side > 0 else "R"
        self.add(f"upperleg01.{s}", _FLEX, -(thigh + pitch))
        self.add(f"lowerleg01.{s}", _FLEX, thigh + shin)
        self.add(f"foot.{s}", _FLEX, -shin if foot is None else foot)
        # A hanging thigh spreads about the axis from back to front, a raised one about the body's long axis.
        raised = np.sin(np.clip(thigh + pitch, 0.0, np.pi / 2)) ** 2
        self.add(f"upperleg01.{s}", _SIDE, -side * spread * (1 - raised))
        self.add(f"upperleg01.{s}", _TWIST, side * spread * raised)

    def arm(self, side: int, forward: float, out: float, elbow: float, twist: float = 0.0) -> None:
        """From the A of the rest pose: forwards, outwards and up (-0.8 hangs down), elbow (-0.6 straight)."""
        s = "L" if side > 0 else "R"
        self.add(f"upperarm01.{s}", _FLEX, forward)
        self.add(f"upperarm01.{s}", _SIDE, out)
        self.add(f"upperarm01.{s}", _TWIST, twist)
        self.add(f"lowerarm01.{s}", _FLEX, elbow)

    def trunk(self, forward: float, side: float = 0.0, twist: float = 0.0) -> None:
        """Bends the spine, spread over its bones."""
        for bone, share in zip(_SPINE, (0.28, 0.24, 0.2, 0.14, 0.14)):
            for axis, angle in zip(range(3), (forward, side, twist)):
                self.add(bone, axis, share * angle)

    def head(self, forward: float, side: float = 0.0, twist: float = 0.0) -> None:
        for bone in _NECK:
            for axis, angle in zip(range(3), (forward, side, twist)):
                self.add(bone, axis, 0.25 * angle)


# ------------------------------------------------------------------------------------------------ arms


def _free_arms(rng: np.random.Generator, a: _Angles, lively: float) -> None:
    """Arms that carry no weight: each hangs, or does something with probability `lively`; some gestures take both."""
    u = rng.uniform
    if rng.random() < 0.25 * lively:  # hands together in front
        forward, elbow = u(0.1, 0.7), u(0.3, 1.0)
        for side in (1, -1):
            a.arm(side, forward + u(-0.1, 0.1), u(-0.8, -0.6), elbow, u(0.2, 0.6) * side)
        return
    for side in (1, -1):
        if rng.random() >= lively:
            a.arm(side, u(-0.25, 0.25), u(-0.85, -0.55), u(-0.5, 0.1))
            continue
        gesture = rng.choice(4)
        if gesture == 0:  # wave
            a.arm(side, u(0.0, 0.5), u(0.1, 1.2), u(0.2, 1.2))
        elif gesture == 1:  # hold something to the face or chest
            a.arm(side, u(0.2, 0.7), u(-0.8, -0.4), u(0.8, 1.6))
        elif gesture == 2:  # point or offer
            a.arm(side, u(0.7, 1.5), u(-0.6, 0.0), u(-0.5, 0.5))
        else:  # hand on the hip, or behind
            a.arm(side, u(-0.5, 0.0), u(-0.4, -0.1), u(0.5, 1.1))


# ------------------------------------------------------------------------------------------------ postures

_Made = tuple[float, tuple[str, ...], float]
_FEET = ("foot.L", "foot.R")


def _standing_legs(rng: np.random.Generator, a: _Angles, pitch: float, bend: float, spread: float) -> None:
    for side in (1, -1):
        thigh = bend + rng.uniform(-0.02, 0.02)
        a.leg(side, thigh, thigh + rng.uniform(-0.02, 0.02), pitch, spread=spread)


def _stand(rng: np.random.Generator, a: _Angles, years: float) -> _Made:
    old = max(years - 65.0, 0.0) / 30.0
    toddling = 1.0 if years < 2.0 else 0.0
    pitch = rng.uniform(-0.04, 0.06)
    a.trunk(rng.uniform(-0.1, 0.1) + 0.35 * old, rng.normal(0, 0.08), rng.normal(0, 0.12))
    a.head(-0.3 * old, 0.0, rng.normal(0, 0.35))
    _standing_legs(
        rng,
        a,
        pitch,
        rng.uniform(-0.03, 0.08) + 0.12 * old + 0.15 * toddling,
        rng.uniform(-0.03, 0.12) + 0.1 * toddling,
    )
    _free_arms(rng, a, 0.3)
    return pitch, _FEET, 0.12


def _walk(rng: np.random.Generator, a: _Angles, years: float) -> _Made:
    stride = rng.uniform(0.2, 0.5) * (0.7 if years < 3 or years > 70 else 1.0)
    front = 1 if rng.random() < 0.5 else -1
    pitch = rng.uniform(0.0, 0.08)
    a.leg(front, stride, -stride + rng.uniform(0.02, 0.15), pitch, foot=rng.uniform(-0.15, 0.1))
    # The rear heel has lifted: the shin leans on, the toes stay.
    a.leg(-front, -0.7 * stride, stride + rng.uniform(0.1, 0.35), pitch, foot=rng.uniform(-0.2, 0.05))
    for side in (1, -1):
        a.arm(
            side,
            -0.8 * stride * (side * front) + rng.uniform(-0.1, 0.1),
            rng.uniform(-0.85, -0.65),
            rng.uniform(-0.3, 0.4),
        )
    a.trunk(rng.uniform(0.0, 0.12), 0.0, 0.2 * stride * front)
    a.head(0.0, 0.0, rng.normal(0, 0.25))
    return pitch, _FEET, 0.2


def _reach(rng: np.random.Generator, a: _Angles, years: float) -> _Made:
    pitch = rng.uniform(-0.05, 0.1)
    _standing_legs(rng, a, pitch, rng.uniform(0.0, 0.12), rng.uniform(0.0, 0.12))
    both = rng.random() < 0.4
    for side in (1, -1):
        if side == 1 or both or rng.random() < 0.3:
            a.arm(side, rng.uniform(0.3, 2.0), rng.uniform(-0.2, 1.6), rng.uniform(-0.6, 0.5))
        else:
            a.arm(side, rng.uniform(-0.2, 0.4), rng.uniform(-0.85, -0.4), rng.uniform(-0.4, 0.6))
    a.trunk(rng.uniform(-0.25, 0.35), rng.normal(0, 0.15), rng.normal(0, 0.2))
    a.head(rng.uniform(-0.5, 0.1), 0.0, rng.normal(0, 0.25))
    return pitch, _FEET, 0.12


def _bend(rng: np.random.Generator, a: _Angles, years: float) -> _Made:
    """Bent over, hips behind the feet."""
    pitch = rng.uniform(0.4, 0.9)
    for side in (1, -1):
        a.leg(side, rng.uniform(0.12, 0.3), rng.uniform(-0.12, 0.0), pitch, spread=rng.uniform(0.0, 0.1))
        a.arm(side, rng.uniform(0.5, 1.3), rng.uniform(-0.75, -0.4), rng.uniform(-0.5, 0.2))
    a.trunk(rng.uniform(0.2, 0.8), rng.normal(0, 0.1), rng.normal(0, 0.15))
    a.head(-rng.uniform(0.0, 0.8), 0.0, rng.normal(0, 0.2))
    return pitch, _FEET, 0.15


def _squat(rng: np.random.Generator, a: _Angles, years: float) -> _Made:
    pitch = rng.uniform(0.3, 0.55)
    thigh = rng.uniform(1.2, 1.65)
    for side in (1, -1):
        a.leg(side, thigh + rng.uniform(-0.03, 0.03), rng.uniform(0.38, 0.48), pitch, spread=rng.uniform(0.05, 0.4))
        a.arm(side, rng.uniform(0.3, 1.3), rng.uniform(-0.75, -0.2), rng.uniform(-0.4, 0.8))
    a.trunk(rng.uniform(0.0, 0.4), rng.normal(0, 0.06), rng.normal(0, 0.1))
    a.head(-rng.uniform(0.1, 0.6), 0.0, rng.normal(0, 0.3))
    return pitch, _FEET, 0.2


def _kneel(rng: np.random.Generator, a: _Angles, years: float) -> _Made:
    """On both knees, upright or half way down to the heels (the knee's limit)."""
    low = rng.random() < 0.5
    thigh = rng.uniform(0.35, 0.58) if low else rng.uniform(-0.05, 0.15)
    pitch = rng.uniform(0.1, 0.35) if low else rng.uniform(-0.05, 0.1)
    for side in (1, -1):
        a.leg(side, thigh, rng.uniform(1.6, 1.68), pitch, foot=0.75, spread=rng.uniform(0.0, 0.15))
    _free_arms(rng, a, 0.6)
    a.trunk(rng.uniform(-0.05, 0.3), rng.normal(0, 0.06), rng.normal(0, 0.1))
    a.head(rng.uniform(-0.3, 0.2), 0.0, rng.normal(0, 0.3))
    return pitch, ("shin.L", "shin.R"), 0.25


def _sit(rng: np.random.Generator, a: _Angles, years: float) -> _Made:
    pitch = rng.uniform(-0.3, 0.15)
    for side in (1, -1):
        a.leg(side, rng.uniform(1.35, 1.6), rng.uniform(-0.25, 0.3), pitch, spread=rng.uniform(0.0, 0.3))
    if rng.random() < 0.6:  # hands in the lap or on the knees
        for side in (1, -1):
            a.arm(side, rng.uniform(0.25, 0.7), rng.uniform(-0.8, -0.65), rng.uniform(-0.1, 0.7))
    else:
        _free_arms(rng, a, 0.6)
    a.trunk(rng.uniform(-0.05, 0.45), rng.normal(0, 0.08), rng.normal(0, 0.12))
    a.head(rng.uniform(-0.3, 0.2), 0.0, rng.normal(0, 0.35))
    return pitch, _FEET, 0.15


def _floor(rng: np.random.Generator, a: _Angles, years: float) -> _Made:
    """Sitting on the ground, legs out, apart (the young) or drawn up."""
    drawn_up = years > 3 and rng.random() < 0.55
    pitch = rng.uniform(-0.35, -0.05) if drawn_up else rng.uniform(-0.25, 0.05)
    spread = rng.uniform(0.3, 0.7) if years < 3 else rng.uniform(0.0, 0.45)
    for side in (1, -1):
        if drawn_up:
            thigh = rng.uniform(1.75, 2.2)
            # The ankle is as low as the seat: cos(shin) = sin(thigh - pi / 2), in front of the knee.
            shin = -float(np.arccos(np.clip(np.sin(thigh - np.pi / 2) + 0.05, 0.0, 1.0)))
            a.leg(side, thigh, shin, pitch, foot=min(-shin, 0.7), spread=0.3 * spread)
        else:
            lift = rng.uniform(0.0, 0.12)
            a.leg(side, np.pi / 2 + lift, -np.pi / 2 + lift, pitch, foot=rng.uniform(-0.1, 0.4), spread=spread)
    # A hanging hand would be below the ground.
    for side in (1, -1):
        if rng.random() < 0.3:
            a.arm(side, rng.uniform(0.7, 1.5), rng.uniform(-0.5, 0.8), rng.uniform(-0.4, 1.0))
        else:
            a.arm(side, rng.uniform(0.45, 0.9), rng.uniform(-0.75, -0.5), rng.uniform(0.0, 0.9))
    a.trunk(rng.uniform(0.0, 0.4), rng.normal(0, 0.05), rng.normal(0, 0.08))
    a.head(rng.uniform(-0.3, 0.2), 0.0, rng.normal(0, 0.35))
    return pitch, ("seat", *_FEET), 0.2


def _crawl(rng: np.random.Generator, a: _Angles, years: float) -> _Made:
    """On hands and knees, one arm and the other leg ahead."""
    pitch = rng.uniform(1.3, 1.45)
    step = rng.uniform(0.0, 0.2) * (1 if rng.random() < 0.5 else -1)
    for side in (1, -1):
        a.leg(side, side * step, 1.76, pitch, foot=0.75, spread=rng.uniform(0.0, 0.15))
        a.arm(
            side, pitch + rng.uniform(0.1, 0.25) - 0.6 * side * step, rng.uniform(-0.5, -0.3), rng.uniform(-0.62, -0.5)
        )
        s = "L" if side > 0 else "R"
        a.add(f"wrist.{s}", _FLEX, rng.uniform(-0.95, -0.8))
    a.trunk(rng.uniform(-0.1, 0.1), rng.normal(0, 0.06), rng.normal(0, 0.06))
    a.head(-rng.uniform(0.3, 1.2), 0.0, rng.normal(0, 0.2))
    return pitch, ("hand.L", "hand.R", "shin.L", "shin.R"), 0.35


def _lie(rng: np.random.Generator, a: _Angles, years: float) -> _Made:
    """On the back (the young with legs drawn up and apart), or on the front, propped up."""
    if rng.random() < 0.65:
        pitch = -np.pi / 2 + rng.uniform(-0.05, 0.12)
        up = rng.uniform(0.3, 1.2) if years < 1.0 else rng.uniform(0.0, 0.5)
        for side in (1, -1):
            # Here pitch is already -pi / 2: angles are those of the joints.
            s = "L" if side > 0 else "R"
            a.add(f"upperleg01.{s}", _FLEX, -up)
            a.add(f"upperleg01.{s}", _SIDE, -side * rng.uniform(0.05, 0.5))
            a.add(f"lowerleg01.{s}", _FLEX, 2.0 * up)
            a.arm(side, rng.uniform(0.0, 0.5), rng.uniform(-0.7, 0.9), rng.uniform(-0.4, 1.0))
        a.head(rng.uniform(-0.1, 0.2), 0.0, rng.normal(0, 0.4))
        contacts = ("back", "seat", *_FEET) if up > 0.25 else ("back", "seat", "shin.L", "shin.R")
        return pitch, contacts, 0.3
    prop = rng.uniform(0.3, 0.8)
    pitch = np.pi / 2
    for side in (1, -1):
        s = "L" if side > 0 else "R"
        a.add(f"upperleg01.{s}", _SIDE, -side * rng.uniform(0.05, 0.35))
        a.add(f"lowerleg01.{s}", _FLEX, rng.uniform(0.1, 0.3))
        a.add(f"foot.{s}", _FLEX, 0.75)
        a.arm(side, rng.uniform(0.9, 1.2) - 0.6 * prop, rng.uniform(-0.3, 0.2), rng.uniform(0.6, 1.1))
    a.trunk(-prop)
    a.head(-rng.uniform(0.3, 1.0), 0.0, rng.normal(0, 0.2))
    return pitch, ("front", "shin.L", "shin.R", "forearm.L", "forearm.R"), 0.35


_MAKERS: dict[str, Callable[[np.random.Generator, _Angles, float], _Made]] = {
    "stand": _stand, "walk": _walk, "reach": _reach, "bend": _bend, "squat": _squat, "kneel": _kneel, "sit": _sit,
    "floor": _floor, "crawl": _crawl, "lie": _lie,
}  # fmt: skip


def _by_prefix(name: str, table: dict, otherwise):
    return next((value for prefix, value in table.items() if name.startswith(prefix)), otherwise)
