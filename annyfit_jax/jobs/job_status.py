"""The state of a job from its folder alone: what is done, failed, left, how fast; and the digest that compares two runs."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from annyfit_jax.jobs.claims import DEFAULT_LEASE_S, read_claims
from annyfit_jax.jobs.finish import total_counts
from annyfit_jax.jobs.job_plan import JobError, read_plan
from annyfit_jax.jobs.job_rows import PARAMETERS, SceneRow
from annyfit_jax.jobs.ledger import Ledger

ROUNDING = 1e-4
"""Metres, radians and phenotype units to which parameters enter the digest."""
_RECENT_S = 120.0
"""A process whose last progress line is older does not count for the rate."""


def status(folder: str | Path, lease_s: float = DEFAULT_LEASE_S) -> dict[str, Any]:
    """Units, scenes and people done, by status; what is left; rate and time left; who is at work. JSON.

    Reads the entries of finished units, not the shards. Raises JobError where there is no job.
    """
    folder = Path(folder)
    plan, job = read_plan(folder)
    ledger = Ledger(folder, plan)
    entries = [entry for unit in range(plan.num_units) if (entry := ledger.entry(unit)) is not None]
    totals = total_counts(entries)
    scenes_done = sum(entry["num_records"] for entry in entries)
    running = [line for line in last_lines(folder) if line["state"] == "running" and _recent(line)]
    rate = sum(line["scenes_per_s"] for line in running)
    left = plan.total - scenes_done
    return {
        "finished": (folder / "finished.json").exists() and len(entries) == plan.num_units,
        "units": {"done": len(entries), "left": plan.num_units - len(entries), "total": plan.num_units},
        "scenes": {"done": scenes_done, "left": left, "total": plan.total, "by_status": totals["scenes"]},
        "people": {
            "done": sum(totals["people"].values()),
            "ok": totals["people"].get("ok", 0),
            "failed": _reasons(totals["people"], "failed"),
            "skipped": _reasons(totals["people"], "skipped"),
        },
        "rate": {
            "scenes_per_s": round(rate, 3),
            "people_per_s": round(sum(line["people_per_s"] for line in running), 3),
            "seconds_left": round(left / rate, 1) if rate > 0 else None,
        },
        "running": [
            {
                "unit": claim.unit,
                "host": claim.owner.host if claim.owner else "?",
                "pid": claim.owner.pid if claim.owner else None,
                "renewed_s_ago": round(claim.idle_s, 1),
                "stale": claim.stale,
            }
            for claim in read_claims(folder, lease_s)
        ],
        "source": job["source"],
        "configs": sorted(job["configs"]),
    }


def _reasons(counts: dict[str, int], kind: str) -> dict[str, int]:
    return {name.partition(":")[2]: n for name, n in counts.items() if name.startswith(f"{kind}:")}


def _recent(line: dict[str, Any]) -> bool:
    return time.time() - line["time"] < _RECENT_S


def last_lines(folder: Path) -> list[dict[str, Any]]:
    """The last complete progress line of every process."""
    lines = []
    for path in sorted(folder.glob("progress-*-of-*.jsonl")):
        for line in reversed(path.read_text(errors="replace").splitlines()[-2:]):  # a kill may leave half a line
            try:
                lines.append(json.loads(line))
                break
            except ValueError:
                continue
    return lines


def describe(state: dict[str, Any]) -> str:
    """`status` in a few lines for people."""
    units, scenes, people, rate = state["units"], state["scenes"], state["people"], state["rate"]
    failed, skipped = sum(people["failed"].values()), sum(people["skipped"].values())
    lines = [
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
            f"{rate['seconds_left']:.0f} s left"
        )
    for claim in state["running"]:
        note = ", stale" if claim["stale"] else ""
        lines.append(
            f"claim    unit {claim['unit']}: {claim['host']} pid {claim['pid']}, {claim['renewed_s_ago']:.0f} s ago{note}"
        )
    lines.append("finished" if state["finished"] else "not finished")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ comparing runs


def finished_rows(folder: str | Path) -> Iterator[SceneRow]:
    """The rows of all finished units whose shards have their checksums, in input order. Raises JobError without a job."""
    plan, _ = read_plan(Path(folder))
    ledger = Ledger(Path(folder), plan)
    for unit in range(plan.num_units):
        if ledger.done(unit) is not None:
            yield from ledger.rows(unit)


def digest(folder: str | Path) -> dict[str, Any]:
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


def compare(first: str | Path, second: str | Path) -> dict[str, Any]:
    """Differences between two runs of a job.

    Keys: `rows_differ` (scenes whose people, keys or statuses differ or that only one run has), `people` compared, and
    `largest_difference` per parameter array over the people that both fitted. Raises JobError where the jobs have
    different scenes.
    """
    differ, people, largest = 0, 0, dict.fromkeys(PARAMETERS, 0.0)
    for a, b in _paired(finished_rows(first), finished_rows(second)):
        if a is None or b is None:
            differ += 1
            continue
        if a.name != b.name:
            raise JobError(f"{first}, {second}: scene {a.scene_index} is {a.name} in one and {b.name} in the other")
        if (a.scene_status, a.person_keys, a.status) != (b.scene_status, b.person_keys, b.status):
            differ += 1
            continue
        fitted = np.array([status == "ok" for status in a.status], bool)
        people += int(fitted.sum())
        for name in PARAMETERS if fitted.any() else ():
            gap = np.abs(a.arrays[name][fitted].astype(np.float64) - b.arrays[name][fitted]).max()
            largest[name] = max(largest[name], float(gap))
    return {"rows_differ": differ, "people": people, "largest_difference": largest}


def _paired(first: Iterator[SceneRow], second: Iterator[SceneRow]) -> Iterator[tuple[SceneRow | None, SceneRow | None]]:
    """Rows of equal scene index side by side; both come in input order."""
    a, b = next(first, None), next(second, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a.scene_index < b.scene_index):
            yield a, None
            a = next(first, None)
        elif a is None or b.scene_index < a.scene_index:
            yield None, b
            b = next(second, None)
        else:
            yield a, b
            a, b = next(first, None), next(second, None)


__all__ = ["ROUNDING", "JobError", "compare", "describe", "digest", "finished_rows", "last_lines", "status"]


def describe_comparison(comparison: dict[str, Any]) -> str:
    """The answer of `compare` in lines."""
    lines = [
        f"{comparison['rows_differ']} scenes differ in people, keys or status; {comparison['people']} fitted people compared"
    ]
    lines += [f"{name:12s} largest difference {value:.3g}" for name, value in comparison["largest_difference"].items()]
    return "\n".join(lines)
