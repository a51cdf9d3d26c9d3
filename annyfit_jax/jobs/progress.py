"""The progress of a job: a log line, the same as JSON lines, optionally TensorBoard, and a profile of the first batches."""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from collections import Counter
from typing import Any

from absl import logging

from annyfit_jax.jobs.job_rows import SceneRow
from annyfit_jax.records.files import this_process
from annyfit_jax.store.locations import Location
from annyfit_jax.store.units import Entry
from annyfit_jax.store.work_progress import Pulse, duration

PROFILED_BATCHES = 3
PROGRESS_FILE = "progress.jsonl"


class Progress:
    """Counts what this run of the driver has seen done, and says so every `every_s` seconds.

    Keys of a JSON line: `time` (Unix seconds), `state` (`running`, `finished`, `interrupted`, `stopped`), `workers`, `host` and
    `pid` of the driver, `seconds` since the start, `scenes`, `people`, `failed`, `skipped` of this run, `scenes_done` and
    `scenes_total` of the job, rates `scenes_per_s`, `people_per_s`, `seconds_left` (null before the first scene; time that went
    into compiling is not counted), `padding` (share of the lists of people that nobody filled; null where the fitter does not
    say), `peak_memory_mb` of the driver and `waits_for` (what no machine has that a worker needs, else null)."""

    def __init__(self, folder: Location, total: int, *, every_s: float = 10.0, tensorboard: bool = False) -> None:
        """`total`: scenes of the job. Raises ValueError where TensorBoard is asked for and not installed."""
        self._file, self._every_s, self.workers = folder / PROGRESS_FILE, every_s, 1
        self.total, self.before, self.scenes = total, 0, 0
        self.people: Counter[str] = Counter()
        self._filled = self._lanes = 0
        self._compile_s, self._waits = 0.0, ""
        self._fitted_scenes = 0
        self._started = self._last = time.monotonic()
        self._lock, self._pulse = threading.RLock(), None
        self._board: Any = None
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
            except ImportError:
                raise ValueError("--tensorboard needs the package tensorboardX: pip install tensorboardX") from None
            self._board = SummaryWriter(str(folder / "tensorboard"))

    def start(self) -> None:
        """The work begins: from now on there is a line every few seconds, also while a unit takes long."""
        self._write(self.snapshot("running"))
        self._pulse = Pulse(self._every_s, self._beat)

    def waits(self, what: str) -> None:
        """The job waits for machines that have this; empty: it does not any more."""
        self._waits = what

    def _beat(self) -> None:
        if self._pulse is not None and time.monotonic() - self._last >= self._every_s / 2:
            if self._waits:
                logging.info("waits for machines with %s", self._waits)
            self._write(self.snapshot("running"))

    def add(self, row: SceneRow) -> None:
        """One more scene has its row."""
        self.scenes += 1
        self.people.update(status.partition(":")[0] for status in row.status)
        if time.monotonic() - self._last >= self._every_s:
            self.report("running")

    def fitted(self, people: int, lanes: int, scenes: int = 0) -> None:
        """One more batch: how many people, how many its lists had room for, and how many scenes, whose rows follow."""
        self._filled += people
        self._lanes += lanes
        self._fitted_scenes += scenes

    def compiled(self, seconds: float) -> None:
        """So much of the time went into compiling, which is done once: the time left does not count it."""
        self._compile_s += seconds

    def committed(self, entry: Entry) -> None:
        """One more unit that another process has fitted: all of the above from its commit record."""
        self.scenes += entry["num_records"]
        for status, count in entry["counts"]["people"].items():
            self.people[status.partition(":")[0]] += count
        self.fitted(entry["lists"]["people"], entry["lists"]["room"])
        self.compiled(entry["compile_s"] / max(self.workers, 1))
        if time.monotonic() - self._last >= self._every_s:
            self.report("running")

    def found(self, scenes: int) -> None:
        """Scenes that were finished by an earlier run."""
        self.before += scenes

    def snapshot(self, state: str) -> dict[str, Any]:
        """The JSON line."""
        seconds = time.monotonic() - self._started
        scene_rate, person_rate = self.scenes / max(seconds, 1e-9), self.people["ok"] / max(seconds, 1e-9)
        # Rows of a batch come one by one although it was fitted at once: what is fitted is not left.
        through = max(self.scenes, self._fitted_scenes)
        left = max(self.total - self.before - through, 0)
        return {
            "time": round(time.time(), 3),
            "state": state,
            "workers": self.workers,
            "host": this_process().host,
            "pid": this_process().pid,
            "seconds": round(seconds, 3),
            "scenes": self.scenes,
            "people": self.people["ok"],
            "failed": self.people["failed"],
            "skipped": self.people["skipped"],
            "scenes_done": min(self.before + self.scenes, self.total),
            "scenes_total": self.total,
            "scenes_per_s": round(scene_rate, 3),
            "people_per_s": round(person_rate, 3),
            "seconds_left": round(left * max(seconds - self._compile_s, 0.0) / through, 1) if self.scenes else None,
            "padding": round(1.0 - self._filled / self._lanes, 4) if self._lanes else None,
            "peak_memory_mb": round(_peak_memory_mb()),
            "waits_for": self._waits or None,
        }

    def report(self, state: str) -> None:
        """Log, JSON line, TensorBoard. A line that cannot be written is a warning: it is not worth a job.

        Any state but `running` is the last: TensorBoard's file is then closed.
        """
        self._last = time.monotonic()
        if state != "running" and self._pulse is not None:
            self._pulse.stop()
            self._pulse = None
        line = self.snapshot(state)
        left = "" if line["seconds_left"] is None else f", {duration(line['seconds_left'])} left"
        if not self.scenes and self.before >= self.total:
            logging.info("%d/%d scenes were finished before", line["scenes_done"], line["scenes_total"])
        else:
            logging.info(
                "%d/%d scenes, %d people fitted in this run, %d failed, %d skipped, %.2f scenes/s, %.2f people/s%s",
                line["scenes_done"], line["scenes_total"], line["people"], line["failed"], line["skipped"],
                line["scenes_per_s"], line["people_per_s"], left,
            )  # fmt: skip
        self._write(line)
        if self._board is not None:
            for name in ("scenes_per_s", "people_per_s", "people", "failed", "skipped", "scenes_done"):
                self._board.add_scalar(f"job/{name}", line[name], self.scenes)
            self._board.flush()
            if state != "running":  # flushing leaves out what waits in the writer's queue; closing waits for it
                self._board.close()
                self._board = None

    def _write(self, line: dict[str, Any]) -> None:
        with self._lock:
            try:
                self._file.append(json.dumps(line) + "\n")
            except (OSError, RuntimeError) as error:
                logging.warning("%s: %s", self._file, error)


def _peak_memory_mb() -> float:
    """Of this process since its start; kilobytes on Linux, bytes on macOS."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))


class Profiler:
    """A `jax.profiler` trace of the first batches, with the compilation of the programs they need."""

    def __init__(self, folder: str | None) -> None:
        """`folder`: where the trace goes; None = no trace."""
        self._folder, self._batches, self._running = folder, 0, False

    def before_batch(self) -> None:
        """Starts the trace with the first batch and ends it before the one after PROFILED_BATCHES."""
        if self._folder is None:
            return
        if self._batches == 0:
            import jax

            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True
        elif self._batches == PROFILED_BATCHES:
            self.stop()
        self._batches += 1

    def stop(self) -> None:
        """Writes the trace, if one is running."""
        if self._running:
            import jax

            jax.profiler.stop_trace()
            self._running = False
            logging.info("profile of %d batches: %s", min(self._batches, PROFILED_BATCHES), self._folder)
