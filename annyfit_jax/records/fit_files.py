"""Fits of a scene: what is stored per person, and how. One `.npz` per scene, plain arrays, no pickles.

Frame of everything: camera axes (x right, y down, z forward), metres, radians. `transl` is the root bone's head, a point in
the lower back. `shape` and `pose` are inside the body's ranges: what you load is the body you saw.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from annyfit_jax.people.scene import BodyParameters, SceneError
from annyfit_jax.records.files import write_npz
from annyfit_jax.records.npz import open_npz

FRAME = "camera axes: x right, y down, z forward; metres; radians; transl = head of the root bone"
FORMAT_VERSION = 3
_READABLE_VERSIONS = (1, 2, FORMAT_VERSION)
"""Version 1 has none of `ADDED`, version 2 none of `ADDED_LATER`."""
ADDED_LATER: dict[str, tuple[int, ...]] = {"spread_m": (), "seen": (17,), "camera": (3,)}
ADDED: dict[str, tuple[int, ...]] = {
    "depth_cue_m": (), "depth_scale": (), "visible_depth_m": (), "sd_depth_m": (), "sd_height_m": (),
    "sd_joints_m": (17,), "converged": (), **ADDED_LATER,
}  # fmt: skip
"""Per-person float32 arrays that older files and other solvers leave out, and the shape of a row; unknown is NaN."""
_UNKNOWN = np.zeros(0, np.float32)


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
    depth_cue_m: np.ndarray = field(default_factory=lambda: _UNKNOWN)
    """(n,) float32 metric depth cue; NaN = none. This and what follows are optional, see `ADDED`."""
    depth_scale: np.ndarray = field(default_factory=lambda: _UNKNOWN)
    """(n,) float32 factor that the fit found for the depth cues of the scene, the same for all its people."""
    visible_depth_m: np.ndarray = field(default_factory=lambda: _UNKNOWN)
    """(n,) float32 median camera z of the visible surface: what `depth_cue_m` x `depth_scale` measures."""
    sd_depth_m: np.ndarray = field(default_factory=lambda: _UNKNOWN)
    """(n,) float32 standard deviation of `depth_m`."""
    sd_height_m: np.ndarray = field(default_factory=lambda: _UNKNOWN)
    """(n,) float32 standard deviation of `height_m`."""
    sd_joints_m: np.ndarray = field(default_factory=lambda: _UNKNOWN)
    """(n, 17) float32 root mean square distance to be expected of `fitted_keypoints_3d`."""
    converged: np.ndarray = field(default_factory=lambda: _UNKNOWN)
    """(n,) float32 1 where the solver had little left to gain, else 0."""
    spread_m: np.ndarray = field(default_factory=lambda: _UNKNOWN)
    """(n,) float32 how far the joints of other starts' ends are from these, hips aligned, weighed by how well they explain the
    cues: root mean square. Large where other postures explain the picture as well."""
    seen: np.ndarray = field(default_factory=lambda: _UNKNOWN)
    """(n, 17) float32 1 where the cue has the keypoint with confidence, 0 where the fit has it from its priors alone."""
    camera: np.ndarray = field(default_factory=lambda: _UNKNOWN)
    """(n, 3) float32 pitch (down is positive) and roll of the camera, radians, and its height above the ground, metres: as the
    fit found them from the people, the same for all of them."""
    vertices: np.ndarray | None = None
    """(n, 13718, 3), of SMPL-X (n, 10475, 3), float32 posed vertices in camera space, only on request."""

    def __post_init__(self) -> None:
        for name, shape in ADDED.items():
            if getattr(self, name) is _UNKNOWN:
                setattr(self, name, np.full((len(self.status), *shape), np.nan, np.float32))

    def __len__(self) -> int:
        return len(self.status)

    @property
    def ok(self) -> np.ndarray:
        """(n,) bool."""
        return self.status == "ok"

    @property
    def parameters(self) -> BodyParameters:
        """The fitted parameters, inside the body's ranges; NaN rows where nobody was fitted."""
        return BodyParameters(self.root_rotvec, self.transl, self.pose, self.shape)

    @property
    def start(self) -> BodyParameters:
        """The parameters that the fit started from; words have already overwritten age and gender."""
        return BodyParameters(self.start_root_rotvec, self.start_transl, self.start_pose, self.start_shape)


_SHAPES: dict[str, tuple[int | str, ...]] = {
    "image_size": (2,), "K": (3, 3), "person_ids": ("n",), "status": ("n",), "notes": ("n",),
    **{
        prefix + name: shape
        for prefix in ("", "start_")
        for name, shape in {
            "root_rotvec": ("n", 3), "transl": ("n", 3), "pose": ("n", "bones", 3), "shape": ("n", "phenotypes"),
        }.items()
    },
    "shape_raw": ("n", "phenotypes"), "height_m": ("n",), "depth_m": ("n",), "reprojection_px": ("n",),
    "start_reprojection_px": ("n",), "keypoints_2d": ("n", 17, 3), "fitted_keypoints_3d": ("n", 17, 3), "age_word": ("n",),
    "gender_word": ("n",), "loss_names": ("terms",), "loss_curve": ("steps", "losses"), "scene_notes": ("notes",),
    **{name: ("n", *shape) for name, shape in ADDED.items()},
    "set_aside": ("aside", 2), "bone_labels": ("labels",), "phenotype_labels": ("columns",), "vertices": ("n", "vertices", 3),
}  # fmt: skip
_TEXTS = {"person_ids", "status", "notes", "loss_names", "bone_labels", "phenotype_labels", "scene_notes", "set_aside"}


class FitFileError(ValueError):
    """A fit file that cannot be read; the message names file and field."""


def save(fit: SceneFit, path: str | Path) -> None:
    """Write a fit. The file appears complete or not at all."""
    arrays = {f.name: getattr(fit, f.name) for f in fields(fit) if getattr(fit, f.name) is not None}
    write_npz(path, arrays)


def load(path: str | Path) -> SceneFit:
    """Read a fit written by `save`. Raises FitFileError naming the file and the missing or wrong field."""
    try:
        with open_npz(str(path)) as archive:
            arrays = {name: archive.read(name) for name in archive.keys()}  # noqa: SIM118 (no mapping)
    except SceneError as error:
        raise FitFileError(str(error)) from None
    version = arrays.get("format_version")
    if version is None or version.shape or version not in _READABLE_VERSIONS:
        raise FitFileError(f"{path}: format_version {version}, expected {' or '.join(map(str, _READABLE_VERSIONS))}")
    known = {f.name for f in fields(SceneFit)}
    missing = known - set(arrays) - set(ADDED) - {"vertices"}
    if missing:
        raise FitFileError(f"{path}: missing {', '.join(sorted(missing))}")
    _check(arrays, path)
    strings = {"name", "image_path", "start_origin", "asset_version", "config_hash", "config_json", "frame"}
    values = {k: str(v) if k in strings else v for k, v in arrays.items() if k in known}
    return SceneFit(**{**values, "format_version": FORMAT_VERSION})


def _check(arrays: dict[str, np.ndarray], path: str | Path) -> None:
    """Raises FitFileError where an array has another shape or kind than `SceneFit` says; letters agree within a file."""
    sizes: dict[str, int] = {}
    for name, shape in _SHAPES.items():
        array = arrays.get(name)
        if array is None:
            continue
        fits = array.ndim == len(shape) and all(
            size == (sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted)
            for wanted, size in zip(shape, array.shape, strict=True)
        )
        if not fits:
            known = [sizes.get(size, size) if isinstance(size, str) else size for size in shape]
            spelled = ", ".join(map(str, known)) + ("," if len(shape) == 1 else "")
            raise FitFileError(f"{path}: {name}: expected shape ({spelled}), got {array.shape}")
        if array.size and (array.dtype.kind == "U") != (name in _TEXTS):
            raise FitFileError(f"{path}: {name}: expected {'text' if name in _TEXTS else 'numbers'}, got {array.dtype}")
