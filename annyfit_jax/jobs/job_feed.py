"""The reading half of a job: a thread that claims units, loads and prepares their scenes, and forms batches ahead of the fit.

Batches are formed within a unit, in input order and per config, so a batch is the same whoever fits it and whenever.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from absl import logging

from annyfit_jax.inputs.scene_source import SceneSource
from annyfit_jax.inputs.validate import validate_scene
from annyfit_jax.jobs import job_rows
from annyfit_jax.jobs.claims import Claims
from annyfit_jax.jobs.hosts import Process
from annyfit_jax.jobs.job_rows import SceneInfo, SceneRow
from annyfit_jax.jobs.ledger import Ledger
from annyfit_jax.people.scene import NobodyToFit, Scene, SceneError
from annyfit_jax.records.fit_files import SceneFit

POLL_S = 0.5
"""How often a unit that another process works on is looked at."""


class SceneFitter(Protocol):
    """What a job needs of `annyfit_jax.fit.fitter.Fitter`."""

    def prepare(self, scene: Scene, /) -> Any:
        """The start of a scene, in a form of the fitter's own. Raises SceneError where nobody can be fitted."""
        ...

    def batches(self, scenes: Iterable[Any], /) -> Iterator[list[Any]]:
        """Prepared scenes in lists that are fitted together, in any order."""
        ...

    def dispatch(self, batch: Sequence[Any], /) -> Any:
        """Starts the fit of such a list without waiting for it."""
        ...

    def collect(self, pending: Any, /) -> list[SceneFit]:
        """Waits for it: a `SceneFit` per scene of the list, in its order."""
        ...


@dataclass(frozen=True)
class Job:
    """What is to be fitted, with what, where to."""

    folder: Path
    source: SceneSource
    ledger: Ledger
    config_of: Callable[[Scene], str]
    """Config hash that a scene is fitted with."""
    fitter_of: Callable[[str], SceneFitter]
    """Its fitter, made when first asked for."""
    config_hash: str
    """Of the job; stands in where a scene cannot be read."""
    asset_version: str
    retry_failed: bool = False
    """Units with failures are done again: their failed scenes are fitted anew, the others copied."""
    steal: bool = False
    """When its own share is done, this process helps with units that no process works on."""


@dataclass
class Unit:
    """A unit under way."""

    number: int
    rows: dict[int, SceneRow] = field(default_factory=dict)
    """By scene index."""
    before: dict[int, SceneRow] = field(default_factory=dict)
    """Of a unit that is retried: what the last attempt gave."""
    started: float = field(default_factory=time.monotonic)

    def put(self, row: SceneRow) -> bool:
        """Takes the row of a scene; after a retry only one that is as good as the old. Says whether it took it."""
        old = self.before.get(row.scene_index)
        worse = old is not None and old.num_ok > row.num_ok
        self.rows[row.scene_index] = old if old is not None and worse else row
        return not worse


@dataclass(frozen=True)
class Batch:
    """Prepared scenes to fit together."""

    unit: Unit
    fitter: SceneFitter
    prepared: list[Any]
    infos: list[SceneInfo]


@dataclass(frozen=True)
class Row:
    """A scene that needs no fit."""

    unit: Unit
    row: SceneRow


@dataclass(frozen=True)
class End:
    """Everything of a unit has been handed over."""

    unit: Unit


@dataclass(frozen=True)
class Found:
    """A unit of this process's share turned out to be finished."""

    number: int


@dataclass(frozen=True)
class Failure:
    """The thread ends with an error."""

    error: BaseException


class Finished:
    """Nothing is left for this process."""


Event = Batch | Row | End | Found | Failure | Finished


class Feed:
    """Events of the units of a process, made by a thread. Use as a context; leaving it stops the thread."""

    def __init__(self, job: Job, process: Process, claims: Claims, ahead: int = 2) -> None:
        self._job, self._process, self._claims = job, process, claims
        self._queue: queue.Queue[Event] = queue.Queue(ahead)
        self._retried: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def get(self, timeout_s: float) -> Event | None:
        """The next event; None if there is none within the time."""
        try:
            return self._queue.get(timeout=timeout_s) if timeout_s else self._queue.get_nowait()
        except queue.Empty:
            return None

    def _run(self) -> None:
        try:
            for event in self._events():
                self._put(event)
                if self._stop.is_set():
                    return
            self._put(Finished())
        except BaseException as error:
            self._put(Failure(error))

    def _put(self, event: Event) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(event, timeout=0.2)
            except queue.Full:
                continue

    # ---------------------------------------------------------------------------------------- which units

    def _events(self) -> Iterator[Event]:
        ledger = self._job.ledger
        own = list(ledger.plan.share(self._process))
        yield from self._rounds(own, wait=True)
        if self._job.steal:
            # Beginning behind its own share, so that helping processes do not all choose the same unit.
            count, first = ledger.plan.num_units, self._process.index * ledger.plan.num_units // self._process.count
            mine = set(own)
            others = [unit for k in range(count) if (unit := (first + k) % count) not in mine]
            yield from self._rounds(others, wait=False)

    def _rounds(self, units: list[int], wait: bool) -> Iterator[Event]:
        """Works through units; those that another process holds are looked at again until they are done (`wait`)."""
        left, touched = units, set()
        while left and not self._stop.is_set():
            held = []
            for unit in left:
                if self._stop.is_set():
                    return
                if not self._needed(unit):
                    if wait and unit not in touched:
                        yield Found(unit)
                elif self._claims.acquire(unit):
                    touched.add(unit)
                    if self._needed(unit):  # still, now that nobody else can finish it
                        yield from self._unit(unit)
                    else:
                        self._claims.release(unit)
                        if wait:
                            yield Found(unit)
                else:
                    held.append(unit)
            if not wait:
                return
            if held and left != held:
                logging.info("waiting for %d units that other processes work on", len(held))
            left = held
            if left:
                self._stop.wait(POLL_S)

    def _needed(self, unit: int) -> bool:
        entry = self._job.ledger.done(unit)
        if entry is None:
            return True
        return self._job.retry_failed and unit not in self._retried and entry["counts"]["retryable"] > 0

    # ---------------------------------------------------------------------------------------- one unit

    def _unit(self, number: int) -> Iterator[Event]:
        unit, ledger = Unit(number), self._job.ledger
        indices = list(ledger.plan.scenes(number))
        if ledger.done(number) is not None:  # only a retry comes here
            self._retried.add(number)
            unit.before = {row.scene_index: row for row in ledger.rows(number)}
            unit.rows = {index: row for index, row in unit.before.items() if not row.retryable}
            indices = [index for index in indices if index not in unit.rows]
        # One config after the other; a collection rarely has more than one, so a scene is rarely loaded twice.
        while indices and not self._stop.is_set():
            later: list[int] = []
            yield from self._pass(unit, indices, later)
            indices = later
        yield End(unit)

    def _pass(self, unit: Unit, indices: list[int], later: list[int]) -> Iterator[Event]:
        """Fits the scenes that share the config of the first readable one; the others go to `later`."""
        config: str | None = None
        infos: dict[int, SceneInfo] = {}
        unfit: list[SceneRow] = []
        job = self._job

        def prepared() -> Iterator[Any]:
            nonlocal config
            for index in indices:
                if self._stop.is_set():
                    return
                loaded = self._load(index)
                if isinstance(loaded, SceneRow):
                    unfit.append(loaded)
                    continue
                scene, info = loaded
                if config is not None and info.config_hash != config:
                    later.append(index)
                    continue
                config = info.config_hash
                try:
                    ready = job.fitter_of(config).prepare(scene)
                except SceneError as error:
                    row = job_rows.row_without_fit(info, "skipped:nothing_to_fit", str(error), job.asset_version)
                    if isinstance(
                        error, NobodyToFit
                    ):  # people that the reader set aside stand behind, with their reasons
                        row.status[: len(error.reasons)] = [f"skipped:{reason}" for reason in error.reasons]
                    unfit.append(row)
                except Exception as error:
                    logging.exception("%s: cannot be prepared", info.name)
                    unfit.append(failed_row(info, "prepare", error, job.asset_version))
                else:
                    infos[id(ready)] = info
                    yield ready

        stream = prepared()
        first = next(stream, None)
        if first is not None:
            assert config is not None
            fitter = job.fitter_of(config)
            for batch in fitter.batches(_chain(first, stream)):
                yield Batch(unit, fitter, batch, [infos.pop(id(ready)) for ready in batch])
                while unfit:
                    yield Row(unit, unfit.pop(0))
        for row in unfit:
            yield Row(unit, row)

    def _load(self, index: int) -> tuple[Scene, SceneInfo] | SceneRow:
        """A scene that can be prepared, or the row of one that is broken."""
        job, source = self._job, self._job.source
        name = source.names[index]
        people = getattr(source, "people", ())
        info = job_rows.unread_info(index, name, people[index] if len(people) > index else 0, job.config_hash)
        word = "unreadable"
        try:
            # `loader` and the check apart: of a scene that is read but invalid we know the people, and each gets its row.
            scene = source.loader(index)
            info = job_rows.scene_info(index, name, scene, job.config_hash)
            word = "invalid_cues" if info.person_ids else "no_people"
            validate_scene(scene, source.location)
            return scene, replace(info, config_hash=job.config_of(scene))
        except SceneError as error:
            logging.warning("set aside: %s", error)
            return job_rows.row_without_fit(info, f"skipped:{word}", str(error), job.asset_version)
        except Exception as error:
            logging.warning("%s: cannot be read (%s: %s)", name, type(error).__name__, error)
            return failed_row(info, "read", error, job.asset_version)


def failed_row(info: SceneInfo, step: str, error: Exception, asset_version: str) -> SceneRow:
    """The row of a scene on which a step raised something unforeseen."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    return job_rows.row_without_fit(info, f"failed:{step}:{type(error).__name__}", reason, asset_version)


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest
