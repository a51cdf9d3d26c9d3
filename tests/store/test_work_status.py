"""What is known of long works from their folders: while they run, afterwards, and where they died."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from export_cases import make_job
from fake_job import load_varied, run, source_of

from annyfit_jax.engine.running import run as run_stages
from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.inputs import cue_dataset
from annyfit_jax.jobs import job_status
from annyfit_jax.people.scene import SceneError
from annyfit_jax.store import datasets
from annyfit_jax.store.locations import Location, place
from annyfit_jax.store.parts import Made, Parts
from annyfit_jax.store.plan import StoreError
from annyfit_jax.store.work_status import describe_work, work_state

SCENES = 14


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path) -> Location:
    return place(tmp_path / "out" if request.param == "disk" else f"memory://status-{tmp_path.name}-{os.getpid()}")


def scene(index: int):
    try:
        return load_varied(index)
    except SceneError as error:
        return cue_dataset.SetAside(f"scene{index:04d}", str(error))


def test_a_dataset_while_it_is_written_and_afterwards(folder):
    with pytest.raises(StoreError, match="nothing was noted"):
        work_state(folder)
    datasets.open_dataset(folder, cue_dataset.Plan(SCENES, {"test": 1}, 4))
    state = work_state(folder)
    assert not state["finished"] and describe_work(state) == "started; nothing is finished yet"
    seen = []

    def look(shard: int) -> None:
        seen.append(work_state(folder))
        if shard in (1, 4):
            raise KeyboardInterrupt

    def write(scenes: int, on_shard=None):
        plan = cue_dataset.Plan(scenes, {"test": 1}, 4)
        return cue_dataset.write(folder, plan, lambda span: map(scene, span), on_shard=on_shard)

    with pytest.raises(KeyboardInterrupt):
        write(SCENES, look)
    assert [state["finished"] for state in seen] == [False, False]
    assert seen[0]["works"][0]["state"] == "running"
    (line,) = work_state(folder)["works"]
    assert (line["state"], line["done"], line["total"]) == ("stopped", 8, SCENES)
    done = write(SCENES)
    state = work_state(folder)
    (line,) = state["works"]
    assert state["finished"] and (line["done"], line["total"]) == (SCENES, SCENES)
    assert sum(line["failed"].values()) == done.set_aside > 0
    assert all("scene0" not in reason for reason in line["failed"])
    # More scenes: what was finished is not any more.
    with pytest.raises(KeyboardInterrupt):
        write(SCENES + 8, look)
    assert not work_state(folder)["finished"]
    write(SCENES + 8)
    # A dataset of before there were such lines.
    (folder / "progress-cues.jsonl").remove()
    state = work_state(folder)
    assert state["finished"] and state["works"][0]["done"] == SCENES + 8


def test_parts_tell_what_they_count(folder):
    def make():
        def write(task: int, scratch: Path) -> Made:
            if task == 2 and not (folder / "go").exists():
                raise KeyboardInterrupt
            return Made([], {"n": 5, "bad": {"blurred": task}})

        return write

    def work() -> None:
        parts = Parts(
            "predict",
            folder,
            [0, 1, 2],
            make,
            1,
            things=(15, "photos"),
            counted=lambda record: (record["n"], record["bad"]),
        )
        run_stages([parts.stage()])

    with pytest.raises(KeyboardInterrupt):
        work()
    state = work_state(folder)
    assert not state["finished"] and "predict: 10 of 15 photos, 1 failed (blurred 1), stopped" in describe_work(state)
    (folder / "go").put(b"")
    work()
    state = work_state(folder)
    assert state["finished"] and "predict: 15 of 15 photos, 3 failed (blurred 3), finished" in describe_work(state)


def test_exports_with_files_of_their_own_and_as_one_file(tmp_path):
    job = make_job(tmp_path / "job")
    export_fits(str(job), tmp_path / "npz", "npz")
    state = work_state(tmp_path / "npz")
    assert state["finished"] and state["works"][0]["work"] == "npz"
    export_fits(str(job), tmp_path / "people.parquet", "parquet")
    assert not (tmp_path / ".parts").exists()
    for output in (tmp_path / "people.parquet",):
        state = work_state(output)
        assert state["finished"] and state["works"][0]["done"] == state["works"][0]["total"] > 0


def test_a_job_is_told_as_such(tmp_path):
    run(tmp_path, source_of(SCENES))
    state, describe = job_status.state_of(tmp_path)
    assert state["scenes"]["done"] == SCENES and describe(state).endswith("finished")
