"""Reader of EHF: meshes of its layout."""

# The fields of `TruthPeople` are optional: which reader fills which is what is tested here.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from truth_files import write_ply

from annyfit_jax.metrics.skeletons import SMPLX22
from annyfit_jax.people.scene import SceneError
from annyfit_jax.truth import TruthOptions, open_truth


def test_ehf_is_read(tmp_path, smplx_arrays, smplx_file):
    rng = np.random.default_rng(0)
    vertices = rng.normal(0, 0.4, (10475, 3)).astype(np.float32)
    write_ply(tmp_path / "07_align.ply", vertices)
    source = open_truth("ehf", str(tmp_path), TruthOptions(smplx=smplx_file))
    people = source.load(0)
    assert (people.name, people.aliases, people.names) == ("07", ("07_img",), SMPLX22)
    turn = Rotation.from_rotvec([-2.98747896, 0.01172457, -0.05704687])
    expected = turn.apply(vertices.astype(np.float64)) + np.array([-0.03609917, 0.43416458, 2.37101226])
    np.testing.assert_allclose(people.vertices[0], expected, atol=1e-9)
    joints = smplx_arrays["J_regressor"][:22] @ expected
    np.testing.assert_allclose(people.joints_3d[0], joints, atol=1e-9)
    pixels = 1498.22426237 * joints[:, :2] / joints[:, 2:] + [790.263706, 578.90334]
    np.testing.assert_allclose(people.joints_2d[0], pixels, atol=1e-6)


def test_a_wrong_mesh_or_model_is_named(tmp_path, smplx_file):
    write_ply(tmp_path / "01_align.ply", np.zeros((6890, 3)))
    options = TruthOptions(smplx=smplx_file)
    with pytest.raises(SceneError, match=r"01_align\.ply: vertex: expected .* shape \(10475, 3\), got \(6890, 3\)"):
        open_truth("ehf", str(tmp_path), options).load(0)
    (tmp_path / "01_align.ply").write_bytes(b"ply\nnothing")
    with pytest.raises(SceneError, match=r"01_align\.ply"):
        open_truth("ehf", str(tmp_path), options).load(0)
    with pytest.raises(
        SceneError, match=r"option smplx: the protocols ehf, ubody, arctic and egobody, .* need the SMPL-X model file"
    ):
        open_truth("ehf", str(tmp_path))
    with pytest.raises(SceneError, match="nowhere"):
        open_truth("ehf", str(tmp_path), TruthOptions(smplx=str(tmp_path / "nowhere.npz")))
