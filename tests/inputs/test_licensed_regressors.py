"""Licensed regressors: chains of matrices, pickles of every protocol, joblib, hostile files."""

from __future__ import annotations

import io
import os
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given
from hypothesis import strategies as st

from annyfit_jax.inputs import licensed_regressors
from annyfit_jax.inputs.licensed_regressors import LicensedFileError
from annyfit_jax.people.dense_points import SurfacePoints, anny_dense_points, dense_vertex_indices

DENSE, SMPL, SMPLX = 138, 40, 60

# ------------------------------------------------------------------------------------------------ dense points


def test_the_default_dense_set_is_its_vertices():
    points = anny_dense_points()
    matrix = points.regressor(13718)
    assert matrix.shape == (138, 13718)
    np.testing.assert_array_equal(matrix.argmax(1), dense_vertex_indices())
    np.testing.assert_array_equal(matrix.sum(1), 1.0)
    middle = SurfacePoints(np.array([[0, 1, 2]]), np.array([[0.5, 0.25, 0.25]]))
    np.testing.assert_allclose(middle.regressor(4) @ np.eye(4)[:, :3], [[0.5, 0.25, 0.25]])
    with pytest.raises(ValueError, match="the mesh has 2"):
        middle.regressor(2)
    for weights in ([[0.5, 0.5, 0.5]], [[1.5, -0.5, 0.0]]):
        with pytest.raises(ValueError, match="barycentric"):
            SurfacePoints(np.array([[0, 1, 2]]), np.array(weights))


@pytest.fixture
def licensed(tmp_path):
    """Files of the official layout, with small meshes of random numbers in place of the licensed ones."""
    rng = np.random.default_rng(0)
    to_smpl = np.where(rng.uniform(size=(SMPL, SMPLX)) < 0.1, rng.uniform(size=(SMPL, SMPLX)), 0.0).astype(np.float32)
    dense = np.zeros((DENSE, SMPL))
    dense[np.arange(DENSE), rng.integers(0, SMPL, DENSE)] = 1.0
    coco = rng.uniform(size=(17, SMPL))
    (tmp_path / licensed_regressors.SMPLX_TO_SMPL).write_bytes(pickle.dumps({"matrix": to_smpl, "note": "x"}, 2))
    (tmp_path / licensed_regressors.DOWNSAMPLE).write_bytes(pickle.dumps(sparse.csr_matrix(dense), 4))
    np.save(tmp_path / licensed_regressors.COCO, coco)
    return tmp_path, to_smpl, dense, coco


def test_licensed_regressors_are_chained(licensed):
    folder, to_smpl, dense, coco = licensed
    made = licensed_regressors.load(folder)
    assert made.matrix.shape == (17 + DENSE, SMPLX)
    np.testing.assert_allclose(made.keypoints, coco @ to_smpl, rtol=1e-6)
    np.testing.assert_allclose(made.dense_points, dense @ to_smpl, rtol=1e-6)
    assert made.matrix.nnz == np.count_nonzero(np.concatenate([coco, dense]) @ to_smpl)
    assert "non-commercial" in made.licence


def test_licensed_regressors_of_another_shape_or_absent_are_named(licensed):
    folder, *_ = licensed
    np.save(folder / licensed_regressors.COCO, np.zeros((19, SMPL)))
    with pytest.raises(
        LicensedFileError, match=rf"J_regressor_coco_hip_smpl\.npy: expected shape \(17, {SMPL}\), got \(19, {SMPL}\)"
    ):
        licensed_regressors.load(folder)
    (folder / licensed_regressors.DOWNSAMPLE).unlink()
    with pytest.raises(LicensedFileError, match="after registration"):
        licensed_regressors.load(folder)
    (folder / licensed_regressors.SMPLX_TO_SMPL).write_bytes(pickle.dumps({"other": 1}))
    with pytest.raises(LicensedFileError, match="expected the entry `matrix`, it holds other"):
        licensed_regressors.load(folder)


MATRIX = np.array([[0, 1.5, 0, 0], [2, 0, 0, 0.25]])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "kind", [sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix, sparse.csr_array, np.asarray, np.asfortranarray]
)
def test_matrices_of_every_pickle_protocol(tmp_path, kind, protocol):
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(kind(MATRIX), protocol))
    np.testing.assert_array_equal(licensed_regressors.read_matrix(path).toarray(), MATRIX)


class NumpyArrayWrapper:
    """As joblib writes it: the wrapper's attributes in the pickle, the array's bytes after it, in the same stream."""


NumpyArrayWrapper.__module__ = "joblib.numpy_pickle"


def joblib_bytes(matrix: np.ndarray, order: Any) -> bytes:
    base: Any = vars(pickle)["_Pickler"]  # in Python, so that its methods can be replaced

    class Pickler(base):
        def save(self, obj, save_persistent_id=True):
            if not isinstance(obj, np.ndarray):
                return super().save(obj, save_persistent_id)
            wrapper = {
                "subclass": np.ndarray, "shape": obj.shape, "order": order, "dtype": obj.dtype, "allow_mmap": True,
                "numpy_array_alignment_bytes": 16,
            }  # fmt: skip
            self.write(b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81")
            super().save(wrapper)
            self.write(b"b")
            self.framer.commit_frame(force=True)
            padding = 16 - (self.stream.tell() + 1) % 16
            self.stream.write(bytes([padding]) + b"\xff" * padding + obj.tobytes(order))
            return None

    stream = io.BytesIO()
    pickler: Any = Pickler(stream, 3)
    pickler.stream = stream
    pickler.dump({"matrix": matrix})
    return stream.getvalue()


@pytest.mark.parametrize("order", ["C", "F"])
def test_joblib_files(tmp_path, order):
    path = tmp_path / "m.pkl"
    whole = joblib_bytes(MATRIX, order)
    path.write_bytes(whole)
    np.testing.assert_array_equal(licensed_regressors.read_matrix(path, "matrix").toarray(), MATRIX)
    path.write_bytes(whole[:-40])
    with pytest.raises(LicensedFileError, match=r"m\.pkl"):
        licensed_regressors.read_matrix(path, "matrix")


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


def _broken_csr(**changes):
    matrix = sparse.csr_matrix(MATRIX)
    vars(matrix).update(changes)
    return matrix


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Evil(), "refused: the pickle asks for the global posix.system"),
        ({"matrix": Evil()}, "refused"),
        (_broken_csr(indices=np.array([1, 0, 9], np.int32)), "index outside"),
        (_broken_csr(indptr=np.array([0, 5, 3], np.int32)), "row starts"),
        (_broken_csr(data=np.array([1.0])), "different lengths"),
        (_broken_csr(_shape=(2, 1 << 40)), "a sparse matrix of shape"),
        (np.zeros(3), "expected a matrix of finite numbers"),
        (np.array([[np.nan]]), "expected a matrix of finite numbers"),
        ("text", "expected a matrix"),
        (np.array([["a"]]), "expected a matrix"),
    ],
)
def test_hostile_pickles_are_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(LicensedFileError, match=message):
        licensed_regressors.read_matrix(path, "matrix" if isinstance(content, dict) else None)
    assert not (tmp_path / "evil").exists()


def test_a_pickle_cannot_fill_the_memory(tmp_path):
    """A far place in the memo: the C unpickler would take 32 GB for it."""
    path = tmp_path / "m.pkl"
    path.write_bytes(b"\x80\x02Nr\xff\xff\xff\x7f.")
    tracemalloc.start()
    with pytest.raises(LicensedFileError, match="place 2147483647 of the memo"):
        licensed_regressors.read_matrix(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@given(st.binary(max_size=60), st.integers(0, 400))
def test_any_bytes_are_a_matrix_or_one_error(tmp_path_factory, noise, position):
    data = bytearray(pickle.dumps(sparse.csr_matrix(MATRIX), 2))
    position %= len(data)
    data[position : position + len(noise)] = noise
    path = tmp_path_factory.getbasetemp() / "noise.pkl"
    path.write_bytes(bytes(data))
    try:
        matrix = licensed_regressors.read_matrix(path)
    except LicensedFileError:
        return
    assert matrix.ndim == 2
