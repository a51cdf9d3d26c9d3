"""Poses of Ultralytics' YOLO.

| content | what it is |
|---|---|
| lines `class x y width height  x y visibility ...  [confidence] [track]` | `save_txt`, labels; shares of the picture |
| lines `class x y width height  x y ...` | the same of a skeleton without visibility |
| `[{"name": "person", "box": {...}, "keypoints": {"x": [...], "y": [...], "visible": [...]}}]` | `results.to_json()` |

One file per picture. `predictions.json` of a validation is a list of results in the manner of COCO. Classes other than `person`
(0) are no people. Labels have the flags 0, 1, 2 in place of confidences: 1 and 2 are both seen with confidence 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from annyfit_jax.inputs.detected_pictures import DetectedPicture, each_person, flat, numbers, shares
from annyfit_jax.inputs.point_sets import COUNTS
from annyfit_jax.people.scene import SceneError

_BEFORE = 5
"""Class and box in front of the points of a line."""


class Lines(list[str]):
    """The lines of a text file."""


def is_mine(content: Any) -> bool:
    """Whether a file is of Ultralytics, with poses."""
    if isinstance(content, Lines):
        rows = [_numbers_of(line) for line in content if line.strip()]
        return bool(rows) and all(row is not None and _layout(len(row)) is not None for row in rows)
    return isinstance(content, list) and bool(content) and all(_is_result(entry) for entry in content)


def _is_result(entry: Any) -> bool:
    points = entry.get("keypoints") if isinstance(entry, Mapping) else None
    return isinstance(points, Mapping) and isinstance(points.get("x"), list) and isinstance(points.get("y"), list)


def _numbers_of(line: str) -> list[float] | None:
    try:
        return [float(word) for word in line.split()]
    except ValueError:
        return None


def _layout(length: int) -> tuple[int, int] | None:
    """(points, numbers of each) of a line of so many numbers; up to two follow: confidence, track."""
    fits = [
        (count, each)
        for each in (3, 2)
        for count in sorted(COUNTS)
        if 0 <= length - _BEFORE - count * each <= (2 if each == 3 else 1)
    ]
    return fits[0] if fits else None


def pictures(content: Any, name: str, where: str) -> list[DetectedPicture]:
    """The picture of a file that `is_mine`. Raises SceneError."""
    if isinstance(content, Lines):
        return [_labels(content, name, where)]
    people = each_person([entry for entry in content if _is_person(entry)], _person, f"{where}: result")
    return [DetectedPicture(name, people, normalised=shares(people))]


def _is_person(entry: Mapping[str, Any]) -> bool:
    return str(entry.get("name", "person")) == "person"


def _person(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    points = entry["keypoints"]
    xs = numbers(points["x"], f"{where}: keypoints.x", (None,))
    ys = numbers(points["y"], f"{where}: keypoints.y", (len(xs),))
    told = points.get("visible") if points.get("visible") is not None else points.get("confidence")
    seen = (xs != 0) | (ys != 0)  # points that were not found are at the corner
    confidences = seen.astype(np.float64) if told is None else numbers(told, f"{where}: keypoints.visible", (len(xs),))
    person: dict[str, Any] = {"keypoints": flat(np.stack([xs, ys], 1), confidences * seen)}
    box = entry.get("box")
    if isinstance(box, Mapping) and not shares([person]):
        x0, y0, x1, y1 = numbers([box.get(key) for key in ("x1", "y1", "x2", "y2")], f"{where}: box", (4,))
        person["bbox"] = [x0, y0, x1 - x0, y1 - y0]
    if entry.get("track_id") is not None:
        person["id"] = str(entry["track_id"])
    return person


def _labels(lines: Lines, name: str, where: str) -> DetectedPicture:
    people = []
    for i, line in enumerate(lines):
        row = _numbers_of(line)
        if not row or row[0] != 0:
            continue
        layout = _layout(len(row))
        if layout is None:
            raise SceneError(f"{where}: line {i + 1}: {len(row)} numbers are no pose")
        count, each = layout
        points = np.array(row[_BEFORE : _BEFORE + count * each]).reshape(count, each)
        seen = (points[:, :2] != 0).any(axis=1)
        people.append({"keypoints": flat(points[:, :2], (points[:, 2] if each == 3 else 1.0) * seen)})
    return DetectedPicture(name, people, normalised=True)
