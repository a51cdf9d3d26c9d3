"""Reader of Relative Human: small files of its layout, values by independent arithmetic."""

# The fields of `TruthPeople` are optional: which reader fills which is what is tested here.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
from __future__ import annotations

import json

import numpy as np
import pytest
from hostile_files import Bomb, damage, damaged, fuzz
from hypothesis import given

from annyfit_jax.metrics.skeletons import RH14
from annyfit_jax.people.scene import SceneError
from annyfit_jax.truth import TruthOptions, open_truth, relative_human_truth

# ------------------------------------------------------------------------------------------------ Relative Human


def person(joints=14, **changes):
    """A person whose joint j is at (10 j, 100 + j), labelled but for the last one."""
    points = np.stack([10.0 * np.arange(joints), 100.0 + np.arange(joints), np.full(joints, 2.0)], 1)
    points[-1, 2] = 0.0
    return {"kp2d": points.ravel().tolist(), "depth_id": 1, "age": 2, "gender": 0, "bbox": [0, 0, 9, 9]} | changes


ANNOTS = {
    "100.jpg": [person(), person(kp2d=None), person(depth_id=-1, age=-1, gender=-1)],
    "1234567.jpg": [person(19)],
    "12345678.jpg": [person(19, age=3)],
}


@pytest.fixture(params=["npz", "json"])
def relative_human_file(request, tmp_path):
    path = tmp_path / f"test_annots.{request.param}"
    if request.param == "json":
        path.write_text(json.dumps(ANNOTS))
    else:
        np.savez(path, annots=np.array(ANNOTS, dtype=object))
    return path


def test_relative_human_is_read(relative_human_file):
    source = open_truth("relative_human", str(relative_human_file))
    assert source.names == ("100", "1234567", "12345678")
    first = source.load(0)
    assert len(first) == 2  # without keypoints nobody can be found
    assert first.layer.tolist() == [1, -1]
    assert (first.age.tolist(), first.gender.tolist()) == ([2, -1], [0, -1])
    assert first.labelled.sum(1).tolist() == [13, 13]
    np.testing.assert_array_equal(first.joints_2d[0, :13, 0], 10.0 * np.arange(13))
    np.testing.assert_array_equal(first.joints_2d[:, 13], -2.0)


def test_the_two_orders_of_19_joints_are_told_apart_by_the_name(relative_human_file):
    source = open_truth("relative_human", str(relative_human_file))
    for name, left_hip, right_wrist, head_top, left_knee in (("1234567", 11, 10, 0, 13), ("12345678", 9, 2, 12, 10)):
        people = source.load(source.names.index(name))
        expected = {"left_hip": left_hip, "right_wrist": right_wrist, "head_top": head_top, "left_knee": left_knee}
        for joint, j in expected.items():
            assert people.joints_2d[0, RH14.index(joint)].tolist() == [10.0 * j, 100.0 + j], (name, joint)
        assert not people.labelled[0, RH14.index("neck_base")]
        assert people.labelled[0].sum() == 13


def test_a_folder_of_relative_human_needs_the_split(tmp_path):
    np.savez(tmp_path / "val_annots.npz", annots=np.array(ANNOTS, dtype=object))
    with pytest.raises(SceneError, match=r"test_annots\.npz"):
        open_truth("relative_human", str(tmp_path))
    assert len(open_truth("relative_human", str(tmp_path), TruthOptions(split="val"))) == 3
    chosen = TruthOptions(split="val", pattern="^123")
    assert open_truth("relative_human", str(tmp_path), chosen).names == ("1234567", "12345678")
    with pytest.raises(SceneError, match="no image left to judge by whose name has 'zzz'"):
        open_truth("relative_human", str(tmp_path), TruthOptions(split="val", pattern="zzz"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kp2d": [1.0, 2.0, 3.0]}, r"100\.jpg: person 0: kp2d: expected shape \(14, 3\) or \(19, 3\), got 3 numbers"),
        ({"kp2d": [[1.0], [2.0, 3.0]]}, "kp2d: expected shape .* rows of different lengths"),
        ({"kp2d": [float("nan")] * 42}, "kp2d: expected finite numbers"),
        ({"kp2d": ["x"] * 42}, "kp2d: expected numbers"),
        ({"age": 4}, "person 0: age: expected a code of 0 to 3, or -1 for unknown, got 4"),
        ({"age": "kid"}, "person 0: age: expected a code"),
        ({"gender": 2}, "person 0: gender: expected a code of 0 to 1"),
        ({"depth_id": 0.5}, "person 0: depth_id: expected a layer of 0 or more"),
    ],
)
def test_a_wrong_person_is_named(tmp_path, change, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"100.jpg": [person() | change]}))
    source = open_truth("relative_human", str(path))
    with pytest.raises(SceneError, match=message):
        source.load(0)


def test_relative_human_of_another_layout_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(SceneError, match=r"a\.json: annots: expected a dictionary"):
        open_truth("relative_human", str(tmp_path / "a.json"))
    with pytest.raises(SceneError, match=r"100\.jpg: expected a list of people, got dict"):
        relative_human_truth.people_of("100.jpg", {}, "file")
    with pytest.raises(SceneError, match="person 0: expected a dictionary, got int"):
        relative_human_truth.people_of("100.jpg", [3], "file")


def test_annotations_run_no_code(tmp_path):
    witness = tmp_path / "ran"
    np.savez(tmp_path / "test_annots.npz", annots=np.array({"a.jpg": Bomb(witness)}, dtype=object))
    with pytest.raises(SceneError, match="refused: the pickle asks for the global"):
        open_truth("relative_human", str(tmp_path))
    assert not witness.exists()


@fuzz
@given(*damage)
def test_damaged_annotations_are_one_clear_error(tmp_path, changes, cut):
    whole = tmp_path / "whole.npz"
    if not whole.exists():
        np.savez(whole, annots=np.array(ANNOTS, dtype=object))
    path = tmp_path / "test_annots.npz"
    path.write_bytes(damaged(whole.read_bytes(), changes, cut))
    try:
        for people in open_truth("relative_human", str(path)):
            assert people.joints_2d.shape == (len(people), 14, 2)
    except SceneError as error:
        message = str(error)
    else:
        message = str(path)
    assert str(path) in message
