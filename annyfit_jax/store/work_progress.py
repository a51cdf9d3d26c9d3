"""How far a piece of work is: a log line and a JSON line every few seconds, and what `annyfit status` reads of them.

    progress = WorkProgress(place("OUT"), "pack", 1000)
    progress.begin(done=200, workers=2)
    progress.add(50, {"no keypoints": 3})
    progress.report("finished")

The lines go to `OUT/progress-pack.jsonl`; in a bucket, where nothing can be added to a file, it holds the last one. A line is
written also while a long unit is under way, so that an old last line means that nobody is at work any more."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from annyfit_jax.records.files import this_process
from annyfit_jax.store.locations import Location

Line = dict[str, Any]
"""`work`, `things` (what is counted), `state` (`running`, `finished`, `interrupted`, `stopped`), `time` (Unix seconds),
`seconds` since the begin, `done` and `total` of the whole work, `failed` (reason -> how many of those done), `per_s` of this
run, `seconds_left` (null where nothing was done yet), `workers`, `host` and `pid` of the driver, and what the work adds."""
RECENT_S = 120.0
"""A driver whose last line is older is not at work any more."""
_REASONS_SHOWN = 5
_ONE = {"people": "person"}


class Pulse:
    """Calls a function every few seconds from a thread of its own, which ends with the process."""

    def __init__(self, every_s: float, beat: Callable[[], None]) -> None:
        self._every_s, self._beat, self._end = max(every_s, 1.0), beat, threading.Event()
        threading.Thread(target=self._run, name="progress", daemon=True).start()

    def _run(self) -> None:
        while not self._end.wait(self._every_s):
            self._beat()

    def stop(self) -> None:
        """No call begins any more."""
        self._end.set()


class WorkProgress:
    """Counts what is done, and says so every `every_s` seconds."""

    def __init__(
        self, folder: Location, work: str, total: int, things: str = "scenes", *, every_s: float = 10.0,
        logs: bool = True, writes: bool = True,
    ) -> None:  # fmt: skip
        """`total`: things of the whole work, those of earlier runs among them; `logs`: tell the log as well;
        `writes`: False where another process tells of the same work."""
        self._file, self._every_s, self._logs, self._writes = folder / f"progress-{work}.jsonl", every_s, logs, writes
        self.work, self.things, self.total = work, things, total
        self.done = self._before = 0
        self.failed: Counter[str] = Counter()
        self.more: dict[str, Any] = {}
        """What else a line says."""
        self._workers = 1
        self._started = self._last = time.monotonic()
        self._told = -1
        self._lock, self._pulse = threading.RLock(), None

    @property
    def begun(self) -> bool:
        """Whether it began and has not ended."""
        return self._pulse is not None

    def begin(self, done: int = 0, failed: Mapping[str, int] | None = None, workers: int = 1) -> None:
        """The work begins, or goes on with so many done before."""
        self.done = self._before = done
        self.failed, self._workers = Counter(failed or {}), workers
        self._started = time.monotonic()
        self.report("running")
        self._pulse = Pulse(self._every_s, self._beat)

    def add(self, count: int, failed: Mapping[str, int] | None = None) -> None:
        """So many more are done, some of them in vain."""
        with self._lock:
            self.done += count
            self.failed.update(failed or {})
            if time.monotonic() - self._last >= self._every_s:
                self.report("running")

    def waits(self, what: str) -> None:
        """The work waits for machines that have this; empty: it does not any more."""
        self.more["waits_for"] = what or None

    def report(self, state: str) -> None:
        """Writes a line; any state but `running` is the last. A line that cannot be written is a warning."""
        with self._lock:
            self._last = time.monotonic()
            if state != "running" and self._pulse is not None:
                self._pulse.stop()
                self._pulse = None
            line = self._line(state)
            if self._logs and (state != "running" or self.done != self._told or self.more.get("waits_for")):
                self._told = self.done
                logging.info("%s", describe_line(line, short=True))
            if not self._writes:
                return
            try:
                self._file.append(json.dumps(line) + "\n")
            except (OSError, RuntimeError) as error:
                logging.warning("%s: %s", self._file, error)

    def forget(self) -> None:
        """Removes the lines."""
        self._file.remove()

    def _beat(self) -> None:
        with self._lock:
            if self._pulse is not None and time.monotonic() - self._last >= self._every_s / 2:
                self.report("running")

    def _line(self, state: str) -> Line:
        seconds, now = self._last - self._started, self.done - self._before
        rate = now / max(seconds, 1e-9)
        return {
            "work": self.work, "things": self.things, "state": state, "time": round(time.time(), 3),
            "seconds": round(seconds, 3), "done": min(self.done, self.total), "total": self.total,
            "failed": dict(self.failed.most_common()), "per_s": round(rate, 3),
            "seconds_left": round(max(self.total - self.done, 0) / rate, 1) if now else None, "workers": self._workers,
            "host": this_process().host, "pid": this_process().pid, **self.more,
        }  # fmt: skip


def reason_of(text: str, *names: str) -> str:
    """A message without the parts that tell one thing from another: those with one of `names` or with a path.

    `photo: /photos/a.jpg: not a picture` is `photo: not a picture`.
    """
    parts = [part for part in " ".join(text.split()).split(": ") if part]
    kept = [part for part in parts if "/" not in part and not any(name and name in part for name in names)]
    return ": ".join(kept[:2] or parts[-1:])[:80]


# ------------------------------------------------------------------------------------------------ reading


def last_line(file: Location) -> Line | None:
    """The last complete line of a file of progress, None where there is none."""
    try:
        lines = file.read_bytes().decode(errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines[-2:]):  # a kill may leave half a line
        with contextlib.suppress(ValueError):
            return json.loads(line)
    return None


def lines_below(*folders: Location) -> list[Line]:
    """The last line of each work that left some in one of the folders, those that ended first in front."""
    lines = [
        line
        for folder in folders
        for name in folder.files()
        if name.startswith("progress-") and name.endswith(".jsonl") and (line := last_line(folder / name)) is not None
    ]
    return sorted(lines, key=lambda line: line["time"])


def at_work(line: Mapping[str, Any]) -> bool:
    """Whether the driver that wrote a line is likely to be at work still."""
    return line["state"] == "running" and time.time() - line["time"] < RECENT_S


def describe_line(line: Line, *, short: bool = False) -> str:
    """A line for people: progress, rate, failures by reason, time left, and who is at work unless it is to be `short`."""
    parts = [f"{line['done']} of {line['total']} {line['things']}"]
    if failed := line["failed"]:
        shown = [f"{reason} {count}" for reason, count in list(failed.items())[:_REASONS_SHOWN]]
        shown += ["..."] if len(failed) > len(shown) else []
        parts.append(f"{sum(failed.values())} failed ({', '.join(shown)})")
    parts += [f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}" for name, value in _more(line)]
    if line["state"] != "running" or short:
        parts.append(line["state"])
    if line["per_s"]:
        parts.append(f"{line['per_s']:.3g} {line['things']}/s")
    if line["state"] == "running" and line["seconds_left"] is not None and (short or at_work(line)):
        parts.append(f"{duration(line['seconds_left'])} left")
    if not short and line["state"] == "running":
        ago = time.time() - line["time"]
        who = f"{line['host']} pid {line['pid']}" + (f", {line['workers']} workers" if line["workers"] > 1 else "")
        parts.append(f"{who}, {duration(ago)} ago" if at_work(line) else f"nobody at work since {duration(ago)}")
    return f"{line['work']}: {', '.join(parts)}"


_KNOWN = (
    "work", "things", "state", "time", "seconds", "done", "total", "failed", "per_s", "seconds_left", "workers", "host", "pid",
)  # fmt: skip


def _more(line: Line) -> list[tuple[str, Any]]:
    return [(name.replace("_", " "), value) for name, value in line.items() if name not in _KNOWN and value is not None]


def number_of(count: int, things: str) -> str:
    """`1 scene`, `2 scenes`."""
    return f"{count} {_ONE.get(things, things.removesuffix('s')) if count == 1 else things}"


def duration(seconds: float) -> str:
    """Seconds as text for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
