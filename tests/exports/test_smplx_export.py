"""AMASS and BEDLAM layouts: the official rules make our bodies from them, whichever way the camera stands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import smplx_synthetic
from fitted_people import make_smplx_fit
from helpers import max_abs
from scipy.spatial.transform import Rotation

from annyfit_jax.exports import scene_files, smplx_export
from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.exports.skinned_export import Skinned
from annyfit_jax.people.fitted import SceneFit
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.records import fit_files
from body_models import smplx


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    return smplx_synthetic.arrays()


@pytest.fixture(scope="module")
def file(data, tmp_path_factory) -> Path:
    return smplx_synthetic.save(tmp_path_factory.mktemp("smplx"), data)


@pytest.fixture(scope="module")
def fit() -> SceneFit:
    """Two people of SMPL-X with a fit and one without."""
    return make_smplx_fit()


def official(data: dict[str, np.ndarray], poses: np.ndarray, betas: np.ndarray, trans: np.ndarray) -> np.ndarray:
    """Vertices (V, 3) by the official order of things: turned about the resting pelvis, then moved by `trans`."""
    person = {
        "betas": betas.astype(float), "expression": np.zeros(10), "root_rotvec": poses[:3].astype(float),
        "pose_rotvec": poses[3:].reshape(54, 3).astype(float), "translation": np.zeros(3),
    }  # fmt: skip
    there = smplx_synthetic.reference(data, person)
    return there["vertices"] - there["transl"] + trans


def ours(data: dict[str, np.ndarray], fit: SceneFit, row: int) -> np.ndarray:
    person = {
        "betas": fit.shape[row], "expression": np.zeros(10), "root_rotvec": fit.root_rotvec[row],
        "pose_rotvec": fit.pose[row], "translation": fit.transl[row],
    }  # fmt: skip
    return smplx_synthetic.reference(data, {key: np.asarray(value, float) for key, value in person.items()})["vertices"]


def test_amass_files_make_the_bodies_of_the_fit(data, file, fit, tmp_path):
    fit_files.save(fit, tmp_path / "in" / "photo.npz")
    written, _ = export_fits(str(tmp_path / "in"), str(tmp_path / "out"), "amass", smplx_model=str(file))
    assert [path.name for path in written] == ["photo_person_7.npz", "photo_person_left one.npz"]
    for row, path in enumerate(written):
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
        assert arrays["poses"].shape == (1, 165) and arrays["trans"].shape == (1, 3)
        parts = ("root_orient", "pose_body", "pose_jaw", "pose_eye", "pose_hand")
        np.testing.assert_array_equal(np.concatenate([arrays[p] for p in parts], 1), arrays["poses"])
        assert str(arrays["surface_model_type"]) == "smplx"
        vertices = official(data, arrays["poses"][0], arrays["betas"], arrays["trans"][0])
        assert max_abs(vertices, ours(data, fit, row)) < 1e-5


def test_bedlams_file_makes_them_too_and_projects_where_the_fit_does(data, file, fit, tmp_path):
    fit_files.save(fit, tmp_path / "in" / "photo.npz")
    (path,), _ = export_fits(str(tmp_path / "in"), str(tmp_path / "out"), "bedlam", smplx_model=str(file))
    assert path.name == "bedlam.npz"
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    assert {len(value) for value in arrays.values()} == {2}
    assert arrays["cam_ext"][0].tolist() == np.eye(4).tolist()
    np.testing.assert_array_equal(arrays["cam_int"][1], fit.K)
    assert arrays["imgname"].tolist() == ["a.jpg"] * 2 and arrays["sub"].tolist() == ["7", "left one"]
    for row in range(2):
        vertices = official(data, arrays["pose_cam"][row], arrays["shape"][row], arrays["trans_cam"][row])
        assert max_abs(vertices, ours(data, fit, row)) < 1e-5


def test_a_change_of_camera_moves_the_body_and_not_its_offset(data, file, fit):
    """`transl` must take the pelvis along: a body that is only turned gets another `transl` although it turns in place."""
    model = smplx.load(file)
    transform = np.eye(4)
    transform[:3, :3] = Rotation.from_rotvec([0.3, 2.0, -0.6]).as_matrix()
    transform[:3, 3] = [0.5, -1.0, 2.0]
    people = fit.parameters.select(np.arange(2))
    seen = smplx_export.moved(people, transform)
    poses, transl = smplx_export.full_pose(seen), smplx_export.official_transl(model, seen)
    naive = scene_files.move(smplx_export.official_transl(model, people), transform)
    for row in range(2):
        expected = scene_files.move(ours(data, fit, row), transform)
        assert max_abs(official(data, poses[row], seen.shape[row], transl[row]), expected) < 1e-5
        assert np.abs(official(data, poses[row], seen.shape[row], naive[row]) - expected).max() > 0.01


def test_the_world_frame_stands_on_the_floor(data, file, fit, tmp_path):
    model = smplx.load(file)
    smplx_export.write_amass([fit], tmp_path, model, "world")
    lowest = []
    for path in tmp_path.glob("*.npz"):
        with np.load(path) as arrays:
            lowest.append(official(data, arrays["poses"][0], arrays["betas"], arrays["trans"][0])[:, 1].min())
    assert min(lowest) == pytest.approx(0.0, abs=1e-5)


def test_skinned_files_have_smplx_with_its_own_joints(file, fit, tmp_path):
    fit_files.save(fit, tmp_path / "in" / "photo.npz")
    skinned = Skinned()
    written, empty = export_fits(
        str(tmp_path / "in"), str(tmp_path / "out"), "glb", frame="world", skinned=skinned, smplx_model=str(file)
    )
    assert ([path.name for path in written], empty) == (["photo.glb"], [])
    content = written[0].read_bytes()
    tree = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    names = [node["name"] for node in tree["nodes"]]
    assert names.count("left_index3") == 2 and names.count("pelvis") == 2
    assert {skin["name"] for skin in tree["skins"]} == {"person_7_rig", "person_left one_rig"}
    with pytest.raises(ValueError, match=r"photo\.npz: is a fit of SMPL-X; give its file with --smplx_model"):
        export_fits(str(tmp_path / "in"), str(tmp_path / "new"), "bvh")


def test_the_model_is_needed(fit, tmp_path):
    fit_files.save(fit, tmp_path / "in" / "photo.npz")
    with pytest.raises(ValueError, match="--format=amass needs --smplx_model"):
        export_fits(str(tmp_path / "in"), str(tmp_path / "out"), "amass")


def test_parameters_are_not_changed_where_nothing_moves(fit):
    people: BodyParameters = fit.parameters.select(np.arange(2))
    same = smplx_export.moved(people, np.eye(4))
    turned = Rotation.from_rotvec(same.root_rotvec).inv() * Rotation.from_rotvec(people.root_rotvec.astype(float))
    assert turned.magnitude().max() < 1e-6
    assert max_abs(same.transl, people.transl) < 1e-6
