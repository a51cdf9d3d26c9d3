"""Work whose units leave files: done once, again where settings, input or files have changed, on a disk and in a bucket."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from annyfit_jax.engine.running import run
from annyfit_jax.store.holds import TakenError
from annyfit_jax.store.locations import Location, place
from annyfit_jax.store.parts import LEDGER, Made, Parts
from annyfit_jax.store.plan import StoreError

TASKS = ("a", "b", "c")


@pytest.fixture(params=["disk", "memory"])
def output(request, tmp_path) -> Location:
    return place(tmp_path / "out" if request.param == "disk" else f"memory://parts-{tmp_path.name}-{os.getpid()}")


def letters(
    output: Location, settings: object = 1, tasks: tuple[str, ...] = TASKS, stamp: str = "", done: list | None = None
) -> Parts:
    """A file per letter; `done` is told each that is made."""
    done = [] if done is None else done

    def make():
        def write(task: str, folder: Path) -> Made:
            if task == "stop":
                raise KeyboardInterrupt
            done.append(task)
            (folder / "sub").mkdir()
            file = folder / "sub" / f"{task}.txt"
            file.write_text(f"{task} {settings}")
            (folder / "not_told").touch()
            return Made([file], {"letters": len(task)})

        return write

    return Parts("letters", output, tasks, make, settings, stamps=lambda unit: stamp)


def work(output: Location, *given, **changed) -> tuple[list, list]:
    """The units done now, and the records of all; `given` as of `letters`."""
    done = []
    parts = letters(output, *given, **changed, done=done)
    with parts.alone():
        run([parts.stage()])
        return done, parts.finish()


def test_units_are_done_once_and_their_files_are_in_their_places(output):
    done, records = work(output)
    assert done == list(TASKS) and work(output) == ([], records)
    assert [(list(record["files"]), record["letters"]) for record in records] == [([f"sub/{t}.txt"], 1) for t in TASKS]
    assert {name for name in output.tree() if not name.startswith(LEDGER)} == {f"sub/{t}.txt" for t in TASKS}
    assert (output / "sub" / "a.txt").read_bytes() == b"a 1"


@pytest.mark.parametrize("change", [{"settings": 2}, {"stamp": "x"}])
def test_other_settings_or_input_are_done_again(output, change):
    work(output)
    assert work(output, **change)[0] == list(TASKS)


def test_a_missing_file_is_made_again_alone(output):
    work(output)
    (output / "sub" / "b.txt").remove()
    assert work(output)[0] == ["b"]


def test_a_stopped_call_goes_on(output):
    with pytest.raises(KeyboardInterrupt):
        work(output, tasks=("a", "stop", "c"))
    assert work(output)[0] == ["b", "c"]


def test_files_that_no_unit_has_any_more_are_removed(output):
    work(output)
    done, records = work(output, settings=2, tasks=("a",))
    assert done == ["a"] and len(records) == 1
    assert {name for name in output.tree() if not name.startswith(LEDGER)} == {"sub/a.txt"}
    assert work(output, settings=2, tasks=("a",))[0] == []


def test_a_second_driver_in_a_bucket_is_refused_while_the_first_is_at_work(bucket):
    parts, other = letters(bucket), letters(bucket)
    with parts.alone():
        run([parts.stage()])
        with pytest.raises(TakenError, match="another process is at work on it"), other.alone():
            pass
        assert len(parts.finish()) == len(TASKS)
    with other.alone():
        run([other.stage()])
        other.finish()
        other.forget()
    assert not any(name.startswith(LEDGER) for name in bucket.tree())  # the hold went with the records


def test_a_driver_that_was_taken_over_records_nothing_more(bucket):
    parts = letters(bucket)
    with parts.alone():
        assert parts._hold is not None
        parts._hold._lost = True
        with pytest.raises(StoreError, match="another process has taken over"):
            run([parts.stage()])
    assert parts._records == {}
