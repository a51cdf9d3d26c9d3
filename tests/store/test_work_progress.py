"""Lines of progress: what they say, when they are written, and what is read of them."""

from __future__ import annotations

import os
import time

import pytest

from annyfit_jax.store.locations import Location, place
from annyfit_jax.store.work_progress import WorkProgress, at_work, describe_line, last_line, lines_below, reason_of


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path) -> Location:
    return place(tmp_path / "out" if request.param == "disk" else f"memory://work-{tmp_path.name}-{os.getpid()}")


def test_a_line_counts_the_whole_work_and_the_rate_of_this_run(folder):
    progress = WorkProgress(folder, "pack", 100)
    progress.begin(40, {"no keypoints": 2}, workers=3)
    progress._started -= 10.0
    progress.more["loss"] = 0.25
    progress.add(20, {"no keypoints": 1, "no camera": 4})
    progress.report("running")
    line = last_line(folder / "progress-pack.jsonl")
    assert line is not None and at_work(line)
    assert {name: line[name] for name in ("work", "things", "state", "done", "total", "workers", "loss")} == {
        "work": "pack", "things": "scenes", "state": "running", "done": 60, "total": 100, "workers": 3, "loss": 0.25,
    }  # fmt: skip
    assert line["failed"] == {"no camera": 4, "no keypoints": 3}
    assert line["per_s"] == pytest.approx(2.0, rel=0.1) and line["seconds_left"] == pytest.approx(20.0, rel=0.1)
    said = describe_line({**line, "per_s": 2.0, "seconds_left": 20.0, "host": "h", "pid": 7, "time": time.time()})
    assert said == (
        "pack: 60 of 100 scenes, 7 failed (no camera 4, no keypoints 3), loss 0.25, 2 scenes/s, 20 s left, h pid 7, 3 workers, "
        "0 s ago"
    )
    gone = {**line, "time": line["time"] - 600}
    assert not at_work(gone) and "nobody at work since 10 min 00 s" in describe_line(gone)
    progress.report("finished")
    (line,) = lines_below(folder)
    assert line["state"] == "finished" and ", finished, 2 scenes/s" in describe_line({**line, "per_s": 2.0})


def test_a_line_is_written_while_a_long_unit_is_under_way(tmp_path):
    progress = WorkProgress(place(tmp_path), "pack", 2, every_s=0.5)  # a second between the beats
    progress.begin()
    first = last_line(place(tmp_path) / "progress-pack.jsonl")
    for _ in range(600):
        if (line := last_line(place(tmp_path) / "progress-pack.jsonl")) != first:
            break
        time.sleep(0.1)
    progress.report("interrupted")
    assert first is not None and line is not None and line["time"] > first["time"] and line["done"] == 0


def test_half_a_last_line_is_passed_over(tmp_path):
    progress = WorkProgress(place(tmp_path), "pack", 2)
    progress.report("running")
    with (tmp_path / "progress-pack.jsonl").open("a") as file:
        file.write('{"work": "pa')
    line = last_line(place(tmp_path) / "progress-pack.jsonl")
    assert line is not None and line["work"] == "pack"
    assert last_line(place(tmp_path) / "none.jsonl") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("photo: /photos/a.jpg: not a picture", "photo: not a picture"),
        ("coco.json: scene7: no keypoints", "coco.json: no keypoints"),
        ("TimeoutError: the server\n says: nothing: at all", "TimeoutError: the server says"),
        ("scene7", "scene7"),
    ],
)
def test_reasons_are_the_same_for_all_things(text, reason):
    assert reason_of(text, "scene7") == reason
