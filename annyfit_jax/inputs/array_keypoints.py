"""Keypoints in plain NumPy files, with a declared skeleton.

| file | content |
|---|---|
| `.npz` | `keypoints` (frames, people, points, 3) or (people, points, 3): x, y in pixels and confidence, missing: NaN or 0 |
| | `skeleton`: a name of `point_sets.POINT_SETS`, or `point_names` (points,): names; |
| | optional `image_size` (2,): width, height; `file_names` (frames,): of the pictures |
| `.npy` | the array `keypoints` alone, of (points, 3) upwards; the skeleton is an option (`--skeleton`) |

Arrays do not say what their rows are, so without a skeleton they are refused, also those of 17 points. Pictures without
names are `<file>_000007`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from annyfit_jax.inputs.detected_pictures import MAX_PEOPLE, DetectedPicture, flat
from annyfit_jax.inputs.point_sets import POINT_SETS, declared
from annyfit_jax.inputs.validate import checked_image_size
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.files import open_regular
from annyfit_jax.records.npz import open_npz

_MAX_BYTES = 1 << 31


@dataclass(frozen=True)
class Arrays:
    """The arrays of a file by name; that of a `.npy` is `keypoints`."""

    named: Mapping[str, np.ndarray]
    declares: bool
    """Whether the file can say which skeleton it has."""


def read_arrays(path: str) -> Arrays:
    """Arrays of numbers and texts of a `.npz` or `.npy`; pickles are refused. Raises SceneError."""
    if path.lower().endswith(".npz"):
        with open_npz(path) as npz:
            wanted = ("keypoints", "skeleton", "point_names", "image_size", "file_names")
            return Arrays({key: np.asarray(npz.read(key)) for key in wanted if key in npz}, True)
    try:
        with open_regular(path) as file:
            array = np.lib.format.read_array(file, allow_pickle=False, max_header_size=10_000)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise SceneError(f"{path}: not a NumPy file of numbers ({type(error).__name__}: {error!s:.200})") from error
    return Arrays({"keypoints": array}, False)


def is_mine(content: Any) -> bool:
    """Whether a file is NumPy's, with keypoints."""
    return isinstance(content, Arrays) and "keypoints" in content.named


def pictures(content: Arrays, name: str, where: str) -> list[DetectedPicture]:
    """The pictures of a file that `is_mine`, one per frame. Raises SceneError."""
    arrays = content.named
    points = np.asarray(arrays["keypoints"])
    if points.dtype.kind not in "iuf" or points.ndim not in (2, 3, 4) or points.shape[-1] not in (2, 3):
        raise SceneError(
            f"{where}: keypoints: expected (frames, people, points, 3) numbers, got {points.dtype} {points.shape}"
        )
    points = points.astype(np.float64).reshape((1,) * (4 - points.ndim) + points.shape)
    if points.shape[-1] == 2:
        points = np.concatenate([points, np.isfinite(points).all(-1, keepdims=True).astype(np.float64)], axis=-1)
    if points.shape[1] > MAX_PEOPLE:
        raise SceneError(f"{where}: keypoints: expected at most {MAX_PEOPLE} people, got {points.shape[1]}")
    names = _point_names(arrays, points.shape[2], where)
    size = checked_image_size(arrays["image_size"], f"{where}: image_size") if "image_size" in arrays else None
    frames = len(points)
    files = [str(file) for file in arrays["file_names"].ravel()] if "file_names" in arrays else []
    if files and len(files) != frames:
        raise SceneError(f"{where}: file_names: expected {frames} texts, got {len(files)}")
    if not files:
        files = [name] if frames == 1 else [f"{name}_{i:06d}" for i in range(frames)]
    result = []
    for file, frame in zip(files, points, strict=True):
        people = [{"id": str(i), "keypoints": flat(p[:, :2], p[:, 2])} for i, p in enumerate(frame)]
        people = [person for person in people if any(person["keypoints"])]
        result.append(DetectedPicture(file, people, size, names))
    return result


def _point_names(arrays: Mapping[str, np.ndarray], count: int, where: str) -> tuple[str, ...]:
    """Names that the file declares; none where it does not, and the option must."""
    if "point_names" in arrays:
        names = tuple(str(name) for name in arrays["point_names"].ravel())
    elif "skeleton" in arrays:
        names = declared(str(arrays["skeleton"]), f"{where}: skeleton")
    else:
        return ()
    if len(names) != count:
        raise SceneError(f"{where}: expected as many names of points as points ({count}), got {len(names)}")
    return names


def undeclared(path: str) -> SceneError:
    """What is said about arrays without a skeleton."""
    return SceneError(
        f"{path}: arrays do not say which points they are: store `skeleton` in an .npz, or give --skeleton, one of "
        f"{', '.join(POINT_SETS)}"
    )
