"""experiments.export on jobs: meshes of chosen scenes from rows alone, half-finished jobs, bad names, exit codes."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from export_cases import FITTED, NAMES, People, load, make_job
from fake_job import CONFIG_HASH, leave_out, run
from helpers import HANG_S, REPO, max_abs

from annyfit_jax.exports import exported_people
from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.inputs.scene_source import SceneSource
from annyfit_jax.jobs import fit_source
from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.people.body_meshes import BodyMeshes


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    return make_job(tmp_path_factory.mktemp("job") / "out")


def test_meshes_of_chosen_scenes_come_from_the_rows(job, load_anny, tmp_path):
    """A job fitted to a packed dataset has no fit files; its rows are enough for meshes."""
    assert not (job / "fits").exists()
    written, empty = export_fits(str(job), str(tmp_path), "glb", ["trio", "mixed"])
    assert ([path.name for path in written], empty) == (["trio.glb", "mixed.glb"], [])
    fit = open_fits(job).load("trio")
    vertices = BodyMeshes(load_anny()).vertices(fit.parameters)
    scene = trimesh.load_scene(written[0], process=False)
    assert set(scene.geometry) == {"person_4-0", "person_4-1", "person_4-2"}
    for row in range(3):
        mesh = scene.geometry[f"person_4-{row}"]
        assert max_abs(mesh.vertices, vertices[row] * [1, -1, -1]) < 1e-5
    facts = scene.metadata["people"]
    assert [person["person_id"] for person in facts] == ["4-0", "4-1", "4-2"] and facts[0]["age"] is not None
    assert set(trimesh.load_scene(written[1], process=False).geometry) == {"person_1-0", "person_1-2"}


def test_npz_of_a_job_has_the_fitted_scenes(job, tmp_path):
    written, _ = export_fits(str(job), str(tmp_path), "npz")
    assert [path.stem for path in written] == [*FITTED, "failed"]  # fitted, but nobody came out of it
    fit = open_fits(job).load("mixed")
    with np.load(tmp_path / "mixed.npz") as arrays:
        np.testing.assert_array_equal(arrays["pose"], fit.pose)
        assert arrays["status"].tolist() == ["ok", "skipped:no_keypoints", "ok"]
        assert len(arrays["bone_labels"]) == 162


def test_a_half_finished_job_is_exported_with_a_warning(tmp_path, caplog):
    source = SceneSource("fake", NAMES, load, "memory")
    run(tmp_path / "job", source, fitter=People())
    leave_out(tmp_path / "job", 1)
    with caplog.at_level(logging.WARNING, logger="absl"):
        written, _ = export_fits(str(tmp_path / "job"), str(tmp_path / "out"), "npz")
    assert [path.stem for path in written] == ["pair", "mixed"]
    assert "2 scenes of the job are not done yet" in caplog.text


def test_a_name_that_is_a_path_stays_in_the_folder(tmp_path):
    """Names come from the input, and an input may be hostile."""

    class Named(People):
        def collect(self, pending):
            return [replace(fit, name="../pair") for fit in super().collect(pending)]

    scene = replace(load(0), name="pair")
    run(tmp_path / "job", SceneSource("fake", ("../pair",), lambda _: scene, "memory"), fitter=Named())
    written, _ = export_fits(str(tmp_path / "job"), str(tmp_path / "out"), "npz")
    assert [path.parent for path in written] == [tmp_path / "out"]
    (line,) = (tmp_path / "out" / "file_names.jsonl").read_text().splitlines()
    assert json.loads(line) == {"file": written[0].stem, "scene": "../pair"}
    assert not (tmp_path / "pair.npz").exists()


@pytest.mark.process
def test_the_program_says_what_it_did_and_ends_with_its_codes(job, tmp_path):
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "experiments.export", *arguments]
        return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=HANG_S)

    done = call(f"--fits={job}", "--format=coco", f"--output={tmp_path / 'a.json'}", "--scenes=pair,trio")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"1 file: {tmp_path / 'a.json'}\n"
    assert len(json.loads((tmp_path / "a.json").read_text())["annotations"]) == 5
    lost = call(f"--fits={tmp_path / 'lost'}", f"--output={tmp_path / 'out'}")
    assert lost.returncode == 2 and "lost: no fits" in lost.stderr and "Traceback" not in lost.stderr
    # A place that cannot be written to; a full disk is the same kind of error.
    refused = call(f"--fits={job}", "--format=parquet", f"--output={tmp_path / 'a.json' / 'p.parquet'}")
    assert (
        refused.returncode == 74 and "cannot be read or written" in refused.stderr and "Traceback" not in refused.stderr
    )


# ------------------------------------------------------------------------------------------------ what formats share


def test_progress_lines_tell_how_far_and_how_long(monkeypatch, caplog):
    clock = iter([0.0, 4.0, 11.0, 12.0, 22.0, 22.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, logger="absl"):
        assert list(exported_people.with_progress("abcd", 8, "scenes")) == list("abcd")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "2/8 scenes, 0.2/s, 33 s left", "4/8 scenes, 0.2/s, 22 s left", "4 scenes, 22 s",
    ]  # fmt: skip


def test_boxes_are_around_what_is_seen_else_around_the_projections(job):
    fit = open_fits(job).load("pair")
    seen = fit.keypoints_2d[0, exported_people.seen(fit)[0], :2]
    np.testing.assert_array_equal(exported_people.boxes(fit)[0], [*seen.min(0), *seen.max(0)])
    blind = replace(fit, keypoints_2d=np.zeros_like(fit.keypoints_2d))
    pixels = exported_people.projections(blind)[1]
    inside = pixels[((pixels >= 0) & (pixels <= (640, 480))).all(1)]
    np.testing.assert_allclose(exported_people.boxes(blind)[1], [*inside.min(0), *inside.max(0)])
    behind = replace(blind, fitted_keypoints_3d=-blind.fitted_keypoints_3d)
    assert np.isnan(exported_people.projections(behind)).all() and np.isnan(exported_people.boxes(behind)).all()


def test_the_job_of_these_tests_is_what_it_says(job):
    outcomes = list(open_fits(job).outcomes())
    assert [outcome.fit.name for outcome in outcomes] == list(NAMES)
    assert {o.fit.name: int(o.fit.ok.sum()) for o in outcomes if o.fit.ok.any()} == FITTED
    assert outcomes[0].fit.config_hash == CONFIG_HASH
    assert outcomes[0].fit.asset_version == fit_source._labels()[0]
