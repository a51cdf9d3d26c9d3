"""Every parameter of the rendered world, and the difficulties as presets of them.

    config = override(preset("standard"), ["keypoints.missed=0.1", "camera.image_sizes=((128,128),)"])

Lengths in metres, angles in radians unless a name says degrees, probabilities and shares in [0, 1]. A pair is the range of a
uniform distribution. `size` below is the larger side of a person's projected body in pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from flax.core import FrozenDict

from annyfit_jax.records.settings import apply_overrides, table, to_json

AGE_NAMES = ("baby", "toddler", "child", "teenager", "adult", "senior")
"""Classes in the order of `annyfit_jax.people.words.AGE_CLASSES`."""


def neighbour_confusion(accuracy: float) -> tuple[tuple[float, ...], ...]:
    """6 x 6 confusion of age classes: `accuracy` right, the rest one class off, half to each side (all inwards at the ends)."""
    rows = []
    for i in range(len(AGE_NAMES)):
        beside = [j for j in (i - 1, i + 1) if 0 <= j < len(AGE_NAMES)]
        rows.append(
            tuple(accuracy if j == i else (1 - accuracy) / len(beside) if j in beside else 0.0 for j in range(6))
        )
    return tuple(rows)


@dataclass(frozen=True)
class PeopleConfig:
    """Who is there."""

    groups: FrozenDict[str, float] = field(
        default_factory=lambda: table(single=0.22, couple=0.14, family=0.30, friends=0.16, school=0.08, crowd=0.10)
    )
    """Relative frequency of each kind of group (`population.GROUPS`)."""
    max_people: int = 8
    """Larger groups lose their last members."""
    muscle_sd: float = 0.15
    """Phenotype, around 0.5; clipped to [0.1, 0.9]. The same for proportions. See `population.solve_phenotypes`."""
    mass_cv: float = 0.16
    """Log-normal spread of adults' mass around the population's at their height; children's is two thirds of it."""


@dataclass(frozen=True)
class PoseConfig:
    """How they hold themselves."""

    unusual: float = 1.0
    """Multiplies the share of every posture but standing, walking and sitting (`postures.SHARES`)."""
    spread: float = 1.0
    """Multiplies the individual variation about every joint axis."""
    limit_share: float = 0.95
    """Poses stay within this share of the anatomical ranges (`annyfit_jax.people.anatomy`)."""
    whole_body: bool = False
    """Fingers and faces move, and there are detections of COCO-WholeBody's 133 points (`synthetic.moving_parts`)."""


@dataclass(frozen=True)
class LayoutConfig:
    """Where they stand."""

    gap: tuple[float, float] = (0.05, 0.6)
    """Free space between bodies: they are moved apart until their limb spheres have it."""
    behind: float = 0.25
    """Probability that a person is put behind another one, seen from the camera."""
    occluders: float = 0.15
    """Probability of a box between the camera and the group."""


@dataclass(frozen=True)
class CameraConfig:
    """Who takes the picture."""

    image_sizes: tuple[tuple[int, int], ...] = ((448, 448), (640, 480), (480, 640))
    """(width, height), chosen with equal shares."""
    fov_degrees: tuple[float, float] = (35.0, 80.0)
    """Over the longer side."""
    height: tuple[float, float] = (0.6, 2.2)
    """Above the ground."""
    apparent: tuple[float, float] = (0.35, 0.95)
    """Height (or width, whichever is the larger share) of the group in the picture; above 1 it is cut off."""
    aim: float = 0.08
    """Standard deviation of the group's centre about the middle of the picture, share of its sides."""
    roll: float = 0.02
    """Standard deviation of the camera's turn about its axis."""
    nearest: float = 0.6
    """No part of a person is nearer to the image plane than this."""
    min_pixels: int = 24
    """A person with fewer visible pixels in a 448 x 448 picture (in proportion elsewhere) is set aside as `hidden`."""


@dataclass(frozen=True)
class LookConfig:
    """How the picture looks. None of it touches a cue."""

    sensor_noise: tuple[float, float] = (0.004, 0.02)
    """Standard deviation of the pixel noise, share of full scale."""
    exposure: float = 0.12
    """Standard deviation of the log exposure."""
    jpeg_quality: tuple[int, int] = (82, 95)
    """Of the stored picture."""


@dataclass(frozen=True)
class KeypointNoise:
    """2D detections, COCO-17 and the 138 dense points alike (`dense_*` where they differ).

    sigma = max(floor_px, size * U(sigma)) per person, times `hidden` behind somebody else or a thing, `self_hidden` behind the
    own body. Small people are harder: sigma and the misses grow by 1 + (small_px / size)^2, at most 4.
    """

    sigma: tuple[float, float] = (0.006, 0.018)
    floor_px: float = 0.8
    hidden: float = 2.5
    self_hidden: float = 1.6
    small_px: float = 60.0
    missed: float = 0.04
    """Probability that a visible joint is not found."""
    missed_hidden: float = 0.30
    """... that one hidden by somebody else is not found; behind the own body half of it."""
    wild: float = 0.015
    """Probability of a false detection, off by a normal error of `wild_size` x size; half of it for dense points."""
    wild_size: float = 0.3
    swapped: float = 0.01
    """Probability per person that left and right are exchanged in the arms or the legs."""
    correlated: float = 0.0
    """Share of the variance of a person's dense noise that neighbouring points have in common."""
    dense_sigma: float = 1.0
    """Factor on sigma for dense points."""


@dataclass(frozen=True)
class DepthNoise:
    """The depth map of a monocular expert.

    z' = z exp(N(0, scale)) + N(0, shift) per scene, then z'' = z' exp(N(0, person_scale)) + N(0, person_shift) inside each
    person's mask, then smooth noise exp(pixel x N(0, 1)). The median is taken inside the eroded visible mask.
    """

    scale: float = 0.05
    shift: float = 0.05
    person_scale: float = 0.015
    person_shift: float = 0.02
    pixel: float = 0.01
    erode: float = 0.008
    """Erosion of a mask before the median, share of the picture's longer side."""


@dataclass(frozen=True)
class WordNoise:
    """Answers of a vision-language model."""

    age: tuple[tuple[float, ...], ...] = field(default_factory=lambda: neighbour_confusion(0.87))
    """6 x 6, row = true class, column = answer; rows sum to 1."""
    unusable: float = 0.03
    """Probability of an answer without a known word, age and gender each."""
    neutral: tuple[float, float] = (0.40, 0.04)
    """Probability of `neutral` for people under four years, and for others."""
    wrong: tuple[float, float] = (0.10, 0.03)
    """Probability of the wrong sex, likewise."""


@dataclass(frozen=True)
class StartNoise:
    """The feed-forward initialisation. Its translation makes the wrong body fit the image: depth follows the wrong height."""

    adult_bias: tuple[float, float]
    """How far the shape but for its gender is pulled from the true one to the average adult (1 = all the way)."""
    shape_sd: float
    """Normal error of every phenotype."""
    pose: float
    """Factor on the error of each bone (`postures.ESTIMATE_ERROR`: 0.04 to 0.12 rad about each axis)."""
    root: float
    """Standard deviation of the root's orientation about each axis, radians."""
    depth: float
    """Standard deviation of the log depth along the ray."""
    offset: float
    """Standard deviation of the sideways error, share of the depth."""
    hands_frozen: bool
    """Fingers, toes and face are those of the rest pose."""
    gender: float = 0.4
    """Gender phenotype that everybody starts from, before `shape_sd`: published starts answer alike for all (gender F1 of
    Multi-HMR's before fitting: that of a constant answer)."""


STARTS: dict[str, StartNoise] = {
    # Multi-HMR's adult-trained weights: everybody close to an average adult, coarse limbs.
    "multihmr": StartNoise((0.85, 1.0), 0.03, 1.0, 0.10, 0.08, 0.02, True),
    # CameraHMR with a known camera: better orientation, part of the true size, SMPL's bodies converted.
    "camerahmr": StartNoise((0.2, 0.8), 0.05, 0.8, 0.07, 0.05, 0.012, True),
}
"""Kinds of initialisation by the estimator they stand for."""


@dataclass(frozen=True)
class WorldConfig:
    """Everything that decides a rendered scene besides seed and index."""

    name: str = "standard"
    people: PeopleConfig = PeopleConfig()
    pose: PoseConfig = PoseConfig()
    layout: LayoutConfig = LayoutConfig()
    camera: CameraConfig = CameraConfig()
    look: LookConfig = LookConfig()
    keypoints: KeypointNoise = KeypointNoise()
    depth: DepthNoise = DepthNoise()
    words: WordNoise = WordNoise()
    start: StartNoise = STARTS["multihmr"]

    def __post_init__(self) -> None:
        if len(self.words.age) != 6 or any(len(row) != 6 or abs(sum(row) - 1) > 1e-6 for row in self.words.age):
            raise ValueError("words.age: expected 6 rows of 6 probabilities that sum to 1")
        sizes = self.camera.image_sizes
        if not sizes or any(len(size) != 2 or min(size) < 16 for size in sizes):
            raise ValueError(f"camera.image_sizes: expected (width, height) pairs of at least 16 pixels, got {sizes}")
        if not self.people.groups or min(self.people.groups.values()) < 0 or sum(self.people.groups.values()) <= 0:
            raise ValueError("people.groups: expected shares >= 0, not all 0")
        if not 1 <= self.people.max_people <= 32:
            raise ValueError(f"people.max_people: expected 1 to 32, got {self.people.max_people}")


def preset(name: str, start: str = "multihmr") -> WorldConfig:
    """A difficulty (`easy`, `standard`, `hard`) with a kind of initialisation (`STARTS`). Raises ValueError."""
    if name not in PRESETS or start not in STARTS:
        raise ValueError(
            f"expected a difficulty of {sorted(PRESETS)} and a start of {sorted(STARTS)}: {name!r}, {start!r}"
        )
    return dataclasses.replace(PRESETS[name], start=STARTS[start])


def override(config: WorldConfig, assignments: Iterable[str]) -> WorldConfig:
    """The config with `path=value` assignments applied. Raises ValueError naming the first that cannot be."""
    changed = apply_overrides(cast(Any, config), assignments)
    return cast(WorldConfig, changed)


def describe(config: WorldConfig) -> dict[str, Any]:
    """The config as plain JSON data."""
    return to_json(cast(Any, config))


PRESETS: dict[str, WorldConfig] = {
    "easy": WorldConfig(
        name="easy",
        people=PeopleConfig(groups=table(single=0.4, couple=0.2, family=0.3, friends=0.1), max_people=4),
        pose=PoseConfig(unusual=0.4, spread=0.7),
        layout=LayoutConfig(gap=(0.25, 0.9), behind=0.0, occluders=0.0),
        camera=CameraConfig(height=(1.0, 1.8), apparent=(0.45, 0.8), aim=0.03, roll=0.0),
        keypoints=KeypointNoise(sigma=(0.004, 0.010), missed=0.02, missed_hidden=0.15, wild=0.005, swapped=0.0),
        depth=DepthNoise(scale=0.02, shift=0.02, person_scale=0.008, person_shift=0.01, pixel=0.005),
        words=WordNoise(age=neighbour_confusion(0.95), unusable=0.01, neutral=(0.3, 0.02), wrong=(0.05, 0.01)),
    ),
    "standard": WorldConfig(),
    "hard": WorldConfig(
        name="hard",
        people=PeopleConfig(
            groups=table(single=0.12, couple=0.10, family=0.30, friends=0.16, school=0.14, crowd=0.18), mass_cv=0.22
        ),
        pose=PoseConfig(unusual=2.0, spread=1.3),
        layout=LayoutConfig(gap=(0.0, 0.35), behind=0.5, occluders=0.45),
        camera=CameraConfig(
            fov_degrees=(25.0, 100.0), height=(0.25, 3.5), apparent=(0.2, 1.5), aim=0.16, roll=0.07
        ),
        look=LookConfig(sensor_noise=(0.01, 0.05), exposure=0.3, jpeg_quality=(55, 90)),
        keypoints=KeypointNoise(
            sigma=(0.008, 0.03), missed=0.08, missed_hidden=0.5, wild=0.03, swapped=0.03, correlated=0.4
        ),
        depth=DepthNoise(scale=0.12, shift=0.2, person_scale=0.03, person_shift=0.05, pixel=0.02),
        words=WordNoise(age=neighbour_confusion(0.75), unusable=0.08, neutral=(0.5, 0.08), wrong=(0.15, 0.06)),
    ),
}  # fmt: skip
"""Difficulties: what changes against `standard` is written out, the rest is the class's default."""
