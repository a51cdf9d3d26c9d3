"""Fits of SMPL-X for programs that draw, pose and list fits: the right body, the right columns, clear errors without a file."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import smplx_synthetic
from fitted_people import make_fit, make_smplx_fit
from helpers import max_abs

from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.exports.tables import person_rows
from annyfit_jax.jobs.fit_source import Outcome, open_fits
from annyfit_jax.people.fit_meshes import FitMeshes, SmplxMeshes
from annyfit_jax.people.fitted import SceneFit, is_smplx
from annyfit_jax.records import fit_files
from annyfit_jax.report import ReportOptions, write_report
from annyfit_jax.report.report_columns import fit_columns
from annyfit_jax.report.report_pictures import Painter
from annyfit_jax.report.scene_pages import scene_page

pytestmark = pytest.mark.unoptimised


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    return smplx_synthetic.arrays()


@pytest.fixture(scope="module")
def file(data, tmp_path_factory) -> Path:
    return smplx_synthetic.save(tmp_path_factory.mktemp("smplx"), data)


@pytest.fixture(scope="module")
def child(data, file) -> Path:
    path = file.parent / "smplx_kid_template.npy"
    np.save(path, 0.6 * data["v_template"])
    return path


@pytest.fixture(scope="module")
def fit() -> SceneFit:
    return make_smplx_fit()


def with_child(fit: SceneFit) -> SceneFit:
    """The same people with half a child's shape."""
    shape = np.concatenate([fit.shape, np.where(np.isfinite(fit.shape[:, :1]), np.float32(0.5), np.nan)], axis=1)
    labels = np.array([*fit.phenotype_labels.tolist(), "kid"])
    return dataclasses.replace(fit, shape=shape, shape_raw=shape, start_shape=shape, phenotype_labels=labels)


def reference(data: dict[str, np.ndarray], fit: SceneFit, row: int) -> dict[str, np.ndarray]:
    person = {
        "betas": fit.shape[row, :10], "expression": np.nan_to_num(fit.expression[row]), "root_rotvec": fit.root_rotvec[row],
        "pose_rotvec": fit.pose[row], "translation": fit.transl[row],
    }  # fmt: skip
    return smplx_synthetic.reference(data, {key: np.asarray(value, float) for key, value in person.items()})


def test_the_meshes_are_those_of_the_fit(data, file, fit):
    meshes = FitMeshes(str(file)).of(fit)
    assert isinstance(meshes, SmplxMeshes) and meshes.faces.shape == (20908, 3)
    vertices = meshes.vertices(fit.parameters)
    keypoints, height = meshes.keypoints_and_height(fit.parameters)
    for row in range(2):
        wanted = reference(data, fit, row)
        assert max_abs(vertices[row], wanted["vertices"]) < 1e-5
        assert max_abs(keypoints[row], wanted["keypoints"]) < 1e-5
        resting = data["v_template"][:, 1] + data["shapedirs"][:, 1, :10] @ fit.shape[row].astype(float)
        assert height[row] == pytest.approx(np.ptp(resting), abs=1e-5)
    assert np.isnan(vertices[2]).all()
    face = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
    smiling = dataclasses.replace(fit, expression=face)
    vertices = meshes.vertices(smiling.parameters)
    assert max_abs(vertices[1], reference(data, smiling, 1)["vertices"]) < 1e-5
    assert max_abs(vertices[1], reference(data, fit, 1)["vertices"]) > 1e-3


def test_a_blend_with_a_child_needs_its_file(data, file, child, fit):
    blended = with_child(fit)
    with pytest.raises(ValueError, match=r"photo: its last beta blends with a child.*--kid_template"):
        FitMeshes(str(file)).of(blended)
    bodies = FitMeshes(str(file), str(child))
    plain, both = (bodies.of(each).vertices(each.parameters.select(np.array([0])))[0] for each in (fit, blended))
    assert np.abs(plain - both).max() > 0.01
    assert bodies.of(fit) is bodies.of(fit)


def test_the_file_must_be_there_and_the_right_one(file, fit):
    with pytest.raises(ValueError, match=r"here: is a fit of SMPL-X; give its file with --smplx_model"):
        FitMeshes().of(fit, "here")
    other = dataclasses.replace(fit, asset_version="SMPLX_MALE.npz")
    with pytest.raises(ValueError, match=r"asset_version SMPLX_MALE.npz, but this program's body is SMPLX_NEUTRAL.npz"):
        FitMeshes(str(file)).of(other)


def test_no_beta_is_an_age(fit):
    assert is_smplx(fit) and not is_smplx(make_fit())
    assert np.isnan(fit.phenotypes).all() and max_abs(make_fit().phenotypes[:2], make_fit().shape[:2]) == 0
    columns = fit_columns(fit)
    assert np.isnan(columns["age_years"]).all() and np.isnan(columns["gender"]).all()
    assert columns["depth_m"][0] == pytest.approx(fit.depth_m[0])
    row = person_rows(Outcome(fit))[0]
    assert row["age"] is None and row["height"] is None and row["asset_version"] == "SMPLX_NEUTRAL.npz"
    page = scene_page(fit, np.zeros((3, 4, 3)), np.zeros((1, 3), int))
    assert [person["age"] for person in page.people] == ["", "", ""]


@pytest.mark.slow
def test_pictures_show_smplx(file, fit):
    painter = Painter(bodies=FitMeshes(str(file)))
    files = painter.files(fit, None)
    assert {"overlay.jpg", "start.jpg", "model.js", "top.png"} <= set(files)
    assert painter.vertices(fit).shape == (3, 10475, 3)


def test_exports_know_the_child(data, file, child, fit, tmp_path):
    """The official rules make the same body; meshes are written with either file format of meshes."""
    blended = with_child(fit)
    fit_files.save(blended, tmp_path / "in" / "photo.npz")
    export = functools.partial(export_fits, str(tmp_path / "in"), smplx_model=str(file), kid_template=str(child))
    (first, _), _ = export(str(tmp_path / "amass"), "amass")
    with np.load(first, allow_pickle=False) as archive:
        assert archive["betas"].shape == (11,) and archive["num_betas"] == 11
        trans = archive["trans"][0]
    directions = 0.6 * data["v_template"] - (0.6 * data["v_template"]).mean(0) - data["v_template"]
    shaped = {**data, "v_template": data["v_template"] + 0.5 * directions}
    wanted = reference(shaped, blended, 0)
    assert max_abs(trans, wanted["transl"]) < 1e-5
    for kind in ("glb", "obj"):
        files, empty = export(str(tmp_path / kind), kind)
        assert files and not empty
    assert len(list(open_fits(tmp_path / "in"))) == 1


def test_a_report_without_the_file_is_refused_unless_it_has_no_pictures(fit, tmp_path):
    fit_files.save(fit, tmp_path / "fits" / "photo.npz")
    fits = open_fits(tmp_path / "fits")
    with pytest.raises(ValueError, match="--smplx_model"):
        write_report(fits, tmp_path / "report", ReportOptions(title="Trip"))
    assert not (tmp_path / "report").exists()
    write_report(fits, tmp_path / "report", ReportOptions(title="Trip", pictures=0))
    assert (tmp_path / "report" / "index.html").exists()
