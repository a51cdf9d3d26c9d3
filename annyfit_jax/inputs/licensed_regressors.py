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

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float, Int
from numpy.lib import format as npy

from annyfit_jax.inputs.official_params import _load_from_bytes as load_torch_storage
from annyfit_jax.inputs.official_params import _rebuild_parameter as rebuild_parameter
from annyfit_jax.inputs.official_params import _rebuild_tensor as rebuild_tensor
from annyfit_jax.people.scene import NUM_DENSE
from body_models.restricted_pickle import NUMPY_GLOBALS, RestrictedUnpickler

SMPLX_TO_SMPL, DOWNSAMPLE, COCO = "smplx2smpl.pkl", "downsample_mat.pkl", "J_regressor_coco_hip_smpl.npy"
LICENCE = "BEDLAM / SMPL-X model licence (non-commercial)"
_NUM_KEYPOINTS = 17


class LicensedFileError(ValueError):
    """A licensed file that is missing, damaged or of another shape; the message names the file and what was expected."""


@dataclass(frozen=True)
class SparseMatrix:
    """A matrix by its non-zero entries."""

    rows: Int[np.ndarray, "nnz"]
    columns: Int[np.ndarray, "nnz"]
    values: Float[np.ndarray, "nnz"]
    shape: tuple[int, int]

    @staticmethod
    def of(matrix: Float[np.ndarray, "r c"]) -> SparseMatrix:
        """The non-zero entries of a dense matrix, row by row."""
        rows, columns = np.nonzero(matrix)
        return SparseMatrix(rows, columns, np.asarray(matrix[rows, columns], np.float64), matrix.shape)

    def dense(self) -> Float[np.ndarray, "r c"]:
        """As a dense matrix; entries that are given twice add up."""
        matrix = np.zeros(self.shape)
        np.add.at(matrix, (self.rows, self.columns), self.values)
        return matrix

    def apply_left(self, left: Float[np.ndarray, "k r"]) -> Float[np.ndarray, "k c"]:
        """`left @ self`, for a `left` of few rows."""
        columns = self.shape[1]
        return np.stack([np.bincount(self.columns, row[self.rows] * self.values, minlength=columns) for row in left])


@dataclass(frozen=True)
class LicensedRegressor:
    """Points of the official pipeline over the vertices of a mesh."""

    matrix: SparseMatrix
    """Rows: 17 COCO keypoints, then 138 dense points. Columns: SMPL-X vertices."""
    licence: str = LICENCE

    @property
    def keypoints(self) -> Float[np.ndarray, "17 v"]:
        """Weights of the COCO keypoints over the vertices, rows in COCO's order."""
        return self.matrix.dense()[:_NUM_KEYPOINTS]

    @property
    def dense_points(self) -> Float[np.ndarray, "138 v"]:
        """Weights of the dense points over the vertices."""
        return self.matrix.dense()[_NUM_KEYPOINTS:]


def load(folder: str | Path) -> LicensedRegressor:
    """Reads the three files of a folder and chains them. Raises LicensedFileError naming the file and the expected shape."""
    folder = Path(folder)
    to_smpl = read_matrix(folder / SMPLX_TO_SMPL, entry="matrix")
    dense = read_matrix(folder / DOWNSAMPLE)
    coco = read_matrix(folder / COCO)
    for name, matrix, rows in ((DOWNSAMPLE, dense, NUM_DENSE), (COCO, coco, _NUM_KEYPOINTS)):
        if matrix.shape != (rows, to_smpl.shape[0]):
            raise LicensedFileError(f"{folder / name}: expected shape {(rows, to_smpl.shape[0])}, got {matrix.shape}")
    chained = to_smpl.apply_left(np.concatenate([coco.dense(), dense.dense()]))
    return LicensedRegressor(SparseMatrix.of(chained))


def read_matrix(path: str | Path, entry: str | None = None) -> SparseMatrix:
    """A matrix from a `.npy`, or a `.pkl` that holds one (in a dictionary: its `entry`). Raises LicensedFileError."""
    path = Path(path)
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                content = npy.read_array(file, allow_pickle=False)
        else:
            content = read_pickle(path.read_bytes())
        if isinstance(content, Mapping):
            if entry not in content:
                raise ValueError(f"expected the entry `{entry}`, it holds {', '.join(map(str, content))[:200]}")
            content = content[entry]
        matrix = content.finish() if isinstance(content, _ScipySparse) else content
        if isinstance(matrix, np.ndarray) and matrix.ndim == 2 and matrix.dtype.kind in "fiub":
            matrix = SparseMatrix.of(np.asarray(matrix))
        if not isinstance(matrix, SparseMatrix) or not np.isfinite(matrix.values).all():
            raise ValueError(f"expected a matrix of finite numbers, got {type(content).__name__}")
        return matrix
    except FileNotFoundError:
        raise LicensedFileError(
            f"{path}: no such file; it comes with CameraHMR's and BEDLAM's training utilities, after registration"
        ) from None
    except Exception as error:  # hostile pickles fail in many ways
        raise LicensedFileError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error


def read_pickle(data: bytes) -> Any:
    """The content of a pickle of matrices. Raises pickle.UnpicklingError, ValueError, SceneError on anything else."""
    stream = io.BytesIO(data)
    return _MixedUnpickler(stream, {**_GLOBALS, _JOBLIB: _joblib_reader(stream)}).load()


class _MixedUnpickler(pickle._Unpickler):
    """`RestrictedUnpickler` for streams with array bytes between the instructions, which cannot be looked through beforehand.

    In Python, where the memo is a dictionary: no place in it, however far, takes memory.
    """

    find_class = RestrictedUnpickler.find_class  # pyright: ignore[reportAssignmentType]
    persistent_load = RestrictedUnpickler.persistent_load  # pyright: ignore[reportAssignmentType]

    def __init__(self, file: IO[bytes], allowed: Mapping[tuple[str, str], object]) -> None:
        super().__init__(file, encoding="latin1")
        self._allowed = allowed


# ------------------------------------------------------------------------------------------------ stand-ins


class _ScipySparse:
    """Stands for scipy's csr, csc and coo matrices, which are pickled as their attributes."""

    layout = ""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise ValueError("a sparse matrix of unknown layout")
        self.state = state

    def finish(self) -> SparseMatrix:
        """The matrix, with every index checked."""
        state = getattr(self, "state", {})
        shape = state.get("_shape", state.get("shape"))
        data = _vector(state.get("data"), "fiub")
        if (
            not isinstance(shape, tuple)
            or len(shape) != 2
            or not all(type(n) is int and 0 < n < 1 << 31 for n in shape)
        ):
            raise ValueError(f"a sparse matrix of shape {shape}")
        if self.layout == "coo":
            coordinates = state.get("coords") or (state.get("row"), state.get("col"))
            rows, columns = (_vector(part, "iu") for part in coordinates)
        else:
            minor, starts = _vector(state.get("indices"), "iu"), _vector(state.get("indptr"), "iu").astype(np.int64)
            count = shape[0] if self.layout == "csr" else shape[1]
            if len(starts) != count + 1 or starts[0] != 0 or starts[-1] != len(minor) or (np.diff(starts) < 0).any():
                raise ValueError("a sparse matrix whose row starts do not fit")
            major = np.repeat(np.arange(count), np.diff(starts))
            rows, columns = (major, minor) if self.layout == "csr" else (minor, major)
        return _checked(rows, columns, data, shape)


class _Csr(_ScipySparse):
    layout = "csr"


class _Csc(_ScipySparse):
    layout = "csc"


class _Coo(_ScipySparse):
    layout = "coo"


def _vector(value: Any, kinds: str) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in kinds:
        raise ValueError("a sparse matrix without its arrays")
    return np.asarray(value)


def _checked(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> SparseMatrix:
    rows, columns = np.asarray(rows, np.int64), np.asarray(columns, np.int64)
    if not len(rows) == len(columns) == len(values):
        raise ValueError("a sparse matrix with arrays of different lengths")
    for index, size in ((rows, shape[0]), (columns, shape[1])):
        if len(index) and (index.min() < 0 or index.max() >= size):
            raise ValueError(f"a sparse matrix of shape {shape} with an index outside it")
    return SparseMatrix(rows, columns, np.asarray(values, np.float64), (int(shape[0]), int(shape[1])))


def _rebuild_sparse(layout: Any, parts: Any) -> SparseMatrix:
    """torch's sparse COO tensor: (indices (2, nnz), values (nnz,), size, ...)."""
    if layout != "torch.sparse_coo" or not isinstance(parts, tuple) or len(parts) < 3:
        raise ValueError(f"a torch tensor of layout {layout!r}; expected torch.sparse_coo")
    indices, values, size = parts[:3]
    ok = isinstance(indices, np.ndarray) and isinstance(values, np.ndarray) and isinstance(size, tuple)
    if not ok or len(size) != 2 or indices.ndim != 2 or indices.shape[0] != 2 or values.ndim != 1:
        raise ValueError("a sparse torch tensor of unknown layout")
    return _checked(indices[0], indices[1], values, size)


def _layout(name: Any) -> Any:
    return name


def _size(numbers: Any = ()) -> tuple:
    return tuple(numbers)


def _from_buffer(data: Any, pickled_type: Any, shape: Any, order: Any) -> np.ndarray:
    """numpy's arrays of protocol 5, with their bytes in the pickle."""
    dtype = getattr(pickled_type, "dtype", None)
    plain = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape) and order in ("C", "F")
    if not plain or not isinstance(data, bytes | bytearray) or dtype is None or dtype.kind not in "fiub":
        raise ValueError("an array of unknown layout")
    return np.frombuffer(bytes(data), dtype, math.prod(shape)).reshape(shape, order=order)


_JOBLIB = ("joblib.numpy_pickle", "NumpyArrayWrapper")


def _joblib_reader(stream: io.BytesIO) -> type:
    """The class that stands for joblib's array wrapper: it is followed by the array's bytes in the stream itself."""

    class JoblibArray(np.ndarray):
        def __new__(cls, *_: Any) -> Any:
            return np.ndarray.__new__(cls, (0,))

        def __setstate__(self, state: Any) -> None:
            if not isinstance(state, dict):
                raise ValueError("a joblib array of unknown layout")
            shape, dtype = state.get("shape"), getattr(state.get("dtype"), "dtype", None)
            if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or dtype is None:
                raise ValueError("a joblib array of unknown layout")
            if dtype.kind not in "fiub":
                raise ValueError(f"a joblib array of type {dtype}")
            if state.get("numpy_array_alignment_bytes") is not None:
                stream.read(stream.read(1)[0])
            size = math.prod(shape) * dtype.itemsize
            if size > len(stream.getbuffer()) - stream.tell():
                raise ValueError(f"a joblib array of shape {shape} does not fit the file")
            order = state.get("order") == "F"
            super().__setstate__((1, shape, dtype, order, stream.read(size)))  # pyright: ignore[reportArgumentType]

    return JoblibArray


def _scipy_names() -> dict[tuple[str, str], object]:
    names: dict[tuple[str, str], object] = {}
    for kind in (_Csr, _Csc, _Coo):
        for module in (f"scipy.sparse.{kind.layout}", f"scipy.sparse._{kind.layout}"):
            names[module, f"{kind.layout}_matrix"] = names[module, f"{kind.layout}_array"] = kind
    return names


def _reconstructor(kind: Any, base: Any, state: Any = None) -> Any:
    """`copyreg._reconstructor` of protocols 0 and 1, for the stand-ins only."""
    if not (isinstance(kind, type) and issubclass(kind, _ScipySparse)):
        raise ValueError("an object of unknown layout")
    return kind()


_GLOBALS: Mapping[tuple[str, str], object] = {
    **NUMPY_GLOBALS,
    **_scipy_names(),
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("copy_reg", "_reconstructor"): _reconstructor,
    ("copyreg", "_reconstructor"): _reconstructor,
    ("__builtin__", "object"): None,
    ("builtins", "object"): None,
    ("torch", "Size"): _size,
    ("torch.serialization", "_get_layout"): _layout,
    ("torch.storage", "_load_from_bytes"): load_torch_storage,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
    ("torch._utils", "_rebuild_sparse_tensor"): _rebuild_sparse,
}
