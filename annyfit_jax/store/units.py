"""The units of a store: workers write content, the one writer commits, readers trust what is committed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from annyfit_jax.records import wire
from annyfit_jax.records.files import sha256, sync, temporary_name, this_process
from annyfit_jax.store.faults import fault_point
from annyfit_jax.store.holds import Hold, TakenError, held
from annyfit_jax.store.locations import JobWriteError, Location, place, read_all, writing
from annyfit_jax.store.plan import Cut, Kind, StoreError

TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_COPIES = 16
"""Objects of a bucket that get their second name side by side."""
_WRITER_OPTIONS = "group_size:1"
"""One record per chunk: what random access needs."""

Entry = dict[str, Any]
"""A commit record: `unit`, `file`, `sha256`, `num_bytes`, `scenes` [first, last + 1], `num_records`, `input` (fingerprint of
what the unit was made from), `seconds`, `finished`, `host`, and what the writer of the unit adds."""


class Store:
    """The units of a folder. Can be pickled, without its commit records."""

    def __init__(self, folder: str | Path | Location, kind: Kind, cut: Cut) -> None:
        self.folder, self.kind, self.cut = place(folder), kind, cut
        self.spans = cut.spans
        self._entries: dict[int, Entry] | None = None
        self._sizes: dict[str, int] = {}
        self._trusted: dict[int, str] = {}
        self._hold: Hold | None = None

    @property
    def num_units(self) -> int:
        """How many units there are."""
        return len(self.spans)

    # ---------------------------------------------------------------------------------------- reading

    @property
    def entries(self) -> dict[int, Entry]:
        """The commit records by unit, unchecked. Read once; the only writer sees what it adds."""
        if self._entries is None:
            folder = self.folder / "done"
            names = [f"{unit:05d}.json" for unit in range(self.num_units)]
            there = folder.files()
            listed = [name for name in names if name in there]
            # A listing may lag behind: of a store that was finished the others are asked for by their names.
            if folder.remote and len(listed) < len(names) and (self.folder / "finished.json").exists():
                listed = names
            self._entries = {}
            for name, content in read_all(folder, listed).items():
                unit = int(name.removesuffix(".json"))
                with contextlib.suppress(ValueError):
                    entry = json.loads(content)
                    span = self.spans[unit]
                    if isinstance(entry, dict) and entry.get("scenes") == [span.start, span.stop] and _own(entry, unit):
                        self._entries[unit] = entry
            for part in ("", "units/"):
                place_of = self.folder / "units" if part else self.folder
                self._sizes |= {f"{part}{name}": size for name, size in place_of.files().items()}
        return self._entries

    def entry(self, unit: int) -> Entry | None:
        """What the commit record of a unit says, unchecked; None where it is not finished."""
        return self.entries.get(unit)

    def done(self, unit: int) -> Entry | None:
        """The commit record of a unit whose file is there, else None.

        On a disk the checksum of the file is compared, once per store and content; in a bucket, whose objects do not change,
        its size."""
        entry = self.entry(unit)
        if entry is None:
            return None
        try:
            if self.folder.remote:
                if entry["file"] not in self._sizes:  # a listing may lag behind
                    self._sizes[entry["file"]] = self.shard(unit).size()
                return entry if self._sizes[entry["file"]] == entry["num_bytes"] else None
            path = self.shard(unit).path
            mark = f"{entry['sha256']}|{path.stat().st_mtime_ns}"
            if path.stat().st_size != entry["num_bytes"]:
                return None
            if self._trusted.get(unit) != mark:
                if sha256(path) != entry["sha256"]:
                    return None
                self._trusted[unit] = mark
        except (OSError, KeyError):
            return None
        return entry

    def shard(self, unit: int) -> Location:
        """The file of a finished unit."""
        return self.folder / self.entries[unit]["file"]

    def fetched(self, unit: int) -> Path:
        """The file of a finished unit on the local disk. Raises StoreError where it is not what the commit record says."""
        path, entry = self.shard(unit).fetched(), self.entries[unit]
        if self.folder.remote and self._trusted.get(unit) != entry["sha256"]:
            if sha256(path) != entry["sha256"]:
                path.unlink(missing_ok=True)
                record = self.folder / "done" / f"{unit:05d}.json"
                raise StoreError(
                    f"{self.shard(unit)}: does not have the checksum of its commit record; remove {record} and run the command "
                    "that made it again: the unit is done again"
                )
            self._trusted[unit] = entry["sha256"]
        return path

    def records(self, unit: int) -> Iterator[bytes]:
        """The records of a finished unit in order. Raises RuntimeError or OSError on a broken file."""
        reader = array_record_module.ArrayRecordReader(str(self.fetched(unit)))
        try:
            # In parts: a shard of a huge unit need not be held twice.
            for start in range(0, reader.num_records(), 64):
                yield from reader.read(start, min(start + 64, reader.num_records()))
        finally:
            reader.close()

    # ---------------------------------------------------------------------------------------- workers

    def write(
        self, unit: int, records: Iterable[bytes], facts: Callable[[], dict[str, Any]], stamp: str, started: float
    ) -> Entry:
        """Writes the content of a unit and returns the record that would commit it. Raises JobWriteError; then nothing is left.

        Args:
          facts: asked after the last record; what the commit record holds besides.
          stamp: fingerprint of the unit's input.
          started: `time.monotonic()` of its begin.
        """
        span, count = self.spans[unit], 0
        scratch = Path(tempfile.mkdtemp(prefix="annyfit-")) if self.folder.remote else (self.folder / "units").path
        with writing(self.folder / f"unit {unit}"):
            scratch.mkdir(parents=True, exist_ok=True)
            file = temporary_name(scratch / f"{unit:05d}")
            try:
                fault_point(f"shard {unit}: before writing")
                writer = array_record_module.ArrayRecordWriter(str(file), _WRITER_OPTIONS)
                try:
                    for count, record in enumerate(records, 1):
                        if count == max(len(span) // 2, 1):
                            fault_point(f"shard {unit}: half written")
                        writer.write(record)
                finally:
                    writer.close()
                sync(file)
                # A full disk may pass unnoticed by the writer, but not by the reader.
                if (there := max(num_records(file), 0)) != count:
                    raise JobWriteError(
                        f"{file}: {count} records were written, {there} can be read back; is the disk full?"
                    )
                checksum, size = sha256(file), file.stat().st_size
                target = self.folder / "units" / f"{unit:05d}-{checksum[:16]}.array_record"
                fault_point(f"shard {unit}: before renaming")
                if self.folder.remote:
                    with target.replacing() as upload:
                        shutil.move(file, upload)
                else:
                    os.replace(file, target.path)
                    sync(scratch)
                fault_point(f"shard {unit}: renamed")
            finally:
                file.unlink(missing_ok=True)
                if self.folder.remote:
                    shutil.rmtree(scratch, ignore_errors=True)
        return {
            "unit": unit,
            "file": f"units/{target.name}",
            "sha256": checksum,
            "num_bytes": size,
            "scenes": [span.start, span.stop],
            "num_records": count,
            "input": stamp,
            **facts(),
            "seconds": round(time.monotonic() - started, 3),
            "finished": time.time(),
            "host": this_process().host,
        }

    # ---------------------------------------------------------------------------------------- the one writer

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the folder for this process. Raises TakenError where another one is at work on it.

        The lock of a local folder goes with the process; that of a bucket passes (`holds`)."""
        if self.folder.remote:
            with held(self.folder) as self._hold:
                yield
            return
        with writing(self.folder):
            self.folder.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TakenError(self.folder) from None
            except OSError:  # a file system without locks
                pass
            for part in (self.folder, *(self.folder / name for name in ("units", "done", "fits"))):
                part.clean()
            yield
        finally:
            os.close(handle)

    def commit(self, entry: Entry) -> None:
        """Records a unit as finished. Raises JobWriteError, StoreError where another driver has taken over."""
        if self._hold is not None:
            self._hold.check()
        unit = entry["unit"]
        (self.folder / "done" / f"{unit:05d}.json").put_json(entry)
        self.entries[unit] = entry
        self._sizes[entry["file"]] = entry["num_bytes"]

    def publish(self) -> None:
        """Gives the finished units the names that TFDS expects, writes its metadata, and removes what no unit needs.

        Raises JobWriteError.
        """
        entries = [self.entries[unit] for unit in range(self.num_units)]
        named = {self.tfds_name(unit): entry for unit, entry in enumerate(entries)}
        with writing(self.folder):
            there = self.folder.files()

            def link(name: str) -> None:
                entry = named[name]
                if entry["file"] != name and not self._is_published(name, entry, there):
                    fault_point(f"{name}: before renaming")
                    (self.folder / name).linked_to(self.folder / entry["file"])

            with ThreadPoolExecutor(_COPIES if self.folder.remote else 1, "publish") as threads:
                list(threads.map(link, named))
            kept = {entry["file"] for entry in entries}
            for name in there:
                shard = name.startswith(f"{self.kind.name}-{self.kind.split}.array_record-")
                if shard and name not in named and name not in kept:
                    (self.folder / name).remove()
            for name in (self.folder / "units").files():
                if f"units/{name}" not in kept:
                    (self.folder / "units" / name).remove()
            lengths, size = [entry["num_records"] for entry in entries], sum(entry["num_bytes"] for entry in entries)
            if sum(lengths):
                write_metadata(self.folder, self.kind, self.tfds_name(0), lengths, size)

    def published(self, more: Sequence[str] = ()) -> bool:
        """Whether everything that `publish` makes, and `more`, is there. Only names and sizes are looked at."""
        there = self.folder.files()
        shards = {self.tfds_name(unit): self.entries[unit]["num_bytes"] for unit in range(self.num_units)}
        wanted = (*more, *(("features.json", "dataset_info.json") if self._num_records else ()))
        return all(there.get(name) == size for name, size in shards.items()) and all(name in there for name in wanted)

    @property
    def _num_records(self) -> int:
        return sum(entry["num_records"] for entry in self.entries.values())

    def __getstate__(self) -> dict[str, Any]:
        # A worker is told of the commit records that it needs.
        return {**self.__dict__, "_entries": {}, "_sizes": {}, "_trusted": {}, "_hold": None}

    def tfds_name(self, unit: int) -> str:
        """The name of a unit's file in the finished dataset."""
        return f"{self.kind.name}-{self.kind.split}.array_record-{unit:05d}-of-{self.num_units:05d}"

    def _is_published(self, name: str, entry: Entry, there: dict[str, int]) -> bool:
        if there.get(name) != entry["num_bytes"]:
            return False
        if self.folder.remote:
            return (self.folder / name).stamp() == (self.folder / entry["file"]).stamp()
        return os.path.samefile(self.folder.path / name, self.folder.path / entry["file"])


def remove_store(folder: Location, kind: Kind, more: Sequence[str] = ()) -> None:
    """Removes the files of a store and nothing else; `more` names further ones. Raises JobWriteError."""
    with writing(folder):
        for name in ("done", "units", "claims"):
            (folder / name).remove()
        for name in folder.files():
            shard = name.startswith(f"{kind.name}-{kind.split}.array_record-")
            if (
                shard
                or name.startswith(("names-", "progress"))
                or name in ("dataset_info.json", "features.json", *more)
            ):
                (folder / name).remove()
        (folder / kind.identity).remove()


def write_metadata(folder: Location, kind: Kind, first_shard: str, lengths: Sequence[int], num_bytes: int) -> None:
    """`dataset_info.json` and `features.json`, made aside and put whole: a reader never sees half of one.

    Args:
      first_shard: file name of the first shard, from which TFDS takes name and format.
    """
    import tensorflow_datasets as tfds

    split = tfds.core.SplitInfo(name=kind.split, shard_lengths=list(lengths), num_bytes=num_bytes)
    with tempfile.TemporaryDirectory(prefix="annyfit-") as scratch:
        (Path(scratch) / first_shard).touch()
        tfds.folder_dataset.write_metadata(
            data_dir=scratch,
            features=wire.features(kind.fields),
            split_infos=[split],
            version=f"{kind.version}.0.0",
            filename_template=TEMPLATE,
            check_data=False,
            description=kind.description,
        )
        for name in ("features.json", "dataset_info.json"):
            (folder / name).put((Path(scratch) / name).read_bytes())


def num_records(path: Path) -> int:
    """Records of an ArrayRecord file, -1 where it is none."""
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        return reader.num_records() if reader.ok() else -1
    finally:
        reader.close()


def _own(entry: Entry, unit: int) -> bool:
    """Whether a commit record names a file of its unit: `units/<unit>-...`, or the name that version 0.1 gave it."""
    file = str(entry.get("file", ""))
    return file.startswith(f"units/{unit:05d}-") or f".array_record-{unit:05d}-of-" in file
