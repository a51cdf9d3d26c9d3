"""What a finished job adds to its folder: dataset metadata and tables, made from the shards by whoever finds all units done."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from annyfit_jax.jobs import job_rows
from annyfit_jax.jobs.claims import claim_path, read_claims
from annyfit_jax.jobs.durable_files import publish_json, publish_parts, writing
from annyfit_jax.jobs.faults import fault_point
from annyfit_jax.jobs.job_plan import DATASET, SPLIT, read_plan
from annyfit_jax.jobs.ledger import Ledger
from annyfit_jax.records.file_names import TABLE, file_stem, table_lines
from annyfit_jax.records.files import json_lines, read_json
from annyfit_jax.records.shards import Kind, write_metadata

_KIND = Kind(
    DATASET,
    job_rows.ROW_VERSION,
    job_rows.FIELDS,
    "Bodies fitted to the people of images, one record per image.",
    SPLIT,
)
_MADE = ("dataset_info.json", "features.json", "people.jsonl", "scenes_set_aside.jsonl", "config.json")


def finish(folder: Path, ledger: Ledger) -> dict[str, Any] | None:
    """Makes what a finished job has; returns its totals (`finished.json`), or None while units are left.

    Cheap where it has been done already. Several processes may do it at once: they write the same. Raises JobWriteError.
    """
    units = range(ledger.plan.num_units)
    entries = [ledger.done(unit) for unit in units]
    done = [entry for entry in entries if entry is not None]
    if len(done) < len(entries):
        return None
    content = hashlib.sha256("|".join(entry["sha256"] for entry in done).encode()).hexdigest()
    known = read_json(folder / "finished.json")
    if isinstance(known, dict) and known.get("shards_sha256") == content and all((folder / f).exists() for f in _MADE):
        return known
    aside: list[dict[str, str]] = []
    configs: set[str] = set()

    def people() -> Iterator[dict[str, Any]]:
        for row in (row for unit in units for row in ledger.rows(unit)):
            yield from job_rows.people_table(row)
            if file_stem(row.name) != row.name:
                odd.append(row.name)
            if row.scene_status == "ok":
                configs.add(row.config_hash)
            else:
                aside.append({"scene": row.name, "reason": row.scene_reason, "status": row.scene_status})

    odd: list[str] = []
    publish_parts(folder / "people.jsonl", json_lines(people()))
    publish_parts(folder / "scenes_set_aside.jsonl", json_lines(aside))
    if odd:
        publish_parts(folder / TABLE, table_lines(odd))
    _, job = read_plan(folder)
    publish_json(folder / "config.json", [config for name, config in job["configs"].items() if name in configs])
    with writing(folder / "dataset_info.json"):
        lengths, size = [entry["num_records"] for entry in done], sum(entry["num_bytes"] for entry in done)
        write_metadata(
            folder, _KIND, ledger.plan.shard(0), lengths, size, lambda name: fault_point(f"{name}: before renaming")
        )
    for path in (folder / "fits").glob(".*.npz.*.tmp"):  # of killed processes; nobody works on the job any more
        path.unlink(missing_ok=True)
    for claim in read_claims(folder):  # of processes killed between finishing a unit and giving it back
        if claim.stale:
            claim_path(folder, claim.unit).unlink(missing_ok=True)
    totals = {"shards_sha256": content, **total_counts(done)}
    publish_json(folder / "finished.json", totals)
    return totals


def total_counts(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Scenes and people by status, summed over entries of finished units."""
    scenes, people = Counter(), Counter()
    for entry in entries:
        scenes.update(entry["counts"]["scenes"])
        people.update(entry["counts"]["people"])
    return {"scenes": dict(sorted(scenes.items())), "people": dict(sorted(people.items()))}
