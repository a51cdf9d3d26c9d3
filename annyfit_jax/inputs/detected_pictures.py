"""What a detector says about one picture, in the form of annotations: what every reader of keypoint files returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from annyfit_jax.people.scene import SceneError

MAX_PEOPLE = 10_000
NORMALISED_UP_TO = 2.0
"""Coordinates that are shares of the picture's sides stay below; points outside of the picture exceed 1."""


@dataclass
class DetectedPicture:
    """The people of one picture."""

    name: str
    """Its path below the input, with or without the suffix of a photo."""
    people: list[dict[str, Any]] = field(default_factory=list)
    """Fields of annotations: `keypoints` as a flat list of x, y, confidence, and what else is known."""
    size: tuple[int, int] | None = None
    """(width, height) in pixels, where the file says."""
    point_names: tuple[str, ...] = ()
    """Names of the keypoints, where the file says."""
    normalised: bool = False
    """Whether coordinates are shares of width and height."""
    error: str = ""
    """Why the file cannot be read; the picture is then a scene to set aside."""


def flat(points: Float[np.ndarray, "point 2"], confidences: Float[np.ndarray, "point"]) -> list[float]:
    """x, y, confidence in turn; confidences in [0, 1], missing points (NaN, or a confidence of 0 or less) all 0."""
    both = np.concatenate([points, np.clip(confidences, 0.0, 1.0)[:, None]], axis=1)
    both[~(np.isfinite(both).all(axis=1) & (confidences > 0))] = 0.0
    return both.ravel().tolist()


def numbers(value: Any, where: str, shape: Sequence[int | None]) -> np.ndarray:
    """`value` as float64 numbers of a shape, None for any size; null is NaN. Raises SceneError."""
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = None
    if (
        array is None
        or array.ndim != len(shape)
        or any(want not in (None, got) for want, got in zip(shape, array.shape))
    ):
        expected = " x ".join("k" if size is None else str(size) for size in shape)
        raise SceneError(f"{where}: expected {expected} numbers, got {value!r:.80}")
    return array


def each_person(entries: Sequence[Any], read: Callable[[Any, str], dict[str, Any]], where: str) -> list[dict[str, Any]]:
    """What `read(entry, where)` makes of each entry; of one for which it raises SceneError an annotation that says why."""
    people = []
    for i, entry in enumerate(entries):
        try:
            people.append(read(entry, f"{where} {i}"))
        except SceneError as error:
            people.append({"keypoints": None, "unreadable": str(error)})
    return people


def shares(people: Sequence[dict[str, Any]]) -> bool:
    """Whether the coordinates of people are shares of the picture: nothing that is seen lies beyond NORMALISED_UP_TO."""
    values = [np.array(person["keypoints"]).reshape(-1, 3) for person in people if person["keypoints"]]
    seen = [points[points[:, 2] > 0, :2] for points in values]
    seen = [points for points in seen if len(points)]
    return bool(seen) and max(float(np.abs(points).max()) for points in seen) <= NORMALISED_UP_TO
