"""Progress of a job for TensorBoard, through a stand-in for tensorboardX and through the real one."""

from __future__ import annotations

import builtins
import json
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_job import FakeFitter, run, source_of

from annyfit_jax.jobs import job_rows
from annyfit_jax.jobs.progress import PROGRESS_FILE, Progress
from annyfit_jax.store.locations import place
from annyfit_jax.store.work_progress import duration

TAGS = {f"job/{name}" for name in ("scenes_per_s", "people_per_s", "people", "failed", "skipped", "scenes_done")}


def row(index: int, statuses: list[str]) -> job_rows.SceneRow:
    return job_rows.SceneRow(index, f"s{index}", status=statuses)


def report_twice(folder: Path) -> list[dict]:
    """Two lines: after two scenes, and at the end after three. Returns the JSON lines."""
    progress = Progress(place(folder), 4, every_s=1e9, tensorboard=True)
    progress.add(row(0, ["ok", "ok"]))
    progress.add(row(1, ["ok", "failed:not_finite", "skipped:crowd"]))
    progress.report("running")
    progress.found(1)
    progress.add(row(2, ["ok"]))
    progress.report("finished")
    return [json.loads(line) for line in (folder / PROGRESS_FILE).read_text().splitlines()]


class Board:
    """Records what is written."""

    def __init__(self, folder: str) -> None:
        self.folder, self.scalars, self.flushed, self.closed = folder, [], 0, False

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars.append((tag, value, step))

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed = True


def test_scalars_are_those_of_the_json_lines(tmp_path, monkeypatch):
    made: list[Board] = []
    writer = lambda folder: made.append(Board(folder)) or made[-1]  # noqa: E731
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=writer))
    lines = report_twice(tmp_path)
    (board,) = made
    assert board.folder == str(tmp_path / "tensorboard")
    assert board.flushed == 2 and board.closed
    for step, line in zip((2, 3), lines, strict=True):
        scalars = {tag: value for tag, value, at in board.scalars if at == step}
        assert scalars == {tag: line[tag.removeprefix("job/")] for tag in TAGS}
    assert [(line["people"], line["failed"], line["skipped"], line["scenes_done"]) for line in lines] == [
        (3, 1, 1, 2), (4, 1, 1, 4),
    ]  # fmt: skip


def test_the_real_writer_leaves_every_line_in_its_event_file(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto import event_pb2  # pyright: ignore[reportMissingImports]

    parse = getattr(event_pb2, "Event").FromString  # noqa: B009 (generated: type checkers do not see it)
    lines = report_twice(tmp_path)
    (path,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    content, position, found = path.read_bytes(), 0, {}
    while position < len(content):  # records: length, checksum, bytes, checksum
        (length,) = struct.unpack_from("<Q", content, position)
        event = parse(content[position + 12 : position + 12 + length])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        position += length + 16
    assert {tag for tag, _ in found} == TAGS
    for step, line in zip((2, 3), lines, strict=True):
        for tag in TAGS:
            assert found[tag, step] == pytest.approx(line[tag.removeprefix("job/")], rel=1e-6)


def test_without_the_package_the_message_says_what_to_install(tmp_path, monkeypatch):
    original = builtins.__import__

    def refuse(name: str, *arguments, **options):
        if name == "tensorboardX":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match="pip install tensorboardX"):
        Progress(place(tmp_path), 1, tensorboard=True)
    assert list(tmp_path.iterdir()) == []


def test_a_job_without_it_writes_none(tmp_path):
    run(tmp_path, source_of(2), fitter=FakeFitter())
    assert not (tmp_path / "tensorboard").exists() and (tmp_path / PROGRESS_FILE).exists()


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (61, "1 min 01 s"), (7260, "2 h 01 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_time_left_does_not_count_compiling(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("annyfit_jax.jobs.progress.time.monotonic", lambda: now[0])
    progress = Progress(place(tmp_path), 30, every_s=1e9)
    now[0] += 64.0
    progress.compiled(60.0)
    for index in range(20):
        progress.add(row(index, ["ok"]))
    assert progress.snapshot("running")["seconds_left"] == 2.0  # ten scenes at five a second
    assert progress.snapshot("running")["seconds"] == 64.0


def test_scenes_of_a_batch_that_is_fitted_are_not_left(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("annyfit_jax.jobs.progress.time.monotonic", lambda: now[0])
    progress = Progress(place(tmp_path), 12, every_s=1e9)
    now[0] += 10.0
    progress.fitted(30, 32, 10)
    progress.add(row(0, ["ok"]))
    assert progress.snapshot("running")["seconds_left"] == 2.0


def test_a_run_that_finds_everything_done_says_so(tmp_path, caplog):
    progress = Progress(place(tmp_path), 6, every_s=1e9)
    progress.found(6)
    with caplog.at_level("INFO"):
        progress.report("finished")
    assert "6/6 scenes were finished before" in caplog.text
    assert "0 people" not in caplog.text
