"""Relative Human's annotations: `<split>_annots.npz` with the entry `annots`, or the same dictionary as JSON.

`annots` is {image file name: [person, ..]}; of a person are read:

| field | meaning |
|---|---|
| `kp2d` | 14 or 19 x (x, y, v), pixels of the image; v 0 = not labelled; None or absent: the person is set aside |
| `depth_id` | layer, smaller is nearer, equal layers at equal depth; -1 not labelled |
| `age`, `gender` | 0 adult, 1 teen, 2 kid, 3 baby; 0 male, 1 female; -1 unknown |

14 joints are in the order `RH14`. 19 joints come in two orders, told apart by the length of the file's name: seven characters
without `.jpg` are `BK19`, else `OCHUMAN19`; joints that `RH14` has and they have not (always the neck) get no label. Joints
without a label are at (-2, -2), as the public evaluator has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from annyfit_jax.inputs.coco_annotations import read_json
from annyfit_jax.inputs.validate import checked_array
from annyfit_jax.metrics.people_of_image import TruthPeople
from annyfit_jax.metrics.skeletons import RH14
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.npz import checked_by_name, read_by_name
from annyfit_jax.truth.truth_source import TruthOptions, TruthSource

BK19 = (
    "head_top", "nose", "neck", "left_eye", "right_eye", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
    "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
    "left_big_toe", "right_big_toe",
)  # fmt: skip
OCHUMAN19 = (
    "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "right_hip",
    "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "head_top", "neck", "right_ear", "left_ear",
    "nose", "right_eye", "left_eye",
)  # fmt: skip
UNLABELLED = -2.0


def open_source(path: Path, options: TruthOptions) -> TruthSource:
    """The images of an annotation file, or of `<split>_annots.npz` in a folder."""
    file = path / f"{options.split}_annots.npz" if path.is_dir() else path
    annots = _annotations(file)
    images = list(annots)
    return TruthSource(
        names=tuple(Path(image).stem for image in images),
        loader=lambda index: people_of(images[index], annots[images[index]], str(file)),
        location=str(file),
    )


def people_of(image: str, people: Any, where: str) -> TruthPeople:
    """The people of one image who have keypoints. Raises SceneError naming file, image, person and field."""
    if not isinstance(people, list | tuple | np.ndarray):
        raise SceneError(f"{where}: {image}: expected a list of people, got {type(people).__name__}")
    points, codes = [], []
    for i, person in enumerate(people):
        place = f"{where}: {image}: person {i}"
        if not isinstance(person, Mapping):
            raise SceneError(f"{place}: expected a dictionary, got {type(person).__name__}")
        if person.get("kp2d") is not None:
            points.append(_joints(person["kp2d"], image, place))
            codes.append(
                [_code(person, name, low, place) for name, low in (("depth_id", None), ("age", 3), ("gender", 1))]
            )
    joints = np.array(points, np.float64).reshape(-1, len(RH14), 3)
    numbers = np.array(codes, np.int64).reshape(-1, 3)
    return TruthPeople(
        name=Path(image).stem,
        names=RH14,
        joints_2d=joints[..., :2],
        labelled=joints[..., 2] > 0,
        layer=numbers[:, 0],
        age=numbers[:, 1],
        gender=numbers[:, 2],
    )


def _annotations(file: Path) -> dict[str, Any]:
    if file.suffix == ".json":
        return checked_by_name(read_json(str(file)), f"{file}: annots", "[people]")
    return read_by_name(str(file), "annots", "[people]")


def _joints(value: Any, image: str, place: str) -> np.ndarray:
    """(14, 3) x, y, label in the order of `RH14`."""
    flat = checked_array(np.ravel(_flat(value, place)), f"{place}: kp2d", ("3 x joints",))
    if flat.size not in (14 * 3, 19 * 3):
        raise SceneError(f"{place}: kp2d: expected shape (14, 3) or (19, 3), got {flat.size} numbers")
    joints = flat.reshape(-1, 3)
    if len(joints) == 19:
        short = len(Path(image).name.replace(".jpg", "")) == 7
        order = BK19 if short else OCHUMAN19
        joints = np.array([joints[order.index(name)] if name in order else [0.0, 0.0, 0.0] for name in RH14])
    labelled = joints[:, 2] != 0
    if not np.isfinite(joints[labelled]).all():
        raise SceneError(f"{place}: kp2d: expected finite numbers, shape (14, 3) or (19, 3)")
    pixels = np.where(labelled[:, None], joints[:, :2], UNLABELLED)
    # The evaluator takes negative flags for invalid too, but leaves their coordinates.
    return np.concatenate([pixels, joints[:, 2:] > 0], axis=1)


def _flat(value: Any, place: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise SceneError(f"{place}: kp2d: expected shape (14, 3) or (19, 3), got rows of different lengths") from error


def _code(person: Mapping, name: str, high: int | None, place: str) -> int:
    value = person.get(name, -1)
    whole = isinstance(value, int | np.integer) or (
        isinstance(value, float | np.floating) and float(value).is_integer()
    )
    if not whole or isinstance(value, bool) or value < -1 or (high is not None and value > high):
        expected = "a layer of 0 or more" if high is None else f"a code of 0 to {high}"
        raise SceneError(f"{place}: {name}: expected {expected}, or -1 for unknown, got {value!r:.60}")
    return int(value)
