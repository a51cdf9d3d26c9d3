"""Reading an official SMPL-X file (`SMPLX_{NEUTRAL,MALE,FEMALE}.npz` or `.pkl`) without executing anything in it.

The `.npz` holds plain arrays plus a few pickled ones, of which only those that are needed are touched; the `.pkl` is
one pickle. Both go through the restricted unpickler: numpy arrays, sparse matrices and chumpy arrays are rebuilt from their
state, every other global is refused.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from body_models import restricted_pickle
from body_models.foreign_npz import open_npz
from body_models.restricted_pickle import (
    NUMPY,
    SCIPY_SPARSE,
    Budget,
    ForeignFileError,
    Names,
    Stand,
    foreign,
    mapped,
)

NUM_VERTICES = 10475
NUM_JOINTS = 55
NUM_POSE_FEATURES = 9 * (NUM_JOINTS - 1)
# Shape columns of the wide file (300 betas, 100 expressions) and of the narrow one (10 betas, 10 expressions).
_WIDE_COLUMNS, _WIDE_BETAS, _NARROW_BETAS = 400, 300, 10
_KEYS = (
    "v_template", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights", "f",
    "hands_meanl", "hands_meanr", "hands_componentsl", "hands_componentsr",
)  # fmt: skip
_LANDMARK_KEYS = ("lmk_faces_idx", "lmk_bary_coords", "dynamic_lmk_faces_idx", "dynamic_lmk_bary_coords")
"""May be left out."""
_WHERE_TO_GET_IT = (
    "SMPL-X is licensed and not part of this project: register at https://smpl-x.is.tue.mpg.de, download "
    "models_smplx_v1_1.zip and give the path of SMPLX_NEUTRAL.npz (or MALE, FEMALE; .npz or .pkl)"
)


class SmplxFileError(ValueError):
    """A file that is not a SMPL-X model. The message names the file, the key and what was expected."""


class SmplxArrays(NamedTuple):
    """What a SMPL-X file says, checked: host arrays in the file's own precision."""

    template: Float[np.ndarray, "10475 3"]
    beta_directions: Float[np.ndarray, "10475 3 betas"]
    """All the file has: 300 or 10."""
    expression_directions: Float[np.ndarray, "10475 3 expressions"]
    """All the file has: 100 or 10."""
    pose_directions: Float[np.ndarray, "10475 3 486"]
    joint_regressor: Float[np.ndarray, "55 10475"]
    parents: tuple[int, ...]
    skin: Float[np.ndarray, "10475 55"]
    faces: Int[np.ndarray, "face 3"]
    hand_means: Float[np.ndarray, "2 45"]
    """Left, right; rotation vectors of 15 joints."""
    hand_components: Float[np.ndarray, "2 45 45"]
    """Left, right; principal components in rows, largest first."""
    landmarks: Landmarks | None = None
    """None for a file without them."""


class Landmarks(NamedTuple):
    """The 68 points of iBUG on the surface: 17 of the contour as they are seen from in front, then the 51 inside the face."""

    corners: Int[np.ndarray, "68 3"]
    """Vertices of a triangle each."""
    shares: Float[np.ndarray, "68 3"]
    """Barycentric coordinates in it."""


def read(path: str | Path) -> SmplxArrays:
    """Read and check a SMPL-X file.

    Raises:
      FileNotFoundError: no such file, or a directory; says what to download, or which files the directory holds.
      SmplxFileError: not a SMPL-X file, a missing key, a wrong shape, or a pickle that wants more than arrays.
    """
    path = Path(path).expanduser()
    check_exists(path)
    if zipfile.is_zipfile(path):
        raw = _read_npz(path)
    elif _begins_as_zip(path):
        raise SmplxFileError(f"{path} is a damaged .npz file: its end is missing; copy or download it again")
    else:
        raw = _read_pickle(path)
    missing = [key for key in _KEYS if key not in raw]
    if missing:
        raise SmplxFileError(f"{path}: key {missing[0]!r} is missing; is this a SMPL-X model file? {_WHERE_TO_GET_IT}")
    arrays = {key: _as_array(path, key, raw[key]) for key in _KEYS}
    v, j = NUM_VERTICES, NUM_JOINTS
    directions = _check(path, arrays, "shapedirs", (v, 3, None))
    columns = directions.shape[2]
    num_betas = _WIDE_BETAS if columns >= _WIDE_COLUMNS else _NARROW_BETAS
    if columns <= num_betas:
        raise SmplxFileError(f"{path}: key 'shapedirs' must be ({v}, 3, 400) or ({v}, 3, 20), got {directions.shape}")
    return SmplxArrays(
        template=_check(path, arrays, "v_template", (v, 3)),
        beta_directions=directions[:, :, :num_betas],
        expression_directions=directions[:, :, num_betas:],
        pose_directions=_check(path, arrays, "posedirs", (v, 3, NUM_POSE_FEATURES)),
        joint_regressor=_check(path, arrays, "J_regressor", (j, v)),
        parents=_parents(path, _check(path, arrays, "kintree_table", (2, j), kinds="iuf")),
        skin=_check(path, arrays, "weights", (v, j)),
        faces=_faces(path, _check(path, arrays, "f", (None, 3), kinds="iuf")),
        hand_means=np.stack([_check(path, arrays, f"hands_mean{side}", (45,)) for side in "lr"]),
        hand_components=np.stack([_check(path, arrays, f"hands_components{side}", (45, 45)) for side in "lr"]),
        landmarks=_landmarks(path, raw, arrays["f"]),
    )


def _landmarks(path: Path, raw: Mapping[str, Any], triangles: np.ndarray) -> Landmarks | None:
    """The landmarks, where the file has all four of their arrays."""
    if any(key not in raw for key in _LANDMARK_KEYS):
        return None
    arrays = {key: _as_array(path, key, raw[key]) for key in _LANDMARK_KEYS}
    # The first of the contours is that of a face seen from in front.
    inside, contour = (
        (
            _check(path, arrays, f"{kind}lmk_faces_idx", (None,) * (1 + bool(kind)), kinds="iuf"),
            _check(path, arrays, f"{kind}lmk_bary_coords", (None,) * (1 + bool(kind)) + (3,)),
        )
        for kind in ("", "dynamic_")
    )
    faces = np.concatenate([contour[0][0], inside[0]]).astype(np.int64)
    shares = np.concatenate([contour[1][0], inside[1]]).astype(np.float64)
    if len(faces) != 68 or shares.shape != (68, 3) or not (faces.min() >= 0 and faces.max() < len(triangles)):
        raise SmplxFileError(
            f"{path}: lmk_faces_idx and dynamic_lmk_faces_idx must be 51 and (n, 17) triangles of the mesh"
        )
    return Landmarks(triangles[faces].astype(np.int64), shares)


def read_kid_template(path: str | Path) -> Float[np.ndarray, "10475 3"]:
    """The child that AGORA blends with the template. Raises FileNotFoundError, SmplxFileError."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"kid template not found: {path}; AGORA has it, as smplx_kid_template.npy")
    try:
        with path.open("rb") as stream:
            child = np.lib.format.read_array(stream, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise SmplxFileError(f"{path} is not a readable .npy file: {error}") from error
    right = child.shape == (NUM_VERTICES, 3) and child.dtype.kind == "f" and np.isfinite(child).all()
    if not right:
        raise SmplxFileError(f"{path}: must be finite numbers ({NUM_VERTICES}, 3), got {child.dtype} {child.shape}")
    return child.astype(np.float64)


def check_exists(path: Path) -> None:
    """Raises FileNotFoundError where there is no file, saying what to download, or which files the directory holds."""
    if path.is_file():
        return
    if path.is_dir():
        files = sorted(
            p for pattern in ("SMPLX_*", "*/SMPLX_*") for p in path.glob(pattern) if p.suffix in (".npz", ".pkl")
        )
        if files:
            names = ", ".join(str(p.relative_to(path)) for p in files)
            raise FileNotFoundError(f"{path} is a directory; give one of the SMPL-X files in it: {names}")
        raise FileNotFoundError(f"no SMPL-X file (SMPLX_*.npz or .pkl) in the directory {path}. {_WHERE_TO_GET_IT}")
    raise FileNotFoundError(f"SMPL-X model file not found: {path}. {_WHERE_TO_GET_IT}")


def _check(
    path: Path, arrays: Mapping[str, np.ndarray], key: str, shape: tuple[int | None, ...], kinds: str = "f"
) -> np.ndarray:
    array = arrays[key]
    right = array.ndim == len(shape) and all(want is None or want == got for want, got in zip(shape, array.shape))
    if not right or array.dtype.kind not in kinds:
        wanted = "(" + ", ".join("n" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"
        kind = "floating point" if kinds == "f" else "integer"
        raise SmplxFileError(f"{path}: key {key!r} must be {kind} {wanted}, got {array.dtype} {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise SmplxFileError(f"{path}: key {key!r} has values that are not finite")
    return array


def _parents(path: Path, table: np.ndarray) -> tuple[int, ...]:
    # The root's parent is -1, stored as 4294967295 in unsigned files.
    parents = (-1, *(int(p) for p in table[0, 1:]))
    if any(not 0 <= p < child for child, p in enumerate(parents) if child):
        raise SmplxFileError(f"{path}: key 'kintree_table' must list parents before their children, joint 0 the root")
    return parents


def _faces(path: Path, faces: np.ndarray) -> np.ndarray:
    if faces.size and not (faces.min() >= 0 and faces.max() < NUM_VERTICES):
        raise SmplxFileError(f"{path}: key 'f' must hold vertex indices below {NUM_VERTICES}")
    return faces.astype(np.int32)


# ------------------------------------------------------------------------------------------------ the two containers


def _read_npz(path: Path) -> dict[str, Any]:
    """Only the members that are needed; others (some are pickled dictionaries) are never opened."""
    try:
        with open_npz(str(path), _KNOWN) as npz:
            raw: dict[str, Any] = {}
            for key in (*_KEYS, *_LANDMARK_KEYS):
                if key in npz:
                    raw[key] = _guarded(path, key, lambda key=key: npz.read(key))
            return raw
    except ForeignFileError as error:
        raise SmplxFileError(f"{path} is a damaged .npz file: {error}") from error


def _begins_as_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _read_pickle(path: Path) -> dict[str, Any]:
    def load() -> Any:
        with mapped(path) as stream:
            return restricted_pickle.load(stream, _KNOWN, budget=Budget.for_file(path.stat().st_size))

    raw = _guarded(path, None, load)
    if not isinstance(raw, dict):
        raise SmplxFileError(f"{path}: expected a dictionary of arrays, got {type(raw).__name__}")
    return raw


def _guarded(path: Path, key: str | None, load: Callable[[], Any]) -> Any:
    """Runs a reader; whatever a malformed or malicious file makes it raise becomes one error with the file's name."""
    try:
        with foreign("SMPL-X file"):
            return load()
    except ForeignFileError as error:
        where = f"{path}: key {key!r}" if key else str(path)
        raise SmplxFileError(f"{where} cannot be read as a SMPL-X file (.npz or .pkl): {error}") from error


def _as_array(path: Path, key: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray) and value.dtype.hasobject and value.size == 1:
        value = value.item()
    if isinstance(value, scipy.sparse.coo_array):
        if value.shape != (NUM_JOINTS, NUM_VERTICES):
            raise SmplxFileError(f"{path}: key {key!r} must be ({NUM_JOINTS}, {NUM_VERTICES}), got {value.shape}")
        return value.toarray()
    if isinstance(value, list | tuple):
        value = _guarded(path, key, lambda: np.asarray(value))
    if not isinstance(value, np.ndarray) or value.dtype.hasobject:
        raise SmplxFileError(f"{path}: key {key!r} must be an array of numbers, got {type(value).__name__}")
    return value


# ------------------------------------------------------------------------------------------------ inert stand-ins


class _Chumpy(Stand):
    """`chumpy.ch.Ch`: its value is in `x`."""

    def parts(self) -> tuple[Any, ...]:
        """The value."""
        return ((self.state or {})["x"],)

    def finish(self, *parts: Any) -> Any:
        """The value."""
        return parts[0]


class _ChumpySelect(Stand):
    """`chumpy.reordering.Select`: entries `idxs` of the flattened `a`, in `preferred_shape`."""

    def parts(self) -> tuple[Any, ...]:
        """What is selected from, the entries, the shape."""
        state = self.state or {}
        return state["a"], state["idxs"], state.get("preferred_shape")

    def finish(self, *parts: Any) -> Any:
        """The selected entries."""
        content, entries, shape = parts
        picked = np.asarray(content).ravel()[np.asarray(entries)]
        return picked if shape is None else picked.reshape(shape)


_KNOWN: Names = MappingProxyType(
    {
        **NUMPY,
        **SCIPY_SPARSE,
        ("chumpy.ch", "Ch"): _Chumpy,
        ("chumpy", "Ch"): _Chumpy,
        ("chumpy.reordering", "Select"): _ChumpySelect,
    }
)
