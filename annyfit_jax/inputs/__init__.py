"""The front door: whatever the input is, `open_input` gives a lazy sequence of scenes.

    source = open_input("photos/annotations.json", images="photos")
    for i, name in enumerate(source.names):
        scene = source.load(i)          # SceneError: set this scene aside

Kinds: a folder of scene `.npz` files or one of them (`scene_npz`), a COCO-keypoints `.json` (`coco_annotations`), keypoints of
OpenPose, MMPose, Ultralytics, MediaPipe and others, one file or a folder (`keypoint_files`), a folder with `preprocessed/`
written by the official Anny-Fit preprocessing (`official`), a cue dataset (`cue_source`). All of them may be in buckets
(`bucket_input`).
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from absl import logging

from annyfit_jax.inputs import keypoint_files
from annyfit_jax.inputs.bucket_input import open_fetched
from annyfit_jax.inputs.coco_annotations import is_coco, open_coco, read_json
from annyfit_jax.inputs.official import open_official
from annyfit_jax.inputs.official_params import read_official_params
from annyfit_jax.inputs.photos import list_photos, names_photos
from annyfit_jax.inputs.scene_npz import open_scene_npz, read_scene_npz
from annyfit_jax.inputs.scene_source import InputOptions, SceneSource
from annyfit_jax.inputs.validate import validate_scene
from annyfit_jax.people.scene import DEFAULT_FOV_DEGREES, SceneError
from annyfit_jax.records.npz import open_npz
from annyfit_jax.store.locations import is_remote, place

__all__ = [
    "InputOptions",
    "SceneSource",
    "open_input",
    "read_official_params",
    "read_scene_npz",
    "validate_scene",
]


def open_input(
    path: str,
    *,
    images: str | None = None,
    fov_degrees: float = DEFAULT_FOV_DEGREES,
    translation: str = "pelvis",
    **options: Any,
) -> SceneSource:
    """Recognises the input at `path` and opens it; further `options` are the fields of `InputOptions`.

    Raises SceneError where nothing usable is found (the message says what was looked for) or an option is unknown.
    Scenes are read by `SceneSource.load`, which raises SceneError on a broken one.
    """
    known = {field.name for field in fields(InputOptions)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise SceneError(f"unknown input option {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    chosen = InputOptions(images=images, fov_degrees=fov_degrees, translation=translation, **options)
    for name in ("images", "depth", "masks", "calibration"):
        given, what = getattr(chosen, name), "file" if name == "calibration" else "folder"
        if given is not None and not (place(given).is_file() if what == "file" else place(given).is_dir()):
            raise SceneError(f"option {name}: no {what} {given}")
    if is_remote(path):
        from annyfit_jax.inputs.cue_source import is_cue_dataset, open_cues

        if is_cue_dataset(path):
            source = open_cues(str(path), chosen)
            _check_uses(source, chosen)
            return source
    source = open_fetched(str(path), chosen, _open_local)
    _check_uses(source, chosen)
    for note in source.notes:
        logging.warning("%s", note)
    return source


_OF_KEYPOINTS = {"images", "calibration", "skeleton", "image_size"}
_OF_COCO = {"words", "hand_labels", "hand_depth", "depth", "masks"}


def _check_uses(source: SceneSource, chosen: InputOptions) -> None:
    """Raises SceneError for options that this kind of input has no use for: nobody is to wonder why they change nothing."""
    uses = {"coco": _OF_KEYPOINTS | _OF_COCO, "scene_npz": set(), "cues": set(), "official": {"translation"}}
    plain, mine = InputOptions(), uses.get(source.kind, _OF_KEYPOINTS)
    for name in sorted((_OF_KEYPOINTS | _OF_COCO | {"translation"}) - mine):
        if getattr(chosen, name) != getattr(plain, name):
            users = [kind for kind, names in uses.items() if name in names]
            users += ["keypoints of other programs"] if name in _OF_KEYPOINTS else []
            raise SceneError(
                f"option {name}: {source.location} is of kind {source.kind}; it is for {' and '.join(users)}"
            )


def _open_local(path: str, chosen: InputOptions) -> SceneSource:
    location = Path(path)
    if not location.exists():
        raise SceneError(f"{path}: no such file or folder")
    if location.is_dir():
        if (location / "preprocessed").is_dir():
            return open_official(str(path), chosen)
        if (location / "dataset_info.json").is_file() or (location / "plan.json").is_file():
            # Imported here: only this kind of input needs TFDS.
            from annyfit_jax.inputs.cue_source import is_cue_dataset, open_cues

            if is_cue_dataset(location):
                return open_cues(str(path), chosen)
        scenes = next(location.glob("*.npz"), None)
        if scenes is not None and not _holds_only_keypoints(scenes):
            return open_scene_npz(str(path), chosen)
        if keypoint_files.family_of_folder(location) is not None:
            return keypoint_files.open_keypoint_files(str(path), chosen)
    elif location.suffix == ".npz" and not _holds_only_keypoints(location):
        return open_scene_npz(str(path), chosen)
    elif location.suffix == ".json":
        content = read_json(str(path))
        if is_coco(content):
            return open_coco(str(path), chosen, content)
        return keypoint_files.open_keypoint_files(str(path), chosen, content)
    elif location.suffix in keypoint_files.SUFFIXES:
        return keypoint_files.open_keypoint_files(str(path), chosen)
    raise SceneError(
        f"{path}: not a known input; looked for a folder with `preprocessed/` (official Anny-Fit preprocessing), a "
        "cue dataset (`dataset_info.json`, `features.json`), a folder of scene .npz files, one scene .npz, a "
        "COCO-keypoints .json, or keypoint files of OpenPose, MMPose, Ultralytics, MediaPipe"
        f"{_about_photos(location)}"
    )


def _about_photos(location: Path) -> str:
    """Photos alone are no input here, and where none are found, why: somebody with an empty folder meant photos."""
    if names_photos(location):
        return "; photos alone are for annyfit fit and annyfit precompute, which look for people in them"
    if not location.is_dir():
        return ""
    try:
        list_photos(location)
    except SceneError as error:
        return f"; and for photos: {error}"
    return ""


def _holds_only_keypoints(path: Path) -> bool:
    """Whether an `.npz` is an array of keypoints rather than a scene. Of a broken one the reader of scenes tells more."""
    try:
        with open_npz(str(path)) as npz:
            return "keypoints" in npz and "keypoints_2d" not in npz
    except SceneError:
        return False
