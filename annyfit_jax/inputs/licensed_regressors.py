"""The point set of the official pipeline, from the user's own licensed files, read without executing a pickle.

The official programs place 17 keypoints and 138 dense points on the SMPL mesh and reach it from SMPL-X's:

    smplx2smpl.pkl                     {"matrix": (6890, 10475)}: SMPL-X vertices -> SMPL vertices
    downsample_mat.pkl                 (138, 6890), sparse: SMPL vertices -> dense points
    J_regressor_coco_hip_smpl.npy      (17, 6890): SMPL vertices -> COCO keypoints, hips as COCO annotates them

`load` chains them into one sparse regressor of 17 + 138 rows over SMPL-X vertices. The files come with CameraHMR and BEDLAM,
whose licences allow research only, after registration; none is in this package. A pickle may hold numpy arrays, scipy sparse
matrices and torch tensors, or be a joblib file; nothing else is accepted and nothing is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float

from annyfit_jax.people.scene import NUM_DENSE
from body_models import restricted_pickle
from body_models.foreign_npz import read_npy
from body_models.restricted_pickle import (
    NUMPY,
    SCIPY_SPARSE,
    Budget,
    ForeignFileError,
    foreign,
    joblib_names,
    mapped,
)
from body_models.torch_pickles import embedded_names

SMPLX_TO_SMPL, DOWNSAMPLE, COCO = "smplx2smpl.pkl", "downsample_mat.pkl", "J_regressor_coco_hip_smpl.npy"
LICENCE = "BEDLAM / SMPL-X model licence (non-commercial)"
_NUM_KEYPOINTS = 17


class LicensedFileError(ValueError):
    """A licensed file that is missing, damaged or of another shape; the message names the file and what was expected."""


@dataclass(frozen=True)
class LicensedRegressor:
    """Points of the official pipeline over the vertices of a mesh."""

    matrix: scipy.sparse.csr_array
    """Rows: 17 COCO keypoints, then 138 dense points. Columns: SMPL-X vertices."""
    licence: str = LICENCE

    @property
    def keypoints(self) -> Float[np.ndarray, "17 v"]:
        """Weights of the COCO keypoints over the vertices, rows in COCO's order."""
        return self.matrix.toarray()[:_NUM_KEYPOINTS]

    @property
    def dense_points(self) -> Float[np.ndarray, "138 v"]:
        """Weights of the dense points over the vertices."""
        return self.matrix.toarray()[_NUM_KEYPOINTS:]


def load(folder: str | Path) -> LicensedRegressor:
    """Reads the three files of a folder and chains them. Raises LicensedFileError naming the file and the expected shape."""
    folder = Path(folder)
    to_smpl = read_matrix(folder / SMPLX_TO_SMPL, entry="matrix")
    dense = read_matrix(folder / DOWNSAMPLE)
    coco = read_matrix(folder / COCO)
    for name, matrix, rows in ((DOWNSAMPLE, dense, NUM_DENSE), (COCO, coco, _NUM_KEYPOINTS)):
        expected = (rows, _shape(to_smpl)[0])
        if _shape(matrix) != expected:
            raise LicensedFileError(f"{folder / name}: expected shape {expected}, got {_shape(matrix)}")
    return LicensedRegressor(scipy.sparse.csr_array(scipy.sparse.vstack([coco, dense]) @ to_smpl))


def read_matrix(path: str | Path, entry: str | None = None) -> scipy.sparse.csr_array:
    """A matrix from a `.npy`, or a `.pkl` that holds one (in a dictionary: its `entry`). Raises LicensedFileError."""
    path = Path(path)
    try:
        with foreign("matrix"):
            return _matrix(_content(path), entry)
    except FileNotFoundError:
        raise LicensedFileError(
            f"{path}: no such file; it comes with CameraHMR's and BEDLAM's training utilities, after registration"
        ) from None
    except ValueError as error:
        raise LicensedFileError(f"{path}: cannot be read ({error})") from error


def _matrix(content: Any, entry: str | None) -> scipy.sparse.csr_array:
    if isinstance(content, Mapping):
        if entry not in content:
            raise ForeignFileError(f"expected the entry `{entry}`, it holds {', '.join(map(str, content))[:200]}")
        content = content[entry]
    plain = isinstance(content, np.ndarray) and content.ndim == 2 and content.dtype.kind in "fiub"
    if not (plain or scipy.sparse.issparse(content)):
        raise ForeignFileError(f"expected a matrix of finite numbers, got {type(content).__name__}")
    matrix = scipy.sparse.csr_array(content, dtype=np.float64)
    if not np.isfinite(matrix.data).all():
        raise ForeignFileError("expected a matrix of finite numbers")
    return matrix


def _shape(matrix: scipy.sparse.csr_array) -> tuple[int, ...]:
    return tuple(matrix.shape or ())


def _content(path: Path) -> Any:
    size = path.stat().st_size
    budget = Budget.for_file(size)
    with mapped(path) as stream:
        if path.suffix == ".npy":
            return read_npy(stream, size, None, budget)
        names = {**NUMPY, **SCIPY_SPARSE, **embedded_names(budget), **joblib_names(stream)}
        return restricted_pickle.load(stream, names, budget=budget)
