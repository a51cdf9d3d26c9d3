"""SMPL-X truth in HumanData `.npz` (`exports.humandata_export`), the layout in which AiOS has ARCTIC, EgoBody and UBody.

| key | what is read |
|---|---|
| `image_path` | (N,) the person's picture, relative to the folder of the data set |
| `frame_range` | (F, 2) rows of each picture; absent: a picture per row |
| `smplx` | `global_orient`, `body_pose`, `betas`; where they are there `transl`, `left_hand_pose`, `right_hand_pose`, `jaw_pose`, `expression`, `betas_neutral`, `smplx_valid` |
| `bbox_xywh` | (N, 4 or 5) people without a box in the picture are left out |
| `lhand_bbox_xywh`, `rhand_bbox_xywh`, `face_bbox_xywh` | (N, 5) with score 0 that part is at rest |
| `keypoints2d_smplx`, ... | (N, k, 3) pixels of people; without them the mesh is projected |
| `meta` | an entry per person, or one for all: `width`, `height`, `focal_length`, `principal_point`, `gender`, `smplx_valid`, and UBody's `iscrowd`, `num_keypoints`, `valid_label` |
| `misc` | `flat_hand_mean`: hand poses are relative to the flat hand, not to the mean hand |

Every person is an item of its own, called like the prediction of its picture (`inputs.photos.scene_names` of the whole path), with
`-1`, `-2`, ... behind it where a picture has several. Fits may also be called by the end of the path, where no other picture has the same.

As in AiOS, the gender picks the model where `--smplx` is a folder, hands, jaw and expression of a part without a box are zero, and the
eyes are at rest. Unlike AiOS, a file without boxes of parts does not put the parts to rest, `flat_hand_mean` is respected, and with one
model file for everybody `betas_neutral` replaces `betas`. The last two, the names of keys, and what AiOS does are from public code.
"""  # noqa: E501 (table rows)

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from annyfit_jax.exports.humandata_export import read_humandata
from annyfit_jax.inputs.photos import scene_names
from annyfit_jax.inputs.validate import MAX_IMAGE_SIDE, checked_array
from annyfit_jax.metrics.people_of_image import TruthPeople
from annyfit_jax.metrics.skeletons import SMPLX22
from annyfit_jax.people.scene import SceneError
from annyfit_jax.truth.smplx_truth import (
    GENDERS,
    OfficialParameters,
    SmplxPoser,
    flat_numbers,
    gendered,
    joint_regressor,
    one_person,
)
from annyfit_jax.truth.truth_source import TruthOptions, TruthSource

_KEYPOINTS = ("keypoints2d_ori", "keypoints2d_smplx", "keypoints2d_original", "keypoints2d")
"""In AiOS's order of preference. SMPL-X's 22 body joints come first in all of them."""
_NEEDED = {"global_orient": 3, "body_pose": 63}
_OPTIONAL = {"transl": 3, "left_hand_pose": 45, "right_hand_pose": 45, "jaw_pose": 3}
_NUM_EXPRESSION = 10
_BOXES = {
    "left_hand_pose": "lhand_bbox_xywh", "right_hand_pose": "rhand_bbox_xywh", "jaw_pose": "face_bbox_xywh",
    "expression": "face_bbox_xywh",
}  # fmt: skip
"""The box whose score says whether a parameter is known."""


class _Item(NamedTuple):
    file: Path
    row: int
    name: str
    aliases: tuple[str, ...]
    group: str


@dataclass(frozen=True)
class _People:
    """The N people of a file, checked."""

    pictures: list[str]
    frames: Int[np.ndarray, "F 2"]
    judged: Bool[np.ndarray, "N"]
    genders: list[str]
    body: dict[str, np.ndarray]
    known: dict[str, Bool[np.ndarray, "N"]]
    flat_hands: bool
    keypoints: Float[np.ndarray, "N 22 3"] | None
    sizes: Int[np.ndarray, "N 2"] | None
    cameras: Float[np.ndarray, "N 2 2"] | None
    """Focal lengths, principal point."""


def open_source(path: Path, options: TruthOptions, *, only_inside: bool = False) -> TruthSource:
    """The people of a HumanData file, or of all `*.npz` in a folder.

    Args:
      only_inside: only vertices inside the picture count (UBody); cameras and sizes of the pictures are needed then.
    """
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise SceneError(f"{path}: no HumanData files (*.npz)")
    regressor = joint_regressor(options.smplx)
    own_model = gendered(options.smplx)
    read = functools.lru_cache(maxsize=1)(_read)
    items, left_out, with_gender = _items(files, read, options.frame_step)
    poser = SmplxPoser(options.smplx)

    def load(index: int) -> TruthPeople:
        file, row, name, aliases, group = items[index]
        people, where = read(file), f"{file}: row {row} ({name})"
        if only_inside and (people.cameras is None or people.sizes is None):
            raise SceneError(f"{file}: meta: expected focal_length, principal_point, width and height of the pictures")
        person = _parameters(people, row, f"{where}: smplx", own_model)
        vertices = poser.vertices(person, where, gender=people.genders[row], flat_hands=people.flat_hands)
        size = None if people.sizes is None else (int(people.sizes[row, 0]), int(people.sizes[row, 1]))
        return one_person(
            name, vertices, regressor, None if people.cameras is None else _intrinsics(people.cameras[row]),
            keypoints=None if people.keypoints is None else people.keypoints[row], image_size=size,
            only_inside=only_inside, group=group, aliases=aliases,
        )  # fmt: skip

    notes = []
    if left_out:
        notes.append(f"{left_out} people without parameters, or without a box in the picture, are left out")
    if with_gender and not own_model:
        notes.append(
            f"one model file poses everybody, {with_gender} people have a gender; a folder has a file for each"
        )
    return TruthSource(tuple(item.name for item in items), load, str(path), tuple(notes))


def _items(files: list[Path], read: Any, step: int) -> tuple[list[_Item], int, int]:
    """People of every `step`-th picture; how many were left out; how many of the others have a gender."""
    pictures: dict[str, list[tuple[Path, int]]] = {}
    left_out = with_gender = 0
    for file in files:
        people = read(file)
        for first, last in people.frames[::step]:
            rows = (first + np.flatnonzero(people.judged[first:last])).tolist()
            left_out += int(last - first) - len(rows)
            with_gender += sum(people.genders[row] != "neutral" for row in rows)
            for row in rows:
                pictures.setdefault(people.pictures[row], []).append((file, row))
    ends = {picture: _ends(picture) for picture in pictures}
    common = Counter(name for names in ends.values() for name in names)
    items = []
    for picture, places in pictures.items():
        whole, *shorter = ends[picture]
        own = tuple(name for name in shorter if common[name] == 1)
        group = PurePosixPath(picture).parent.as_posix()
        for k, (file, row) in enumerate(places, 1):
            several = len(places) > 1
            items.append(
                _Item(file, row, f"{whole}-{k}" if several else whole, (whole, *own) if several else own, group)
            )
    return items, left_out, with_gender


def _ends(picture: str) -> tuple[str, ...]:
    """Names that a picture's prediction has if the program was given the first folder of its path, the second, ..."""
    parts = [part for part in picture.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return tuple(dict.fromkeys(scene_names(["/".join(parts[k:])])[0] for k in range(max(len(parts), 1))))


def _parameters(people: _People, row: int, where: str, own_model: bool) -> OfficialParameters:
    body = {
        name: values[row] for name, values in people.body.items() if name not in people.known or people.known[name][row]
    }
    betas = "betas_neutral" if not own_model and "betas_neutral" in body else "betas"
    rest = {name: np.zeros(size) for name, size in _OPTIONAL.items()} | {"expression": np.zeros(_NUM_EXPRESSION)}
    optional = {
        name: flat_numbers(body, name, _OPTIONAL.get(name, "expression"), where) for name in rest if name in body
    }
    return OfficialParameters(
        **{name: flat_numbers(body, name, size, where) for name, size in _NEEDED.items()},
        betas=flat_numbers(body, betas, "betas", where),
        **{**rest, **optional},
    )


def _intrinsics(camera: Float[np.ndarray, "2 2"]) -> Float[np.ndarray, "3 3"]:
    (fx, fy), (cx, cy) = camera
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


# ------------------------------------------------------------------------------------------------ a file


def _read(path: Path) -> _People:
    content = read_humandata(path)
    n = len(content["image_path"])
    if "smplx" not in content:
        bodies = ", ".join(key for key in ("smpl", "smplh", "anny") if key in content) or "no body"
        raise SceneError(f"{path}: smplx: missing, the file has {bodies}; truth is SMPL-X here")
    for key in (*_NEEDED, "betas"):
        if key not in content["smplx"]:
            raise SceneError(f"{path}: smplx: {key}: missing")
    meta, where = content["meta"], f"{path}: meta"
    width, height = (_column(meta, key, n, where) for key in ("width", "height"))
    sizes = None if width is None or height is None else np.stack([width, height], 1).astype(np.int64)
    if sizes is not None and ((sizes < 1) | (sizes > MAX_IMAGE_SIDE)).any():
        raise SceneError(f"{where}: width, height: expected 1 to {MAX_IMAGE_SIDE} pixels")
    camera = [_column(meta, key, n, where, 2) for key in ("focal_length", "principal_point")]
    known: dict[str, np.ndarray] = {}
    for name, key in _BOXES.items():
        if key in content:
            box = checked_array(content[key], f"{path}: {key}", (n, "k"))
            known[name] = box[:, 4] > 0 if box.shape[1] > 4 else np.ones(n, bool)
    return _People(
        pictures=content["image_path"],
        frames=content["frame_range"],
        judged=_judged(content, sizes, str(path)),
        genders=_genders(meta, n, where),
        body=content["smplx"],
        known=known,
        flat_hands=bool(np.all(content["misc"].get("flat_hand_mean", False))),
        keypoints=_keypoints(content, str(path)),
        sizes=sizes,
        cameras=None if camera[0] is None or camera[1] is None else np.stack([camera[0], camera[1]], 1),
    )


def _judged(content: dict[str, Any], sizes: np.ndarray | None, where: str) -> Bool[np.ndarray, "N"]:
    n = len(content["image_path"])
    judged = np.ones(n, bool)
    if "annot_valid" in content:
        judged &= checked_array(content["annot_valid"], f"{where}: annot_valid", (n,)) > 0
    for place, key in (
        ("smplx", "smplx_valid"),
        ("meta", "smplx_valid"),
        ("meta", "num_keypoints"),
        ("meta", "valid_label"),
    ):
        value = _column(content[place], key, n, f"{where}: {place}")
        judged &= True if value is None else value > 0
    crowd = _column(content["meta"], "iscrowd", n, f"{where}: meta")
    judged &= True if crowd is None else crowd == 0
    if "bbox_xywh" in content:
        first, extent = content["bbox_xywh"][:, :2], content["bbox_xywh"][:, 2:4]
        judged &= (extent > 0).all(1) & (first + extent > 0).all(1)
        judged &= True if sizes is None else (first < sizes).all(1)
    return judged


def _keypoints(content: dict[str, Any], where: str) -> Float[np.ndarray, "N 22 3"] | None:
    joints = len(SMPLX22)
    for key in _KEYPOINTS:
        if key in content:
            if content[key].shape[1] < joints or content[key].shape[2] != 3:
                raise SceneError(f"{where}: {key}: expected shape (N, k, 3), k >= {joints}, got {content[key].shape}")
            points = np.array(content[key][:, :joints], np.float64)
            if f"{key}_mask" in content:
                points[..., 2] *= np.asarray(content[f"{key}_mask"])[:joints] > 0
            return points
    return None


def _genders(meta: dict[str, Any], n: int, where: str) -> list[str]:
    values = meta.get("gender")
    if values is None or (not isinstance(values, str) and np.size(values) == 0):
        return ["neutral"] * n
    genders = [str(gender).lower() for gender in np.ravel(np.asarray(values, dtype=object))]
    if len(genders) not in (1, n) or not set(genders) <= set(GENDERS):
        raise SceneError(
            f"{where}: gender: expected {n} texts among {', '.join(GENDERS)}, got {len(genders)}: {genders[:3]}"
        )
    return genders * (n // len(genders)) if n else []


def _column(meta: dict[str, Any], key: str, n: int, where: str, width: int = 1) -> np.ndarray | None:
    """(N,) or (N, width) numbers from a value per person or one for all; None where there is none."""
    try:
        values = np.asarray(meta.get(key, []))
    except ValueError as error:
        raise SceneError(f"{where}: {key}: expected {n} entries, got rows of different lengths") from error
    if values.size == 0 or meta[key] is None:
        return None
    rows = values.size // width
    if values.dtype.kind not in "biuf" or values.size % width or rows not in (1, n) or not np.isfinite(values).all():
        raise SceneError(
            f"{where}: {key}: expected finite numbers, shape ({n}, {width}), got {values.dtype} {values.shape}"
        )
    column = np.broadcast_to(values.reshape(rows, width).astype(np.float64), (n, width))
    return column[:, 0] if width == 1 else column
