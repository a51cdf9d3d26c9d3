"""Fits of SMPL-X as `.npz` in the layouts of AMASS and BEDLAM: `amass`, a file for each person; `bedlam`, one file of all.

| key of `amass` | shape | meaning |
|---|---|---|
| `poses` | (1, 165) | `root_orient`, `pose_body`, `pose_jaw`, `pose_eye`, `pose_hand` in this order; also by these names |
| `trans` | (1, 3) | metres, the official `transl` |
| `betas`, `num_betas` | (S,), () | |
| `gender`, `surface_model_type` | text | `neutral`, `smplx` |
| `mocap_frame_rate`, `mocap_time_length` | () | 1 and 1: a photo is one frame |

| key of `bedlam` | shape | meaning |
|---|---|---|
| `imgname` | (N,) text | the person's photo |
| `pose_cam`, `pose_world` | (N, 165) | as `poses`; both in camera axes, since the world of a photo is its camera's |
| `shape` | (N, S) | betas |
| `trans_cam` | (N, 3) | metres, the official `transl` in camera axes |
| `cam_int`, `cam_ext` | (N, 3, 3), (N, 4, 4) | intrinsics in pixels; the identity |
| `gtkps` | (N, 17, 3) | COCO keypoints of the fit in pixels, and 1 |
| `center`, `scale` | (N, 2), (N,) | of the box around the seen keypoints, pixels; scale is its longer side by 200 pixels |
| `gender`, `sub` | (N,) text | `neutral`; the person's id |

Neither layout has expressions: they are left out. Rotations are complete: readers load the body with `flat_hand_mean=True`,
as they do for AMASS and BEDLAM. The official package turns a body about its resting pelvis and then adds `transl`. A camera
that is turned by Q and moved by q therefore sees `transl` at Q (transl + pelvis) + q - pelvis: it is made from the position of
the pelvis, which just moves along.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from annyfit_jax.exports import exported_people, scene_files
from annyfit_jax.exports.coco_export import photo_name
from annyfit_jax.people.fit_meshes import smplx_face
from annyfit_jax.people.fitted import SceneFit, drawable
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.records.file_names import file_stem, write_table
from annyfit_jax.records.files import write_npz
from body_models import smplx

_PIXELS_PER_SCALE = 200.0
_PARTS = {
    "root_orient": slice(0, 3), "pose_body": slice(3, 66), "pose_jaw": slice(66, 69), "pose_eye": slice(69, 75),
    "pose_hand": slice(75, 165),
}  # fmt: skip


def moved(people: BodyParameters, transform: Float[np.ndarray, "4 4"]) -> BodyParameters:
    """Bodies seen from elsewhere: a point p of the old axes is `transform` p in the new ones."""
    root = Rotation.from_matrix(transform[:3, :3]) * Rotation.from_rotvec(np.asarray(people.root_rotvec, np.float64))
    return dataclasses.replace(people, root_rotvec=root.as_rotvec(), transl=scene_files.move(people.transl, transform))


def full_pose(people: BodyParameters) -> Float[np.ndarray, "n 165"]:
    """Complete rotation vectors of all joints, the pelvis first."""
    return np.concatenate([people.root_rotvec[:, None], people.pose], axis=1).reshape(len(people), -1)


def official_transl(model: smplx.SmplxModel, people: BodyParameters) -> Float[np.ndarray, "n 3"]:
    """What the official package adds after posing."""
    dtype = model.dtype
    transl = smplx.transl_from_translation(model, jnp.asarray(people.shape, dtype), jnp.asarray(people.transl, dtype))
    return np.asarray(transl, np.float64)


def write_amass(fits: Iterable[SceneFit], folder: str | Path, model: smplx.SmplxModel, frame: str) -> list[Path]:
    """Writes `<scene>_person_<id>.npz` of everybody with a fit; `frame` as of `scene_files.camera_to_frame`."""
    written: list[Path] = []
    odd: list[str] = []
    for fit in fits:
        rows = drawable(fit)
        floor = _vertices(model, fit.parameters.select(rows)) if frame == "world" and len(rows) else None
        people = moved(fit.parameters.select(rows), scene_files.camera_to_frame(frame, floor))
        poses, transl = full_pose(people), official_transl(model, people)
        for i, node in enumerate(scene_files.node_names(fit, rows)):
            name = f"{fit.name}_{node}"
            parts = {key: poses[i : i + 1, part].astype(np.float32) for key, part in _PARTS.items()}
            arrays = {
                **parts,
                "poses": poses[i : i + 1].astype(np.float32),
                "trans": transl[i : i + 1].astype(np.float32),
                "betas": people.shape[i].astype(np.float32),
                "num_betas": np.array(people.shape.shape[1]),
                "gender": np.array("neutral"),
                "surface_model_type": np.array("smplx"),
                "mocap_frame_rate": np.array(1.0),
                "mocap_time_length": np.array(1.0),
            }
            path = Path(folder) / f"{file_stem(name)}.npz"
            write_npz(path, arrays)
            written.append(path)
            odd += [name] if file_stem(name) != name else []
    write_table(folder, odd)
    return written


def write_bedlam(
    fits: Iterable[SceneFit], path: str | Path, model: smplx.SmplxModel, image_root: str | Path | None = None
) -> list[Path]:
    """Writes one file of everybody with a fit. Raises ValueError where there is nobody."""
    rows: list[dict[str, np.ndarray]] = []
    for fit in fits:
        kept = drawable(fit)
        people = fit.parameters.select(kept)
        if not len(kept):
            continue
        box = exported_people.boxes(fit)[kept]
        pixels = exported_people.projections(fit)[kept]
        pose = full_pose(people).astype(np.float32)
        rows.append(
            {
                "imgname": np.full(len(kept), photo_name(fit, image_root)),
                "pose_cam": pose,
                "pose_world": pose,
                "shape": people.shape.astype(np.float32),
                "trans_cam": official_transl(model, people).astype(np.float32),
                "cam_int": np.tile(np.asarray(fit.K, np.float32), (len(kept), 1, 1)),
                "cam_ext": np.tile(np.eye(4, dtype=np.float32), (len(kept), 1, 1)),
                "gtkps": np.concatenate([pixels, np.ones_like(pixels[..., :1])], -1).astype(np.float32),
                "center": (0.5 * (box[:, :2] + box[:, 2:])).astype(np.float32),
                "scale": ((box[:, 2:] - box[:, :2]).max(1) / _PIXELS_PER_SCALE).astype(np.float32),
                "gender": np.full(len(kept), "neutral"),
                "sub": np.asarray(fit.person_ids)[kept],
            }
        )
    if not rows:
        raise ValueError("nobody was fitted, there is nothing to write")
    write_npz(path, {key: np.concatenate([row[key] for row in rows]) for key in rows[0]})
    return [Path(path)]


def join_bedlam(parts: Sequence[Path], path: str | Path) -> int:
    """One file of several; returns the number of its people. Raises ValueError where there is nobody."""
    if not parts:
        raise ValueError("nobody was fitted, there is nothing to write")
    arrays = [dict(np.load(part)) for part in parts]
    joined = {key: np.concatenate([rows[key] for rows in arrays]) for key in arrays[0]}
    with Path(path).open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **joined)
    return len(joined["imgname"])


def _vertices(model: smplx.SmplxModel, people: BodyParameters) -> Float[np.ndarray, "n 10475 3"]:
    arrays = (people.shape, people.root_rotvec, people.pose, people.transl, smplx_face(model, people))
    params = smplx.Params(*(jnp.asarray(x, model.dtype) for x in arrays))
    return np.asarray(_posed(model, params))


_posed = jax.jit(lambda model, people: smplx.forward(model, people).vertices)
