"""Training runs in buckets: what is complete comes back, and what is not is not looked at."""

from __future__ import annotations

import os

import pytest

from annyfit_jax.store.locations import Location, place
from annyfit_jax.training.bucket_runs import run_folder


@pytest.fixture
def run(tmp_path) -> Location:
    return place(f"memory://run-{tmp_path.name}-{os.getpid()}")


def test_a_folder_on_a_disk_is_itself(tmp_path):
    with run_folder(tmp_path / "run") as (folder, put):
        assert folder == tmp_path / "run" and put is None


def test_complete_checkpoints_come_back_and_old_ones_go(run):
    with run_folder(run) as (folder, put):
        assert put is not None
        for step in (5, 10):
            (folder / "checkpoints" / str(step) / "state").mkdir(parents=True)
            (folder / "checkpoints" / str(step) / "state" / "values").write_text(f"at {step}")
            (folder / "metrics.jsonl").write_text(f"to {step}")
            put()
    # A checkpoint of which only a part was put before the process was killed.
    (run / "checkpoints" / "15" / "state" / "values").put(b"half")
    with run_folder(run) as (folder, put):
        assert put is not None
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["10", "5"]
        assert (folder / "checkpoints" / "10" / "state" / "values").read_text() == "at 10"
        assert (folder / "metrics.jsonl").read_text() == "to 10"
        (folder / "checkpoints" / "5" / "state" / "values").unlink()
        (folder / "checkpoints" / "15").mkdir()
        (folder / "checkpoints" / "15" / "values").write_text("whole")
        put()
    with run_folder(run) as (folder, _):
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["10", "15"]
        assert (folder / "checkpoints" / "15" / "values").read_text() == "whole"
        assert not (folder / "checkpoints" / "15" / "state").exists()
