"""One COCO annotation as a person: keypoints with confidences, age and gender anchors, labels by eye."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from annyfit_jax.inputs.cue_limits import MAX_LAYER
from annyfit_jax.inputs.point_sets import PARTS, PUPILS, WHOLE_BODY, arrange, named
from annyfit_jax.inputs.validate import NUM_JOINTS, checked_array
from annyfit_jax.people.lens import Lens, checked_lens
from annyfit_jax.people.scene import COCO17, UNKNOWN_WORD, SceneError
from annyfit_jax.people.words import age_anchor, gender_anchor

_FLAGS = (0.0, 1.0, 2.0)
_HAND_AGE_WORDS = ("adult", "teen", "kid", "baby")
_HAND_GENDER_WORDS = ("male", "female")
HAND_FIELDS = {"hand_age": "age", "hand_gender": "gender", "hand_depth_layer": "depth_id"}
"""Names in `Scene.extra` and the entries of `hand_label` they hold."""


def holds_confidences(annotations: list[dict]) -> bool:
    """Whether the third numbers of a file's keypoints are a detector's confidences rather than COCO's flags 0, 1, 2.

    Fractions are confidences. A `score` speaks for confidences too, but not where a 2 says that these are flags.
    """
    return _has_fractions(annotations) or (any("score" in a for a in annotations) and not holds_flags(annotations))


def holds_flags(annotations: list[dict]) -> bool:
    """Whether a 2 among the third numbers, and no fraction, says that they are COCO's flags."""
    return any(v == 2 for v in _third_numbers(annotations)) and not _has_fractions(annotations)


def _has_fractions(annotations: list[dict]) -> bool:
    return any(isinstance(v, float) and v not in _FLAGS for v in _third_numbers(annotations))


def _third_numbers(annotations: list[dict]) -> Iterator[Any]:
    for annotation in annotations:
        values = annotation.get("keypoints")
        if isinstance(values, list):
            yield from values[2::3]


def keypoints_of(
    annotation: Mapping[str, Any], joint_names: list[str], where: str, confidences: bool, hidden_confidence: float
) -> Float[np.ndarray, "17 3"]:
    """The 17 COCO keypoints of an annotation, as `points_of` reads them."""
    return points_of(annotation, tuple(joint_names), where, confidences, hidden_confidence)[0][:NUM_JOINTS]


def points_of(
    annotation: Mapping[str, Any], joint_names: tuple[str, ...], where: str, confidences: bool, hidden_confidence: float
) -> tuple[Float[np.ndarray, "133 3"], dict[str, Float[np.ndarray, "3"]]]:
    """All points of an annotation (x, y in pixels, confidence), taken by name.

    They are its `keypoints`, and feet, face and hands in the fields of COCO-WholeBody (`foot_kpts`, `face_kpts`,
    `lefthand_kpts`, `righthand_kpts`), unless it says that those are not valid.

    Args:
      joint_names: of the `keypoints`; without names 17 points are COCO's and 133 are COCO-WholeBody's.

    Returns:
      The points in the order of COCO-WholeBody, of which the first 17 are COCO's, with confidence 0 where one is not named;
      and the points that COCO-WholeBody does not have, by name.

    Raises SceneError on other lengths or flags.
    """
    values = checked_array(annotation["keypoints"], f"{where}.keypoints", ("3 k",))
    names = named(joint_names, where) if joint_names else WHOLE_BODY if len(values) == 3 * len(WHOLE_BODY) else COCO17
    if len(values) != 3 * len(names):
        raise SceneError(
            f"{where}.keypoints: expected {3 * len(names)} numbers ({len(names)} x, y, flag), got {len(values)}"
        )
    ordered, others = arrange(names, _checked_points(values, f"{where}.keypoints", confidences, hidden_confidence))
    for part, part_names in PARTS.items():
        if annotation.get(part) is None or annotation.get(f"{part.removesuffix('_kpts')}_valid") is False:
            continue
        values = checked_array(annotation[part], f"{where}.{part}", ("3 k",))
        count = len(part_names) - len(PUPILS) if part == "face_kpts" and len(values) == 3 * 68 else len(part_names)
        if len(values) != 3 * count:
            raise SceneError(f"{where}.{part}: expected {3 * count} numbers ({count} x, y, flag), got {len(values)}")
        own = confidences or _has_fractions([{"keypoints": values.tolist()}])
        points = _checked_points(values, f"{where}.{part}", own, hidden_confidence)
        inside, outside = arrange(part_names[:count], points)
        seen = inside[:, 2] > 0
        ordered[seen] = inside[seen]
        others |= outside
    return ordered, others


def _checked_points(
    values: Float[np.ndarray, "numbers"], where: str, confidences: bool, hidden_confidence: float
) -> Float[np.ndarray, "point 3"]:
    points = values.reshape(-1, 3).copy()
    if not confidences:
        flag = points[:, 2]
        if not np.isin(flag, _FLAGS).all():
            raise SceneError(f"{where}: expected the flags 0, 1 or 2, got {flag.tolist()}")
        points[:, 2] = np.where(flag == 2, 1.0, np.where(flag == 1, hidden_confidence, 0.0))
    if not np.isfinite(points[:, 2]).all() or not np.isfinite(points[points[:, 2] > 0]).all():
        raise SceneError(f"{where}: expected finite numbers, got NaN or infinity")
    return points


def anchors_of(
    annotation: Mapping[str, Any], words: Mapping[str, Any] | None, where: str, hand_labels: bool
) -> tuple[float, float]:
    """Age and gender anchors of a person, -1 where nothing usable is said.

    The first of these that has the entry decides: the separate words, the annotation's own field, `attributes`,
    `vlm_label`, and with `hand_labels` the label by eye.
    """
    sources = [words, annotation, annotation.get("attributes"), annotation.get("vlm_label")]
    if hand_labels:
        sources.append(_hand_words(annotation))
    age = _first(sources, "age", age_anchor, where)
    return age, _first(sources, "gender", gender_anchor, where)


def _first(sources: list[Any], entry: str, to_anchor: Callable[[str], float], where: str) -> float:
    for source in sources:
        value = source.get(entry) if isinstance(source, Mapping) else None
        if value is None:
            continue
        if isinstance(value, str):
            return to_anchor(value)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and (value == UNKNOWN_WORD or 0.0 <= value <= 1.0):
            return float(value)
        raise SceneError(f"{where}.{entry}: expected a word, a number in [0, 1] or -1, got {value!r:.60}")
    return UNKNOWN_WORD


def hand_label(annotation: Mapping[str, Any], entry: str) -> int:
    """An entry of the label by eye as a whole number, -1 where there is none."""
    label = annotation.get("hand_label")
    value = label.get(entry, -1) if isinstance(label, Mapping) else -1
    return value if type(value) is int and abs(value) <= MAX_LAYER else -1


def odd_hand_label(annotation: Mapping[str, Any]) -> bool:
    """Whether an entry of the label by eye is no whole number, or beyond any."""
    label = annotation.get("hand_label")
    given = [label[entry] for entry in HAND_FIELDS.values() if entry in label] if isinstance(label, Mapping) else []
    return any(value is not None and (type(value) is not int or abs(value) > MAX_LAYER) for value in given)


def _hand_words(annotation: Mapping[str, Any]) -> dict[str, str]:
    age, gender = hand_label(annotation, "age"), hand_label(annotation, "gender")
    words = {}
    if 0 <= age < len(_HAND_AGE_WORDS):
        words["age"] = _HAND_AGE_WORDS[age]
    if 0 <= gender < len(_HAND_GENDER_WORDS):
        words["gender"] = _HAND_GENDER_WORDS[gender]
    return words


def depth_layer_of(annotation: Mapping[str, Any], where: str, hand_depth: bool) -> int:
    """The ordinal depth layer of a person, -1 = unknown. Raises SceneError on a layer that is not a whole number."""
    layer = annotation.get("depth_layer")
    if layer is None:
        return hand_label(annotation, "depth_id") if hand_depth else -1
    if type(layer) is not int and not (isinstance(layer, float) and layer.is_integer()):
        raise SceneError(f"{where}.depth_layer: expected a whole number, -1 = unknown, got {layer!r:.60}")
    if abs(layer) > MAX_LAYER:
        raise SceneError(f"{where}.depth_layer: expected a whole number up to {MAX_LAYER}, got {float(layer):g}")
    return int(layer)


def box_of(
    annotation: Mapping[str, Any], keypoints: Float[np.ndarray, "point 3"], where: str
) -> Float[np.ndarray, "4"]:
    """x0, y0, x1, y1 in pixels: from `bbox` or `box` (x, y, width, height), else around the keypoints."""
    told = next((name for name in ("bbox", "box") if annotation.get(name) is not None), None)
    if told:
        x, y, width, height = checked_array(annotation[told], f"{where}.{told}", (4,))
        return np.array([x, y, x + width, y + height])
    seen = keypoints[keypoints[:, 2] > 0, :2]
    return np.concatenate([seen.min(axis=0), seen.max(axis=0)])


def reason_to_skip(annotation: Mapping[str, Any], category: str | None) -> str | None:
    """Why an annotation is no person to fit, or None. Whether any keypoint is seen is decided after reading them."""
    if annotation.get("unreadable"):
        return f"unreadable annotation: {annotation['unreadable']!s:.500}"
    if category is not None and category != "person":
        return f"category {category}"
    if annotation.get("iscrowd"):
        return "crowd region"
    if annotation.get("num_keypoints") == 0 or annotation.get("keypoints") is None:
        return "no keypoints"
    return None


def lens_entry(holder: Mapping[str, Any], where: str) -> Lens | None:
    """The distortion stored beside the intrinsics: `distortion` (k1 k2 p1 p2 k3, or k1 .. k4 with `distortion_model` fisheye).

    It stands in the object that has the intrinsics, or in its `camera`. The points are then those of the distorted picture.
    """
    camera = holder.get("camera")
    for source in (holder, camera):
        if isinstance(source, Mapping) and source.get("distortion") is not None:
            values = checked_array(source["distortion"], f"{where}.distortion", ("k",))
            return checked_lens(str(source.get("distortion_model", "brown")), values.tolist(), f"{where}.distortion")
    return None


def intrinsics_entry(holder: Mapping[str, Any], where: str) -> Float[np.ndarray, "3 3"] | None:
    """The pinhole matrix stored as `intrinsics` (3 x 3) or `camera` {fx, fy, cx, cy}; None without either."""
    if holder.get("intrinsics") is not None:
        return checked_array(holder["intrinsics"], f"{where}.intrinsics", (3, 3))
    camera = holder.get("camera")
    if camera is None or isinstance(camera, str):  # a text names a camera of the calibration file
        return None
    numbers = [camera.get(name) if isinstance(camera, Mapping) else None for name in ("fx", "fy", "cx", "cy")]
    if not all(isinstance(value, int | float) and abs(value) < 1e30 for value in numbers):
        raise SceneError(f"{where}.camera: expected the numbers fx, fy, cx, cy in pixels, got {camera!r:.80}")
    fx, fy, cx, cy = numbers
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], np.float64)
