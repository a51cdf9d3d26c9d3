"""Reading a cue dataset: a lazy sequence of scenes with random access, one record at a time."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from annyfit_jax.inputs import cue_schema
from annyfit_jax.inputs.scene_source import InputOptions, SceneSource
from annyfit_jax.people.scene import Scene, SceneError
from annyfit_jax.store.locations import Location, place, read_all

_OPEN_SHARDS = 64
"""Shards kept open at a time: a collection can have more of them than a process may have files open."""
_READER_OPTIONS = "readahead_buffer_size:0"  # random access: what lies behind a record is not wanted


@dataclass(frozen=True)
class CueSource(SceneSource):
    """The scenes of a cue dataset. `load(i)` reads one record; a broken one raises SceneError, the others stay readable.

    Can be pickled (worker processes open the shards themselves) and read from several threads.
    """

    people: tuple[int, ...] = field(default=(), repr=False)
    """People per scene; empty where the dataset came without its `shards/` folder."""
    has_start: tuple[bool, ...] = field(default=(), repr=False)
    """Whether a scene has a feed-forward start; empty like `people`."""
    records: Records | None = field(default=None, repr=False)

    def photo(self, index: int) -> bytes:
        """JPEG bytes of a scene's photo, empty where it was not packed. Raises SceneError on a broken record."""
        assert self.records is not None
        return cue_schema.decode_photo(self.records[index], self.records.where(index))


def is_cue_dataset(folder: str | Path | Location) -> bool:
    """Whether a folder holds TFDS metadata, or shards of a cue dataset that is not finished."""
    folder = place(folder)  # by name: the listing of a bucket may lag behind
    return (
        all((folder / name).is_file() for name in ("dataset_info.json", "features.json"))
        or (folder / "plan.json").is_file()
    )


def open_cues(path: str, options: InputOptions | None = None) -> CueSource:
    """Opens a cue dataset folder; masks and depth maps are unfolded as `options.with_masks`, `with_depth_map` say.

    Raises SceneError where the folder is unfinished, of another dataset or of a newer version. Nothing but metadata is read,
    unless the `shards/` folder is missing: then the names are read from the records.
    """
    options = options or InputOptions()
    folder = place(path)
    files, lengths = _shards(folder)
    _check_features(folder)
    records = Records(tuple(str(folder / file) for file in files), tuple(lengths))
    seals = _seals(folder, files, lengths)
    if all(seal is not None for seal in seals):
        names, people, starts = (
            list(itertools.chain.from_iterable(seal[key] for seal in seals if seal is not None))
            for key in ("names", "people", "has_start")
        )
    else:
        names, people, starts = [_name(records, index) for index in range(len(records))], [], []
    return CueSource(
        kind="cues",
        names=_unique(names),
        loader=_Loader(records, options.with_masks, options.with_depth_map),
        location=path,
        people=tuple(people),
        has_start=tuple(starts),
        records=records,
        stamps=_Stamps(tuple(_stamps(seals, files, lengths))),
    )


@dataclass(frozen=True)
class _Stamps:
    """Fingerprints of the records; an object rather than a closure, so that sources can be pickled."""

    of: tuple[str, ...]

    def __call__(self, index: int) -> str:
        return self.of[index]


def _stamps(seals: list[dict[str, Any] | None], files: list[str], lengths: list[int]) -> Iterator[str]:
    """Of every record; version 0.1 has checksums of shards only, another program none."""
    for seal, file, length in zip(seals, files, lengths, strict=True):
        known = (seal or {}).get("digests")
        shard = (seal or {}).get("sha256", "")[:16]
        yield from (
            known if known is not None and len(known) == length else [f"{shard}-{file}" if shard else ""] * length
        )


@dataclass(frozen=True)
class _Loader:
    """Decodes one record; an object rather than a closure, so that sources can be pickled."""

    records: Records
    with_masks: bool
    with_depth_map: bool

    def __call__(self, index: int) -> Scene:
        where = self.records.where(index)
        try:
            return cue_schema.decode(
                self.records[index], where, with_masks=self.with_masks, with_depth_map=self.with_depth_map
            )
        except SceneError:
            raise
        except (
            ValueError,
            TypeError,
            OverflowError,
            MemoryError,
        ) as error:  # what no check foresaw is still this record's
            raise SceneError(f"{where}: cannot be decoded ({type(error).__name__}: {error})") from error


class Records:
    """Random access to the serialized records of ArrayRecord files, which are opened when first needed."""

    def __init__(self, files: tuple[str, ...], lengths: tuple[int, ...]) -> None:
        self.files, self.lengths = files, lengths
        self._ends = list(itertools.accumulate(lengths))
        self._reset()

    def _reset(self) -> None:
        self._readers: dict[int, Any] = {}
        self._lock, self._process = threading.Lock(), os.getpid()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def where(self, index: int) -> str:
        """Shard file and record number, for messages."""
        shard, position = self._locate(index)
        return f"{self.files[shard]}: record {position}"

    def __getitem__(self, index: int) -> bytes:
        """The bytes of a record. Raises SceneError where the shard or the record cannot be read."""
        shard, position = self._locate(index)
        if self._process != os.getpid():  # a fork must not share file positions
            self._reset()
        try:
            with self._lock:
                return self._reader(shard).read([position])[0]
        except (RuntimeError, OSError, ValueError, IndexError) as error:
            raise SceneError(f"{self.where(index)}: cannot be read ({error})") from None

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _reader(self, shard: int) -> Any:
        if shard not in self._readers:
            file = place(self.files[shard])
            if not file.remote and not file.is_file():
                raise OSError("no such file")
            reader = array_record_module.ArrayRecordReader(str(file.fetched()), options=_READER_OPTIONS)
            num_records = reader.num_records() if reader.ok() else 0
            if num_records != self.lengths[shard]:
                reader.close()
                raise OSError(f"the shard is torn: expected {self.lengths[shard]} records, got {num_records}")
            self._readers[shard] = reader
            if len(self._readers) > _OPEN_SHARDS:  # the one unused for longest comes first
                self._readers.pop(next(iter(self._readers))).close()
        else:
            self._readers[shard] = self._readers.pop(shard)
        return self._readers[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "lengths": self.lengths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Records.__init__(self, state["files"], state["lengths"])


# ------------------------------------------------------------------------------------------------ metadata


def _shards(folder: Location) -> tuple[list[str], list[int]]:
    """Shard file names and record counts of all splits, from `dataset_info.json`."""
    path = folder / "dataset_info.json"
    if not path.is_file():
        done, total = len((folder / "done").files()), _planned_shards(folder)
        raise SceneError(
            f"{folder}: packing is not finished, {done} of {total} shards are there; run the same command again"
        )
    info = _json(path)
    try:
        if info.get("fileFormat") != "array_record":
            raise SceneError(f"{path}: fileFormat: expected array_record, got {info.get('fileFormat')}")
        files, lengths = [], []
        for split in info["splits"]:
            template = split.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
            counts = [int(length) for length in split["shardLengths"]]
            for shard, count in enumerate(counts):
                values = {
                    "DATASET": info["name"], "SPLIT": split["name"], "FILEFORMAT": "array_record",
                    "SHARD_X_OF_Y": f"{shard:05d}-of-{len(counts):05d}", "SHARD_INDEX": f"{shard:05d}",
                    "NUM_SHARDS": f"{len(counts):05d}",
                }  # fmt: skip
                file = template.format_map(values)
                if Path(file).name != file or count < 0:
                    raise SceneError(f"{path}: splits: expected plain file names and counts, got {file!r}, {count}")
                files.append(file)
                lengths.append(count)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, SceneError):
            raise
        raise SceneError(f"{path}: not the metadata of a TFDS dataset ({type(error).__name__}: {error})") from None
    return files, lengths


def _planned_shards(folder: Location) -> int | str:
    try:
        plan = _json(folder / "plan.json")
        return sum(-(-part // plan["scenes_per_shard"]) for part in plan["parts"])
    except (SceneError, KeyError, TypeError, ZeroDivisionError):
        return "an unknown number of"


def _check_features(folder: Location) -> None:
    path = folder / "features.json"
    content = _json(path) if path.is_file() else {}
    try:
        names = set(content["featuresDict"]["features"])
    except (KeyError, TypeError):
        names = set()
    missing = sorted(set(cue_schema.fields_of(1)) - names)
    if missing:
        raise SceneError(f"{path}: not a cue dataset: there is no feature {', '.join(missing[:5])}")


def _seals(folder: Location, files: list[str], lengths: list[int]) -> list[dict[str, Any] | None]:
    """What the writer noted about each shard, None unless it is there and agrees. Version 0.1 kept it in `shards/`."""
    old = {file: f"{file[-len('00000-of-00000') :]}.json" for file in files}
    new = {file: f"{file[-len('00000-of-00000') :][:5]}.json" for file in files}
    seals: list[dict[str, Any] | None] = [None] * len(files)
    for part, names in (("shards", old), ("done", new)):
        place_of = folder / part
        there = place_of.files()
        wanted = (
            names.values() if part == "done" and folder.remote else (name for name in names.values() if name in there)
        )
        contents = read_all(place_of, list(wanted))
        for position, (file, length) in enumerate(zip(files, lengths, strict=True)):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                seal = json.loads(contents[names[file]])
                own = seal["file"] == file or str(seal["file"]).startswith(f"units/{names[file][:5]}-")
                if own and all(len(seal[key]) == length for key in ("names", "people", "has_start")):
                    seals[position] = seal
    return seals


def _name(records: Records, index: int) -> str:
    """A scene's name from its record; one that cannot be read still gets a name, and its error at `load`."""
    try:
        return cue_schema.decode_name(records[index], records.where(index))
    except SceneError:
        return f"record_{index}"


def _unique(names: list[str]) -> tuple[str, ...]:
    """Names made different by the record's index where two are the same."""
    taken: set[str] = set()
    out = []
    for index, name in enumerate(names):
        while name in taken:
            name = f"{name}_{index}"
        taken.add(name)
        out.append(name)
    return tuple(out)


def _json(path: Location) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise SceneError(f"{path}: not a readable JSON file ({error})") from None
