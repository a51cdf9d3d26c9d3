"""What a finished job adds to its folder: dataset metadata and tables, made from the shards by whoever finds all units done."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from annyfit_jax.jobs import rows
from annyfit_jax.jobs.claims import claim_path, read_claims
from annyfit_jax.jobs.faults import fault_point
from annyfit_jax.jobs.files import publish, publish_json, read_json, sync, temporary_name, writing
from annyfit_jax.jobs.ledger import Ledger
from annyfit_jax.jobs.plan import DATASET, SPLIT, read_plan

_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
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
    people, aside, configs = [], [], set()
    # The tables are small (a few hundred bytes a person) beside the parameters, which are never held together.
    for row in (row for unit in units for row in ledger.rows(unit)):
        people += [json.dumps(entry) for entry in rows.people_table(row)]
        if row.scene_status != "ok":
            reason = {"scene": row.name, "reason": row.scene_reason, "status": row.scene_status}
            aside.append(json.dumps(reason))
        else:
            configs.add(row.config_hash)
    _, job = read_plan(folder)
    used = [config for name, config in job["configs"].items() if name in configs]
    publish(folder / "people.jsonl", _lines(people))
    publish(folder / "scenes_set_aside.jsonl", _lines(aside))
    publish_json(folder / "config.json", used)
    _write_metadata(folder, ledger, done)
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


def _lines(lines: list[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def _write_metadata(folder: Path, ledger: Ledger, entries: list[dict[str, Any]]) -> None:
    """`dataset_info.json` and `features.json`, made beside and moved in: a reader never sees half of one."""
    import tensorflow_datasets as tfds

    split = tfds.core.SplitInfo(
        name=SPLIT,
        shard_lengths=[entry["num_records"] for entry in entries],
        num_bytes=sum(entry["num_bytes"] for entry in entries),
    )
    scratch = temporary_name(folder / f"{DATASET}-metadata")
    with writing(folder / "dataset_info.json"):
        try:
            scratch.mkdir()
            (scratch / ledger.plan.shard(0)).touch()  # TFDS takes name and format from the files it finds
            tfds.folder_dataset.write_metadata(
                data_dir=scratch,
                features=rows.features(),
                split_infos=[split],
                version=f"{rows.ROW_VERSION}.0.0",
                filename_template=_TEMPLATE,
                check_data=False,
                description="Bodies fitted to the people of images, one record per image.",
            )
            for name in ("features.json", "dataset_info.json"):
                fault_point(f"{name}: before renaming")
                sync(scratch / name)
                os.replace(scratch / name, folder / name)
            sync(folder)
        finally:
            with contextlib.suppress(OSError):
                shutil.rmtree(scratch)
