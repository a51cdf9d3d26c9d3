"""Random people for synthetic scenes: calibrated bodies of all ages and everyday poses within anatomical limits (numpy)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from annyfit_jax.fit.keypoint_start import calibrated_phenotypes
from annyfit_jax.people import anatomy
from body_models import anny

# Baby, toddler, child, teenager, adult, senior: range of the age phenotype and share of the people.
AGE_RANGES = np.array([(0.0, 0.04), (0.07, 0.17), (0.27, 0.40), (0.45, 0.55), (0.60, 0.76), (0.92, 1.0)])
AGE_SHARES = np.array([0.10, 0.15, 0.20, 0.15, 0.28, 0.12])
MALE, FEMALE = 0, 2
"""Gender categories of `annyfit_jax.people.words.GENDER_CLASSES`: 0 male, 1 neutral, 2 female."""
ADULT_AVERAGE = np.array([0.5, 0.66, 0.5, 0.5, 0.5, 0.5])
"""What an adult-biased estimator takes everybody for."""

POSES = ("stand", "walk", "sit", "reach", "lean", "loose")
_POSE_SHARES = np.array([0.25, 0.20, 0.15, 0.15, 0.10, 0.15])
_POSE_SHARES_YOUNG = np.array([0.10, 0.10, 0.50, 0.15, 0.05, 0.10])
LIMIT_SHARE = 0.9
"""Poses stay within this share of the anatomical ranges."""

_FACE = ("oris", "levator", "eye", "temporalis", "orbicularis", "oculi", "risorius", "jaw", "tongue", "special")
_DIGITS = ("toe", "finger", "metacarpal")
# Standard deviation of the angle about each axis, radians, by the beginning of the bone's name.
_SPREAD = {
    "spine": 0.06, "neck": 0.08, "head": 0.12, "clavicle": 0.05, "shoulder01": 0.05, "upperarm": 0.14, "lowerarm": 0.12,
    "wrist": 0.15, "pelvis": 0.02, "upperleg": 0.09, "lowerleg": 0.06, "foot": 0.10, "breast": 0.0,
}  # fmt: skip
_LOOSE = 1.8
_FACE_SPREAD, _DIGIT_SPREAD = 0.02, 0.08
# Error of an estimator's pose, radians per axis.
_ESTIMATE_ERROR = {
    **dict.fromkeys(_FACE, 0.01), **dict.fromkeys(_DIGITS, 0.08),
    **dict.fromkeys(("upperarm01", "lowerarm01", "upperleg01", "lowerleg01", "wrist", "foot", "head"), 0.12),
}  # fmt: skip
_ESTIMATE_ERROR_ELSEWHERE = 0.04


@dataclass(frozen=True)
class Phenotypes:
    """Bodies of n people."""

    shape: Float[np.ndarray, "n 6"]
    age: Int[np.ndarray, "n"]
    """Category, 0 baby .. 5 senior."""
    gender: Int[np.ndarray, "n"]
    """Category, MALE or FEMALE."""


def draw_phenotypes(rng: np.random.Generator, n: int) -> Phenotypes:
    """n people of calibrated height for their age and sex, with individual build."""
    age = rng.choice(len(AGE_SHARES), n, p=AGE_SHARES)
    gender = rng.choice([MALE, FEMALE], n)
    years = AGE_RANGES[age, 0] + rng.random(n) * np.diff(AGE_RANGES[age])[:, 0]
    sex = np.where(gender == MALE, 0.0, 0.88) + 0.12 * rng.random(n)
    shape = calibrated_phenotypes(years, sex)
    shape[:, 2:] += rng.normal(size=(n, 4)) * [0.12, 0.12, 0.06, 0.12]
    shape[:, 2:] = shape[:, 2:].clip(0.05, 0.95)
    return Phenotypes(shape, age, gender)


class PoseSampler:
    """Draws poses for one body model."""

    def __init__(self, model: anny.AnnyModel) -> None:
        bones, axes, ranges = anatomy.joint_axes(model)
        # The limited angle is the component along an axis, and the axes of an arm are not orthogonal.
        self._to_rotvec = np.linalg.inv(axes)
        self._low, self._high = LIMIT_SHARE * ranges[..., 0], LIMIT_SHARE * ranges[..., 1]
        names = model.labels.bones
        self._rows = np.array(bones) - 1
        self._index = {names[bone]: i for i, bone in enumerate(bones)}
        self._spread = np.array([_by_prefix(names[bone], _SPREAD, 0.0) for bone in bones])
        small = {**dict.fromkeys(_FACE, _FACE_SPREAD), **dict.fromkeys(_DIGITS, _DIGIT_SPREAD)}
        self._small = np.array([_by_prefix(name, small, 0.0) for name in names[1:]])
        self._small[self._rows] = 0.0
        self.estimate_error = np.array([_by_prefix(n, _ESTIMATE_ERROR, _ESTIMATE_ERROR_ELSEWHERE) for n in names[1:]])
        """(162,) standard deviation of a feed-forward estimator's error per axis, radians."""

    def draw(self, rng: np.random.Generator, young: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "n 162 3"]:
        """Poses of n people (`young` ones mostly sit), rotation vectors in each bone's rest frame."""
        n = len(young)
        shares = np.where(young[:, None], _POSE_SHARES_YOUNG, _POSE_SHARES).cumsum(1)
        kind = (rng.random(n)[:, None] > shares[:, :-1]).sum(1)
        is_ = {name: kind == i for i, name in enumerate(POSES)}
        angles = self._deliberate(rng, is_)
        angles += (
            rng.normal(size=angles.shape) * self._spread[:, None] * np.where(is_["loose"], _LOOSE, 1.0)[:, None, None]
        )
        angles = angles.clip(self._low, self._high)
        pose = rng.normal(size=(n, len(self._small), 3)) * self._small[:, None]
        pose[:, self._rows] = np.einsum("bja,nba->nbj", self._to_rotvec, angles)
        return pose

    def _deliberate(self, rng: np.random.Generator, is_: dict[str, np.ndarray]) -> Float[np.ndarray, "n bone 3"]:
        """What each kind of pose does on purpose. Axes: see `anatomy` (legs flex backwards, arms forwards)."""
        n = len(is_["sit"])
        angles = np.zeros((n, len(self._index), 3))
        u = rng.random((n, 20))
        v = rng.normal(size=(n, 4))

        def span(column: int, low: float, high: float) -> np.ndarray:
            return low + (high - low) * u[:, column]

        def add(bone: str, axis: int, who: str | None, angle: np.ndarray) -> None:
            angles[:, self._index[bone], axis] += angle if who is None else np.where(is_[who], angle, 0.0)

        seat = span(0, 1.1, 1.6)
        stride = span(1, 0.25, 0.55) * np.where(u[:, 2] < 0.5, -1.0, 1.0)
        bend = span(3, 0.1, 0.35)
        for bone in ("spine05", "spine04", "spine03", "spine02", "spine01"):
            add(bone, 0, "lean", 0.6 * bend)
        for k, side in enumerate("LR"):
            sign = 1.0 if side == "L" else -1.0
            c = 4 + 8 * k
            add(f"upperleg01.{side}", 0, "sit", -seat * span(c, 0.9, 1.05))
            add(f"lowerleg01.{side}", 0, "sit", seat * span(c + 1, 0.6, 1.05))
            add(f"upperleg01.{side}", 0, "walk", -sign * stride * (1.0 if side == "L" else 0.7))
            add(f"lowerleg01.{side}", 0, "walk", np.abs(stride) * span(c + 1, 0.2, 0.9))
            add(f"upperarm01.{side}", 0, "walk", -sign * 0.8 * stride)
            add(f"upperleg01.{side}", 0, "lean", -span(c, 0.1, 0.5))
            add(f"lowerleg01.{side}", 0, "lean", span(c + 1, 0.2, 0.9))
            reaches = u[:, c + 2] < 0.75
            add(f"upperarm01.{side}", 0, "reach", np.where(reaches, span(c + 3, 0.3, 1.8), 0.0))
            add(f"upperarm01.{side}", 1, "reach", np.where(reaches, -span(c + 4, -0.2, 0.8), 0.0))
            add(f"lowerarm01.{side}", 0, "reach", np.where(reaches, span(c + 5, 0.0, 1.1), 0.0))
            # Everybody else lets the arms sink from the A of the rest pose towards the body, elbows a little bent.
            add(f"upperarm01.{side}", 1, None, np.where(is_["reach"], 0.0, -span(c + 6, 0.0, 0.75)))
            add(f"lowerarm01.{side}", 0, None, np.where(is_["reach"], 0.0, np.abs(0.3 + 0.35 * v[:, k])))
        return angles


def _by_prefix(name: str, table: dict[str, float], otherwise: float) -> float:
    return next((value for prefix, value in table.items() if name.startswith(prefix)), otherwise)
