"""Scenes stored one `.npz` per image, with n people in it (arrays of numbers only, no pickles).

| key | shape | meaning |
|---|---|---|
| `image_size` | (2,) | width, height in pixels |
| `keypoints_2d` | (n, 17, 3) | COCO-17 x, y in pixels and confidence, 0 = missing |
| `K` | (3, 3) | optional pinhole matrix in pixels; else a field of view |
| `dense_kp` | (n, 138, 3) | optional dense points x, y in pixels and confidence |
| `median_depth` | (n,) | optional metres, NaN = unknown |
| `depth_layer` | (n,) | optional ordinal depth, smaller is nearer, -1 = unknown |
| `vlm_age`, `vlm_gender` | (n,) | optional anchors in [0, 1], -1 = no usable answer |
| `init_root_rotvec`, `init_transl`, `init_pose`, `init_shape` | (n, 3), (n, 3), (n, 162, 3), (n, 6) | optional start, all or none |
| `gt_root_rotvec`, ... | the same | optional truth, all or none |
| `person_ids`, `boxes`, `image_path` | (n,), (n, 4), text | optional |
| `gt_coco3d`, `gt_coco2d`, `gt_visible`, `gt_head_px`, `gt_body_height`, `gt_age_cat`, `gt_gender_cat` | n first | optional, kept in `Scene.extra` |
"""  # noqa: E501 (table rows)

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
from absl import logging

from annyfit_jax.inputs.scene_source import InputOptions, SceneSource
from annyfit_jax.inputs.validate import NUM_JOINTS, NUM_PHENOTYPES, NUM_POSED_BONES, checked_array, checked_image_size
from annyfit_jax.people.camera import intrinsics_from_fov
from annyfit_jax.people.scene import NUM_DENSE, UNKNOWN_WORD, BodyParameters, Scene, SceneError
from annyfit_jax.records.npz import Npz, open_npz
from annyfit_jax.store.locations import place

EXTRA_KEYS = (
    "gt_coco3d", "gt_coco2d", "gt_visible", "gt_head_px", "gt_body_height", "gt_age_cat", "gt_gender_cat",
)  # fmt: skip

KEYS = (
    "image_size", "keypoints_2d", "K", "dense_kp", "median_depth", "depth_layer", "vlm_age", "vlm_gender", "person_ids",
    "boxes", "image_path", *EXTRA_KEYS,
    *(f"{prefix}{name}" for prefix in ("init_", "gt_") for name in ("root_rotvec", "transl", "pose", "shape")),
)  # fmt: skip
"""Every entry that is read."""
_MISSPELT = "not read: the entry"


def open_scene_npz(path: str, options: InputOptions) -> SceneSource:
    """The scenes of a folder of `.npz` files (sorted by name) or of one such file."""
    location = Path(path)
    files = sorted(location.glob("*.npz")) if location.is_dir() else [location]
    said: set[str] = set()

    def load(index: int) -> Scene:
        scene = read_scene_npz(str(files[index]), options)
        for note in scene.notes:
            if note.startswith(_MISSPELT) and note not in said:
                said.add(note)
                logging.warning("%s: %s", files[index], note)
        return scene

    return SceneSource(
        kind="scene_npz",
        names=tuple(file.stem for file in files),
        loader=load,
        location=path,
        stamps=lambda index: place(str(files[index])).stamp(),
    )


def read_scene_npz(path: str, options: InputOptions | None = None) -> Scene:
    """Reads one scene file (keys in the module's table). Raises SceneError naming file, field and expected shape."""
    options = options or InputOptions()
    with open_npz(path) as npz:
        image_size = checked_image_size(npz.read("image_size"), npz.where("image_size"))
        keypoints = checked_array(npz.read("keypoints_2d"), npz.where("keypoints_2d"), ("n", NUM_JOINTS, 3))
        n = len(keypoints)
        notes = _misspelt(npz.keys())
        if "K" in npz:
            intrinsics = checked_array(npz.read("K"), npz.where("K"), (3, 3))
        else:
            intrinsics = intrinsics_from_fov(image_size, options.fov_degrees)
            notes.append(f"intrinsics: {options.fov_degrees:g} degree field of view")
        return Scene(
            name=Path(path).stem,
            image_size=image_size,
            intrinsics=intrinsics,
            keypoints=keypoints,
            dense_keypoints=_optional(npz, "dense_kp", (n, NUM_DENSE, 3), 0.0),
            median_depth=_optional(npz, "median_depth", (n,), np.nan),
            depth_layer=_optional(npz, "depth_layer", (n,), -1).astype(np.int64),
            age=_optional(npz, "vlm_age", (n,), UNKNOWN_WORD),
            gender=_optional(npz, "vlm_gender", (n,), UNKNOWN_WORD),
            start=_bodies(npz, "init_", n),
            truth=_bodies(npz, "gt_", n),
            person_ids=_person_ids(npz, n),
            boxes=_optional(npz, "boxes", (n, 4), np.nan) if "boxes" in npz else None,
            image_path=_text(npz, "image_path") if "image_path" in npz else None,
            notes=notes,
            extra={key: _extra(npz, key, n) for key in EXTRA_KEYS if key in npz},
        )


def _misspelt(keys: list[str]) -> list[str]:
    """A note for each entry whose name is nearly one that is read; files may hold entries of any other name."""
    near = {
        key: difflib.get_close_matches(key, KEYS, 1, cutoff=0.84) for key in keys if key not in KEYS and len(key) <= 40
    }
    return [f"{_MISSPELT} `{key}`: did you mean `{names[0]}`?" for key, names in near.items() if names]


def _optional(npz: Npz, key: str, shape: tuple[int, ...], absent: float) -> np.ndarray:
    if key not in npz:
        return np.full(shape, absent, np.float64)
    dtype = np.int64 if key == "depth_layer" else np.float64
    return checked_array(npz.read(key), npz.where(key), shape, dtype)


def _bodies(npz: Npz, prefix: str, n: int) -> BodyParameters | None:
    shapes = {"root_rotvec": (n, 3), "transl": (n, 3), "pose": (n, NUM_POSED_BONES, 3), "shape": (n, NUM_PHENOTYPES)}
    missing = [prefix + field for field in shapes if prefix + field not in npz]
    if len(missing) == len(shapes):
        return None
    if missing:
        raise SceneError(f"{npz.path}: fields {prefix}*: expected all of {', '.join(shapes)} or none, no {missing}")
    arrays = {
        field: checked_array(npz.read(prefix + field), npz.where(prefix + field), shape)
        for field, shape in shapes.items()
    }
    return BodyParameters(**arrays)


def _person_ids(npz: Npz, n: int) -> list[str]:
    if "person_ids" not in npz:
        return [str(index) for index in range(n)]
    ids = np.asarray(npz.read("person_ids"))
    if ids.shape != (n,) or ids.dtype.kind not in "iuU":
        raise SceneError(f"{npz.where('person_ids')}: expected {n} numbers or texts, shape ({n},), got {ids.shape}")
    return [str(person) for person in ids.tolist()]


def _text(npz: Npz, key: str) -> str:
    value = np.asarray(npz.read(key))
    if value.ndim or value.dtype.kind != "U":
        raise SceneError(f"{npz.where(key)}: expected one text, shape (), got {value.dtype} of shape {value.shape}")
    return str(value)


def _extra(npz: Npz, key: str, n: int) -> np.ndarray:
    value = np.asarray(npz.read(key))
    if value.ndim == 0 or len(value) != n:
        raise SceneError(f"{npz.where(key)}: expected shape ({n}, ...), got {value.shape}")
    return value
