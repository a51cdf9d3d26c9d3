"""Work whose units leave files: done once, again where settings, input or files have changed, on a disk and in a bucket."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from annyfit_jax.engine.running import run
from annyfit_jax.store.locations import Location, place
from annyfit_jax.store.parts import LEDGER, Made, Parts

TASKS = ("a", "b", "c")


@pytest.fixture(params=["disk", "memory"])
def output(request, tmp_path) -> Location:
    return place(tmp_path / "out" if request.param == "disk" else f"memory://parts-{tmp_path.name}-{os.getpid()}")


def work(output: Location, settings: object = 1, tasks: tuple[str, ...] = TASKS, stamp: str = "") -> tuple[list, list]:
    """The units done now, and the records of all."""
    done = []

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

    parts = Parts("letters", output, tasks, make, settings, stamps=lambda unit: stamp)
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
