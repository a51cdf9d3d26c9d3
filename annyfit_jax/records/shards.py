"""Writing datasets of records: resumable, in parallel, as ArrayRecord shards with TFDS metadata.

A finished folder of a dataset `cues` holds

    cues-train.array_record-00000-of-00010 ...   records, tables of `wire`
    dataset_info.json, features.json             what `tfds.builder_from_directory` and Grain need
    shards/00000-of-00010.json ...               per shard: checksum, sizes, names of the records, what was set aside
    plan.json                                    how the work was cut; a rerun must agree
    set_aside.jsonl                              name and reason of everything that has no record

A shard is written to a temporary name, flushed to disk and renamed; its JSON file, written after that, says that it is
finished. Whatever a killed process leaves is either finished or written again, with the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from annyfit_jax.records import wire
from annyfit_jax.records.files import (
    clean_leftovers,
    json_lines,
    replacing,
    sha256,
    sync,
    temporary_name,
    write_bytes,
)
from annyfit_jax.records.wire import Field

TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
DEFAULT_SCENES_PER_SHARD = 512
_WRITER_OPTIONS = "group_size:1"  # one record per chunk: what random access needs
_LEFTOVER_S = 3600.0
"""A temporary file of another machine's process is taken for left over when it is older."""


class DatasetError(ValueError):
    """A folder that cannot be written to as asked."""


class SetAside(NamedTuple):
    """A scene that has no record."""

    name: str
    reason: str


class Packed(NamedTuple):
    """A record."""

    name: str
    record: bytes
    facts: Mapping[str, Any]
    """What the shard's JSON file notes about it, an entry for each of `Kind.facts`."""


@dataclass(frozen=True)
class Kind:
    """What a dataset holds."""

    name: str
    version: int
    """Of the table; becomes the dataset's version."""
    fields: Mapping[str, Field] = field(repr=False)
    description: str
    split: str = "train"
    facts: tuple[str, ...] = ()
    """Per record: lists in the shards' JSON files."""


@dataclass(frozen=True)
class Plan:
    """How a dataset is cut into shards. Equal plans write equal files."""

    total: int
    """Scenes of the input."""
    source: dict[str, Any]
    """What the scenes come from, JSON: a rerun with another source is refused."""
    scenes_per_shard: int = DEFAULT_SCENES_PER_SHARD
    kind: Kind = field(kw_only=True)

    def __post_init__(self) -> None:
        if self.total < 1 or self.scenes_per_shard < 1:
            raise DatasetError(
                f"expected at least 1 scene and 1 scene per shard, got {self.total}, {self.scenes_per_shard}"
            )

    @property
    def num_shards(self) -> int:
        """How many shards the dataset has; the last may be shorter."""
        return -(-self.total // self.scenes_per_shard)

    def scenes(self, shard: int) -> range:
        """Input indices of a shard."""
        start = shard * self.scenes_per_shard
        return range(start, min(start + self.scenes_per_shard, self.total))

    def file(self, shard: int) -> str:
        """Name of a shard's record file."""
        return f"{self.kind.name}-{self.kind.split}.array_record-{shard:05d}-of-{self.num_shards:05d}"

    def seal(self, shard: int) -> str:
        """Name of the JSON file that says that a shard is finished."""
        return f"shards/{shard:05d}-of-{self.num_shards:05d}.json"

    def to_json(self) -> dict[str, Any]:
        """As stored beside the shards; a call with another plan is refused."""
        return {
            "schema_version": self.kind.version,
            "total": self.total,
            "scenes_per_shard": self.scenes_per_shard,
            "source": self.source,
        }


class Progress(NamedTuple):
    """State of a dataset after a call of `write`."""

    shards_done: int
    num_shards: int
    scenes: int
    people: int
    """Sum of the fact `people`, 0 for kinds without it."""
    set_aside: int
    finished: bool
    """All shards are there and the metadata is written."""


def write(
    output: str | Path,
    plan: Plan,
    records: Callable[[range], Iterable[Packed | SetAside]],
    *,
    process_index: int = 0,
    process_count: int = 1,
    on_shard: Callable[[int], None] | None = None,
) -> Progress:
    """Writes the unfinished ones of the shards `process_index`, `process_index + process_count`, ...

    `records` yields the records of a range of input indices, or why there is none. Whoever finds all shards finished writes
    the metadata. Call again to resume. `on_shard` is told each shard that was written.

    Raises DatasetError where the folder belongs to another plan; errors of `records` and of the disk pass through, and the
    shard under way leaves nothing.
    """
    if not 0 <= process_index < process_count:
        raise DatasetError(f"expected 0 <= process_index < process_count, got {process_index} of {process_count}")
    folder = Path(output)
    _claim(folder, plan)
    for shard in range(process_index, plan.num_shards, process_count):
        if read_seal(folder, plan, shard) is None:
            _write_shard(folder, plan, shard, records(plan.scenes(shard)))
            if on_shard is not None:
                on_shard(shard)
    return finish(folder, plan)


def finish(folder: Path, plan: Plan) -> Progress:
    """Writes `set_aside.jsonl` and the TFDS metadata if all shards are finished; returns the state."""
    seals = [read_seal(folder, plan, shard) for shard in range(plan.num_shards)]
    done = [seal for seal in seals if seal is not None]
    aside = [entry for seal in done for entry in seal["set_aside"]]
    scenes = sum(seal["num_records"] for seal in done)
    finished = len(done) == plan.num_shards
    if finished:
        write_bytes(folder / "set_aside.jsonl", b"".join(json_lines(aside)), flush=True)
        if scenes:
            lengths, size = [seal["num_records"] for seal in done], sum(seal["num_bytes"] for seal in done)
            write_metadata(folder, plan.kind, plan.file(0), lengths, size)
        for place in (folder, folder / "shards"):
            clean_leftovers(place, _LEFTOVER_S)
    people = sum(sum(seal.get("people", ())) for seal in done)
    return Progress(len(done), plan.num_shards, scenes, people, len(aside), finished and scenes > 0)


def read_seal(folder: Path, plan: Plan, shard: int) -> dict[str, Any] | None:
    """The JSON of a finished shard, None where it has to be written. Cheap: sizes and the record count, not the checksum."""
    path = folder / plan.file(shard)
    try:
        seal = json.loads((folder / plan.seal(shard)).read_bytes())
        if path.stat().st_size != seal["num_bytes"] or seal["scenes"] != _span(plan, shard):
            return None
        return seal if num_records(path) == seal["num_records"] else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def verify(output: str | Path) -> list[str]:
    """Full check of a dataset's files against their checksums; the problems found, none if sound."""
    folder = Path(output)
    problems = []
    for path in sorted((folder / "shards").glob("*.json")):
        seal = json.loads(path.read_bytes())
        try:
            if sha256(folder / seal["file"]) != seal["sha256"]:
                problems.append(f"{seal['file']}: the checksum differs from {path.name}")
        except OSError as error:
            problems.append(f"{seal['file']}: {error.strerror}")
    return problems


def write_metadata(
    folder: Path,
    kind: Kind,
    first_shard: str,
    shard_lengths: Sequence[int],
    num_bytes: int,
    before_rename: Callable[[str], None] | None = None,
) -> None:
    """`dataset_info.json` and `features.json`, made beside and moved in: a reader never sees half of one.

    Args:
      first_shard: file name of the first shard, from which TFDS takes name and format.
      before_rename: told the name of each file before it is moved in.
    """
    import tensorflow_datasets as tfds

    split = tfds.core.SplitInfo(name=kind.split, shard_lengths=list(shard_lengths), num_bytes=num_bytes)
    scratch = temporary_name(folder / f"{kind.name}-metadata")
    try:
        scratch.mkdir()
        (scratch / first_shard).touch()
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
            if before_rename is not None:
                before_rename(name)
            sync(scratch / name)
            os.replace(scratch / name, folder / name)
        sync(folder)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(scratch)


def num_records(path: Path) -> int:
    """Records of an ArrayRecord file, -1 where it is none."""
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        return reader.num_records() if reader.ok() else -1
    finally:
        reader.close()


def _span(plan: Plan, shard: int) -> list[int]:
    scenes = plan.scenes(shard)
    return [scenes.start, scenes.stop]


def _claim(folder: Path, plan: Plan) -> None:
    """Writes `plan.json`, or checks that the folder's is the same."""
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    path = folder / "plan.json"
    wanted = json.loads(json.dumps(plan.to_json()))
    if not path.exists():
        if (folder / "dataset_info.json").exists():
            raise DatasetError(f"{folder}: holds another dataset; choose an empty folder")
        write_bytes(path, json.dumps(wanted, indent=1).encode(), flush=True)
    try:
        stored = json.loads(path.read_bytes())
    except ValueError:
        raise DatasetError(f"{path}: not JSON; choose an empty folder") from None
    if stored != wanted:
        differ = sorted(key for key in wanted if not isinstance(stored, dict) or stored.get(key) != wanted[key])
        raise DatasetError(f"{path}: the folder was begun with another {', '.join(differ)}; choose another folder")


def _write_shard(folder: Path, plan: Plan, shard: int, records: Iterable[Packed | SetAside]) -> None:
    lists: dict[str, list[Any]] = {key: [] for key in ("names", *plan.kind.facts, "set_aside")}
    path = folder / plan.file(shard)
    with replacing(path, flush=True) as temporary:
        writer = array_record_module.ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)
        try:
            for item in records:
                if isinstance(item, SetAside):
                    lists["set_aside"].append({"scene": item.name, "reason": item.reason})
                    logging.warning("set aside: %s: %s", item.name, item.reason)
                    continue
                writer.write(item.record)
                lists["names"].append(item.name)
                for fact in plan.kind.facts:
                    lists[fact].append(item.facts[fact])
        finally:
            writer.close()
        sync(temporary)
        # A full disk may pass unnoticed by the writer, but not by the reader.
        if num_records(temporary) != len(lists["names"]):
            raise OSError(f"{temporary}: {len(lists['names'])} records were written, but not all can be read back")
        size, checksum = temporary.stat().st_size, sha256(temporary)
    seal = {"file": path.name, "scenes": _span(plan, shard), **lists}
    seal |= {"num_records": len(lists["names"]), "num_bytes": size, "sha256": checksum}
    write_bytes(folder / plan.seal(shard), json.dumps(seal).encode(), flush=True)
