"""Data frames of pandas, read without it: files of pandas 1 and 3, layouts before 1.3, hostile and damaged files."""

# The fields of `TruthPeople` are optional: which reader fills which is what is tested here.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
from __future__ import annotations

import pickle

import numpy as np
import pytest
from helpers import GOLDENS
from hostile_files import Bomb, damage, damaged, fuzz
from hypothesis import given
from truth_files import objects, old_frame

from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.dataframe_pickles import read_dataframe, read_pickle
from annyfit_jax.truth import open_truth

# ------------------------------------------------------------------------------------------------ pickles, data frames


def test_a_pickle_runs_no_code(tmp_path):
    witness = tmp_path / "ran"
    path = tmp_path / "a.pkl"
    for content in (Bomb(witness), [np.zeros(3), {"x": Bomb(witness)}]):
        path.write_bytes(pickle.dumps(content))
        for read in (read_pickle, read_dataframe):
            with pytest.raises(SceneError, match=r"a\.pkl: refused: the pickle asks for the global"):
                read(path)
    assert not witness.exists()
    with pytest.raises(SceneError, match=r"none\.pkl: cannot be read"):
        read_pickle(tmp_path / "none.pkl")


@pytest.mark.parametrize("name", ["dataframe_pandas1.pkl", "dataframe_pandas3.pkl"])
def test_data_frames_of_pandas_are_read_without_it(name):
    columns = read_dataframe(GOLDENS / "metrics" / name)
    assert list(columns) == ["imgPath", "camX", "kid", "occlusion", "isValid", "gt_joints_2d", "gt_joints_3d"]
    assert [str(x) for x in columns["imgPath"]] == ["ag_validation_0.png", "ag_validation_1.png"]
    assert [float(x) for x in columns["camX"]] == [0.0, 0.5]
    assert columns["occlusion"] == [[3.0, 95.0], [3.0]]
    rng = np.random.default_rng(0)  # the numbers that were written
    for n, row in enumerate(columns["gt_joints_2d"]):
        expected = [rng.integers(0, 900, (25, 2)) for _ in row]
        np.testing.assert_array_equal(np.asarray(row), expected)
        for _ in row:
            rng.integers(0, 9, (25, 3))
        assert len(row) == 2 - n


def test_data_frames_of_old_pandas_are_read(tmp_path, monkeypatch):
    text = objects([["a.png", "b.png"], [[True], [False, True]]])
    content = old_frame(
        [(np.array([[1.5, 2.5]]), slice(1, 2, 1)), (text, np.array([0, 2]))], ["imgPath", "camX", "kid"], monkeypatch
    )
    (tmp_path / "a.pkl").write_bytes(content)
    columns = read_dataframe(tmp_path / "a.pkl")
    assert columns["imgPath"] == ["a.png", "b.png"]
    assert [float(x) for x in columns["camX"]] == [1.5, 2.5]
    assert columns["kid"] == [[True], [False, True]]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([(np.zeros((2, 2)), slice(0, 1))], "a block of 2 columns stands in 1 places"),
        ([(np.zeros((1, 2)), slice(0, 1))], "column 'b' has no values"),
        ([(np.zeros((1, 2)), slice(0, 1)), (np.zeros((1, 3)), slice(1, 2))], "columns have different lengths"),
    ],
)
def test_a_data_frame_that_does_not_add_up_is_refused(tmp_path, monkeypatch, blocks, message):
    (tmp_path / "a.pkl").write_bytes(old_frame(blocks, ["a", "b"], monkeypatch))
    with pytest.raises(SceneError, match=rf"a\.pkl: .*{message}"):
        read_dataframe(tmp_path / "a.pkl")


def test_what_is_no_data_frame_is_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(SceneError, match="expected a pickled pandas data frame, got dict"):
        read_dataframe(tmp_path / "a.pkl")


@fuzz
@given(*damage)
def test_damaged_data_frames_are_one_clear_error(tmp_path, changes, cut):
    path = tmp_path / "a.pkl"
    path.write_bytes(damaged((GOLDENS / "metrics" / "dataframe_pandas1.pkl").read_bytes(), changes, cut))
    try:
        for people in open_truth("agora", str(path)):
            assert people.joints_2d.shape == (len(people), 24, 2)
    except SceneError as error:
        message = str(error)
    else:
        message = str(path)
    assert str(path) in message


def test_a_pickle_does_not_fill_the_memory(tmp_path):
    """The unpickler of the standard library makes room for every place of its memo up to the one named: here 32 GB."""
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04Nr\xff\xff\xff\xff.")
    with pytest.raises(SceneError, match=r"a\.pkl: refused: place 4294967295 of the memo after 2 instructions"):
        read_pickle(tmp_path / "a.pkl")
