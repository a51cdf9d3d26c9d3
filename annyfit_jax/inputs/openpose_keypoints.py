"""OpenPose's keypoint files, and what others write in their form.

| content | what it is |
|---|---|
| `{"version": ..., "people": [...]}` | OpenPose, one file per picture; RTMPose through Pose2Sim |
| `[{"people": [...], "canvas_width": ..., "canvas_height": ...}]` | DWPose in ComfyUI, one entry per picture |
| `{"name.jpg": {"people" or "bodies": [...]}}` | AlphaPose, formats `open` and `cmu` |

A person has `pose_keypoints_2d` (x, y, confidence; of 17, 18, 25, 26, 133 or 136 points: BODY_25 and BODY_25B are told apart
by how the points lie), `hand_left_keypoints_2d`, `hand_right_keypoints_2d` (21 points), `face_keypoints_2d` (70, or 68); of
AlphaPose's `cmu` format `joints`. Empty lists are parts that were not looked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from annyfit_jax.inputs.detected_pictures import DetectedPicture, each_person, flat, numbers, shares
from annyfit_jax.inputs.validate import checked_image_size
from annyfit_jax.people.scene import SceneError

_PARTS = {
    "hand_left_keypoints_2d": "lefthand_kpts",
    "hand_right_keypoints_2d": "righthand_kpts",
    "face_keypoints_2d": "face_kpts",
}
_BODY = ("pose_keypoints_2d", "joints", "pose_keypoints")


def is_mine(content: Any) -> bool:
    """Whether a file is OpenPose's."""
    if isinstance(content, list):
        return bool(content) and all(_is_picture(entry) for entry in content)
    if not isinstance(content, dict):
        return False
    return _is_picture(content) or (bool(content) and all(_is_picture(entry) for entry in content.values()))


def _is_picture(entry: Any) -> bool:
    people = _people(entry)
    return people is not None and all(isinstance(p, dict) and any(name in p for name in _BODY) for p in people)


def _people(entry: Any) -> list | None:
    if not isinstance(entry, dict):
        return None
    people = entry.get("people", entry.get("bodies"))
    return people if isinstance(people, list) else None


def pictures(content: Any, name: str, where: str) -> list[DetectedPicture]:
    """The pictures of a file that `is_mine`; `name` is that of a file about one picture. Raises SceneError."""
    if _is_picture(content):
        return [_picture(content, name, where)]
    if isinstance(content, list):
        return [
            _picture(entry, name if len(content) == 1 else f"{name}_{i:06d}", where) for i, entry in enumerate(content)
        ]
    return [_picture(entry, str(key), f"{where}: {key!s:.60}") for key, entry in content.items()]


def _picture(entry: dict[str, Any], name: str, where: str) -> DetectedPicture:
    people = each_person(_people(entry) or [], _person, f"{where}: person")
    size = None
    if entry.get("canvas_width") and entry.get("canvas_height"):
        size = checked_image_size([entry["canvas_width"], entry["canvas_height"]], f"{where}: canvas")
    normalised = shares(people)
    if normalised and min(min(person["keypoints"]) for person in people if person["keypoints"]) < -0.2:
        raise SceneError(f"{where}: coordinates from -1 to 1 are not read; write pixels (OpenPose: --keypoint_scale 0)")
    return DetectedPicture(name, people, size, normalised=normalised)


def _person(person: dict[str, Any], where: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for source, target in ((next(name for name in _BODY if name in person), "keypoints"), *_PARTS.items()):
        values = person.get(source)
        if values is None or values == []:
            continue
        if not isinstance(values, list):
            raise SceneError(f"{where}: {source}: expected a list of numbers, got {values!r:.60}")
        array = numbers(values, f"{where}: {source}", (None,) if np.ndim(values[0]) == 0 else (None, 3)).reshape(-1)
        if len(array) % 3:
            raise SceneError(f"{where}: {source}: expected x, y, confidence in turn, got {len(array)} numbers")
        points = array.reshape(-1, 3)
        fields[target] = flat(points[:, :2], points[:, 2])
    if "keypoints" not in fields:
        raise SceneError(f"{where}: no points of the body")
    return fields
