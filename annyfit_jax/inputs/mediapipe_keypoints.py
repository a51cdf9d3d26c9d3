"""MediaPipe's 33 landmarks of a body, as its results are usually written to JSON.

| content | what it is |
|---|---|
| `{"landmarks": [[{"x": ..., "y": ..., "visibility": ...} x 33], ...]}` | a result of the Pose Landmarker in JavaScript |
| `{"pose_landmarks": ...}`, `{"poseLandmarks": ...}` | the same of Python, or of Holistic |
| `{"landmark": [...]}` | one person, a protobuf message as JSON |
| a list of 33 landmarks, or of such lists | the landmarks alone |

One file per picture. `x` and `y` are shares of the picture's width and height; `visibility` (else `presence`, else 1) is the
confidence. Landmarks of Holistic's hands and the metric ones (`worldLandmarks`) are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from annyfit_jax.inputs.detected_pictures import DetectedPicture, each_person, flat, numbers, shares
from annyfit_jax.people.scene import SceneError

NUM_LANDMARKS = 33
_FIELDS = ("landmarks", "pose_landmarks", "poseLandmarks", "landmark")


def is_mine(content: Any) -> bool:
    """Whether a file is MediaPipe's, with landmarks of bodies."""
    people = _people(content)
    return people is not None and len(people) > 0


def _people(content: Any) -> list[list[Mapping[str, Any]]] | None:
    """The landmarks of each person; None where the content is something else."""
    if isinstance(content, Mapping):
        inner = next((content[name] for name in _FIELDS if name in content), None)
        return None if inner is None else _people(inner)
    if not isinstance(content, list) or not content:
        return None
    if all(_is_landmark(entry) for entry in content):
        return [content] if len(content) == NUM_LANDMARKS else None
    groups = [_people(entry) for entry in content]
    if any(group is None or len(group) != 1 for group in groups):
        return None
    return [group[0] for group in groups if group]


def _is_landmark(entry: Any) -> bool:
    return isinstance(entry, Mapping) and "x" in entry and "y" in entry


def pictures(content: Any, name: str, where: str) -> list[DetectedPicture]:
    """The picture of a file that `is_mine`. Raises SceneError."""
    people = each_person(_people(content) or [], _person, f"{where}: person")
    if any(any(person["keypoints"] or []) for person in people) and not shares(people):
        raise SceneError(f"{where}: expected landmarks as shares of the picture's width and height, about 0 to 1")
    return [DetectedPicture(name, people, normalised=True)]


def _person(landmarks: list[Mapping[str, Any]], where: str) -> dict[str, Any]:
    points = numbers([[entry["x"], entry["y"]] for entry in landmarks], where, (NUM_LANDMARKS, 2))
    told = [entry.get("visibility", entry.get("presence", 1.0)) for entry in landmarks]
    return {"keypoints": flat(points, numbers(told, f"{where}: visibility", (NUM_LANDMARKS,)))}
