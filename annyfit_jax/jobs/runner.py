"""The fitting half of a job: keep the device busy, collect, commit, and stop cleanly when asked to."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from absl import logging

from annyfit_jax.jobs import job_rows
from annyfit_jax.jobs.claims import DEFAULT_LEASE_S, Claims
from annyfit_jax.jobs.durable_files import writing
from annyfit_jax.jobs.faults import fault_point
from annyfit_jax.jobs.hosts import Process
from annyfit_jax.jobs.job_feed import Batch, End, Failure, Feed, Finished, Found, Job, Row, Unit, failed_row
from annyfit_jax.jobs.progress import Profiler, Progress
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.records import fit_files as results
from annyfit_jax.records.file_names import file_stem
from annyfit_jax.records.files import clean_leftovers, sync
from annyfit_jax.records.fit_files import SceneFit


class Interrupted(Exception):
    """The job was asked to stop; everything committed so far stays."""


@dataclass
class Runner:
    """Fits this process's share of a job."""

    job: Job
    process: Process
    progress: Progress
    lease_s: float = DEFAULT_LEASE_S
    fit_files: bool = False
    """Also write `fits/<scene>.npz`, with loss curves."""
    save_vertices: bool = False
    """With posed vertices in them; needs a fitter with `vertices`."""
    profiler: Profiler = field(default_factory=lambda: Profiler(None))
    stop: threading.Event = field(default_factory=threading.Event)
    """Set it to have `run` raise Interrupted after the batch under way."""

    def run(self) -> int:
        """Returns the number of units committed. Raises Interrupted, JobWriteError."""
        for folder in (self.job.folder, self.job.folder / "done", self.job.folder / "claims"):
            clean_leftovers(folder, older_than_s=10 * self.lease_s)
        committed = 0
        state = "stopped"
        # One batch is on the device while the one before is collected and the next ones are read and prepared.
        flight: deque[tuple[Batch, Any] | End] = deque()
        try:
            with Claims(self.job.folder, self.lease_s) as claims, Feed(self.job, self.process, claims) as feed:
                finished = False
                while flight or not finished:
                    if self.stop.is_set():
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
                        case Found():
                            self.progress.found(len(self.job.ledger.plan.scenes(event.number)))
                        case Failure():
                            raise event.error
                        case Finished():
                            finished = True
                    waiting = sum(isinstance(item, tuple) for item in flight)
                    while flight and (isinstance(flight[0], End) or waiting > 1 or event is None or finished):
                        item = flight.popleft()
                        if isinstance(item, End):
                            self._commit(item.unit)
                            claims.release(item.unit.number)
                            committed += 1
                        else:
                            self._collect(*item)
                            waiting -= 1
                        if self.stop.is_set():
                            raise Interrupted
                state = "finished"
                return committed
        except Interrupted:
            state = "interrupted"
            raise
        finally:
            self.profiler.stop()
            self.progress.report(state)

    def _dispatch(self, batch: Batch) -> Any:
        """What `collect` takes, or the exception that starting the batch raised."""
        self.profiler.before_batch()
        compiled = getattr(batch.fitter, "compile_s", 0.0)
        try:
            pending = batch.fitter.dispatch(batch.prepared)
            self.progress.compiled(getattr(batch.fitter, "compile_s", 0.0) - compiled)
            return pending
        except Exception as error:
            return error

    def _collect(self, batch: Batch, pending: Any) -> None:
        try:
            if isinstance(pending, Exception):
                raise pending
            if lanes := getattr(pending, "lanes", 0):
                people = sum(len(ready.scene) for ready in batch.prepared)
                self.progress.fitted(people, lanes, len(batch.prepared))
            made = self._rows(batch, batch.fitter.collect(pending))
        except Exception as error:
            if len(batch.prepared) > 1:
                logging.warning("a batch of %d scenes failed, now one by one: %r", len(batch.prepared), error)
                for ready, info in zip(batch.prepared, batch.infos, strict=True):
                    if self.stop.is_set():
                        raise Interrupted from None
                    single = Batch(batch.unit, batch.fitter, [ready], [info])
                    self._collect(single, self._dispatch(single))
                return
            logging.exception("%s: the fit failed", batch.infos[0].name)
            made = [(failed_row(batch.infos[0], "exception", error, self.job.asset_version), None)]
        for row, fit in made:
            if self._put(batch.unit, row) and fit is not None and self.fit_files:
                self._save(batch, fit)

    def _rows(self, batch: Batch, fits: list[SceneFit]) -> list[tuple[job_rows.SceneRow, SceneFit | None]]:
        if len(fits) != len(batch.infos):
            raise RuntimeError(f"the fitter returned {len(fits)} scenes for a batch of {len(batch.infos)}")
        return [(job_rows.row_of_fit(info, fit), fit) for info, fit in zip(batch.infos, fits, strict=True)]

    def _save(self, batch: Batch, fit: SceneFit) -> None:
        path = self.job.folder / "fits" / f"{file_stem(fit.name)}.npz"
        if self.save_vertices:
            people = BodyParameters(fit.root_rotvec, fit.transl, fit.pose, fit.shape)
            fit.vertices = batch.fitter.vertices(people)  # pyright: ignore[reportAttributeAccessIssue]
        with writing(path):
            fault_point(f"{path.name}: before writing")
            results.save(fit, path)
            sync(path)
            fault_point(f"{path.name}: written")

    def _put(self, unit: Unit, row: job_rows.SceneRow) -> bool:
        self.progress.add(row)
        return unit.put(row)

    def _commit(self, unit: Unit) -> None:
        if self.job.ledger.done(unit.number) is not None and not unit.before:
            logging.info("unit %d: another process was quicker; its result stays", unit.number)
            return
        entry = self.job.ledger.commit(unit.number, list(unit.rows.values()), time.monotonic() - unit.started)
        logging.info("unit %d: %d scenes, people %s", unit.number, entry["num_records"], entry["counts"]["people"])


@contextlib.contextmanager
def stop_on_signal(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set the event; a second SIGINT interrupts at once. The former handlers come back at the end."""

    def ask(number: int, _: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()
        logging.warning("%s: stopping after the batch under way", signal.Signals(number).name)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
