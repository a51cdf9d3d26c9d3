"""What a finished job adds to its folder: dataset metadata and tables, made from the units by the driver once all are done."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from annyfit_jax.jobs import job_rows
from annyfit_jax.jobs.fit_store import MADE, rows
from annyfit_jax.records.file_names import TABLE, file_stem, table_lines
from annyfit_jax.records.files import json_lines
from annyfit_jax.store.units import Store


def finish(store: Store, configs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Makes what a finished job has; returns its totals (`finished.json`), or None while units are left.

    Cheap where it has been done already. Raises JobWriteError.

    Args:
      configs: config hash -> config, JSON; those that a scene was fitted with are written to `config.json`.
    """
    units, folder = range(store.num_units), store.folder
    entries = [store.done(unit) for unit in units]
    done = [entry for entry in entries if entry is not None]
    if len(done) < len(entries):
        return None
    content = hashlib.sha256("|".join(entry["sha256"] for entry in done).encode()).hexdigest()
    known = (folder / "finished.json").read_json()
    if isinstance(known, dict) and known.get("shards_sha256") == content and store.published(MADE):
        return known
    aside: list[dict[str, str]] = []
    used: set[str] = set()

    def people() -> Iterator[dict[str, Any]]:
        for row in (row for unit in units for row in rows(store, unit)):
            yield from job_rows.people_table(row)
            if file_stem(row.name) != row.name:
                odd.append(row.name)
            if row.scene_status == "ok":
                used.add(row.config_hash)
            else:
                aside.append({"scene": row.name, "reason": row.scene_reason, "status": row.scene_status})

    odd: list[str] = []
    (folder / "people.jsonl").put_parts(json_lines(people()))
    (folder / "scenes_set_aside.jsonl").put_parts(json_lines(aside))
    if odd:
        (folder / TABLE).put_parts(table_lines(odd))
    (folder / "config.json").put_json([config for name, config in configs.items() if name in used])
    store.publish()
    totals = {"shards_sha256": content, **total_counts(done)}
    (folder / "finished.json").put_json(totals)
    return totals


def total_counts(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Scenes and people by status, summed over entries of finished units."""
    scenes, people = Counter(), Counter()
    for entry in entries:
        scenes.update(entry["counts"]["scenes"])
        people.update(entry["counts"]["people"])
    return {"scenes": dict(sorted(scenes.items())), "people": dict(sorted(people.items()))}
