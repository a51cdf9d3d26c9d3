"""Cue datasets on disk: resumable, parallel writing of ArrayRecord shards, and lazy random access to their scenes.

A finished folder holds

    cues-train.array_record-00000-of-00010 ...   records (`schema`), one scene each
    dataset_info.json, features.json             what `tfds.builder_from_directory` and Grain need
    shards/00000-of-00010.json ...               per shard: checksum, sizes, scene names, what was set aside
    plan.json                                    how the work was cut; a rerun must agree
    set_aside.jsonl                              scene name and reason of every scene that is not in the dataset

A shard is written to a temporary name, flushed to disk and renamed; its JSON file, written after that, says that it is
finished. Whatever a killed process leaves is either finished or written again, with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from annyfit_jax.cues import schema
from annyfit_jax.inputs.validate import validate_scene
from annyfit_jax.scene import Scene, SceneError

DATASET, SPLIT = "cues", "train"
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
DEFAULT_SCENES_PER_SHARD = 512
_WRITER_OPTIONS = "group_size:1"  # one record per chunk: what random access needs


class DatasetError(ValueError):
    """A folder that cannot be written to as asked."""


class SetAside(NamedTuple):
    """A scene that cannot be packed."""

    name: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """How a packing job is cut into shards. Equal plans write equal files."""

    total: int
    """Scenes of the input."""
    source: dict[str, Any]
    """What the scenes come from, JSON: a rerun with another source is refused."""
    scenes_per_shard: int = DEFAULT_SCENES_PER_SHARD

    def __post_init__(self) -> None:
        if self.total < 1 or self.scenes_per_shard < 1:
            raise DatasetError(
                f"expected at least 1 scene and 1 scene per shard, got {self.total}, {self.scenes_per_shard}"
            )

    @property
    def num_shards(self) -> int:
        return -(-self.total // self.scenes_per_shard)

    def scenes(self, shard: int) -> range:
        """Input indices of a shard."""
        start = shard * self.scenes_per_shard
        return range(start, min(start + self.scenes_per_shard, self.total))

    def file(self, shard: int) -> str:
        """Name of a shard's record file."""
        return f"{DATASET}-{SPLIT}.array_record-{shard:05d}-of-{self.num_shards:05d}"

    def seal(self, shard: int) -> str:
        """Name of the JSON file that says that a shard is finished."""
        return f"shards/{shard:05d}-of-{self.num_shards:05d}.json"

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": schema.SCHEMA_VERSION,
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
    set_aside: int
    finished: bool
    """All shards are there and the metadata is written."""


# ------------------------------------------------------------------------------------------------ writing


def write(
    output: str | Path,
    plan: Plan,
    scenes: Callable[[range], Iterable[Scene | SetAside]],
    *,
    process_index: int = 0,
    process_count: int = 1,
    photo: Callable[[Scene], bytes] | None = None,
    provenance: dict[str, Any] | None = None,
    on_shard: Callable[[int], None] | None = None,
) -> Progress:
    """Writes the unfinished ones of the shards `process_index`, `process_index + process_count`, ...

    `scenes` yields the scenes of a range of input indices, or why one is set aside; `photo` gives JPEG bytes. Whoever finds
    all shards finished writes the metadata. Call again to resume. `on_shard` is told each shard that was written.

    Raises DatasetError where the folder belongs to another plan; errors of `scenes` other than SceneError and of the disk
    pass through, and the shard under way leaves nothing.
    """
    if not 0 <= process_index < process_count:
        raise DatasetError(f"expected 0 <= process_index < process_count, got {process_index} of {process_count}")
    folder = Path(output)
    _claim(folder, plan)
    for shard in range(process_index, plan.num_shards, process_count):
        if read_seal(folder, plan, shard) is None:
            _write_shard(folder, plan, shard, scenes(plan.scenes(shard)), photo, provenance)
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
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in aside)
        _publish(folder / "set_aside.jsonl", lines.encode())
        if scenes:
            _write_metadata(folder, plan, done)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
    people = sum(sum(seal["people"]) for seal in done)
    return Progress(len(done), plan.num_shards, scenes, people, len(aside), finished and scenes > 0)


def read_seal(folder: Path, plan: Plan, shard: int) -> dict[str, Any] | None:
    """The JSON of a finished shard, None where it has to be written. Cheap: sizes and the record count, not the checksum."""
    path = folder / plan.file(shard)
    try:
        seal = json.loads((folder / plan.seal(shard)).read_bytes())
        if path.stat().st_size != seal["num_bytes"] or seal["scenes"] != _span(plan, shard):
            return None
        return seal if _num_records(path) == seal["num_records"] else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def verify(output: str | Path) -> list[str]:
    """Full check of a dataset's files against their checksums; the problems found, none if sound."""
    folder = Path(output)
    problems = []
    for path in sorted((folder / "shards").glob("*.json")):
        seal = json.loads(path.read_bytes())
        try:
            if _sha256(folder / seal["file"]) != seal["sha256"]:
                problems.append(f"{seal['file']}: the checksum differs from {path.name}")
        except OSError as error:
            problems.append(f"{seal['file']}: {error.strerror}")
    return problems


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
        _publish(path, json.dumps(wanted, indent=1).encode())
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        raise DatasetError(f"{path}: not JSON; choose an empty folder") from None
    if found != wanted:
        differ = sorted(key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key])
        raise DatasetError(f"{path}: the folder was begun with another {', '.join(differ)}; choose another folder")


def _write_shard(
    folder: Path,
    plan: Plan,
    shard: int,
    scenes: Iterable[Scene | SetAside],
    photo: Callable[[Scene], bytes] | None,
    provenance: dict[str, Any] | None,
) -> None:
    seal: dict[str, Any] = {
        "file": plan.file(shard), "scenes": _span(plan, shard), "names": [], "people": [], "has_start": [], "set_aside": [],
    }  # fmt: skip
    path = folder / plan.file(shard)
    temporary = folder / f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp"
    try:
        writer = array_record_module.ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)
        try:
            for scene in scenes:
                record = _record(scene, photo, provenance)
                if isinstance(record, SetAside):
                    seal["set_aside"].append({"scene": record.name, "reason": record.reason})
                    logging.warning("set aside: %s: %s", record.name, record.reason)
                    continue
                assert isinstance(scene, Scene)
                writer.write(record)
                seal["names"].append(scene.name)
                seal["people"].append(len(scene))
                seal["has_start"].append(scene.start is not None)
        finally:
            writer.close()
        seal["num_records"], seal["num_bytes"] = len(seal["names"]), temporary.stat().st_size
        _sync(temporary)
        # A full disk may pass unnoticed by the writer, but not by the reader.
        if _num_records(temporary) != seal["num_records"]:
            raise OSError(f"{temporary}: {seal['num_records']} records were written, but not all can be read back")
        seal["sha256"] = _sha256(temporary)
        os.replace(temporary, path)
        _sync(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _publish(folder / plan.seal(shard), json.dumps(seal).encode())


def _record(
    scene: Scene | SetAside, photo: Callable[[Scene], bytes] | None, provenance: dict[str, Any] | None
) -> bytes | SetAside:
    if isinstance(scene, SetAside):
        return scene
    try:
        schema.check_count(len(scene), f"scene {scene.name}")
        validate_scene(scene, "packing")
        return schema.serialize(schema.encode(scene, photo(scene) if photo else b"", provenance))
    except SceneError as error:
        return SetAside(scene.name, str(error))


def _write_metadata(folder: Path, plan: Plan, seals: list[dict[str, Any]]) -> None:
    """`dataset_info.json` and `features.json`, made beside and moved in: a reader never sees half of one."""
    import tensorflow_datasets as tfds

    split = tfds.core.SplitInfo(
        name=SPLIT,
        shard_lengths=[seal["num_records"] for seal in seals],
        num_bytes=sum(seal["num_bytes"] for seal in seals),
    )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".metadata-") as scratch:
        (Path(scratch) / plan.file(0)).touch()  # TFDS takes name and format from the files it finds
        tfds.folder_dataset.write_metadata(
            data_dir=scratch,
            features=schema.features(),
            split_infos=[split],
            version=f"{schema.SCHEMA_VERSION}.0.0",
            filename_template=TEMPLATE,
            check_data=False,
            description="Expert cues of people in images, one record per image.",
        )
        for name in ("features.json", "dataset_info.json"):
            _sync(Path(scratch) / name)
            os.replace(Path(scratch) / name, folder / name)
    _sync(folder)


def _publish(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name, flushes and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _num_records(path: Path) -> int:
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        return reader.num_records() if reader.ok() else -1
    finally:
        reader.close()
