"""Reading SMPL-X files: both containers, Python 2 pickles, sparse and chumpy members, hostile and broken files."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import smplx_synthetic

from body_models import smplx, smplx_file
from body_models.restricted_pickle import load


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    """A light file: half-precision zeros where the numbers do not matter here."""
    arrays: dict[str, Any] = dict(smplx_synthetic.arrays())
    arrays["posedirs"] = np.zeros((10475, 3, 486), np.float16)
    return arrays


def same(got: smplx_file.SmplxArrays, data: dict[str, Any]) -> None:
    np.testing.assert_array_equal(got.template, data["v_template"])
    np.testing.assert_array_equal(got.joint_regressor, data["J_regressor"])
    np.testing.assert_array_equal(
        np.concatenate([got.beta_directions, got.expression_directions], 2), data["shapedirs"]
    )
    np.testing.assert_array_equal(got.skin, data["weights"])
    np.testing.assert_array_equal(got.faces, data["f"])
    assert got.parents == tuple(int(p) for p in smplx_synthetic.PARENTS)
    assert got.landmarks is not None
    corners = data["f"][np.concatenate([data["dynamic_lmk_faces_idx"][0], data["lmk_faces_idx"]])]
    np.testing.assert_array_equal(got.landmarks.corners, corners)
    np.testing.assert_allclose(got.landmarks.shares.sum(1), 1.0)


def write_npz(path: Path, data: dict[str, Any], **changes: Any) -> Path:
    np.savez(path, **(data | changes))  # pyright: ignore[reportArgumentType]
    return path


class Hostile:
    """Runs a shell command when an ordinary unpickler loads it."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self):
        return os.system, (f"touch {self.flag}",)


_Pickler: Any = pickle._Pickler  # pyright: ignore[reportAttributeAccessIssue]  (the one in Python can be extended)


class Python2Pickler(_Pickler):
    """Protocol 2 as Python 2 wrote it: byte strings as str; numpy's old module names by `python2_pickle`."""

    dispatch = dict(_Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, value: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def python2_pickle(value: Any) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def test_npz_with_pickled_members_that_are_not_needed(tmp_path, data):
    """Official files carry dictionaries; they are never opened, whatever is in them."""
    flag = tmp_path / "flag"
    extra = np.array({"pelvis": Hostile(flag)}, dtype=object)
    same(smplx_file.read(write_npz(tmp_path / "SMPLX_NEUTRAL.npz", data, joint2num=extra)), data)
    assert not flag.exists()


def test_npz_with_a_sparse_regressor_in_an_object_array(tmp_path, data):
    sparse = np.array(scipy.sparse.csc_matrix(data["J_regressor"]), dtype=object)
    same(smplx_file.read(write_npz(tmp_path / "SMPLX_NEUTRAL.npz", data, J_regressor=sparse)), data)


def test_npz_with_fortran_order(tmp_path, data):
    fortran = {k: np.asfortranarray(data[k]) for k in ("v_template", "weights", "shapedirs")}
    same(smplx_file.read(write_npz(tmp_path / "SMPLX_NEUTRAL.npz", data, **fortran)), data)


@pytest.mark.parametrize("kind", ["csc_matrix", "csr_matrix", "coo_matrix", "csr_array"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_pkl_with_a_sparse_regressor(tmp_path, data, kind, protocol):
    path = tmp_path / "SMPLX_FEMALE.pkl"
    sparse = getattr(scipy.sparse, kind)(data["J_regressor"])
    path.write_bytes(pickle.dumps(data | {"J_regressor": sparse, "joint2num": {"pelvis": 0}}, protocol))
    same(smplx_file.read(path), data)


def test_pkl_written_by_python_2_with_chumpy(tmp_path, data, monkeypatch):
    """Fake chumpy classes exist while pickling only; reading must not need, import or run them."""
    modules: dict[str, Any] = {n: types.ModuleType(n) for n in ("chumpy", "chumpy.ch", "chumpy.reordering")}
    for module, name in (("chumpy.ch", "Ch"), ("chumpy.reordering", "Select")):
        setattr(modules[module], name, type(name, (), {"__module__": module}))
    with monkeypatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        template, everything = modules["chumpy.ch"].Ch(), modules["chumpy.ch"].Ch()
        template.x = data["v_template"]
        everything.x = np.concatenate([data["shapedirs"], data["shapedirs"]], axis=2)
        directions = modules["chumpy.reordering"].Select()
        directions.a = everything
        directions.idxs = np.arange(10475 * 3 * 40).reshape(10475, 3, 40)[:, :, :20].ravel()
        directions.preferred_shape = (10475, 3, 20)
        changed = {"v_template": template, "shapedirs": directions}
        sparse = scipy.sparse.csc_matrix(data["J_regressor"])
        stream = python2_pickle(data | changed | {"J_regressor": sparse})
        stream = stream.replace(b"cscipy.sparse._csc\n", b"cscipy.sparse.csc\n")
        text = pickle.dumps(template, 0)  # protocol 0 reconstructs through copy_reg
    assert "chumpy" not in sys.modules
    path = tmp_path / "SMPLX_NEUTRAL.pkl"
    path.write_bytes(stream)
    same(smplx_file.read(path), data)
    np.testing.assert_array_equal(load(text, smplx_file._KNOWN), data["v_template"])


def test_pickles_that_run_code_are_refused(tmp_path, data):
    flag = tmp_path / "flag"
    path = tmp_path / "SMPLX_NEUTRAL.pkl"
    path.write_bytes(pickle.dumps({"v_template": Hostile(flag)}, 2))
    with pytest.raises(smplx_file.SmplxFileError, match=r"SMPLX_NEUTRAL\.pkl.*system"):
        smplx_file.read(path)
    needed = np.array(Hostile(flag), dtype=object)
    with pytest.raises(smplx_file.SmplxFileError, match=r"SMPLX_MALE\.npz: key 'J_regressor'.*system"):
        smplx_file.read(write_npz(tmp_path / "SMPLX_MALE.npz", data, J_regressor=needed))
    assert not flag.exists()
    # The reconstructor that old protocols need makes nothing but the stand-ins.
    path.write_bytes(b"ccopy_reg\n_reconstructor\n(cnumpy\nndarray\nc__builtin__\nobject\nNtR.")
    with pytest.raises(smplx_file.SmplxFileError, match="only known classes"):
        smplx_file.read(path)


def test_missing_file_says_where_to_get_it(tmp_path):
    path = tmp_path / "nowhere" / "SMPLX_NEUTRAL.npz"
    with pytest.raises(
        FileNotFoundError, match=r"nowhere/SMPLX_NEUTRAL\.npz.*smpl-x\.is\.tue\.mpg\.de.*models_smplx_v1_1"
    ):
        smplx.load(path)


def test_directory_lists_its_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no SMPL-X file.*register"):
        smplx.load(tmp_path)
    (tmp_path / "smplx").mkdir()
    for name in ("SMPLX_MALE.pkl", "SMPLX_NEUTRAL.npz", "SMPLX_notes.txt"):
        (tmp_path / "smplx" / name).touch()
    with pytest.raises(FileNotFoundError, match=r"in it: smplx/SMPLX_MALE\.pkl, smplx/SMPLX_NEUTRAL\.npz$"):
        smplx.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("weights", np.zeros((10475, 52)), r"must be floating point \(10475, 55\), got float64 \(10475, 52\)"),
        ("hands_meanl", np.zeros(44), r"key 'hands_meanl' must be floating point \(45,\), got float64 \(44,\)"),
        ("shapedirs", np.zeros((10475, 3, 10)), r"key 'shapedirs' must be \(10475, 3, 400\) or \(10475, 3, 20\)"),
        ("f", np.full((4, 3), 10475), "key 'f' must hold vertex indices below 10475"),
        ("kintree_table", np.full((2, 55), 54), "key 'kintree_table' must list parents before their children"),
        ("v_template", np.full((10475, 3), np.nan), "key 'v_template' has values that are not finite"),
        ("v_template", np.array({"x": 1}, dtype=object), "key 'v_template' must be an array of numbers, got"),
        ("J_regressor", np.array(scipy.sparse.csc_matrix((3, 4)), dtype=object), r"be \(55, 10475\), got \(3, 4\)"),
    ],
)  # fmt: skip
def test_wrong_keys_name_file_key_and_shape(tmp_path, data, key, value, message):
    path = write_npz(tmp_path / "SMPLX_NEUTRAL.npz", data, **{key: value})
    with pytest.raises(smplx_file.SmplxFileError, match=message) as error:
        smplx_file.read(path)
    assert str(error.value).startswith(f"{path}: key {key!r}")


def test_landmarks_may_be_left_out_but_must_be_of_the_mesh(tmp_path, data):
    without = {key: value for key, value in data.items() if key != "dynamic_lmk_faces_idx"}
    assert smplx_file.read(write_npz(tmp_path / "a.npz", without)).landmarks is None
    for key, value in (("lmk_faces_idx", np.full(51, 20908)), ("lmk_faces_idx", np.zeros(50, int))):
        with pytest.raises(smplx_file.SmplxFileError, match=r"b\.npz: lmk_faces_idx .* 51 and \(n, 17\) triangles"):
            smplx_file.read(write_npz(tmp_path / "b.npz", data, **{key: value}))


def test_missing_key_and_other_files(tmp_path, data):
    path = tmp_path / "SMPLX_NEUTRAL.npz"
    np.savez(path, **{k: v for k, v in data.items() if k != "posedirs"})
    with pytest.raises(smplx_file.SmplxFileError, match=r"SMPLX_NEUTRAL\.npz: key 'posedirs' is missing"):
        smplx_file.read(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(
        smplx_file.SmplxFileError, match=r"SMPLX_NEUTRAL\.npz is a damaged \.npz file: its end is missing"
    ):
        smplx_file.read(path)
    path.write_bytes(b"not a model")
    with pytest.raises(smplx_file.SmplxFileError, match=r"SMPLX_NEUTRAL\.npz cannot be read as a SMPL-X file"):
        smplx_file.read(path)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(smplx_file.SmplxFileError, match="expected a dictionary of arrays, got list"):
        smplx_file.read(path)


def test_too_many_coefficients_name_the_limit(tmp_path, data):
    path = write_npz(tmp_path / "SMPLX_NEUTRAL.npz", data)
    with pytest.raises(ValueError, match=r"SMPLX_NEUTRAL\.npz: num_betas must be 1 to 10 for this file, got 16"):
        smplx.load(path, num_betas=16)
