"""Jobs: rows and their dataset, identity, retries, reports, the program, and the real fitter on a few scenes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fake_job import CONFIG_HASH, FakeFitter, fake_fit, load_varied, make_scene, run, source_of
from helpers import REPO

from annyfit_jax.engine.stopping import Interrupted
from annyfit_jax.fit.config import load_config
from annyfit_jax.inputs import open_input
from annyfit_jax.inputs.scene_source import SceneSource
from annyfit_jax.jobs import fit_source, job_rows, job_status
from annyfit_jax.jobs.fit_store import plan_of, remove_job, rows
from annyfit_jax.jobs.fit_worker import make_fit_worker
from annyfit_jax.jobs.job_driver import JobOptions, run_job
from annyfit_jax.jobs.job_feed import Job, Task
from annyfit_jax.people.scene import NobodyToFit, Scene, SceneError
from annyfit_jax.records import fit_files as results
from annyfit_jax.records import wire
from annyfit_jax.records.settings import apply_overrides, config_hash
from annyfit_jax.store import faults
from annyfit_jax.store.locations import place
from annyfit_jax.store.plan import Cut, Plan, StoreError, hash_names, open_plan
from annyfit_jax.store.units import Store

COUNT = 14


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("job") / "out"
    run(folder, source_of(COUNT), fit_files=True)
    return folder


# ------------------------------------------------------------------------------------------------ rows


def assert_equal_rows(a: job_rows.SceneRow, b: job_rows.SceneRow) -> None:
    for field in fields(job_rows.SceneRow):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if field.name == "arrays":
            assert x.keys() == y.keys()
            for name in x:
                np.testing.assert_array_equal(x[name], y[name], err_msg=name)
        elif isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, y, err_msg=field.name)
        else:
            assert x == y, field.name


@pytest.mark.parametrize("index", [0, 3, 6])
def test_a_row_comes_back_and_holds_the_fit(index):
    scene = load_varied(index)
    fit = fake_fit(scene)
    info = job_rows.scene_info(index, scene.name, scene, CONFIG_HASH)
    row = job_rows.row_of_fit(info, fit)
    n = len(scene)
    assert len(row) == n + len(scene.skipped)
    for name in job_rows.PARAMETERS:
        np.testing.assert_array_equal(row.arrays[name][:n], getattr(fit, name))
        assert np.isnan(row.arrays[name][n:]).all()
    assert_equal_rows(job_rows.decode(job_rows.encode(row)), row)


def test_a_row_holds_what_a_second_order_fit_knows_of_its_people():
    scene = load_varied(3)
    fit = fake_fit(scene)
    n = len(scene)
    fit.sd_joints_m = np.arange(n * 17, dtype=np.float32).reshape(n, 17)
    fit.converged[:] = 1.0
    row = job_rows.decode(
        job_rows.encode(job_rows.row_of_fit(job_rows.scene_info(3, scene.name, scene, CONFIG_HASH), fit))
    )
    back = fit_source.fit_of_row(row)
    np.testing.assert_array_equal(back.sd_joints_m, fit.sd_joints_m)
    np.testing.assert_array_equal(back.converged, 1.0)
    assert np.isnan(back.sd_height_m).all()


def test_rows_of_the_first_version_are_still_read():
    scene = load_varied(3)
    row = job_rows.row_of_fit(job_rows.scene_info(3, scene.name, scene, CONFIG_HASH), fake_fit(scene))
    old = {name: field for name, field in job_rows.FIELDS.items() if name not in results.ADDED}
    values = {name: row.arrays[name] if name in row.arrays else getattr(row, name, 1) for name in old}
    back = job_rows.decode(wire.serialize(values, old))
    assert back.arrays["sd_joints_m"].shape == (len(row), 17)
    assert np.isnan(back.arrays["sd_joints_m"]).all()
    np.testing.assert_array_equal(back.arrays["pose"], row.arrays["pose"])
    with pytest.raises(ValueError, match="another version"):
        job_rows.decode(wire.serialize({**values, "row_version": 99}, old))


def test_a_scene_without_people_keeps_its_shapes():
    row = job_rows.row_without_fit(job_rows.unread_info(3, "lost", 0, "c"), "skipped:unreadable", "no such file", "a")
    back = job_rows.decode(job_rows.encode(row))
    assert back.arrays["pose"].shape == (0, 162, 3)
    assert (back.scene_status, back.scene_reason, len(back)) == ("skipped:unreadable", "no such file", 0)


def test_keys_follow_cues_config_and_body_and_not_the_name():
    scene = make_scene(2)

    def keys(scene: Scene, config: str = "c", asset: str = "a") -> list[str]:
        info = job_rows.scene_info(0, scene.name, scene, config)
        return job_rows.row_of_fit(info, replace(fake_fit(scene), config_hash=config, asset_version=asset)).person_keys

    first = keys(scene)
    assert len(set(first)) == len(scene) and all(len(key) == 32 for key in first)
    assert keys(replace(scene, name="another", notes=["a note"])) == first
    moved = replace(scene, keypoints=scene.keypoints + np.array([1.0, 0, 0]))
    for other in (keys(moved), keys(scene, "d"), keys(scene, "c", "b")):
        assert not set(other) & set(first)


@pytest.mark.parametrize(
    ("reason", "word"),
    [("no keypoints", "no_keypoints"), ("crowd annotation: 12 people", "crowd_annotation"), ("17 points", "set_aside")],
)
def test_reasons_become_words(reason, word):
    assert job_rows.word_of(reason) == word


def test_the_folder_is_a_tfds_dataset(done):
    builder = tfds.builder_from_directory(str(done))
    source = builder.as_data_source("train")  # pyright: ignore[reportCallIssue]
    assert builder.info.splits["train"].num_examples == len(source) == COUNT
    for record, row in zip(source, job_status.finished_rows(done), strict=True):
        assert record["name"].decode() == row.name
        assert [s.decode() for s in record["status"]] == row.status
        for name, array in row.arrays.items():
            np.testing.assert_array_equal(record[name], array, err_msg=name)


def test_fit_files_are_those_of_fitted_scenes_and_agree_with_the_rows(done):
    fitted = {row.name: row for row in job_status.finished_rows(done) if row.scene_status == "ok"}
    assert {path.stem for path in (done / "fits").iterdir()} == set(fitted)
    for name, row in fitted.items():
        fit = results.load(done / "fits" / f"{name}.npz")
        np.testing.assert_array_equal(fit.pose, row.arrays["pose"][: len(fit)])


def test_tables(done):
    people = [json.loads(line) for line in (done / "people.jsonl").read_text().splitlines()]
    expected = [len(s) + len(s.skipped) for i in range(COUNT) if i != 12 for s in [load_varied(i)]]
    assert len(people) == sum(expected)
    aside = [json.loads(line) for line in (done / "scenes_set_aside.jsonl").read_text().splitlines()]
    assert [entry["scene"] for entry in aside] == ["scene0010", "scene0012"]
    assert "NaN" in aside[0]["reason"] or "nan" in aside[0]["reason"]
    assert json.loads((done / "config.json").read_text()) == [{"fake": True}]


# ------------------------------------------------------------------------------------------------ identity


def wanted(**changes) -> Plan:
    values = {
        "kind": "fake", "names": ["a", "b", "c"], "configs": {"c1": {}}, "asset_version": "1", "package_version": "1",
        "options": {"fov_degrees": 60.0}, "scenes_per_shard": 2,
    }  # fmt: skip
    return plan_of(**{**values, **changes})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["b", "a"]}, "1 scenes of the job are not in the input any more, the first is c"),
        ({"names": ["d", "e", "f"]}, "3 scenes of the job are not in the input any more"),
        ({"kind": "coco"}, "source.kind .fake there, coco here"),
        ({"scenes_per_shard": 5}, "scenes_per_shard .2 there, 5 here"),
        ({"configs": {"c2": {}}}, "config .c1 there, c2 here"),
        ({"asset_version": "2"}, "asset_version"),
        ({"options": {"fov_degrees": 55.0}}, "options.fov_degrees .60.0 there, 55.0 here"),
    ],
)
def test_another_job_is_refused(tmp_path, change, message):
    folder = place(tmp_path)
    open_plan(folder, wanted())
    open_plan(folder, wanted())
    before = (tmp_path / "job.json").read_bytes()
    with pytest.raises(StoreError, match=message):
        open_plan(folder, wanted(**change))
    assert (tmp_path / "job.json").read_bytes() == before


def test_another_config_is_refused_by_the_settings_that_differ(tmp_path):
    stage = {"name": "pose", "steps": 400, "weights": {"words": 10.0, "dense": 1.0}}
    other = {**stage, "steps": 300, "weights": {"words": 50.0, "dense": 1.0}}
    open_plan(place(tmp_path), wanted(configs={"c1": {"stages": [stage], "solver": "adam"}}))
    with pytest.raises(StoreError) as caught:
        open_plan(place(tmp_path), wanted(configs={"c2": {"stages": [other], "solver": "adam"}}))
    assert "config: stages.pose.steps (400 there, 300 here)" in str(caught.value)
    assert "config: stages.pose.weights.words (10.0 there, 50.0 here)" in str(caught.value)
    assert "c1" not in str(caught.value) and "dense" not in str(caught.value)


def test_overwrite_removes_the_job_and_nothing_else(done, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(done, folder)
    (folder / "mine.txt").write_text("keep")
    remove_job(folder)
    assert {path.name for path in folder.iterdir()} == {"fits", "mine.txt"}


def test_overwrite_removes_the_fits_of_scenes_that_are_gone(tmp_path):
    run(tmp_path, source_of(6), fit_files=True)
    (tmp_path / "fits" / "of another.npz").touch()
    remove_job(tmp_path)
    assert [path.name for path in (tmp_path / "fits").iterdir()] == ["of another.npz"]
    run(tmp_path, source_of(3), fit_files=True)
    assert sorted(path.name for path in (tmp_path / "fits").iterdir()) == [
        "of another.npz", "scene0000.npz", "scene0001.npz", "scene0002.npz",
    ]  # fmt: skip


def test_a_folder_with_another_dataset_is_refused(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(StoreError, match=r"no job\.json explains"):
        open_plan(place(tmp_path), wanted())


def test_a_plan_without_scenes():
    with pytest.raises(StoreError, match="at least 1 scene"):
        wanted(names=[])


# ------------------------------------------------------------------------------------------------ input that changes


def stamped(count: int, changed: tuple[int, ...] = (), first: int = 0) -> SceneSource:
    """Scenes with fingerprints; those of `changed` have moved keypoints. `first` scenes of other names stand before them."""

    def loader(index: int) -> Scene:
        scene = make_scene(index - first) if index >= first else make_scene(100 + index, name=f"a{index}")
        moved = replace(scene, keypoints=scene.keypoints + np.array([5.0, 0, 0]))
        return moved if index - first in changed else scene

    names = (*(f"a{i}" for i in range(first)), *(f"scene{i:04d}" for i in range(count)))
    return SceneSource("fake", names, loader, "memory", stamps=lambda i: f"{names[i]} {i - first in changed}")


def test_units_of_which_the_input_has_changed_are_done_again_and_said(tmp_path, caplog):
    assert run(tmp_path, stamped(10)) == 3
    assert run(tmp_path, stamped(10)) == 0
    before = {row.name: row for row in job_status.finished_rows(tmp_path)}
    with caplog.at_level("WARNING"):
        assert run(tmp_path, stamped(10, changed=(5,))) == 1
    said = [record.getMessage() for record in caplog.records]
    assert said.count("unit 1: its input has changed since it was done: it is done again") == 1
    after = {row.name: row for row in job_status.finished_rows(tmp_path)}
    assert after["scene0005"].content_hash != before["scene0005"].content_hash
    for name in set(after) - {"scene0005"}:
        assert_equal_rows(after[name], before[name])
    run(tmp_path / "anew", stamped(10, changed=(5,)))
    assert job_status.digest(tmp_path) == job_status.digest(tmp_path / "anew")


def test_added_scenes_become_units_of_their_own_wherever_they_stand(tmp_path):
    run(tmp_path, stamped(10))
    before = list(job_status.finished_rows(tmp_path))
    assert run(tmp_path, stamped(10, first=3)) == 1
    after = list(job_status.finished_rows(tmp_path))
    for old, new in zip(before, after[:10], strict=True):
        assert_equal_rows(old, new)
    assert [(row.name, row.scene_index) for row in after[10:]] == [("a0", 10), ("a1", 11), ("a2", 12)]
    assert all(row.scene_status == "ok" for row in after)
    assert job_status.status(tmp_path)["finished"]
    assert len(tfds.builder_from_directory(str(tmp_path)).as_data_source("train")) == 13  # pyright: ignore[reportCallIssue]
    assert len(list(tmp_path.glob("*.array_record-*"))) == 4
    with pytest.raises(StoreError, match="3 scenes of the job are not in the input any more, the first is a0"):
        run(tmp_path, stamped(10))


def as_version_01_left_it(done: Path, folder: Path, units: int) -> None:
    """A job of version 0.1 with some of its units: shards under the names of TFDS, `names_sha256`, no fingerprints."""
    folder.mkdir()
    (folder / "done").mkdir()
    settings = json.loads((done / "job.json").read_text())
    names = json.loads((done / "names-00000.json").read_text())
    (total,) = settings.pop("parts")
    del settings["schema_version"]
    settings["format"] = 1
    settings["source"] |= {"scenes": total, "names_sha256": hash_names(names)}
    (folder / "job.json").write_text(json.dumps(settings))
    for unit in range(units):
        entry = json.loads((done / "done" / f"{unit:05d}.json").read_text())
        shard = f"fits-train.array_record-{unit:05d}-of-00004"
        shutil.copy(done / entry["file"], folder / shard)
        kept = {
            name: entry[name] for name in ("unit", "sha256", "num_bytes", "scenes", "num_records", "counts", "seconds")
        }
        (folder / "done" / f"{unit:05d}.json").write_text(json.dumps({**kept, "file": shard}))


def test_a_job_of_version_01_is_read_and_gone_on_with(done, tmp_path):
    as_version_01_left_it(done, tmp_path / "whole", 4)
    assert job_status.digest(tmp_path / "whole") == job_status.digest(done)
    assert len(fit_source.open_fits(tmp_path / "whole").names) == 12
    as_version_01_left_it(done, tmp_path / "part", 2)
    assert job_status.status(tmp_path / "part")["units"] == {"done": 2, "left": 2, "total": 4}
    assert run(tmp_path / "part", source_of(COUNT)) == 2
    assert job_status.digest(tmp_path / "part") == job_status.digest(done)
    assert len(tfds.builder_from_directory(str(tmp_path / "part")).as_data_source("train")) == COUNT  # pyright: ignore
    as_version_01_left_it(done, tmp_path / "other", 2)
    with pytest.raises(StoreError, match=r"begun by version 0\.1 with other settings or scenes"):
        run(tmp_path / "other", source_of(COUNT - 1))


# ------------------------------------------------------------------------------------------------ running


def test_a_scene_that_breaks_its_batch_fails_alone_and_is_retried_on_request(done, tmp_path):
    folder = tmp_path / "out"
    fragile = FakeFitter(broken=lambda scene: scene.name == "scene0001")
    run(folder, source_of(COUNT), fitter=fragile)
    broken = {row.name: row for row in job_status.finished_rows(folder)}
    assert broken["scene0001"].status == ["failed:exception:ArithmeticError"] * 2
    assert "breaks its batch" in broken["scene0001"].scene_reason
    sound = {row.name: row for row in job_status.finished_rows(done)}
    neighbours = {"scene0000", "scene0002"}  # its batch, fitted one by one
    for name, row in broken.items():
        if name not in neighbours | {"scene0001"}:
            assert_equal_rows(row, sound[name])
        elif name in neighbours:
            assert row.status == sound[name].status
    assert job_status.status(folder)["people"]["failed"] == {"exception:ArithmeticError": 2}

    assert run(folder, source_of(COUNT)) == 0  # failures are final unless asked
    assert run(folder, source_of(COUNT), fitter=fragile, retry_failed=True) == 1  # still broken: stays as it is
    assert job_status.status(folder)["people"]["failed"] == {"exception:ArithmeticError": 2}
    assert run(folder, source_of(COUNT), retry_failed=True) == 1
    assert job_status.status(folder)["people"]["failed"] == {}
    after = {row.name: row for row in job_status.finished_rows(folder)}
    assert after["scene0001"].status == ["ok", "ok"]
    assert after["scene0001"].person_keys == sound["scene0001"].person_keys
    for name in set(after) - {"scene0001"}:
        assert_equal_rows(after[name], broken[name])
    assert (folder / "people.jsonl").read_text().count('"failed') == 0


def test_unforeseen_errors_of_the_reader_are_failures_that_can_be_retried(done, tmp_path):
    folder, disk = tmp_path / "out", {"away": True}

    def loader(index: int) -> Scene:
        if index == 5 and disk["away"]:
            raise OSError("stale file handle")
        return load_varied(index)

    run(folder, source_of(COUNT, loader))
    assert [r.scene_status for r in job_status.finished_rows(folder) if r.name == "scene0005"] == [
        "failed:read:OSError"
    ]
    disk["away"] = False
    assert run(folder, source_of(COUNT, loader), retry_failed=True) == 1
    assert job_status.digest(folder)["rows"] == job_status.digest(done)["rows"]


def test_people_that_cannot_be_started_are_skipped(tmp_path):
    class Picky(FakeFitter):
        def prepare(self, scene: Scene) -> Scene:
            if scene.name == "scene0003":
                raise SceneError("scene0003: config.start='cue', but the input has no starting parameters")
            if scene.name == "scene0004":
                raise NobodyToFit("scene0004: nobody can be fitted", ["too_little_evidence"])
            if scene.name == "scene0002":
                raise ZeroDivisionError("a bug")
            return scene

    run(tmp_path, source_of(5), fitter=Picky())
    by_name = {row.name: row for row in job_status.finished_rows(tmp_path)}
    assert by_name["scene0003"].status == ["skipped:nothing_to_fit"] * 4
    assert by_name["scene0002"].status == ["failed:prepare:ZeroDivisionError"] * 3
    assert by_name["scene0004"].scene_status == "skipped:nothing_to_fit"
    assert by_name["scene0004"].status == ["skipped:too_little_evidence"]
    assert by_name["scene0001"].status == ["ok", "ok"]


def test_scenes_of_two_configs_are_batched_apart(tmp_path):
    """Odd scenes take another config; batches never mix, and every scene has its row."""
    folder, seen = tmp_path, []
    source = source_of(10, make_scene)

    class Recording(FakeFitter):
        def dispatch(self, batch):
            seen.append([int(scene.name[-4:]) for scene in batch])
            return super().dispatch(batch)

    fitters = {"even": Recording(), "odd": Recording()}
    store = Store(folder, wanted().kind, Cut((10,), 10))
    job = Job(store, source, lambda s: ("even", "odd")[int(s.name[-1]) % 2], fitters.__getitem__, "c", "fake")
    ((unit, entry),) = make_fit_worker(job, None, threading.Event()).stream(iter([Task(0, range(10))]))
    store.commit(entry)
    assert unit == 0 and seen == [[0, 2, 4], [6, 8], [1, 3, 5], [7, 9]]
    assert [row.scene_index for row in rows(store, 0)] == list(range(10))


def test_a_stop_between_batches_is_an_interruption_that_keeps_finished_units(done, tmp_path):
    stop = threading.Event()

    class Stopping(FakeFitter):
        def collect(self, pending):
            if pending[0].name == "scene0008":
                stop.set()
            return super().collect(pending)

    folder = tmp_path / "out"
    with pytest.raises(Interrupted):
        run(folder, source_of(COUNT), fitter=Stopping(), stop=stop)
    assert job_status.status(folder)["units"]["done"] == 2
    run(folder, source_of(COUNT))
    assert job_status.digest(folder) == job_status.digest(done)


# ------------------------------------------------------------------------------------------------ reports


def test_status_of_a_job_under_way(tmp_path):
    stop = threading.Event()

    class Stopping(FakeFitter):
        def collect(self, pending):
            if pending[0].name == "scene0008":
                stop.set()
            return super().collect(pending)

    with pytest.raises(Interrupted):
        run(tmp_path, source_of(COUNT), fitter=Stopping(), stop=stop)
    state = job_status.status(tmp_path)
    assert state["units"] == {"done": 2, "left": 2, "total": 4} and state["running"] is None
    assert state["scenes"]["done"] == 8 and state["scenes"]["left"] == 6
    line = job_status.last_line(tmp_path)
    assert line is not None
    assert (line["state"], line["scenes_total"]) == ("interrupted", 14)
    assert line["people"] >= state["people"]["ok"]
    with (tmp_path / "progress.jsonl").open("a") as file:
        file.write(json.dumps({**line, "state": "running", "scenes_per_s": 3.0}) + "\n" + '{"time": 17')
    state = job_status.status(tmp_path)
    assert state["rate"]["scenes_per_s"] == 3.0 and state["rate"]["seconds_left"] == 2.0
    assert state["running"]["pid"] == os.getpid()
    text = job_status.describe(state)
    assert "2 of 4 done" in text and "not finished" in text and f"pid {os.getpid()}, 1 worker, " in text


def test_status_without_a_job(tmp_path):
    with pytest.raises(StoreError, match=r"no readable job\.json"):
        job_status.status(tmp_path)


def shifted(index: int, by: float) -> Scene:
    scene = load_varied(index)
    return replace(scene, keypoints=scene.keypoints + np.array([by, 0, 0])) if index == 3 else scene


def test_digest_does_not_depend_on_how_the_job_was_cut_and_sees_every_change(done, tmp_path):
    class Alone(FakeFitter):
        def collect(self, pending):
            return [fake_fit(scene) for scene in pending]

    digests = []
    for size in (3, 5):
        run(tmp_path / str(size), source_of(COUNT), scenes_per_shard=size, fitter=Alone())
        digests.append(job_status.digest(tmp_path / str(size)))
    assert digests[0] == digests[1]

    class Nudged(FakeFitter):
        amount = 0.0

        def collect(self, pending):
            fits = super().collect(pending)
            for fit in fits:
                if fit.name == "scene0003":
                    fit.pose[2, 100, 1] += self.amount
            return fits

    Nudged.amount = 2 * job_status.ROUNDING
    run(tmp_path / "nudged", source_of(COUNT), fitter=Nudged())
    a, b = job_status.digest(done), job_status.digest(tmp_path / "nudged")
    assert a["rows"] == b["rows"] and a["parameters"] != b["parameters"] and a["digest"] != b["digest"]
    found = job_status.compare(done, tmp_path / "nudged")
    assert found["rows_differ"] == 0
    assert found["largest_difference"]["pose"] == pytest.approx(2 * job_status.ROUNDING, rel=1e-2)
    assert found["largest_difference"]["transl"] == 0
    run(tmp_path / "moved", source_of(COUNT, lambda index: shifted(index, 1.0)))
    assert job_status.digest(tmp_path / "moved")["rows"] != a["rows"]
    assert job_status.compare(done, tmp_path / "moved")["rows_differ"] == 1


# ------------------------------------------------------------------------------------------------ the programs


def program(name: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *arguments],
        cwd=REPO, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.process
def test_the_programs_on_scenes_that_are_all_broken(tmp_path):
    """No fit, hence no compilation: flags, job, tables, status and exit codes."""
    scenes, out = tmp_path / "scenes", str(tmp_path / "out")
    scenes.mkdir()
    (scenes / "a.npz").write_bytes(b"not an archive")
    np.savez(scenes / "b.npz", image_size=[640, 480], keypoints_2d=np.full((2, 17, 3), np.nan))
    common = [f"--input={scenes}", f"--output={out}"]
    result = program("fit", *common)
    assert result.returncode == 2, result.stderr
    assert "0 scenes, 0 of 2 people fitted, 2 scenes set aside" in result.stdout
    assert "nobody was fitted; the reasons are in" in result.stderr
    mistyped = program("fit", *common, "--config=annyfit", "--set=stages.pose.weights.wordz=1")
    assert mistyped.returncode == 2
    assert "unknown terms ['wordz']; did you mean 'words'? there are dense, depth_order," in mistyped.stderr
    assert "Traceback" not in mistyped.stderr
    other = program("fit", *common, "--limit=1")
    assert other.returncode == 2 and "1 scenes of the job are not in the input any more, the first is b" in other.stderr
    old = program("fit", *common, "--process_index=0")
    assert old.returncode == 2 and "--process_index is gone: one command drives all machines" in old.stderr
    state = json.loads(program("status", f"--output={out}", "--json").stdout)
    assert state["finished"] and state["people"]["skipped"] == {"invalid_cues": 2}
    missing = program("status", f"--output={scenes}")
    assert missing.returncode == 2 and "nothing was noted" in missing.stderr


@pytest.fixture(scope="module")
def real_fitter():
    from annyfit_jax.fit.fitter import Fitter

    config = load_config(REPO / "experiments" / "configs" / "annyfit.py")
    short = [f"stages.{name}.steps={steps}" for name, steps in (("translation", 3), ("shape", 2), ("pose", 3))]
    return Fitter(apply_overrides(config, [*short, "person_lengths=[8]"]))


@pytest.mark.slow
def test_the_real_fitter_interrupted_and_resumed(real_fitter, tmp_path):
    """Three photos of the demo, one per unit: a whole run, and one that is stopped after its first unit."""
    everything = open_input(str(REPO / "experiments" / "demo_data" / "annotations.json"))
    small = [i for i in range(len(everything)) if len(everything.load(i)) <= 4][:3]
    assert len(small) == 3
    names = tuple(everything.names[i] for i in small)
    source = replace(everything, names=names, loader=lambda i: everything.loader(small[i]), stamps=None)
    name = config_hash(real_fitter.config)
    plan = plan_of(
        source.kind, names, {name: {}}, asset_version=str(real_fitter.model.labels.asset_version), package_version="0",
        options={}, scenes_per_shard=1,
    )  # fmt: skip
    options = JobOptions(fit_files=True, save_vertices=True)

    def fit(folder: Path, stop: threading.Event | None = None) -> dict:
        return run_job(place(folder), plan, source, lambda _: name, lambda _: real_fitter, options, stop).totals

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    totals = fit(whole)
    assert totals["scenes"] == {"ok": 3}
    stop = threading.Event()
    faults.install(lambda at: stop.set() if at == "00000.json: renamed" else None)
    with pytest.raises(Interrupted):
        fit(parts, stop)
    faults.install(None)
    assert 1 <= job_status.status(parts)["units"]["done"] < 3
    assert fit(parts) == totals
    assert job_status.digest(whole) == job_status.digest(parts)
    assert job_status.compare(whole, parts)["people"] == totals["people"]["ok"] > 3
    for row in job_status.finished_rows(whole):
        fitted = results.load(whole / "fits" / f"{row.name}.npz")
        assert fitted.vertices is not None and np.isfinite(fitted.vertices).all()
        np.testing.assert_array_equal(fitted.transl, row.arrays["transl"][: len(fitted)])


@pytest.mark.parametrize(("options", "kept"), [({"body": "smplx"}, False), ({}, True)])
def test_starting_again_leaves_no_fits_of_smplx_of_the_job_before(tmp_path, options, kept):
    """Their folder has no rows that say which are of the job; what somebody else put there stays."""
    (tmp_path / "smplx" / "fits").mkdir(parents=True)
    (tmp_path / "smplx" / "fits" / "a.npz").touch()
    (tmp_path / "job.json").write_text(json.dumps({"options": options}))
    remove_job(tmp_path)
    assert (tmp_path / "smplx" / "fits" / "a.npz").exists() == kept
    assert not (tmp_path / "job.json").exists()
