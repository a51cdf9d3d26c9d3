"""Predictions of MMPose and RTMPose, and of ViTPose.

| content | what it is |
|---|---|
| `[{"keypoints": [[x, y], ...], "keypoint_scores": [...], "bbox": [[x0, y0, x1, y1]]}]` | MMPose, one file per picture |
| `{"meta_info": ..., "instance_info": [{"frame_id": ..., "instances": [...]}]}` | MMPose, a video or several pictures |
| `{"preds": [[[x, y, score], ...]], "boxes": ..., "image_paths": [...]}` | MMPose before version 1 |
| the first with `scores` or `keypoints_scores` | ViTPose of `transformers`, written as its results are |
| `{"keypoints": [{"0": [[y, x, score], ...]}, ...], "skeleton": {"0": "nose", ...}}` | easy_ViTPose, one entry per frame |

Names of the points are taken from `meta_info` (`keypoint_id2name`) or `skeleton`; else their number and place decide. Frames
are named `<file>_000007`. Points with three coordinates are lifted, not seen, and are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from annyfit_jax.inputs.detected_pictures import DetectedPicture, each_person, flat, numbers, shares
from annyfit_jax.people.scene import SceneError

_SCORES = ("keypoint_scores", "keypoints_scores", "scores")


def is_mine(content: Any) -> bool:
    """Whether a file is MMPose's or ViTPose's."""
    if isinstance(content, list):
        if bool(content) and all(isinstance(group, list) for group in content):  # a list of pictures
            content = [instance for group in content for instance in group]
        return bool(content) and all(_is_instance(entry) for entry in content)
    if not isinstance(content, dict):
        return False
    return (
        isinstance(content.get("instance_info"), list)
        or ("preds" in content and "image_paths" in content)
        or _is_easy(content)
        or isinstance(content.get("predictions"), list)
    )


def _is_instance(entry: Any) -> bool:
    return (
        isinstance(entry, dict) and isinstance(entry.get("keypoints"), list) and any(name in entry for name in _SCORES)
    )


def _is_easy(content: Mapping[str, Any]) -> bool:
    frames = content.get("keypoints")
    return (
        isinstance(content.get("skeleton"), dict)
        and isinstance(frames, list)
        and all(isinstance(f, dict) for f in frames)
    )


def pictures(content: Any, name: str, where: str) -> list[DetectedPicture]:
    """The pictures of a file that `is_mine`; `name` is that of a file about one picture. Raises SceneError."""
    if isinstance(content, list):
        if all(isinstance(group, list) for group in content):
            return _frames([(None, group) for group in content], name, where, ())
        return [_picture(content, name, where, ())]
    if "preds" in content:
        return _before_version_1(content, where)
    if _is_easy(content):
        return _easy_frames(content, name, where)
    if "predictions" in content:  # the inferencer's return value as it is
        return pictures(content["predictions"], name, where)
    meta = content.get("meta_info")
    names = _names((meta or {}).get("keypoint_id2name") if isinstance(meta, Mapping) else None)
    groups = [
        (entry.get("frame_id"), entry.get("instances"))
        for entry in content["instance_info"]
        if isinstance(entry, Mapping)
    ]
    return _frames(groups, name, where, names)


def _frames(groups: list, name: str, where: str, names: tuple[str, ...]) -> list[DetectedPicture]:
    single = len(groups) == 1
    result = []
    for i, (frame, instances) in enumerate(groups):
        number = frame if type(frame) is int else i
        if not isinstance(instances, list):
            raise SceneError(f"{where}: frame {number}: expected a list of instances")
        result.append(
            _picture(instances, name if single else f"{name}_{number:06d}", f"{where}: frame {number}", names)
        )
    return result


def _names(table: Any) -> tuple[str, ...]:
    """Names in the order of their numbers; none where the table is no numbering."""
    if not isinstance(table, Mapping) or not all(str(key).isdigit() for key in table):
        return ()
    ordered = sorted(table.items(), key=lambda item: int(item[0]))
    return tuple(str(name) for _, name in ordered)


def _picture(instances: list, name: str, where: str, names: tuple[str, ...]) -> DetectedPicture:
    people = each_person(instances, _person, f"{where}: instance")
    _check_pixels(people, where)
    return DetectedPicture(name, people, point_names=names)


def _person(instance: Any, where: str) -> dict[str, Any]:
    if not _is_instance(instance):
        raise SceneError(f"{where}: expected `keypoints` and `keypoint_scores`")
    points = numbers(instance["keypoints"], f"{where}: keypoints", (None, None))
    if points.shape[1] != 2:
        raise SceneError(f"{where}: keypoints: expected x and y, got {points.shape[1]} coordinates")
    scores = numbers(next(instance[key] for key in _SCORES if key in instance), f"{where}: scores", (len(points),))
    person: dict[str, Any] = {"keypoints": flat(points, scores)}
    if instance.get("bbox") is not None:
        box = np.array(instance["bbox"], dtype=object).ravel().tolist()
        x0, y0, x1, y1 = numbers(box[:4], f"{where}: bbox", (4,))
        person["bbox"] = [x0, y0, x1 - x0, y1 - y0]
    return person


def _check_pixels(people: list[dict[str, Any]], where: str) -> None:
    if shares(people):
        raise SceneError(f"{where}: all coordinates are below 2: expected pixels of the picture")


def _before_version_1(content: Mapping[str, Any], where: str) -> list[DetectedPicture]:
    paths = content["image_paths"]
    preds = content["preds"]
    if not isinstance(paths, list) or not isinstance(preds, list) or len(paths) != len(preds):
        raise SceneError(f"{where}: expected as many `image_paths` as `preds`")
    found: dict[str, DetectedPicture] = {}
    for i, (path, pred) in enumerate(zip(paths, preds, strict=True)):
        points = numbers(pred, f"{where}: preds {i}", (None, 3))
        picture = found.setdefault(str(path), DetectedPicture(str(path)))
        picture.people.append({"keypoints": flat(points[:, :2], points[:, 2])})
    return list(found.values())


def _easy_frames(content: Mapping[str, Any], name: str, where: str) -> list[DetectedPicture]:
    frames = content["keypoints"]
    names = _names(content["skeleton"])
    result = []
    for i, frame in enumerate(frames):
        people = []
        for person, values in frame.items():
            points = numbers(values, f"{where}: frame {i}, person {person!s:.20}", (None, 3))
            people.append(
                {"id": str(person), "keypoints": flat(points[:, [1, 0]], points[:, 2])}
            )  # rows are y, x, score
        result.append(DetectedPicture(name if len(frames) == 1 else f"{name}_{i:06d}", people, point_names=names))
    return result
