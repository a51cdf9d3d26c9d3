"""The state of a job from its folder alone: what is done, failed, left, how fast; and the digest that compares two runs."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from annyfit_jax.jobs.finish import total_counts
from annyfit_jax.jobs.fit_store import KIND, job_store, rows
from annyfit_jax.jobs.job_rows import PARAMETERS, SceneRow
from annyfit_jax.jobs.progress import PROGRESS_FILE
from annyfit_jax.store import work_progress
from annyfit_jax.store.locations import Location, place
from annyfit_jax.store.plan import StoreError
from annyfit_jax.store.work_progress import at_work, describe_line, duration, lines_below
from annyfit_jax.store.work_status import JUST_STARTED, describe_work, work_state

ROUNDING = 1e-4
"""Metres, radians and phenotype units to which parameters enter the digest."""


def status(folder: str | Path | Location) -> dict[str, Any]:
    """Units, scenes and people done, by status; what is left; rate and time left; who is at work. JSON.

    Reads the commit records of finished units, not the units. Raises StoreError where there is no job.
    """
    folder = place(folder)
    store, job = job_store(folder)
    entries = list(store.entries.values())
    totals = total_counts(entries)
    scenes_done = sum(entry["num_records"] for entry in entries)
    line = last_line(folder)
    running = line if line and at_work(line) else None
    rate, left = running["scenes_per_s"] if running else 0.0, store.cut.total - scenes_done
    return {
        "finished": (folder / "finished.json").exists() and len(entries) == store.num_units,
        "units": {"done": len(entries), "left": store.num_units - len(entries), "total": store.num_units},
        "scenes": {"done": scenes_done, "left": left, "total": store.cut.total, "by_status": totals["scenes"]},
        "people": {
            "done": sum(totals["people"].values()),
            "ok": totals["people"].get("ok", 0),
            "failed": _reasons(totals["people"], "failed"),
            "skipped": _reasons(totals["people"], "skipped"),
        },
        "rate": {
            "scenes_per_s": round(rate, 3),
            "people_per_s": round(running["people_per_s"], 3) if running else 0.0,
            "seconds_left": round(left / rate, 1) if rate > 0 else None,
        },
        "running": {name: running.get(name) for name in ("host", "pid", "workers", "time", "waits_for")}
        if running
        else None,
        "stages": lines_below(folder),
        "source": job["source"],
        "configs": sorted(job["configs"]),
    }


def state_of(output: str | Path | Location) -> tuple[dict[str, Any], Callable[[dict[str, Any]], str]]:
    """The state of a job or of any other work, and what describes it for people. Raises StoreError where nothing is known."""
    if (place(output) / KIND.identity).exists():
        return status(output), describe
    return work_state(output), describe_work


def _reasons(counts: dict[str, int], kind: str) -> dict[str, int]:
    return {name.partition(":")[2]: n for name, n in counts.items() if name.startswith(f"{kind}:")}


def last_line(folder: str | Path | Location) -> dict[str, Any] | None:
    """The last complete progress line of a job's driver, None where there is none."""
    return work_progress.last_line(place(folder) / PROGRESS_FILE)


def describe(state: dict[str, Any]) -> str:
    """`status` in a few lines for people."""
    units, scenes, people, rate = state["units"], state["scenes"], state["people"], state["rate"]
    failed, skipped = sum(people["failed"].values()), sum(people["skipped"].values())
    lines = [
        *(describe_line(line) for line in state["stages"]),
        f"units    {units['done']} of {units['total']} done, {units['left']} left",
        f"scenes   {scenes['done']} of {scenes['total']} done, {scenes['left']} left",
        f"people   {people['done']} done: {people['ok']} ok, {failed} failed, {skipped} skipped",
    ]
    lines += [f"         {n:8d} failed:{reason}" for reason, n in people["failed"].items()]
    lines += [f"         {n:8d} skipped:{reason}" for reason, n in people["skipped"].items()]
    lines += [f"         {n:8d} scenes {name}" for name, n in scenes["by_status"].items() if name != "ok"]
    if rate["scenes_per_s"]:
        lines.append(
            f"rate     {rate['scenes_per_s']:.2f} scenes/s, {rate['people_per_s']:.2f} people/s, "
            f"{duration(rate['seconds_left'])} left"
        )
    if running := state["running"]:
        workers = "1 worker" if running["workers"] == 1 else f"{running['workers']} workers"
        lines.append(
            f"driver   {running['host']} pid {running['pid']}, {workers}, {time.time() - running['time']:.0f} s ago"
            + (f", waits for {running['waits_for']}" if running["waits_for"] else "")
        )
    begun = units["done"] or running or state["stages"]
    lines.append("finished" if state["finished"] else "not finished" if begun else JUST_STARTED)
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ comparing runs


def finished_rows(folder: str | Path | Location) -> Iterator[SceneRow]:
    """The rows of all finished units whose files are there, in order. Raises StoreError without a job."""
    store, _ = job_store(folder)
    for unit in range(store.num_units):
        if store.done(unit) is not None:
            yield from rows(store, unit)


def digest(folder: str | Path | Location) -> dict[str, Any]:
    """Checksums of all finished rows that do not depend on their order.

    `rows` covers scene, person, key and status exactly; `parameters` the pose, position and shape rounded to `rounding`;
    `digest` both. Each is a sum of SHA-256 modulo 2^256: unlike an exclusive or, a row that is there twice does not cancel.
    """
    exact = rounded = people = scenes = 0
    for row in finished_rows(folder):
        scenes += 1
        people += len(row)
        exact += _number(json.dumps([row.name, row.scene_status, len(row)]))
        for i in range(len(row)):
            who = json.dumps([row.name, row.person_ids[i], row.person_keys[i], row.status[i]])
            exact += _number(who)
            grid = [_on_grid(row.arrays[name][i]) for name in PARAMETERS]
            rounded += _number(who, *grid)
    parts = {"rows": f"{exact % (1 << 256):064x}", "parameters": f"{rounded % (1 << 256):064x}"}
    both = hashlib.sha256("".join(parts.values()).encode()).hexdigest()
    return {"digest": both, **parts, "rounding": ROUNDING, "scenes": scenes, "people": people}


def _number(text: str, *data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(b"|".join([text.encode(), *data])).digest(), "big")


def _on_grid(values: np.ndarray) -> bytes:
    known = np.isfinite(values)
    steps = np.rint(np.where(known, values, 0.0).astype(np.float64) / ROUNDING).astype("<i8")
    return np.where(known, steps, np.iinfo(np.int64).min).astype("<i8").tobytes()


def compare(first: str | Path | Location, second: str | Path | Location) -> dict[str, Any]:
    """Differences between two runs of a job.

    Keys: `rows_differ` (scenes whose people, keys or statuses differ or that only one run has), `people` compared, and
    `largest_difference` per parameter array over the people that both fitted. Raises StoreError where the jobs have
    different scenes.
    """
    differ, people, largest = 0, 0, dict.fromkeys(PARAMETERS, 0.0)
    for a, b in _paired(finished_rows(first), finished_rows(second)):
        if a is None or b is None:
            differ += 1
            continue
        if a.name != b.name:
            raise StoreError(f"{first}, {second}: scene {a.scene_index} is {a.name} in one and {b.name} in the other")
        if (a.scene_status, a.person_keys, a.status) != (b.scene_status, b.person_keys, b.status):
            differ += 1
            continue
        fitted = np.array([status == "ok" for status in a.status], bool)
        people += int(fitted.sum())
        for name in PARAMETERS if fitted.any() else ():
            gap = np.abs(a.arrays[name][fitted].astype(np.float64) - b.arrays[name][fitted]).max()
            largest[name] = max(largest[name], float(gap))
    return {"rows_differ": differ, "people": people, "largest_difference": largest}


def _paired(*runs: Iterator[SceneRow]) -> Iterator[list[SceneRow | None]]:
    """Rows of equal scene index side by side; all runs come in input order."""
    numbered = [
        ((row.scene_index, k, row) for k, row in zip(itertools.repeat(run), one)) for run, one in enumerate(runs)
    ]
    for _, group in itertools.groupby(heapq.merge(*numbered, key=lambda item: item[:2]), key=lambda item: item[0]):
        there = {run: row for _, run, row in group}
        yield [there.get(run) for run in range(len(runs))]


def describe_comparison(comparison: dict[str, Any]) -> str:
    """The answer of `compare` in lines."""
    lines = [
        f"{comparison['rows_differ']} scenes differ in people, keys or status; {comparison['people']} fitted people compared"
    ]
    lines += [f"{name:12s} largest difference {value:.3g}" for name, value in comparison["largest_difference"].items()]
    return "\n".join(lines)
