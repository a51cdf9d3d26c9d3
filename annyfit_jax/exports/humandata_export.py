"""HumanData `.npz`: the layout of MMHuman3D's `MultiHumanData`, which AiOS trains on. N people, image after image.

| key | shape | meaning |
|---|---|---|
| `image_path` | (N,) text | the person's photo, relative to the image folder |
| `frame_range` | (F, 2) | rows of each of the F images: first, one past the last |
| `bbox_xywh` | (N, 5) | pixels: x, y, width, height, score; around the seen keypoints; score 0 = unknown |
| `keypoints2d_original` | (N, 190, 3) | what the fit was given: x, y in pixels, confidence |
| `keypoints2d`, `keypoints3d` | (N, 190, 3), (N, 190, 4) | of the fit: pixels; metres in camera axes; confidence 1 or 0 |
| `<keypoints>_mask` | (190,) | 1 for the joints that the file has at all |
| `anny` | dictionary | arrays with N rows: `root_rotvec`, `transl`, `pose`, `shape`, `height_m`, `reprojection_px` or -1 |
| `smplx` | dictionary | `global_orient`, `body_pose` (N, 21, 3), ..., official `transl`; in place of `anny`, or beside it |
| `annot_valid` | (N,) bool | the person has a fit; the others have keypoints only, their parameters are 0 |
| `meta` | dictionary | per person `height`, `width`, `focal_length`, `principal_point`, `gender`, `scene`, `person_id` |
| `misc` | dictionary | names of bones and phenotypes, axes, versions |
| `config` | text | `annyfit-jax` |
| `__data_len__`, `__instance_num__` | () | F, N |
| `__key_strict__`, `__keypoints_compressed__` | () | False |

Keypoints are in the convention HUMAN_DATA: 190 joints, of which SMPL-X's 144 come first, so that readers of either numbering
find them. COCO's 17 have a place each, and the hips two: `left_hip`, `right_hip` (where AiOS looks) and `left_hip_extra`,
`right_hip_extra` (MMHuman3D's name for COCO's hips). Fits of Anny have `smplx` too where the user's SMPL-X file is given:
they are converted (`annyfit_jax.conversion`), and `anny` has the distance of the surfaces, `smplx_surface_m`, or -1. Without
the file they get no zeros that a program might take for bodies. Hand poses of `smplx` are relative to the model's mean hand, as
there.

The layout stores dictionaries, and those are pickles. Ours name nothing but numpy's array constructor, by the name that numpy
1 and 2 both know. `read_humandata` reads such files, ours or others', without executing a pickle.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from numpy.lib import format as npy

from annyfit_jax.exports import exported_people
from annyfit_jax.exports.coco_export import photo_name
from annyfit_jax.people.scene import SceneError
from annyfit_jax.people.words import gender_class
from annyfit_jax.records.files import replacing
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.records.npz import PLAIN_PICKLES, Npz, open_npz
from body_models import smplx

NUM_JOINTS = 190
COCO_PLACES: tuple[tuple[int, ...], ...] = (
    (55,), (57,), (56,), (59,), (58,), (16,), (17,), (18,), (19,), (20,), (21,), (1, 145), (2, 144), (4,), (5,), (7,), (8,),
)  # fmt: skip
"""Rows of the convention HUMAN_DATA that each COCO-17 keypoint stands in."""
PEOPLE_PER_FILE = 10_000
"""Some 250 MB of memory while a file is made."""
_BODIES = ("smpl", "smplx", "anny")
_SMPLX_PARTS = {
    "body_pose": slice(0, 21), "jaw_pose": 21, "leye_pose": 22, "reye_pose": 23, "left_hand_pose": slice(24, 39),
    "right_hand_pose": slice(39, 54),
}  # fmt: skip
"""Rows of our pose, which follows `smplx.JOINTS` without the pelvis."""


# ------------------------------------------------------------------------------------------------ writing


def write_humandata(
    fits: Iterable[SceneFit],
    folder: str | Path,
    *,
    people_per_file: int = PEOPLE_PER_FILE,
    image_root: str | Path | None = None,
    smplx_model: smplx.SmplxModel | None = None,
    to_smplx: Callable[[SceneFit], SceneFit] | None = None,
) -> list[Path]:
    """Writes `humandata-00000.npz`, `humandata-00001.npz`, ...; an image's people are never parted. Returns the files.

    Args:
      people_per_file: a file ends with the image that reaches this number of people.
      image_root: as for `coco_export.write_coco`.
      smplx_model: needed for fits of SMPL-X, whose official `transl` is an offset from the resting pelvis.
      to_smplx: makes fits of SMPL-X from fits of Anny, for `smplx` beside `anny`; it is not asked about the former.

    Raises ValueError for SMPL-X fits without a model and for fits of several bodies, OSError; errors of `fits` pass through.
    """
    written: list[Path] = []
    part: list[SceneFit] = []
    count = 0

    def flush() -> None:
        nonlocal part, count
        path = Path(folder) / f"humandata-{len(written):05d}.npz"
        write_entries(path, entries(part, image_root, smplx_model, to_smplx))
        written.append(path)
        part, count = [], 0

    for fit in fits:
        kept = kept_people(fit)
        if len(kept):
            part.append(fit)
            count += len(kept)
        if count >= people_per_file:
            flush()
    if part:
        flush()
    return written


def entries(
    fits: Sequence[SceneFit],
    image_root: str | Path | None = None,
    smplx_model: smplx.SmplxModel | None = None,
    to_smplx: Callable[[SceneFit], SceneFit] | None = None,
) -> dict[str, Any]:
    """The content of one file; `fits` have somebody with a fit or a seen keypoint each."""
    rows = [kept_people(fit) for fit in fits]
    ends = np.cumsum([len(kept) for kept in rows])
    names = {tuple(fit.bone_labels.tolist()) for fit in fits}
    if len(names) > 1:
        raise ValueError(f"{fits[0].name}, ...: fits of different bodies; write them to files of their own")

    def per_person(values: Sequence[Any]) -> np.ndarray:
        """A value per fit, repeated for its people."""
        return np.repeat(np.array(values), [len(kept) for kept in rows], axis=0)

    def gather(arrays: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.asarray(array)[kept] for array, kept in zip(arrays, rows)])

    valid = gather(fit.ok for fit in fits)

    def fitted(arrays: Iterable[np.ndarray]) -> np.ndarray:
        """Of people without a fit 0."""
        values = gather(arrays).astype(np.float32)
        return np.where(valid.reshape(-1, *(1,) * (values.ndim - 1)), values, np.float32(0))

    box = gather(exported_people.boxes(fit) for fit in fits)
    boxed = np.isfinite(box).all(1, keepdims=True)
    extent = np.concatenate([box[:, :2], box[:, 2:] - box[:, :2], np.ones_like(box[:, :1])], 1)
    cue = gather(np.where(exported_people.seen(fit)[..., None], fit.keypoints_2d, 0.0) for fit in fits)
    pixels = fitted(exported_people.projections(fit) for fit in fits)
    points = fitted(fit.fitted_keypoints_3d for fit in fits)
    sure = np.repeat(valid[:, None, None], points.shape[1], 1)
    mask = np.zeros(NUM_JOINTS, np.uint8)
    mask[[place for places in COCO_PLACES for place in places]] = 1
    body = {name: fitted(getattr(fit, name) for fit in fits) for name in ("root_rotvec", "transl", "pose", "shape")}
    is_smplx = names == {smplx.JOINTS[1:]}
    face = np.nan_to_num(fitted(fit.expression for fit in fits))
    genders = ["neutral"] * len(valid) if is_smplx else [gender_class(float(g)) for g in body["shape"][:, 0]]
    K = per_person([fit.K for fit in fits])
    meta: dict[str, Any] = {
        "height": per_person([int(fit.image_size[1]) for fit in fits]),
        "width": per_person([int(fit.image_size[0]) for fit in fits]),
        "focal_length": K[:, [0, 1], [0, 1]].astype(np.float32),
        "principal_point": K[:, [0, 1], [2, 2]].astype(np.float32),
        "gender": np.array([gender if ok else "neutral" for gender, ok in zip(genders, valid)]),
        "scene": per_person([fit.name for fit in fits]),
        "person_id": gather(fit.person_ids for fit in fits),
    }
    if is_smplx:
        meta["smplx_valid"] = valid.astype(np.uint8)
    else:
        body["height_m"] = fitted(fit.height_m for fit in fits)
        error = fitted(fit.reprojection_px for fit in fits)
        body["reprojection_px"] = np.where(np.isfinite(error), error, -1.0).astype(error.dtype)
    bodies = {"smplx" if is_smplx else "anny": _smplx_dictionary(body, face, smplx_model) if is_smplx else body}
    if to_smplx is not None and not is_smplx:
        converted = [to_smplx(fit) for fit in fits]
        near = gather(fit.conversion_m for fit in converted)
        body["smplx_surface_m"] = np.where(np.isfinite(near), near, -1.0).astype(np.float32)
        other = {
            name: fitted(getattr(fit, name) for fit in converted) for name in ("root_rotvec", "transl", "pose", "shape")
        }
        bodies["smplx"] = _smplx_dictionary(other, np.zeros_like(face), smplx_model)
        meta["smplx_valid"] = valid.astype(np.uint8)
    return {
        "__key_strict__": np.array(False),
        "__data_len__": np.array(len(fits)),
        "__instance_num__": np.array(len(valid)),
        "__keypoints_compressed__": np.array(False),
        "config": np.array("annyfit-jax"),
        "image_path": per_person([photo_name(fit, image_root) for fit in fits]),
        "frame_range": np.stack([np.concatenate([[0], ends[:-1]]), ends], 1).astype(np.int64),
        "bbox_xywh": np.where(boxed, extent, 0).astype(np.float32),
        "keypoints2d_original": _placed(cue),
        "keypoints2d_original_mask": mask,
        "keypoints2d": _placed(np.concatenate([np.nan_to_num(pixels), sure & np.isfinite(pixels).all(-1, keepdims=True)], 2)),
        "keypoints2d_mask": mask,
        "keypoints3d": _placed(np.concatenate([points, sure], 2)),
        "keypoints3d_mask": mask,
        **bodies,
        "annot_valid": valid,
        "meta": meta,
        "misc": {
            "bone_labels": fits[0].bone_labels,
            "phenotype_labels": fits[0].phenotype_labels,
            "frame": fits[0].frame,
            "asset_version": fits[0].asset_version,
            "config_hash": fits[0].config_hash,
        },
    }  # fmt: skip


def write_entries(path: str | Path, content: Mapping[str, Any]) -> None:
    """An `.npz` of arrays and dictionaries of arrays, atomically."""
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive,
    ):
        for name, value in content.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if isinstance(value, np.ndarray):
                    npy.write_array(member, value, allow_pickle=False)
                else:
                    npy.write_array_header_1_0(member, {"descr": "|O", "fortran_order": False, "shape": ()})
                    array = np.empty((), object)
                    array[()] = dict(value)
                    _Pickler(member, 4).dump(array)


_reconstruct = np.zeros(0).__reduce__()[0]


_PythonPickler: Any = getattr(pickle, "_Pickler")  # noqa: B009 (the C one has no such hook; type checkers see neither)


class _Pickler(_PythonPickler):
    """Writes numpy arrays under the constructor's old name, which numpy 1 and 2 both have."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if obj is not _reconstruct:
            return super().save_global(obj, name)
        self.write(b"cnumpy.core.multiarray\n_reconstruct\n")  # the opcode GLOBAL
        self.memoize(obj)


def kept_people(fit: SceneFit) -> Int[np.ndarray, "k"]:
    """The rows of a fit that HumanData has: people with a fit or a seen keypoint."""
    return np.flatnonzero(fit.ok | exported_people.seen(fit).any(1))


def _placed(coco: np.ndarray) -> np.ndarray:
    """(N, 17, c) COCO keypoints -> (N, 190, c) float32."""
    out = np.zeros((len(coco), NUM_JOINTS, coco.shape[2]), np.float32)
    for joint, places in enumerate(COCO_PLACES):
        out[:, list(places)] = coco[:, joint, None]
    return out


def _smplx_dictionary(
    body: dict[str, np.ndarray], expression: Float[np.ndarray, "N 10"], model: smplx.SmplxModel | None
) -> dict[str, np.ndarray]:
    if model is None:
        raise ValueError("fits of SMPL-X: the model file is needed to write the official `transl`")
    pose, betas = body["pose"].copy(), body["shape"]
    for hand, mean in zip(("left_hand_pose", "right_hand_pose"), np.asarray(model.hand_means)):
        pose[:, _SMPLX_PARTS[hand]] -= mean.reshape(-1, 3)
    face = expression[:, : model.labels.num_expression]
    given = (jnp.asarray(x, model.dtype) for x in (betas, body["transl"], face))
    transl = np.asarray(smplx.transl_from_translation(model, *given))
    return {
        "global_orient": body["root_rotvec"],
        "transl": transl.astype(np.float32),
        "betas": betas,
        "expression": expression,
        **{name: pose[:, part] for name, part in _SMPLX_PARTS.items()},
    }


# ------------------------------------------------------------------------------------------------ reading


def read_humandata(path: str | Path) -> dict[str, Any]:
    """The entries of a HumanData file, checked, without executing its pickles.

    `image_path` is a list of N texts, `bbox_xywh` (N, 5), every `keypoints*` (N, k, c) with the places that compression left
    out filled with zeros, every `keypoints*_mask` (k,); `frame_range` (F, 2) is always there; `smpl`, `smplx` and `anny` are
    dictionaries of arrays with N rows. Other entries come as they are stored: arrays, dictionaries, texts.

    Raises SceneError naming file and field.
    """
    with open_npz(str(path), PLAIN_PICKLES) as archive:
        content = {key: _unwrapped(archive.read(key)) for key in archive.keys()}  # noqa: SIM118 (no mapping)
        _check(content, archive)
    return content


def _unwrapped(value: Any) -> Any:
    """What stands in a 0-dimensional array."""
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _check(content: dict[str, Any], archive: Npz) -> None:
    if "image_path" not in content:
        raise SceneError(f"{archive.where('image_path')}: missing; not a HumanData file")
    paths = content["image_path"]
    if not isinstance(paths, np.ndarray | list) or np.ndim(paths) != 1 or not all(isinstance(p, str) for p in paths):
        raise SceneError(f"{archive.where('image_path')}: expected N texts")
    content["image_path"] = [str(name) for name in paths]
    count = len(paths)
    if "bbox_xywh" in content:
        box = _numbers(content["bbox_xywh"], archive.where("bbox_xywh"), (count, (4, 5)))
        score = np.ones((count, 5 - box.shape[1]), box.dtype)
        content["bbox_xywh"] = np.concatenate([box, score], 1)
    compressed = bool(content.get("__keypoints_compressed__", False))
    for key in [key for key in content if key.startswith("keypoints") and not key.endswith("_mask")]:
        where, mask = archive.where(key), content.get(f"{key}_mask")
        points = _numbers(content[key], where, (count, None, (3, 4)))
        if mask is not None:
            mask = content[f"{key}_mask"] = _numbers(mask, archive.where(f"{key}_mask"), (None,))
            if compressed:
                full = np.zeros((count, len(mask), points.shape[2]), points.dtype)
                if points.shape[1] != np.count_nonzero(mask):
                    raise SceneError(
                        f"{where}: {points.shape[1]} joints are stored, its mask has {np.count_nonzero(mask)}"
                    )
                full[:, mask > 0] = points
                points = full
            elif len(mask) != points.shape[1]:
                raise SceneError(f"{where}: expected {len(mask)} joints like its mask, got {points.shape[1]}")
        content[key] = points
    content["__keypoints_compressed__"] = False
    _check_frames(content, count, archive.where("frame_range"))
    for key in _BODIES:
        if key in content:
            body = content[key]
            if not isinstance(body, dict):
                raise SceneError(f"{archive.where(key)}: expected a dictionary of arrays, got {type(body).__name__}")
            content[key] = {
                name: _numbers(value, f"{archive.where(key)}: {name!s:.40}", (count, ...))
                for name, value in body.items()
            }
    for key in ("meta", "misc"):
        if not isinstance(content.setdefault(key, {}), dict):
            raise SceneError(f"{archive.where(key)}: expected a dictionary, got {type(content[key]).__name__}")


def _check_frames(content: dict[str, Any], count: int, where: str) -> None:
    if "frame_range" not in content:
        content["frame_range"] = np.stack([np.arange(count), np.arange(1, count + 1)], 1)
        return
    frames = _numbers(content["frame_range"], where, (None, 2))
    if (
        frames.dtype.kind not in "iu"
        or (frames < 0).any()
        or (frames > count).any()
        or (frames[:, 0] > frames[:, 1]).any()
    ):
        raise SceneError(f"{where}: expected first and one past the last of {count} rows")
    content["frame_range"] = frames


def _numbers(value: Any, where: str, shape: tuple[Any, ...]) -> np.ndarray:
    """The value as an array of finite numbers; None = any size, a tuple = one of them, ... = any further axes."""
    array = value if isinstance(value, np.ndarray) else np.array(value) if isinstance(value, list) else None
    spelled = "(" + ", ".join(
        "k" if s is None else " or ".join(map(str, s)) if isinstance(s, tuple) else str(s) for s in shape
    )
    if array is None or array.dtype.kind not in "biuf":
        raise SceneError(f"{where}: expected numbers of shape {spelled}), got {type(value).__name__}")
    sizes, open_end = (shape[:-1], True) if shape[-1] is ... else (shape, False)
    fits = array.ndim >= len(sizes) if open_end else array.ndim == len(sizes)
    for size, wanted in zip(array.shape, sizes):
        fits = fits and (wanted is None or size == wanted or (isinstance(wanted, tuple) and size in wanted))
    if not fits:
        raise SceneError(f"{where}: expected numbers of shape {spelled}), got {array.shape}")
    if not np.isfinite(array).all():
        raise SceneError(f"{where}: expected finite numbers")
    return array
