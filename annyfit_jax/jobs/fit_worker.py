"""The fitting half of a fit worker: keep the device busy, collect, write what is finished, and stop cleanly when asked to."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from absl import logging

from annyfit_jax.engine.stopping import Interrupted
from annyfit_jax.jobs import job_rows
from annyfit_jax.jobs.job_feed import Batch, End, Failure, Feed, Finished, Job, Row, Task, Unit, failed_row
from annyfit_jax.jobs.progress import Profiler, Progress
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.records import fit_files as results
from annyfit_jax.records.file_names import file_stem
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.smplx_fit.smplx_fitter import BothBodies
from annyfit_jax.store.locations import Location, writing
from annyfit_jax.store.units import Entry


def make_fit_worker(job: Job, progress: Progress | None, stop: threading.Event) -> FitWorker:
    """A worker of a fit job.

    Args:
      progress: told every scene, where the driver is this process.
    """
    return FitWorker(job, progress, stop)


class FitWorker:
    """Fits units; the next one is read and prepared while the last one is on the device (`engine.stages.Worker`)."""

    def __init__(self, job: Job, progress: Progress | None, stop: threading.Event) -> None:
        self._job, self._progress, self._stop = job, progress, stop
        self._profiler = Profiler(job.profile)

    def close(self) -> None:
        """Ends the profile."""
        self._profiler.stop()

    def stream(self, tasks: Iterator[Task]) -> Iterator[tuple[int, Entry]]:
        """(unit, commit record) of every task. Raises Interrupted, JobWriteError."""
        # One batch is on the device while the one before is collected and the next ones are read and prepared.
        flight: deque[tuple[Batch, Any] | End] = deque()
        with Feed(self._job, tasks) as feed:
            finished = False
            while flight or not finished:
                if self._stop.is_set():
                    raise Interrupted
                idle = not flight
                event = None if finished else feed.get(0.2 if idle else 0.0)
                match event:
                    case Batch():
                        flight.append((event, self._dispatch(event)))
                    case Row():
                        self._put(event.unit, event.row)
                    case End():
                        flight.append(event)
                    case Failure():
                        raise event.error
                    case Finished():
                        finished = True
                waiting = sum(isinstance(item, tuple) for item in flight)
                while flight and (isinstance(flight[0], End) or waiting > 1 or event is None or finished):
                    item = flight.popleft()
                    if isinstance(item, End):
                        yield item.unit.task.unit, self._write(item.unit)
                    else:
                        self._collect(*item)
                        waiting -= 1
                    if self._stop.is_set():
                        raise Interrupted

    def _dispatch(self, batch: Batch) -> Any:
        """What `collect` takes, or the exception that starting the batch raised."""
        self._profiler.before_batch()
        compiled = getattr(batch.fitter, "compile_s", 0.0)
        try:
            pending = batch.fitter.dispatch(batch.prepared)
        except Exception as error:
            return error
        seconds = getattr(batch.fitter, "compile_s", 0.0) - compiled
        batch.unit.compile_s += seconds
        if self._progress is not None:
            self._progress.compiled(seconds)
        return pending

    def _collect(self, batch: Batch, pending: Any) -> None:
        try:
            if isinstance(pending, Exception):
                raise pending
            if room := getattr(pending, "lanes", 0):
                people = sum(len(ready.scene) for ready in batch.prepared)
                batch.unit.people += people
                batch.unit.room += room
                if self._progress is not None:
                    self._progress.fitted(people, room, len(batch.prepared))
            made = self._rows(batch, batch.fitter.collect(pending))
        except Exception as error:
            if len(batch.prepared) > 1:
                logging.warning("a batch of %d scenes failed, now one by one: %r", len(batch.prepared), error)
                for ready, info in zip(batch.prepared, batch.infos, strict=True):
                    if self._stop.is_set():
                        raise Interrupted from None
                    single = Batch(batch.unit, batch.fitter, [ready], [info])
                    self._collect(single, self._dispatch(single))
                return
            logging.exception("%s: the fit failed", batch.infos[0].name)
            made = [(failed_row(batch.infos[0], "exception", error, self._job.asset_version), None)]
        for row, fit in made:
            if self._put(batch.unit, row) and fit is not None:
                folder = self._job.store.folder
                if self._job.fit_files:
                    self._save(batch, fit, folder / "fits")
                if isinstance(fit, BothBodies) and fit.smplx is not None:
                    self._write_fit(fit.smplx, folder / "smplx" / "fits")

    def _rows(self, batch: Batch, fits: list[SceneFit]) -> list[tuple[job_rows.SceneRow, SceneFit | None]]:
        if len(fits) != len(batch.infos):
            raise RuntimeError(f"the fitter returned {len(fits)} scenes for a batch of {len(batch.infos)}")
        return [(job_rows.row_of_fit(info, fit), fit) for info, fit in zip(batch.infos, fits, strict=True)]

    def _save(self, batch: Batch, fit: SceneFit, folder: Location) -> None:
        if self._job.save_vertices:
            people = BodyParameters(fit.root_rotvec, fit.transl, fit.pose, fit.shape)
            fit.vertices = batch.fitter.vertices(people)  # pyright: ignore[reportAttributeAccessIssue]
        self._write_fit(fit, folder)

    def _write_fit(self, fit: SceneFit, folder: Location) -> None:
        target = folder / f"{file_stem(fit.name)}.npz"
        with writing(target), target.replacing() as temporary:
            results.save(fit, temporary)

    def _put(self, unit: Unit, row: job_rows.SceneRow) -> bool:
        if self._progress is not None:
            self._progress.add(row)
        return unit.put(row)

    def _write(self, unit: Unit) -> Entry:
        """Writes a finished unit. Raises ValueError unless there is a row for each of its scenes."""
        number, store = unit.task.unit, self._job.store
        made = [unit.rows[index] for index in sorted(unit.rows)]
        span = store.spans[number]
        if [row.scene_index for row in made] != list(span):
            raise ValueError(f"unit {number}: expected a row for each of the scenes {span.start} to {span.stop - 1}")
        facts = {
            "counts": job_rows.counts(made), "lists": {"people": unit.people, "room": unit.room},
            "compile_s": round(unit.compile_s, 3),
        }  # fmt: skip
        return store.write(number, map(job_rows.encode, made), lambda: facts, unit.task.stamp, unit.started)
