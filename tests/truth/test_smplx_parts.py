"""Numbers of the parts of SMPL-X."""

# The fields of `TruthPeople` are optional: which reader fills which is what is tested here.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
from __future__ import annotations

import pickle

import numpy as np
import pytest

from annyfit_jax.people.scene import SceneError
from annyfit_jax.truth.smplx_parts import read_parts


def test_numbers_of_parts_are_read(tmp_path):
    (tmp_path / "MANO_SMPLX_vertex_ids.pkl").write_bytes(
        pickle.dumps({"left_hand": np.arange(5), "right_hand": np.arange(5, 9)}, protocol=2)
    )
    np.save(tmp_path / "SMPL-X__FLAME_vertex_ids.npy", np.arange(9000, 9010))
    parts = read_parts(str(tmp_path))
    assert {name: len(x) for name, x in parts.items()} == {"left_hand": 5, "right_hand": 4, "face": 10}
    np.save(tmp_path / "body_verts_smpl.npy", np.array([6889]))
    assert read_parts(str(tmp_path))["smpl_body"].tolist() == [6889]
    np.save(tmp_path / "body_verts_smpl.npy", np.array([6890]))
    with pytest.raises(SceneError, match=r"body_verts_smpl\.npy: expected vertex numbers in 0\.\.6889"):
        read_parts(str(tmp_path))
    (tmp_path / "body_verts_smpl.npy").unlink()
    np.save(tmp_path / "body_verts_smplx.npy", np.array([10475]))
    with pytest.raises(SceneError, match=r"body_verts_smplx\.npy: expected vertex numbers in 0\.\.10474"):
        read_parts(str(tmp_path))
    (tmp_path / "body_verts_smplx.npy").write_bytes(b"no array")
    with pytest.raises(SceneError, match=r"body_verts_smplx\.npy: not a readable \.npy file"):
        read_parts(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SceneError, match=r"none of MANO_SMPLX_vertex_ids\.pkl"):
        read_parts(str(tmp_path / "empty"))
    assert read_parts(None) == {}
