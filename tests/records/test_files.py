"""Files appear complete or not at all, whoever else writes them; leftovers of dead processes go."""

from __future__ import annotations

import os
import threading

import pytest

from annyfit_jax.records import files
from annyfit_jax.records.files import clean_leftovers, replacing, temporary_name


@pytest.mark.parametrize("flush", [False, True])
def test_a_file_takes_its_place_at_the_end(tmp_path, flush):
    path = tmp_path / "deep" / "a.txt"
    with replacing(path, flush=flush) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "new"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_a_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        _stop(temporary.write_text("half"))
    with pytest.raises(FileNotFoundError), replacing(path):
        pass  # nothing was written
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def _stop(_: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("links", [True, False])
def test_the_first_of_several_wins_where_that_is_asked_for(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError("no hard links here")

        monkeypatch.setattr("os.link", refuse)
    path = tmp_path / "a.txt"
    for text in ("first", "second"):
        with replacing(path, first_wins=True) as temporary:
            temporary.write_text(text)
    assert path.read_text() == ("first" if links else "second")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_writers_at_the_same_time_do_not_mix(tmp_path):
    texts = [str(i) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=files.write_text, args=(tmp_path / "a.txt", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.txt").read_text() in texts
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    own = temporary_name(tmp_path / "a.txt")
    dead = own.with_name(own.name.replace(f"-{os.getpid()}-", "-99999999-"))  # no kernel counts that far
    machine = files.this_process().machine
    far, old = (own.with_name(own.name.replace(machine, 12 * digit)) for digit in "01")
    for path in (own, dead, far, old, tmp_path / ".mine.tmp"):
        path.write_text("half")
    (tmp_path / dead.name.replace("a.txt", "folder")).mkdir()
    os.utime(old, (0, 0))
    assert clean_leftovers(tmp_path, older_than_s=60) == 3
    assert {path.name for path in tmp_path.iterdir()} == {own.name, far.name, ".mine.tmp"}
    assert clean_leftovers(tmp_path / "lost", 60) == 0


def test_json_that_cannot_be_read_is_none(tmp_path):
    (tmp_path / "a.json").write_text("{")
    assert files.read_json(tmp_path / "a.json") is files.read_json(tmp_path / "b.json") is None
    files.write_text(tmp_path / "a.json", "[1]")
    assert files.read_json(tmp_path / "a.json") == [1]


def test_lines_are_made_one_by_one():
    made = []
    lines = files.json_lines(made.append(i) or {"i": i} for i in range(3))
    assert next(lines) == b'{"i": 0}\n' and made == [0]
