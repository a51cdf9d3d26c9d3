"""Finished units: how a shard is committed, and how a later process knows that it may trust it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from annyfit_jax.jobs import job_rows
from annyfit_jax.jobs.durable_files import JobWriteError, publish_json, writing
from annyfit_jax.jobs.faults import fault_point
from annyfit_jax.jobs.job_plan import Plan
from annyfit_jax.jobs.job_rows import SceneRow
from annyfit_jax.records.files import read_json, sha256, sync, temporary_name, this_process

_WRITER_OPTIONS = "group_size:1"
"""One record per chunk: what random access needs."""


class Ledger:
    """The shards of a job folder and their entries in `done/`."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self._trusted: dict[int, tuple[str, int]] = {}

    def shard(self, unit: int) -> Path:
        """The record file of a unit."""
        return self.folder / self.plan.shard(unit)

    def entry(self, unit: int) -> dict[str, Any] | None:
        """What `done/` says about a unit, unchecked; None where it is not finished."""
        entry = read_json(self._entry_path(unit))
        span = self.plan.scenes(unit)
        if not isinstance(entry, dict) or entry.get("file") != self.plan.shard(unit):
            return None
        return entry if entry.get("scenes") == [span.start, span.stop] else None

    def done(self, unit: int) -> dict[str, Any] | None:
        """The entry of a unit whose shard is there with the checksum that the entry states, else None.

        The file is read once per process and content; afterwards its size and time of change vouch for it.
        """
        entry = self.entry(unit)
        if entry is None:
            return None
        path = self.shard(unit)
        try:
            state = path.stat()
            mark = (str(entry["sha256"]), state.st_mtime_ns)
            if state.st_size != entry["num_bytes"]:
                return None
            if self._trusted.get(unit) != mark:
                if sha256(path) != entry["sha256"]:
                    return None
                self._trusted[unit] = mark
        except (OSError, KeyError):
            return None
        return entry

    def commit(self, unit: int, scene_rows: Sequence[SceneRow], seconds: float) -> dict[str, Any]:
        """Writes the shard of a unit, then its entry. Raises JobWriteError; the unit is then not finished."""
        span = self.plan.scenes(unit)
        ordered = sorted(scene_rows, key=lambda row: row.scene_index)
        if [row.scene_index for row in ordered] != list(span):
            raise ValueError(f"unit {unit}: expected a row for each of the scenes {span.start} to {span.stop - 1}")
        path = self.shard(unit)
        temporary = temporary_name(path)
        with writing(path):
            try:
                fault_point(f"shard {unit}: before writing")
                _write_records(temporary, [job_rows.encode(row) for row in ordered], unit)
                checksum, size = sha256(temporary), temporary.stat().st_size
                fault_point(f"shard {unit}: before renaming")
                os.replace(temporary, path)
                sync(self.folder)
                fault_point(f"shard {unit}: renamed")
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        entry = {
            "unit": unit,
            "file": path.name,
            "sha256": checksum,
            "num_bytes": size,
            "scenes": [span.start, span.stop],
            "num_records": len(ordered),
            "counts": job_rows.counts(ordered),
            "seconds": round(seconds, 3),
            "finished": time.time(),
            "host": this_process().host,
        }
        publish_json(self._entry_path(unit), entry)
        return entry

    def rows(self, unit: int) -> Iterator[SceneRow]:
        """The rows of a finished unit, in input order. Raises SceneError or RuntimeError on a broken file."""
        path = self.shard(unit)
        reader = array_record_module.ArrayRecordReader(str(path))
        try:
            # In parts: a shard of a huge unit need not be held twice.
            for start in range(0, reader.num_records(), 64):
                stop = min(start + 64, reader.num_records())
                for position, record in enumerate(reader.read(start, stop), start):
                    yield job_rows.decode(record, f"{path}: record {position}")
        finally:
            reader.close()

    def _entry_path(self, unit: int) -> Path:
        return self.folder / "done" / f"{unit:05d}.json"


def _write_records(path: Path, records: Sequence[bytes], unit: int) -> None:
    writer = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    try:
        for position, record in enumerate(records):
            if position == len(records) // 2:
                fault_point(f"shard {unit}: half written")
            writer.write(record)
    finally:
        writer.close()
    sync(path)
    # A full disk may pass unnoticed by the writer, but not by the reader.
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        num_read = reader.num_records() if reader.ok() else 0
    finally:
        reader.close()
    if num_read != len(records):
        raise JobWriteError(
            f"{path}: {len(records)} records were written, {num_read} can be read back; is the disk full?"
        )
