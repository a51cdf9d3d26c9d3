"""Keypoints as detectors write them: one file, or a folder with a file per picture, below each other or nested.

The content decides whose they are; each family is a module:

| family | module | what it reads |
|---|---|---|
| `openpose` | `openpose_keypoints` | OpenPose, AlphaPose's `open` and `cmu` formats, DWPose in ComfyUI |
| `mmpose` | `mmpose_keypoints` | MMPose, RTMPose, ViTPose |
| `ultralytics` | `ultralytics_keypoints` | `results.to_json()`, `save_txt` |
| `mediapipe` | `mediapipe_keypoints` | 33 landmarks |
| `arrays` | `array_keypoints` | `.npz` and `.npy` with a declared skeleton |

Lists of results in the manner of COCO (`image_id`, `keypoints`), as AlphaPose, ViTPose and Ultralytics also write them, are
read by `coco_annotations`. Every family turns its files into annotations, so words, masks, depth, cameras and photos are found
as for those. A picture is named by its file: `a/0001_keypoints.json` is `a/0001`, looked for with any suffix of a photo.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

from annyfit_jax.inputs import (
    array_keypoints,
    mediapipe_keypoints,
    mmpose_keypoints,
    openpose_keypoints,
    ultralytics_keypoints,
)
from annyfit_jax.inputs.coco_annotations import AnnotationIndex, open_index, read_json
from annyfit_jax.inputs.detected_pictures import DetectedPicture
from annyfit_jax.inputs.photos import SUFFIXES as PHOTO_SUFFIXES
from annyfit_jax.inputs.photos import scene_names
from annyfit_jax.inputs.point_sets import canonical_name
from annyfit_jax.inputs.scene_source import InputOptions, SceneSource
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.files import open_regular
from annyfit_jax.store.locations import Location, place

FAMILIES: dict[str, ModuleType] = {
    "openpose": openpose_keypoints,
    "mmpose": mmpose_keypoints,
    "ultralytics": ultralytics_keypoints,
    "mediapipe": mediapipe_keypoints,
    "arrays": array_keypoints,
}
"""Each has `is_mine(content)` and `pictures(content, name, where)`."""
SUFFIXES = (".json", ".txt", ".npz", ".npy")
_ENDINGS = ("_keypoints", "_pose", "_keypoints_2d")
"""Of the names of files, after the name of the picture."""
_MAX_TEXT = 20_000_000
_LOOKED_AT = 50
"""Files of a folder that are looked at for its family."""


def open_keypoint_files(path: str, options: InputOptions, content: Any = None) -> SceneSource:
    """The scenes of a keypoint file or of a folder of them. Raises SceneError where no family, or more than one, is found.

    Args:
      content: of the file, where it has been read.
    """
    location = Path(path)
    if not location.is_dir():
        content = content_of(location) if content is None else content
        family = family_of(content)
        if family is None:
            raise SceneError(f"{path}: {UNKNOWN}")
        pictures = FAMILIES[family].pictures(content, _picture_name(location.name), path)
        return _open(path, family, pictures, [], options)
    pictures: list[DetectedPicture] = []
    families: dict[str, str] = {}
    left_out = 0
    for file in keypoint_candidates(location):
        relative = file.relative_to(location).as_posix()
        try:
            content = content_of(file)
            own = family_of(content)
            if own is None:
                left_out += 1
                continue
            families.setdefault(own, relative)
            pictures += FAMILIES[own].pictures(content, _picture_name(relative), str(file))
        except SceneError as error:  # that picture alone is set aside
            pictures.append(DetectedPicture(_picture_name(relative), error=str(error)))
    if not families:
        raise SceneError(f"{path}: {UNKNOWN}")
    if len(families) > 1:
        several = " and ".join(f"{family} ({file})" for family, file in families.items())
        raise SceneError(f"{path}: keypoints of {several}: give one kind at a time")
    notes = [f"{path}: {left_out} files without keypoints are left out"] if left_out else []
    return _open(path, next(iter(families)), pictures, notes, options)


UNKNOWN = (
    "no known keypoints; looked for COCO annotations and results (also AlphaPose), OpenPose, MMPose, RTMPose, ViTPose, "
    "Ultralytics, MediaPipe, and arrays with a declared skeleton"
)


def family_of_folder(folder: Path) -> str | None:
    """The family of the first keypoint file among the first files below a folder; None where there is none."""
    return family_of_files(map(place, keypoint_candidates(folder)))


def family_of_files(files: Iterable[Location]) -> str | None:
    """The family of the first keypoint file among the first of some files; None where there is none."""
    for file in itertools.islice(files, _LOOKED_AT):
        try:
            if (family := family_of(content_of(file.fetched()))) is not None:
                return family
        except SceneError:
            continue
    return None


def keypoint_candidates(folder: Path) -> Iterator[Path]:
    """Files below a folder that may hold keypoints by their suffix, sorted by path; hidden ones are left out."""
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(where) / name for name in sorted(files) if is_candidate(name))


def is_candidate(name: str) -> bool:
    """Whether a file, by its name or path, may hold keypoints."""
    return name.lower().endswith(SUFFIXES) and not PurePath(name).name.startswith(".")


def family_of(content: Any) -> str | None:
    """Whose keypoints the content of a file is; None where it is nobody's."""
    return next((name for name, family in FAMILIES.items() if family.is_mine(content)), None)


def content_of(file: Path) -> Any:
    """The content of a file as the families take it: parsed JSON, the lines of a text, or named arrays. Raises SceneError."""
    suffix = file.suffix.lower()
    if suffix == ".json":
        return read_json(str(file))
    if suffix in (".npz", ".npy"):
        return array_keypoints.read_arrays(str(file))
    try:
        with open_regular(file) as stream:
            return ultralytics_keypoints.Lines(stream.read(_MAX_TEXT).decode("utf-8", errors="replace").splitlines())
    except OSError as error:
        raise SceneError(f"{file}: cannot be read ({error.strerror or error})") from error


def _picture_name(file_name: str) -> str:
    """The name of the picture that a keypoint file is about."""
    name = PurePath(file_name).with_suffix("").as_posix() if file_name.lower().endswith(SUFFIXES) else file_name
    ending = next((ending for ending in _ENDINGS if name.endswith(ending)), "")
    return name.removesuffix(ending)


def _open(
    path: str, family: str, pictures: Sequence[DetectedPicture], notes: list[str], options: InputOptions
) -> SceneSource:
    spelt = sorted({picture.point_names for picture in pictures if picture.point_names})
    if len(spelt) > 1:
        raise SceneError(f"{path}: the files name their points differently")
    if len({picture.normalised for picture in pictures if picture.people}) > 1:
        raise SceneError(f"{path}: some files are in pixels, others in shares of the picture")
    if not any(any(person["keypoints"] or []) for picture in pictures for person in picture.people):
        told = [picture.error for picture in pictures if picture.error]
        told += [person["unreadable"] for picture in pictures for person in picture.people if "unreadable" in person]
        reasons = "".join(f"; {reason}" for reason in told[:1])
        raise SceneError(f"{path}: nobody in {len(pictures)} pictures of {family} keypoints{reasons}")
    if family == "arrays" and not spelt and not options.skeleton:
        raise array_keypoints.undeclared(path)
    photo_suffix = re.compile(rf"({'|'.join(map(re.escape, PHOTO_SUFFIXES))})$", re.IGNORECASE)
    names = scene_names([f"{photo_suffix.sub('', picture.name)}.x" for picture in pictures])
    images = []
    for i, picture in enumerate(pictures):
        size = {} if picture.size is None else {"width": picture.size[0], "height": picture.size[1]}
        error = {"error": picture.error} if picture.error else {}
        images.append({"id": i, "file_name": picture.name, "scene_name": names[i], "unresolved": True, **size, **error})
    categories = {"": {"name": "person", "keypoints": [canonical_name(name) for name in spelt[0]]}} if spelt else {}
    index = AnnotationIndex(
        path,
        images,
        [
            [{"id": f"{k}", "category_id": "", **person} for k, person in enumerate(picture.people)]
            for picture in pictures
        ],
        confidences=True,
        categories=categories,
        notes=notes,
        normalised=any(picture.normalised for picture in pictures if picture.people),
    )
    return open_index(index, options, family)
