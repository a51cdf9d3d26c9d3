"""A dataset of records written by one call: cut into units, done by any engine, resumed by calling again.

state = write("dataset", Plan(1000, {"seed": 1}, kind=KIND), records)
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from annyfit_jax.engine.running import run
from annyfit_jax.engine.stages import EachUnit, Engine, Stage
from annyfit_jax.records.files import json_lines, sha256
from annyfit_jax.store.locations import Location, place
from annyfit_jax.store.plan import Kind, Plan, open_plan, stamp_of
from annyfit_jax.store.units import Store
from annyfit_jax.store.work_progress import WorkProgress, reason_of


class SetAside(NamedTuple):
    """A scene that has no record."""

    name: str
    reason: str


class Packed(NamedTuple):
    """A record."""

    name: str
    record: bytes
    facts: Mapping[str, Any]
    """What the unit's commit record notes about it, an entry for each of `Kind.facts`."""


class Progress(NamedTuple):
    """State of a dataset after a call of `write`."""

    shards_done: int
    num_shards: int
    scenes: int
    people: int
    """Sum of the fact `people`, 0 for kinds without it."""
    set_aside: int
    finished: bool
    """All shards are there and the metadata is written."""


Records = Callable[[Sequence[int]], Iterable[Packed | SetAside]]
"""The records of some input indices, or why there is none."""


@dataclass
class Dataset:
    """A dataset under way: its store, the order of its scenes, and which units are left."""

    store: Store
    plan: Plan
    order: Sequence[int]
    _stamps: dict[int, str] = field(default_factory=dict, repr=False)
    _changed: set[int] = field(default_factory=set, repr=False)

    def indices(self, unit: int) -> Sequence[int]:
        """The input indices of a unit."""
        span = self.store.spans[unit]
        return range(span.start, span.stop) if isinstance(self.order, range) else self.order[span.start : span.stop]

    def stamp(self, unit: int) -> str:
        """The fingerprint of a unit's input as this run found it, empty where the input has none."""
        if unit not in self._stamps:
            stamps = [self.plan.stamp(index) for index in self.indices(unit)] if self.plan.stamp else []
            self._stamps[unit] = stamp_of(stamps) if any(stamps) else ""
        return self._stamps[unit]

    def needed(self, unit: int) -> bool:
        """Whether a unit is not done, or was made from what has changed since; says so where it has changed."""
        entry = self.store.done(unit)
        if entry is None:
            return True
        known, now = entry.get("input"), self.stamp(unit)
        if known and now and known != now and unit not in self._changed:
            self._changed.add(unit)
            logging.warning("unit %d: its input has changed since it was done: it is done again", unit)
        return bool(known and now) and known != now


def open_dataset(output: str | Path | Location, plan: Plan) -> Dataset:
    """Begins a dataset or goes on with one. Raises StoreError."""
    folder = place(output)
    opened = open_plan(folder, plan)
    return Dataset(Store(folder, plan.kind, opened.cut), plan, opened.order)


def write(
    output: str | Path | Location,
    plan: Plan,
    records: Records,
    *,
    on_shard: Callable[[int], None] | None = None,
    engine: Engine | None = None,
    stop: threading.Event | None = None,
) -> Progress:
    """Writes the units that are not finished, then the metadata. Call again to resume. `on_shard` is told each unit written.

    Raises StoreError where the folder belongs to another plan; errors of `records` and of the disk pass through, and the unit
    under way leaves nothing.
    """
    dataset = open_dataset(output, plan)
    with dataset.store.alone():
        run([stage(dataset, records, on_shard)], engine, stop)
        return finish(dataset.store)


def stage(
    dataset: Dataset, records: Records, on_shard: Callable[[int], None] | None = None, after: tuple[str, ...] = (),
    redo: Callable[[int], bool] = lambda unit: False, progress: Location | None = None, log_every_s: float = 10.0,
) -> Stage:  # fmt: skip
    """The stage that writes a dataset.

    Args:
      redo: units that are written although they are done.
      progress: folder for the lines of progress; default that of the dataset.
    """
    store = dataset.store
    told = WorkProgress(progress or store.folder, store.kind.name, store.cut.total, every_s=log_every_s)

    def needed(unit: int) -> bool:
        return dataset.needed(unit) or redo(unit)

    def begin(_: int, workers: int) -> None:
        before = [unit for unit in range(store.num_units) if not needed(unit)]
        failed = sum((_reasons(store.entries[unit]) for unit in before), Counter())
        told.begin(sum(len(store.spans[unit]) for unit in before), failed, workers)

    def commit(unit: int, entry: dict[str, Any]) -> None:
        store.commit(entry)
        for item in entry["set_aside"]:
            logging.warning("set aside: %s: %s", item["scene"], item["reason"])
        told.add(len(store.spans[unit]), _reasons(entry))
        if on_shard is not None:
            on_shard(unit)

    return Stage(
        name=store.kind.name,
        make=functools.partial(_make, store, records),
        units=range(store.num_units),
        needed=needed,
        task=lambda unit: (unit, dataset.indices(unit), dataset.stamp(unit)),
        commit=commit,
        after=after,
        accelerator=False,
        begin=begin,
        end=told.report,
        waits=told.waits,
    )


def _reasons(entry: Mapping[str, Any]) -> Counter[str]:
    return Counter(reason_of(item["reason"], item["scene"]) for item in entry["set_aside"])


def _make(store: Store, records: Records, _: threading.Event) -> EachUnit:
    return EachUnit(functools.partial(_write_unit, store, records))


def _write_unit(store: Store, records: Records, task: tuple[int, Sequence[int], str]) -> tuple[int, dict[str, Any]]:
    unit, indices, stamp = task
    lists: dict[str, list[Any]] = {key: [] for key in ("names", *store.kind.facts, "set_aside", "digests")}

    def packed() -> Iterator[bytes]:
        for item in records(indices):
            if isinstance(item, SetAside):
                lists["set_aside"].append({"scene": item.name, "reason": item.reason})
                continue
            yield item.record
            lists["names"].append(item.name)
            lists["digests"].append(hashlib.sha256(item.record).hexdigest()[:16])
            for fact in store.kind.facts:
                lists[fact].append(item.facts[fact])

    return unit, store.write(unit, packed(), lambda: dict(lists), stamp, time.monotonic())


def finish(store: Store) -> Progress:
    """Writes `set_aside.jsonl` and the metadata if all units are done; returns the state."""
    done = [entry for unit in range(store.num_units) if (entry := store.done(unit)) is not None]
    aside = [item for entry in done for item in entry["set_aside"]]
    scenes = sum(entry["num_records"] for entry in done)
    people = sum(sum(entry.get("people", ())) for entry in done)
    finished = len(done) == store.num_units
    if finished:
        content = hashlib.sha256(json.dumps([entry["sha256"] for entry in done]).encode()).hexdigest()
        known = (store.folder / "finished.json").read_json()
        if not (
            isinstance(known, dict) and known.get("shards_sha256") == content and store.published(["set_aside.jsonl"])
        ):
            (store.folder / "set_aside.jsonl").put_parts(json_lines(aside))
            store.publish()
            (store.folder / "finished.json").put_json(
                {"shards_sha256": content, "scenes": scenes, "people": people, "set_aside": len(aside)}
            )
    return Progress(len(done), store.num_units, scenes, people, len(aside), finished and scenes > 0)


def verify(output: str | Path) -> list[str]:
    """Full check of a dataset's files against their checksums; the problems found, none if sound."""
    folder = place(output)
    problems = []
    for part in ("done", "shards"):  # `shards` of version 0.1
        for name in (folder / part).files():
            entry = (folder / part / name).read_json()
            if not isinstance(entry, dict):
                problems.append(f"{part}/{name}: not a commit record")
                continue
            try:
                if sha256((folder / entry["file"]).fetched()) != entry["sha256"]:
                    problems.append(f"{entry['file']}: the checksum differs from {name}")
            except OSError as error:
                problems.append(f"{entry['file']}: {error.strerror or error}")
    return problems


__all__ = [
    "Dataset", "Kind", "Packed", "Plan", "Progress", "SetAside", "finish", "open_dataset", "stage", "verify", "write",
]  # fmt: skip
