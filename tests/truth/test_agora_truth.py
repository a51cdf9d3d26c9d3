"""Reader of AGORA: recorded and made data frames, values by independent arithmetic."""

# The fields of `TruthPeople` are optional: which reader fills which is what is tested here.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
from __future__ import annotations

import numpy as np
import pytest
from helpers import GOLDENS
from truth_files import agora_frame

from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.dataframe_pickles import read_dataframe
from annyfit_jax.truth import open_truth

# ------------------------------------------------------------------------------------------------ AGORA


@pytest.mark.parametrize("name", ["dataframe_pandas1.pkl", "dataframe_pandas3.pkl"])
def test_agora_is_read(name):
    path = GOLDENS / "metrics" / name
    source = open_truth("agora", str(path))
    assert source.names == ("ag_validation_0", "ag_validation_1")
    people, columns = source.load(0), read_dataframe(path)
    np.testing.assert_array_equal(people.joints_2d, np.asarray(columns["gt_joints_2d"][0])[:, :24])
    np.testing.assert_array_equal(people.joints_smplx, columns["gt_joints_3d"][0])
    assert people.valid.tolist() == [True, True]
    assert people.counted.tolist() == [True, False]  # occluded by 95 %
    assert people.kid.tolist() == [False, True]
    assert people.vertices is None
    assert len(source.load(1)) == 1


def test_agora_with_vertices_is_read(tmp_path, monkeypatch):
    (tmp_path / "validation_0.pkl").write_bytes(agora_frame(monkeypatch))
    (tmp_path / "validation_1.pkl").write_bytes(agora_frame(monkeypatch, imgPath=["b.png"]))
    source = open_truth("agora", str(tmp_path))
    assert source.names == ("a", "b")
    people = source.load(1)
    assert people.vertices.shape == (1, 10475, 3)
    assert people.names[:2] == ("pelvis", "left_hip")
    (tmp_path / "validation_1.pkl").write_bytes(agora_frame(monkeypatch))
    with pytest.raises(SceneError, match="2 images are called a"):
        open_truth("agora", str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gt_joints_3d": None}, r"column gt_joints_3d: missing; the file has .*project_joints"),
        (
            {"gt_joints_2d": [[np.zeros((127, 3))]]},
            r"row 0 \(a\.png\): gt_joints_2d\[0\]: expected shape \(k, 2\), got \(127, 3\)",
        ),
        ({"gt_joints_2d": [[np.zeros((20, 2))]]}, "expected at least 24 joints"),
        ({"isValid": [[True, True]]}, "gt_joints_2d: expected 2 arrays of one shape"),
        ({"isValid": [True]}, "isValid: expected one entry per person, got bool"),
        ({"occlusion": [[0.0, 1.0]]}, r"occlusion: expected shape \(1,\), got \(2,\)"),
        ({"gt_verts": [[np.zeros((5, 2))]]}, r"gt_verts\[0\]: expected shape \(v, 3\)"),
    ],
)
def test_a_wrong_row_of_agora_is_named(tmp_path, monkeypatch, change, message):
    (tmp_path / "a.pkl").write_bytes(agora_frame(monkeypatch, **change))
    with pytest.raises(SceneError, match=message):
        open_truth("agora", str(tmp_path)).load(0)
