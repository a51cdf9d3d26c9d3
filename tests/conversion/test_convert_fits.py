"""Fits of Anny as files of SMPL-X's fits, with the distance of the surfaces, and into HumanData."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from fitted_people import make_fit
from helpers import max_abs

from annyfit_jax.conversion.convert_fits import REPORT, FitConverter, write_converted
from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.exports.humandata_export import read_humandata
from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.people.fitted import SceneFit
from annyfit_jax.records import fit_files
from annyfit_jax.store.locations import place
from body_models import smplx

pytestmark = pytest.mark.unoptimised


@pytest.fixture(scope="module")
def fit(load_anny) -> SceneFit:
    """Two people with a fit and one without."""
    return make_fit(asset_version=load_anny().labels.asset_version)


@pytest.fixture(scope="module")
def folder(fit, body_file, tmp_path_factory) -> Path:
    """Fits of Anny in `in`, converted ones in `out`."""
    folder = tmp_path_factory.mktemp("fits")
    fit_files.save(fit, folder / "in" / "photo.npz")
    done = write_converted(open_fits(folder / "in"), folder / "out", FitConverter("smplx", body_file))
    assert (done.scenes, done.people) == (1, 2)
    assert 0 < done.surface_mm <= done.worst_mm < 10
    return folder


@pytest.mark.slow
def test_files_are_fits_of_smplx_and_say_how_near_they_are(folder, fit):
    (made,) = open_fits(folder / "out")
    assert tuple(made.bone_labels) == smplx.JOINTS[1:]
    assert made.pose.shape == (3, 54, 3) and made.shape.shape == (3, 10)
    assert made.status.tolist() == fit.status.tolist()
    assert np.isfinite(made.conversion_m[:2]).all() and np.isnan(made.conversion_m[2])
    assert np.isnan(made.pose[2]).all()
    assert (made.reprojection_px[:2] > 0).all()
    assert np.abs(made.depth_m[:2] - fit.depth_m[:2]).max() < 0.15
    lines = [json.loads(line) for line in (folder / "out" / REPORT).read_text().splitlines()]
    assert [line["person_id"] for line in lines] == ["7", "left one", "9"]
    assert lines[0]["surface_mm"] == pytest.approx(1e3 * made.conversion_m[0], abs=1e-3)
    assert "surface_mm" not in lines[2]


@pytest.mark.slow
def test_humandata_of_anny_fits_holds_smplx(folder, body_file, tmp_path):
    (path,), _ = export_fits(str(folder / "in"), str(tmp_path), "humandata", smplx_model=str(body_file))
    content = read_humandata(path)
    (made,) = open_fits(folder / "out")
    assert max_abs(content["smplx"]["global_orient"][:2], made.root_rotvec[:2]) < 1e-5
    assert content["anny"]["pose"].shape == (3, 162, 3)


@pytest.mark.slow
def test_a_fit_of_the_body_is_not_converted_to_it(folder, body_file):
    (made,) = open_fits(folder / "out")
    with pytest.raises(ValueError, match=r"here: is a fit of smplx already"):
        FitConverter("smplx", body_file)(made, "here")


@pytest.mark.slow
def test_fits_and_body_files_may_be_in_buckets(folder, body_file, tmp_path, monkeypatch):
    monkeypatch.setenv("ANNYFIT_CACHE", str(tmp_path))
    bucket = place(f"memory://convert-{tmp_path.name}-{os.getpid()}")
    (bucket / "in" / "photo.npz").put((folder / "in" / "photo.npz").read_bytes())
    (bucket / "SMPLX.npz").put(Path(body_file).read_bytes())
    converter = FitConverter("smplx", str(bucket / "SMPLX.npz"))
    write_converted(open_fits(str(bucket / "in")), bucket / "out", converter)
    for name in place(folder / "out").tree():
        assert (bucket / "out" / name).is_file()
    (bucket_fit,), (local_fit,) = open_fits(str(bucket / "out")), open_fits(folder / "out")
    np.testing.assert_array_equal(bucket_fit.pose, local_fit.pose)
    assert (bucket / "out" / REPORT).read_bytes() == (folder / "out" / REPORT).read_bytes()


def test_another_body_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--to=smpl: expected one of anny, smplx"):
        FitConverter("smpl", tmp_path / "none.npz")
