"""Fits of a scene: what is stored per person, and how. One `.npz` per scene, plain arrays, no pickles.

Frame of everything: camera axes (x right, y down, z forward), metres, radians. `transl` is the root bone's head, a point in
the lower back. `shape` and `pose` are inside the body's ranges: what you load is the body you saw.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

FRAME = "camera axes: x right, y down, z forward; metres; radians; transl = head of the root bone"
FORMAT_VERSION = 1


@dataclass
class SceneFit:
    """Fitted parameters of the n people of one input scene, in the input's order; NaN rows where nothing was fitted."""

    name: str
    image_size: np.ndarray
    """(2,) int width, height in pixels."""
    image_path: str
    """The photo, or empty."""
    K: np.ndarray
    """(3, 3) intrinsics in pixels."""
    person_ids: np.ndarray
    """(n,) str."""
    status: np.ndarray
    """(n,) str: `ok`, `failed:<reason>` or `skipped:<reason>`."""
    notes: np.ndarray
    """(n,) str, separated by `;`: what was missing or repaired, e.g. `no_words`."""
    root_rotvec: np.ndarray
    """(n, 3) float32."""
    transl: np.ndarray
    """(n, 3) float32."""
    pose: np.ndarray
    """(n, 162, 3) float32."""
    shape: np.ndarray
    """(n, 6) float32, clipped to the body's range."""
    shape_raw: np.ndarray
    """(n, 6) float32 as optimised (may lie outside the range; what the losses saw)."""
    start_root_rotvec: np.ndarray
    start_transl: np.ndarray
    start_pose: np.ndarray
    start_shape: np.ndarray
    start_origin: str
    """`cue` (feed-forward initialisation) or `keypoints`."""
    height_m: np.ndarray
    """(n,) float32 vertical extent of the resting body."""
    depth_m: np.ndarray
    """(n,) float32 camera z of the root bone."""
    reprojection_px: np.ndarray
    """(n,) float32 mean error of the confident body keypoints; NaN without such a keypoint."""
    start_reprojection_px: np.ndarray
    """(n,) float32 the same at the start."""
    keypoints_2d: np.ndarray
    """(n, 17, 3) float32 the cue."""
    fitted_keypoints_3d: np.ndarray
    """(n, 17, 3) float32 COCO-17 of the fit, camera space, metres."""
    age_word: np.ndarray
    """(n,) float32 anchor of the cue, -1 = none."""
    gender_word: np.ndarray
    """(n,) float32 anchor of the cue, -1 = none."""
    loss_names: np.ndarray
    """(t,) str terms of the objective."""
    loss_curve: np.ndarray
    """(steps, t) float32 weighted value per step of the whole schedule; NaN where a stage does not compute the term."""
    bone_labels: np.ndarray
    """(162,) str: rows of `pose`."""
    phenotype_labels: np.ndarray
    """(6,) str: columns of `shape`."""
    asset_version: str
    config_hash: str
    config_json: str
    scene_notes: np.ndarray
    """(k,) str: what the reader assumed."""
    set_aside: np.ndarray
    """(m, 2) str: (person id, reason) of people that the reader set aside before the fit."""
    frame: str = FRAME
    format_version: int = FORMAT_VERSION
    vertices: np.ndarray | None = None
    """(n, 13718, 3) float32 posed vertices in camera space, only on request."""

    def __len__(self) -> int:
        return len(self.status)

    @property
    def ok(self) -> np.ndarray:
        """(n,) bool."""
        return self.status == "ok"


class FitFileError(ValueError):
    """A fit file that cannot be read; the message names file and field."""


def save(fit: SceneFit, path: str | Path) -> None:
    """Write a fit. The file appears complete or not at all."""
    arrays = {f.name: getattr(fit, f.name) for f in fields(fit) if getattr(fit, f.name) is not None}
    write_npz(path, arrays)


def load(path: str | Path) -> SceneFit:
    """Read a fit written by `save`. Raises FitFileError naming the file and the missing or wrong field."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged zip raises many kinds (BadZipFile, zlib.error, ...)
        raise FitFileError(f"{path}: not a readable fit file ({error})") from None
    if int(arrays.get("format_version", -1)) != FORMAT_VERSION:
        raise FitFileError(f"{path}: format_version {arrays.get('format_version')}, expected {FORMAT_VERSION}")
    known = {f.name for f in fields(SceneFit)}
    missing = known - set(arrays) - {"vertices"}
    if missing:
        raise FitFileError(f"{path}: missing {', '.join(sorted(missing))}")
    strings = {"name", "image_path", "start_origin", "asset_version", "config_hash", "config_json", "frame"}
    values = {k: str(v) if k in strings else v for k, v in arrays.items() if k in known}
    return SceneFit(**{**values, "format_version": int(values["format_version"])})


def write_npz(path: str | Path, arrays: dict) -> None:
    """`np.savez_compressed`, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write to a temporary name in the same folder, then rename: the file appears complete or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def people_rows(fit: SceneFit) -> list[dict]:
    """One JSON-able row per person, for tables and reports."""

    def number(value) -> float | None:
        return round(float(value), 4) if np.isfinite(value) else None

    return [
        {
            "scene": fit.name,
            "person": str(fit.person_ids[i]),
            "status": str(fit.status[i]),
            "age": number(fit.shape[i, 1]),
            "gender": number(fit.shape[i, 0]),
            "height_m": number(fit.height_m[i]),
            "depth_m": number(fit.depth_m[i]),
            "reprojection_px": number(fit.reprojection_px[i]),
            "start_reprojection_px": number(fit.start_reprojection_px[i]),
            "notes": str(fit.notes[i]),
        }
        for i in range(len(fit))
    ]


def rows_to_jsonl(rows: list[dict]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)
