"""A whole dataset and a whole job in memory and in a bucket whose server fails: the same rows as on a disk."""

from __future__ import annotations

import pickle
import time

import pytest
from bucket_server import failing_server
from fake_job import FakeFitter, leave_out, load_varied, run, source_of

from annyfit_jax.inputs import cue_dataset
from annyfit_jax.inputs.cue_source import open_cues
from annyfit_jax.jobs import job_status
from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.jobs.fit_store import job_store
from annyfit_jax.people.scene import SceneError
from annyfit_jax.store import faults, holds
from annyfit_jax.store.locations import place
from annyfit_jax.store.plan import StoreError

SCENES = 14


@pytest.fixture(autouse=True)
def no_faults():
    yield
    faults.install(None)


def readable() -> list:
    scenes = []
    for index in range(SCENES):
        try:
            scenes.append(load_varied(index))
        except SceneError as error:
            scenes.append(cue_dataset.SetAside(f"scene{index:04d}", str(error)))
    return scenes


def test_cues_and_fits_in_a_bucket_are_those_on_a_disk(bucket, tmp_path):
    scenes = readable()
    plan = cue_dataset.Plan(SCENES, {"test": 1}, 4)
    for folder in (tmp_path / "cues", bucket / "cues"):
        state = cue_dataset.write(folder, plan, lambda span: (scenes[i] for i in span))
        assert state.finished and state.set_aside == 2
    here, there = open_cues(str(tmp_path / "cues")), open_cues(str(bucket / "cues"))
    assert here.names == there.names and [here.stamp(i) for i in range(12)] == [there.stamp(i) for i in range(12)]
    assert run(tmp_path / "fits", here) == 3
    assert run(bucket / "fits", there, fit_files=True) == 3
    assert job_status.digest(bucket / "fits") == job_status.digest(tmp_path / "fits")
    assert job_status.status(bucket / "fits")["finished"]
    line = job_status.last_line(bucket / "fits")
    assert line is not None and line["state"] == "finished"
    assert run(bucket / "fits", there) == 0
    fits = open_fits(str(bucket / "fits"))
    assert fits.names == there.names and len((bucket / "fits" / "fits").files()) == 12
    assert fits.load("scene0003").transl.tolist() == open_fits(tmp_path / "fits").load("scene0003").transl.tolist()
    assert (bucket / "fits" / "people.jsonl").read_bytes() == (tmp_path / "fits" / "people.jsonl").read_bytes()
    assert set((bucket / "fits").files()) == {path.name for path in (tmp_path / "fits").iterdir() if path.is_file()}


def test_a_job_in_a_bucket_goes_on_where_it_was_killed(bucket, tmp_path):
    run(tmp_path / "whole", source_of(SCENES))

    class Gone(BaseException):
        pass

    def die(at: str) -> None:
        if at.startswith("00002-"):  # the content is there, its commit record is not
            raise Gone

    faults.install(lambda at: die(at) if at.endswith("renamed") else None)
    with pytest.raises(Gone):
        run(bucket, source_of(SCENES))
    faults.install(None)
    assert job_status.status(bucket)["units"]["done"] == 2
    assert run(bucket, source_of(SCENES)) == 2
    assert job_status.digest(bucket) == job_status.digest(tmp_path / "whole")
    assert len((bucket / "units").files()) == 4


def test_a_second_driver_is_refused_and_one_that_lost_its_hold_commits_nothing(bucket, monkeypatch):
    monkeypatch.setattr(holds, "HEARTBEAT_S", 0.05)
    run(bucket, source_of(SCENES))
    store, _ = job_store(bucket)
    with store.alone():
        with pytest.raises(StoreError, match="another process is at work on it"):
            run(bucket, source_of(SCENES))
        store.commit(store.entries[0])
        assert pickle.loads(pickle.dumps(store)).folder == bucket  # as workers get it
        number = len((bucket / "held").files())
        (bucket / "held" / f"{number:05d}.json").put_json({"owner": {}})
        while store._hold is not None and not store._hold._lost:
            time.sleep(0.01)
        with pytest.raises(StoreError, match="another process has taken over"):
            store.commit(store.entries[0])


def test_a_listing_that_lags_costs_work_and_nothing_else(tmp_path, monkeypatch):
    """Nothing that this test puts is in a listing: neither what was finished nor what was left of a run that was killed."""
    monkeypatch.setenv("ANNYFIT_CACHE", str(tmp_path / "cache"))
    plan = cue_dataset.Plan(SCENES, {"test": 1}, 4)
    cue_dataset.write(tmp_path / "cues", plan, lambda span: (readable()[i] for i in span))
    run(tmp_path / "fits", open_cues(str(tmp_path / "cues")))
    with failing_server(share=0.0, lag_s=3600.0) as server:
        bucket = place(f"s3://{server.bucket}/lagging")
        assert cue_dataset.write(bucket / "cues", plan, lambda span: (readable()[i] for i in span)).finished
        assert (bucket / "cues").files() == {} and (bucket / "cues" / "plan.json").is_file()
        cues = open_cues(str(bucket / "cues"))
        assert [cues.stamp(i) for i in range(12)] == [open_cues(str(tmp_path / "cues")).stamp(i) for i in range(12)]
        faults.install(lambda at: (_ for _ in ()).throw(KeyboardInterrupt) if at == "00001.json: renamed" else None)
        with pytest.raises(KeyboardInterrupt):
            run(bucket / "fits", cues)
        faults.install(None)
        assert (bucket / "fits" / "done" / "00001.json").is_file()
        assert run(bucket / "fits", cues) == 3  # two of them again
        assert job_status.digest(bucket / "fits") == job_status.digest(tmp_path / "fits")
        assert job_status.status(bucket / "fits")["finished"]
        assert run(bucket / "fits", cues) == 0
        assert server.faults["listing"] > 0
        server.lag_s = 0.0
        assert len((bucket / "fits" / "done").files()) == 3


def test_an_object_that_is_gone_is_made_again(bucket):
    run(bucket, source_of(SCENES))
    before = job_status.digest(bucket)
    name = min((bucket / "units").files())
    (bucket / "units" / name).remove()
    assert job_status.digest(bucket)["scenes"] == SCENES - 4
    assert run(bucket, source_of(SCENES), fitter=FakeFitter()) == 1
    assert job_status.digest(bucket) == before


def test_a_finished_job_may_lose_commit_records(tmp_path):
    run(tmp_path, source_of(SCENES))
    leave_out(tmp_path, 0, 3)
    assert run(tmp_path, source_of(SCENES)) == 2
    assert job_status.status(tmp_path)["finished"]
