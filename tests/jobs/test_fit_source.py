"""One way to read fits: of jobs finished and half finished, of folders, of files; what is broken is named."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from fake_job import CONFIG_HASH, fake_fit, leave_out, load_varied, run, source_of
from fitted_people import make_fit

from annyfit_jax.jobs import fit_source, job_rows
from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.records import fit_files as results
from annyfit_jax.records.fit_files import FitFileError, SceneFit

COUNT = 14
ASIDE = {"scene0010": "skipped:invalid_cues", "scene0012": "skipped:unreadable"}
NOT_IN_ROWS = {"shape_raw", "loss_names", "loss_curve", "bone_labels", "phenotype_labels", "config_json"}
FITTED = [f"scene{i:04d}" for i in range(COUNT) if f"scene{i:04d}" not in ASIDE]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """A finished job without fit files, as of a packed dataset."""
    folder = tmp_path_factory.mktemp("rows") / "out"
    run(folder, source_of(COUNT))
    return folder


@pytest.fixture(scope="module")
def job_with_files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "out"
    run(folder, source_of(COUNT), fit_files=True)
    return folder


def assert_same(a: SceneFit, b: SceneFit, without: set[str] = frozenset()) -> None:  # pyright: ignore[reportArgumentType]
    for field in fields(SceneFit):
        if field.name not in without:
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


def of_rows(name: str) -> bool:
    return name in NOT_IN_ROWS or name.startswith("start_")


# ------------------------------------------------------------------------------------------------ reading


def test_a_job_of_rows_gives_the_fits_in_input_order(job):
    source = open_fits(job)
    assert (source.total, source.unfinished) == (COUNT, 0)
    assert list(source.names) == FITTED
    streamed = list(source)
    assert [fit.name for fit in streamed] == FITTED
    for fit in streamed:
        scene = load_varied(int(fit.name[-4:]))
        n = len(scene)
        assert_same(fit, source.load(fit.name))
        np.testing.assert_array_equal(fit.keypoints_2d, scene.keypoints.astype(np.float32))
        assert fit.person_ids.tolist() == scene.person_ids
        assert fit.set_aside.tolist() == [list(pair) for pair in scene.skipped]
        assert (fit.pose.shape, fit.start_pose.shape, fit.loss_curve.shape) == ((n, 162, 3), (n, 162, 3), (0, 0))
        assert np.isnan(fit.start_transl).all() and np.isnan(fit.shape_raw).all()
        assert (fit.config_hash, fit.config_json) == (CONFIG_HASH, '{"fake": true}')
        assert len(fit) == n and fit.ok.all()


def test_a_row_is_the_fit_but_for_what_rows_do_not_hold(job_with_files):
    """The same fit by both ways, field by field."""
    for name in FITTED:
        stored, row = open_fits(job_with_files).load(name), open_fits(job_with_files, details=False).load(name)
        assert_same(stored, results.load(job_with_files / "fits" / f"{name}.npz"))
        assert stored.loss_curve.shape == (2, 1)
        assert_same(stored, row, {field.name for field in fields(SceneFit) if of_rows(field.name)} - {"start_origin"})


def test_outcomes_tell_of_every_scene_and_why_some_have_no_fit(job):
    outcomes = list(open_fits(job).outcomes())
    assert [outcome.index for outcome in outcomes] == list(range(COUNT))
    aside = {outcome.fit.name: outcome for outcome in outcomes if not outcome.fitted}
    assert {name: outcome.status for name, outcome in aside.items()} == ASIDE
    assert "nan" in aside["scene0010"].reason.lower()
    assert "not a readable file" in aside["scene0012"].reason
    invalid = aside["scene0010"].fit  # the people of a scene with a NaN are known
    assert set(invalid.status) == {"skipped:invalid_cues"} and np.isnan(invalid.pose).all() and len(invalid) == 3
    assert len(aside["scene0012"].fit) == 0
    for outcome in outcomes:
        assert len(outcome.person_keys) == len(outcome.fit) + len(outcome.fit.set_aside)


@pytest.mark.parametrize("span", [range(0, 14), range(3, 9), range(4, 8), range(13, 14), range(5, 5)])
def test_a_part_is_read_without_what_stands_before_it(job, span):
    source = open_fits(job)
    read: list[int] = []
    rows_of = source._rows  # pyright: ignore[reportAttributeAccessIssue]
    source._rows = lambda unit: (read.append(unit), rows_of(unit))[1]  # pyright: ignore[reportAttributeAccessIssue]
    assert [outcome.index for outcome in source.part(span)] == list(span)
    assert read == sorted({index // 4 for index in span})


def test_a_half_finished_job_gives_what_is_done(tmp_path):
    run(tmp_path, source_of(COUNT))
    leave_out(tmp_path, 0, 2)
    source = open_fits(tmp_path)
    assert (source.total, source.unfinished) == (6, 8)
    assert list(source.names) == ["scene0004", "scene0005", "scene0006", "scene0007", "scene0013"]
    with pytest.raises(FitFileError, match="no fit of scene scene0000"):
        source.load("scene0000")


def test_random_access_keeps_few_shards_open(tmp_path, monkeypatch):
    run(tmp_path, source_of(COUNT), scenes_per_shard=1)
    monkeypatch.setattr(fit_source, "_OPEN_SHARDS", 2)
    source = open_fits(tmp_path)
    for name in (*FITTED, *reversed(FITTED)):
        assert source.load(name).name == name
    assert len(source._shards) == 2  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("where", [".", "fits"])
def test_a_folder_of_fit_files(tmp_path, where):
    for name in ("b", "a"):
        results.save(make_fit(name), tmp_path / "fits" / f"{name}.npz")
    source = open_fits(tmp_path / where)
    assert (source.names, source.total, source.unfinished) == (("a", "b"), 2, 0)
    assert [fit.name for fit in source] == ["a", "b"]
    assert_same(source.load("b"), make_fit("b"))
    assert [outcome.fit.name for outcome in source.part(range(1, 2))] == ["b"]


def test_one_file(tmp_path):
    results.save(make_fit(), tmp_path / "photo.npz")
    assert open_fits(tmp_path / "photo.npz").names == ("photo",)
    assert_same(next(iter(open_fits(str(tmp_path / "photo.npz")))), make_fit())


def test_a_fit_file_of_another_run_is_not_taken_for_the_rows(job_with_files, tmp_path):
    """`--overwrite` leaves fit files of the run before; the rows are the truth."""
    folder = tmp_path / "out"
    shutil.copytree(job_with_files, folder)
    old = results.load(folder / "fits" / "scene0001.npz")
    results.save(replace(old, transl=old.transl + 1), folder / "fits" / "scene0001.npz")
    (folder / "fits" / "scene0002.npz").write_bytes(b"half")
    results.save(replace(fake_fit(load_varied(0)), name="scene0012"), folder / "fits" / "scene0012.npz")
    source = open_fits(folder)
    for name in ("scene0001", "scene0002"):
        fit = source.load(name)
        assert fit.loss_curve.size == 0
        np.testing.assert_array_equal(fit.transl, open_fits(folder, details=False).load(name).transl)
    assert list(source.names) == FITTED
    assert len(source.outcome("scene0012").fit) == 0


def test_rows_of_the_bundled_body_name_its_bones(job):
    row = next(open_fits(job).outcomes()).fit
    assert row.bone_labels.size == row.phenotype_labels.size == 0  # fitted with a body of version `fake`
    version, bones, phenotypes = fit_source._labels()
    scene = load_varied(0)
    info = job_rows.scene_info(0, scene.name, scene, CONFIG_HASH)
    named = fit_source.fit_of_row(job_rows.row_of_fit(info, replace(fake_fit(scene), asset_version=version)))
    assert (len(named.bone_labels), named.phenotype_labels.tolist()[:2]) == (162, ["gender", "age"])
    np.testing.assert_array_equal(named.bone_labels, bones)
    np.testing.assert_array_equal(named.phenotype_labels, phenotypes)


# ------------------------------------------------------------------------------------------------ what can go wrong


def test_nothing_there(tmp_path, job):
    with pytest.raises(FileNotFoundError, match=r"no fits \(<scene>\.npz\)"):
        open_fits(tmp_path)
    with pytest.raises(FileNotFoundError, match="lost: no fits"):
        open_fits(tmp_path / "lost")
    shutil.copy(job / "job.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="no finished unit yet"):
        open_fits(tmp_path)
    (tmp_path / "job.json").write_text("{")
    with pytest.raises(FitFileError, match=r"no readable job\.json"):
        open_fits(tmp_path)


def test_a_scene_without_a_fit_says_why(job):
    with pytest.raises(FitFileError, match=r"scene0012: was not fitted: skipped:unreadable \(.*not a readable file\)"):
        open_fits(job).load("scene0012")


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_shard_is_an_error_and_not_a_gap(job, tmp_path, damage):
    folder = tmp_path / "out"
    shutil.copytree(job, folder)
    (shard,) = (folder / "units").glob("00002-*")
    content = shard.read_bytes()
    if damage == "remove":
        shard.unlink()
    else:
        half = len(content) // 2
        shard.write_bytes(
            content[:half] + (b"" if damage == "cut" else bytes([255 - content[half]]) + content[half + 1 :])
        )
    source = open_fits(folder)
    with pytest.raises(FitFileError, match=r"units/00002-\w+\.array_record: does not have the checksum"):
        list(source)
    with pytest.raises(FitFileError, match="units/00002-"):
        _ = source.names
    assert [outcome.index for outcome in source.part(range(8))] == list(range(8))  # the others can be read


def test_a_damaged_fit_file_is_named(tmp_path):
    results.save(make_fit(), tmp_path / "photo.npz")
    (tmp_path / "torn.npz").write_bytes((tmp_path / "photo.npz").read_bytes()[:500])
    source = open_fits(tmp_path)
    assert source.load("photo").name == "photo"
    with pytest.raises(FitFileError, match=r"torn\.npz"):
        list(source)
    with pytest.raises(FitFileError, match="no fit of scene other"):
        source.load("other")
