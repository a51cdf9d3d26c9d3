"""Work whose units leave files under names of their own: exports, predictions.

parts = Parts("glb", place("OUT"), spans, make, settings)
with parts.alone():
    run([parts.stage()], engine)
    records = parts.finish()

A unit's files are written aside and put in their places whole; then the driver puts the record of the unit into `LEDGER` beside
them: which files of which size, made with which settings from which input. A unit without a record, whose record tells of other
settings or another input, or whose files are not there, is done again; so the same call goes on where it was stopped.
In a bucket the records are held (`holds`): of two drivers of the same work the second is refused.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from annyfit_jax.engine.stages import EachUnit, Stage
from annyfit_jax.records.files import temporary_name
from annyfit_jax.store.holds import Hold, held
from annyfit_jax.store.locations import Location, read_all
from annyfit_jax.store.work_progress import WorkProgress

LEDGER = ".parts"
"""Folder of the records below the output, a folder in it for each kind of work."""
Record = dict[str, Any]
"""`files` (name below the output -> bytes, in the order in which they were made), `settings`, `input`, facts of the unit."""


class Made(NamedTuple):
    """What a unit left in the folder that it was given."""

    files: Sequence[Path]
    facts: Mapping[str, Any] = {}
    """JSON."""


Write = Callable[[Any, Path], Made]
"""Makes the files of a task in a folder."""


class Parts:
    """The units of such a work, and what is known of them."""

    def __init__(
        self, name: str, output: Location, tasks: Sequence[Any], make: Callable[[], Write], settings: Any, *,
        ledger: Location | None = None, stamps: Callable[[int], str] = lambda unit: "",
        things: tuple[int, str] | None = None,
        counted: Callable[[Record], tuple[int, Mapping[str, int]]] = lambda record: (1, {}), log_every_s: float = 10.0,
        accelerator: bool = False,
    ) -> None:  # fmt: skip
        """Nothing is read yet.

        Args:
          tasks: what `make` is told of each unit; can be pickled, like `make`.
          make: called once in every worker; what it returns writes the files of a task.
          settings: JSON; units that were made with others are made again.
          ledger: folder of the records; default `LEDGER` below the output.
          stamps: fingerprint of the input of a unit.
          things: how many of what the progress counts; default the units.
          counted: how many of them a record has, and how many of these failed for which reason.
          log_every_s: seconds between two lines of progress, which go beside the records.
        """
        self.name, self.output, self.tasks, self._make = name, output, tasks, make
        self._ledger = ledger or output / LEDGER / name
        self._settings = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        self._stamps, self._counted, self._accelerator = stamps, counted, accelerator
        total, what = things or (len(tasks), "units")
        self._progress = WorkProgress(self._ledger.parent, name, total, what, every_s=log_every_s)
        self._records: dict[int, Record] = {}
        self._hold: Hold | None = None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the records in a bucket for this process. Raises TakenError where another one is at work on them."""
        with held(self._ledger) as self._hold:
            self._ledger.clean()
            yield

    def stage(self, after: tuple[str, ...] = ()) -> Stage:
        """The stage of an engine that does the units that are not done."""
        return Stage(
            self.name, functools.partial(_worker, self._make, self.output, self._ledger), range(len(self.tasks)),
            needed=self._needed, task=lambda unit: (unit, self.tasks[unit]), commit=self._commit, after=after,
            accelerator=self._accelerator, begin=self._begin, end=self._progress.report, waits=self._progress.waits,
        )  # fmt: skip

    def finish(self, *, remove_others: bool = True) -> list[Record]:
        """The records of all units in order, after the stage. Files of earlier calls that no unit has any more are removed."""
        records = [self._records[unit] for unit in range(len(self.tasks))]
        kept = {name for record in records for name in record["files"]}
        for unit, record in self._old.items():
            for name in record["files"].keys() - kept if remove_others else ():
                (self.output / name).remove()
            if unit >= len(records):
                (self._ledger / f"{unit:05d}.json").remove()
        return records

    def forget(self) -> None:
        """Removes the records, and what was said of the progress."""
        self._ledger.remove()
        self._progress.forget()
        with contextlib.suppress(OSError):
            if not self._ledger.remote:
                self._ledger.path.parent.rmdir()

    @functools.cached_property
    def _old(self) -> dict[int, Record]:
        """The records that were there."""
        contents = read_all(self._ledger, [name for name in self._ledger.files() if name.endswith(".json")])
        return {int(name.removesuffix(".json")): json.loads(content) for name, content in contents.items()}

    @functools.cached_property
    def _there(self) -> dict[str, tuple[int, str]]:
        return self.output.tree()

    def _needed(self, unit: int) -> bool:
        if unit in self._records:
            return False
        record = self._old.get(unit)
        if record is None or (record["settings"], record["input"]) != (self._settings, self._stamps(unit)):
            return True
        for name, size in record["files"].items():
            if self.output.remote:
                if self._there.get(name, (-1, ""))[0] != size:
                    return True
            elif not (file := (self.output / name).path).is_file() or file.stat().st_size != size:
                return True
        self._records[unit] = record
        return False

    def _begin(self, _: int, workers: int) -> None:
        before = [self._counted(self._records[unit]) for unit in range(len(self.tasks)) if not self._needed(unit)]
        failed = sum((Counter(reasons) for _, reasons in before), Counter())
        self._progress.begin(sum(count for count, _ in before), failed, workers)

    def _commit(self, unit: int, result: tuple[dict[str, int], dict[str, Any]]) -> None:
        if self._hold is not None:
            self._hold.check()
        files, facts = result
        record = {"files": files, "settings": self._settings, "input": self._stamps(unit), **facts}
        (self._ledger / f"{unit:05d}.json").put_json(record)
        self._records[unit] = record
        self._progress.add(*self._counted(record))


def _worker(make: Callable[[], Write], output: Location, ledger: Location, _: threading.Event) -> EachUnit:
    return EachUnit(functools.partial(_do, make(), output, ledger))


def _do(
    write: Write, output: Location, ledger: Location, task: tuple[int, Any]
) -> tuple[int, tuple[dict[str, int], dict[str, Any]]]:
    unit, given = task
    with _scratch(output, ledger, unit) as folder:
        made = write(given, folder)
        files = {}
        for file in made.files:
            name = file.relative_to(folder).as_posix()
            files[name] = file.stat().st_size
            _move(file, output / name)
    return unit, (files, dict(made.facts))


@contextlib.contextmanager
def _scratch(output: Location, ledger: Location, unit: int) -> Iterator[Path]:
    """A folder for the files of a unit; on a disk beside their places, so that they need not be copied."""
    if output.remote or ledger.remote:
        with tempfile.TemporaryDirectory(prefix="annyfit-") as folder:
            yield Path(folder)
        return
    folder = temporary_name(ledger.path / f"{unit:05d}")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(file: Path, target: Location) -> None:
    if target.remote:
        with target.replacing() as upload:
            shutil.move(file, upload)
    else:
        target.path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target.path)
