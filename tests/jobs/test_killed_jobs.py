"""Jobs that are killed, starved of disk and crossed by another process lose nothing and do nothing twice."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_job import make_scene, run, source_of
from helpers import REPO

from annyfit_jax.inputs import cue_dataset
from annyfit_jax.inputs.cue_source import open_cues
from annyfit_jax.jobs import job_status
from annyfit_jax.jobs.fit_store import job_store
from annyfit_jax.store import faults
from annyfit_jax.store.locations import JobWriteError
from annyfit_jax.store.plan import StoreError

SUPPORT = REPO / "tests" / "support"
SCENES = 14
OPTIONS = {"scenes_per_shard": 4, "fit_files": True}
KILLS = 34


class Children:
    """Real processes that start quickly: forked from one that has everything imported."""

    def __init__(self) -> None:
        paths = os.pathsep.join([str(REPO), str(SUPPORT), os.environ.get("PYTHONPATH", "")])
        self.server = subprocess.Popen(
            [sys.executable, str(SUPPORT / "fake_job.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip

    def ask(self, name: str, **arguments) -> int:
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps([name, arguments]) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(self, folder: Path, **options) -> int:
        """Starts the job; returns the process id."""
        return self.ask("child", folder=str(folder), count=SCENES, **{**OPTIONS, **options})

    def wait(self, pid: int) -> int:
        """The exit code, or minus the signal."""
        return self.ask("wait", pid=pid)


@pytest.fixture(scope="module")
def children():
    made = Children()
    yield made
    made.server.kill()
    made.server.wait()


@pytest.fixture(autouse=True)
def no_faults():
    yield
    faults.install(None)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("reference") / "out"
    run(folder, source_of(SCENES), **OPTIONS)
    return folder


def table(folder: Path) -> Counter:
    """Every row of people.jsonl, with how often it is there."""
    return Counter((folder / "people.jsonl").read_text().splitlines())


def assert_same(folder: Path, reference: Path) -> None:
    assert job_status.digest(folder) == job_status.digest(reference)
    assert table(folder) == table(reference)
    people = [json.loads(line) for line in table(folder)]
    assert len({(p["scene"], p["person"]) for p in people}) == len(people) == job_status.digest(folder)["people"]
    fits = {path.name for path in (folder / "fits").iterdir()} if (folder / "fits").exists() else set()
    expected = {path.name for path in (reference / "fits").iterdir()}
    assert fits in (expected, set())
    assert not list(folder.rglob("*.tmp"))
    assert job_status.status(folder)["finished"]


def test_the_varied_collection_has_every_kind_of_row(reference):
    statuses = Counter(json.loads(line)["status"].partition(":")[0] for line in table(reference).elements())
    assert statuses["ok"] > 20 and statuses["skipped"] >= 3
    status = job_status.status(reference)
    assert status["scenes"]["by_status"] == {"ok": 12, "skipped:invalid_cues": 1, "skipped:unreadable": 1}
    assert status["people"]["skipped"] == {"crowd_annotation": 2, "invalid_cues": 3}


@pytest.mark.slow
@pytest.mark.process
def test_sigkill_at_random_write_boundaries(children, reference, tmp_path):
    names: list[str] = []
    faults.install(names.append)
    run(tmp_path / "count", source_of(SCENES), **OPTIONS)
    faults.install(None)
    shard_points = [i for i, name in enumerate(names, 1) if name.startswith("shard 1")]
    assert len(shard_points) == 4
    rng = random.Random(0)
    others = [i for i in range(1, len(names) + 1) if i not in shard_points]
    points = shard_points + rng.sample(others, KILLS - len(shard_points))
    workers = {}
    for point in points:
        folder = tmp_path / f"kill{point}"
        code = children.wait(children.start(folder, kill_at=point))
        assert code == -signal.SIGKILL, f"{names[point - 1]}: {code}"
        workers[point] = folder
    for point, folder in workers.items():
        before = job_status.status(folder)["units"]["done"] if (folder / "job.json").exists() else 0
        again = run(folder, source_of(SCENES), **OPTIONS)
        assert again == 4 - before, f"{names[point - 1]}: {before} of 4 units were done, {again} were fitted again"
        assert_same(folder, reference)


@pytest.mark.process
def test_a_job_that_is_killed_again_and_again_gets_there(children, reference, tmp_path):
    folder, exits, rng = tmp_path / "out", [], random.Random(1)
    while not exits or exits[-1] != 0:
        exits.append(children.wait(children.start(folder, kill_at=rng.randrange(15, 40))))
        assert len(exits) < 20
    assert exits[0] == -signal.SIGKILL
    assert_same(folder, reference)


@pytest.mark.process
def test_sigterm_ends_with_its_code_and_leaves_nothing_half_written(children, reference, tmp_path):
    folder = tmp_path / "out"
    assert children.wait(children.start(folder, terminate_at="00000.json: renamed")) == 75
    assert job_status.status(folder)["units"]["done"] == 1
    assert not list(folder.rglob("*.tmp"))
    assert (job_status.last_line(folder) or {})["state"] == "interrupted"
    run(folder, source_of(SCENES), **OPTIONS)
    assert_same(folder, reference)


@pytest.mark.parametrize("damage", ["truncated", "one bit", "gone", "entry torn", "entry of another shard"])
def test_a_torn_shard_is_fitted_again_and_never_read(reference, tmp_path, damage):
    folder = tmp_path / "out"
    shutil.copytree(reference, folder)
    (folder / "finished.json").unlink()
    shard = next((folder / "units").glob("00002-*"))
    content = shard.read_bytes()
    entry = folder / "done" / "00002.json"
    if damage == "truncated":
        shard.write_bytes(content[: len(content) // 2])
    elif damage == "one bit":
        position = len(content) // 2
        shard.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
    elif damage == "gone":
        shard.unlink()
    elif damage == "entry torn":
        entry.write_bytes(entry.read_bytes()[:40])
    else:
        shutil.copy(folder / "done" / "00001.json", entry)
    assert job_status.digest(folder)["scenes"] == SCENES - 4
    assert run(folder, source_of(SCENES), **OPTIONS) == 1
    assert_same(folder, reference)


@pytest.mark.process
def test_disk_full_on_a_small_disk(reference, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        folder = disk / "out"
        with pytest.raises(JobWriteError, match=r"cannot be written.*No space left"):
            run(folder, source_of(SCENES), scenes_per_shard=4)
        done = job_status.status(folder)["units"]["done"]
        assert 0 < done < 4
        assert not list(folder.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        assert run(folder, source_of(SCENES), scenes_per_shard=4) == 4 - done
        assert_same(folder, reference)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize(
    "where",
    ["job.json: before renaming", "shard 1: half written", "shard 1: before renaming", "00001.json: before writing",
     "names-00000.json: before writing",
     "scene0005.npz: before writing", "people.jsonl: before renaming", "features.json: before renaming"],
)  # fmt: skip
def test_disk_full_at_any_boundary(reference, tmp_path, where):
    def full(name: str) -> None:
        if name.endswith(where):
            raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "out"
    faults.install(full)
    with pytest.raises(JobWriteError, match="No space left on device"):
        run(folder, source_of(SCENES), **OPTIONS)
    faults.install(None)
    assert not list(folder.rglob("*.tmp"))
    run(folder, source_of(SCENES), **OPTIONS)
    assert_same(folder, reference)


@pytest.mark.process
def test_the_exit_code_of_a_full_disk(children, tmp_path):
    (tmp_path / "out").write_text("a file where the folder should be")
    assert children.wait(children.start(tmp_path / "out")) == 74


def test_a_second_driver_is_refused_while_the_first_is_at_work(reference, tmp_path):
    folder, said = tmp_path / "out", []

    def second(name: str) -> None:
        if name == "shard 1: half written":
            with pytest.raises(StoreError, match="another process is at work on it") as caught:
                run(folder, source_of(SCENES), **OPTIONS)
            said.append(caught.value)

    faults.install(second)
    run(folder, source_of(SCENES), **OPTIONS)
    assert len(said) == 1
    assert_same(folder, reference)


def test_a_late_worker_cannot_spoil_a_committed_unit(reference, tmp_path):
    """A worker that was given up wakes up and writes its unit: other content has another name, and what is committed stays."""
    folder = tmp_path / "out"
    run(folder, source_of(SCENES), **OPTIONS)
    store, _ = job_store(folder)
    late = store.write(1, [b"a late record"] * 4, dict, "", 0.0)
    assert late["file"] != store.entries[1]["file"] and (folder / late["file"]).exists()
    assert job_status.digest(folder) == job_status.digest(reference)
    (folder / "finished.json").unlink()
    assert run(folder, source_of(SCENES), **OPTIONS) == 0
    assert not (folder / late["file"]).exists()
    assert_same(folder, reference)


def test_nan_cues_and_a_corrupt_record_cost_only_their_own_scenes(tmp_path):
    """A cue dataset with flipped bytes in one record, and a scene whose cues turn NaN."""
    count = 8
    packed = tmp_path / "cues"
    plan = cue_dataset.Plan(total=count, source={"test": 1}, scenes_per_shard=count)
    cue_dataset.write(packed, plan, lambda span: [make_scene(i) for i in span])
    sound = open_cues(str(packed))
    assert run(tmp_path / "sound", sound, scenes_per_shard=4) == 2
    shard = next(packed.glob("units/*"))
    content = shard.read_bytes()
    for position in range(200, len(content), 301):  # somewhere a byte belongs to one record only
        shard.write_bytes(content[:position] + bytes([content[position] ^ 255]) + content[position + 1 :])
        broken = open_cues(str(packed))
        readable = {i for i in range(count) if not _fails(broken, i)}
        if 1 < len(readable) < count:
            break
    else:
        pytest.fail("no flipped byte broke some records and left others")

    def loader(index: int):
        scene = broken.loader(index)
        if index == min(readable):
            scene.keypoints[0, 0, 1] = np.nan
        return scene

    folder = tmp_path / "out"
    run(folder, replace(broken, loader=loader), scenes_per_shard=4)
    rows = {row.scene_index: row for row in job_status.finished_rows(folder)}
    assert sorted(rows) == list(range(count))
    for index, row in rows.items():
        n = len(make_scene(index))
        expected = "ok" if index in readable else "skipped:unreadable"
        expected = "skipped:invalid_cues" if index == min(readable) else expected
        assert row.status == [expected] * n, index
        assert len(set(row.person_keys)) == n
        assert (row.scene_reason == "") == (expected == "ok")


def _fails(source, index: int) -> bool:
    try:
        source.load(index)
    except ValueError:
        return True
    return False
