"""The reading half of a fit worker: a thread that loads and prepares the scenes of units, and forms batches ahead of the fit.

Batches are formed within a unit, in order and per config, so a batch is the same whoever fits it and whenever.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from absl import logging

from annyfit_jax.inputs.scene_source import SceneSource
from annyfit_jax.inputs.validate import validate_scene
from annyfit_jax.jobs import fit_store, job_rows
from annyfit_jax.jobs.job_rows import SceneInfo, SceneRow
from annyfit_jax.people.scene import NobodyToFit, Scene, SceneError
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.store.units import Entry, Store


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


class Task(NamedTuple):
    """A unit to fit."""

    unit: int
    indices: Sequence[int]
    """Input indices of its scenes."""
    stamp: str = ""
    """Fingerprint of its input."""
    before: Entry | None = None
    """Commit record of the last attempt where only its failed scenes are fitted anew (`retry_failed`)."""


@dataclass(frozen=True)
class Job:
    """What is to be fitted, with what, where to. Can be pickled where its parts can."""

    store: Store
    source: SceneSource
    config_of: Callable[[Scene], str]
    """Config hash that a scene is fitted with."""
    make_fitter: Callable[[str], SceneFitter]
    """Makes the fitter of a config hash; called once per worker and hash."""
    config_hash: str
    """Of the job; stands in where a scene cannot be read."""
    asset_version: str
    fit_files: bool = False
    """Also write `fits/<scene>.npz`, with loss curves."""
    save_vertices: bool = False
    """With posed vertices in them; needs a fitter with `vertices`."""
    profile: str | None = None
    """Folder for a `jax.profiler` trace of the first batches."""


@dataclass
class Unit:
    """A unit under way."""

    task: Task
    rows: dict[int, SceneRow] = field(default_factory=dict)
    """By scene index, which is the position in the store."""
    people: int = 0
    """That were in the lists of its batches."""
    room: int = 0
    """People that the lists had room for."""
    compile_s: float = 0.0
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
class Failure:
    """The thread ends with an error."""

    error: BaseException


class Finished:
    """Nothing is left for this worker."""


Event = Batch | Row | End | Failure | Finished


class Feed:
    """Events of the units of a worker, made by a thread. Use as a context; leaving it stops the thread."""

    def __init__(self, job: Job, tasks: Iterator[Task], ahead: int = 2) -> None:
        self._job, self._tasks = job, tasks
        self._queue: queue.Queue[Event] = queue.Queue(ahead)
        self._fitters: dict[str, SceneFitter] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60.0)  # it may wait for a task that never comes

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

    # ---------------------------------------------------------------------------------------- one unit

    def _events(self) -> Iterator[Event]:
        for task in self._tasks:
            yield from self._unit(task)
            if self._stop.is_set():
                return

    def _unit(self, task: Task) -> Iterator[Event]:
        unit, store = Unit(task), self._job.store
        places = list(store.spans[task.unit])
        if task.before is not None:
            store.entries[task.unit] = task.before
            unit.before = {row.scene_index: row for row in fit_store.rows(store, task.unit)}
            unit.rows = {index: row for index, row in unit.before.items() if not row.retryable}
            places = [place for place in places if place not in unit.rows]
        # One config after the other; a collection rarely has more than one, so a scene is rarely loaded twice.
        while places and not self._stop.is_set():
            later: list[int] = []
            yield from self._pass(unit, places, later)
            places = later
        yield End(unit)

    def _pass(self, unit: Unit, places: list[int], later: list[int]) -> Iterator[Event]:
        """Fits the scenes that share the config of the first readable one; the others go to `later`."""
        config: str | None = None
        infos: dict[int, SceneInfo] = {}
        unfit: list[SceneRow] = []
        job, first_place = self._job, self._job.store.spans[unit.task.unit].start

        def prepared() -> Iterator[Any]:
            nonlocal config
            for place in places:
                if self._stop.is_set():
                    return
                loaded = self._load(place, unit.task.indices[place - first_place])
                if isinstance(loaded, SceneRow):
                    unfit.append(loaded)
                    continue
                scene, info = loaded
                if config is not None and info.config_hash != config:
                    later.append(place)
                    continue
                config = info.config_hash
                try:
                    ready = self._fitter(config).prepare(scene)
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
            fitter = self._fitter(config)
            for batch in fitter.batches(itertools.chain([first], stream)):
                yield Batch(unit, fitter, batch, [infos.pop(id(ready)) for ready in batch])
                while unfit:
                    yield Row(unit, unfit.pop(0))
        for row in unfit:
            yield Row(unit, row)

    def _fitter(self, config: str) -> SceneFitter:
        if config not in self._fitters:
            self._fitters[config] = self._job.make_fitter(config)
        return self._fitters[config]

    def _load(self, place: int, index: int) -> tuple[Scene, SceneInfo] | SceneRow:
        """A scene that can be prepared, or the row of one that is broken; `index` is its position in the input."""
        job, source = self._job, self._job.source
        name = source.names[index]
        people = getattr(source, "people", ())
        info = job_rows.unread_info(place, name, people[index] if len(people) > index else 0, job.config_hash)
        word = "unreadable"
        try:
            # `loader` and the check apart: of a scene that is read but invalid we know the people, and each gets its row.
            scene = source.loader(index)
            info = job_rows.scene_info(place, name, scene, job.config_hash)
            word = "invalid_cues" if info.person_ids else "no_people"
            validate_scene(scene, source.location)
            return scene, replace(info, config_hash=job.config_of(scene))
        except SceneError as error:
            word = "no_people" if isinstance(error, NobodyToFit) else word
            logging.warning("set aside: %s", error)
            return job_rows.row_without_fit(info, f"skipped:{word}", str(error), job.asset_version)
        except Exception as error:
            logging.warning("%s: cannot be read (%s: %s)", name, type(error).__name__, error)
            return failed_row(info, "read", error, job.asset_version)


def failed_row(info: SceneInfo, step: str, error: Exception, asset_version: str) -> SceneRow:
    """The row of a scene on which a step raised something unforeseen."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    return job_rows.row_without_fit(info, f"failed:{step}:{type(error).__name__}", reason, asset_version)
