"""Readers of predictions of other programs: AGORA's upload format, meshes."""

# The fields of `TruthPeople` are optional: which reader fills which is what is tested here.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
from __future__ import annotations

import pickle

import numpy as np
import pytest

from annyfit_jax.people.scene import SceneError
from annyfit_jax.truth.foreign_predictions import agora_body, agora_files, read_agora, read_meshes


def agora_prediction(seed=0, **changes):
    rng = np.random.default_rng(seed)
    return {
        "joints": rng.uniform(0, 900, (24, 2)), "allSmplJoints3d": rng.normal(size=(127, 3)),
        "verts": rng.normal(size=(10475, 3)),
    } | changes  # fmt: skip


def test_predictions_in_the_upload_format_are_read_in_order(tmp_path):
    for k in (10, 2, 0):
        (tmp_path / f"ag_personId_x_personId_{k}.pkl").write_bytes(pickle.dumps(agora_prediction(k)))
    files = agora_files(tmp_path)
    assert list(files) == ["ag_personId_x"]
    people = read_agora(files["ag_personId_x"])
    assert len(people) == 3
    for row, k in enumerate((0, 2, 10)):
        np.testing.assert_array_equal(people.joints_2d[row], agora_prediction(k)["joints"])
        np.testing.assert_array_equal(people.vertices[row], agora_prediction(k)["verts"])
    bad = tmp_path / "b_personId_0.pkl"
    bad.write_bytes(pickle.dumps({"joints": np.zeros((24, 2)), "params": {}}))
    with pytest.raises(SceneError, match=r"allSmplJoints3d: missing, expected shape \(127, 3\); parameters alone"):
        read_agora([bad])
    bad.write_bytes(pickle.dumps(agora_prediction(verts=np.zeros((6890, 3)))))
    with pytest.raises(SceneError, match=r"verts: expected shape \(10475, 3\), got \(6890, 3\)"):
        read_agora([bad])
    assert (agora_body(files["ag_personId_x"]), agora_body([bad])) == ("smplx", "smpl")
    with pytest.raises(SceneError, match=r"allSmplJoints3d: expected shape \(24, 3\), got \(127, 3\)"):
        read_agora([bad], "smpl")
    bad.write_bytes(pickle.dumps(agora_prediction(verts=np.zeros((5, 3)))))
    with pytest.raises(SceneError, match=r"verts: expected shape \(10475, 3\) or \(6890, 3\), got \(5, 3\)"):
        agora_body([bad])
    with pytest.raises(SceneError, match="no AGORA predictions"):
        agora_files(tmp_path / "nothing")


def test_meshes_come_best_first(tmp_path, smplx_arrays):
    rng = np.random.default_rng(0)
    vertices = rng.normal((0, 0, 4), 0.3, (2, 10475, 3))
    k = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    np.savez(tmp_path / "a.npz", vertices=vertices, score=[0.2, 0.9], K=k)
    people = read_meshes(tmp_path / "a.npz", smplx_arrays["J_regressor"])
    np.testing.assert_array_equal(people.vertices, vertices[::-1])
    np.testing.assert_allclose(people.joints_smplx[0], smplx_arrays["J_regressor"] @ vertices[1], atol=1e-12)
    assert np.isfinite(people.joints_2d).all()
    np.savez(tmp_path / "a.npz", vertices=vertices[:, :100])
    with pytest.raises(SceneError, match=r"vertices`: expected shape \(n, 10475, 3\)"):
        read_meshes(tmp_path / "a.npz", smplx_arrays["J_regressor"])
