"""What a job is: how its scenes are cut into units, and the identity that a rerun must share."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annyfit_jax.jobs.durable_files import JobWriteError, publish_json
from annyfit_jax.jobs.hosts import Process
from annyfit_jax.records.files import read_json

DATASET, SPLIT = "fits", "train"
DEFAULT_SCENES_PER_SHARD = 256
_SHOWN_SETTINGS = 5
JOB_FORMAT = 1
_OWN_FILES = (
    "dataset_info.json",
    "features.json",
    "people.jsonl",
    "scenes_set_aside.jsonl",
    "config.json",
    "finished.json",
)


class JobError(ValueError):
    """An output folder that cannot be used as asked."""


@dataclass(frozen=True)
class Plan:
    """Units of consecutive scenes: unit k holds scenes [k s, (k + 1) s)."""

    total: int
    """Scenes of the job."""
    scenes_per_shard: int = DEFAULT_SCENES_PER_SHARD

    def __post_init__(self) -> None:
        if self.total < 1 or self.scenes_per_shard < 1:
            raise JobError(
                f"expected at least 1 scene and 1 scene per shard, got {self.total} and {self.scenes_per_shard}"
            )

    @property
    def num_units(self) -> int:
        """How many units of work, a shard each; the last may be shorter."""
        return -(-self.total // self.scenes_per_shard)

    def scenes(self, unit: int) -> range:
        """Input indices of a unit."""
        start = unit * self.scenes_per_shard
        return range(start, min(start + self.scenes_per_shard, self.total))

    def shard(self, unit: int) -> str:
        """File name of a unit's records."""
        return f"{DATASET}-{SPLIT}.array_record-{unit:05d}-of-{self.num_units:05d}"

    def share(self, process: Process) -> range:
        """The units of one process: every n-th, so that all get easy and hard parts of a sorted collection."""
        return range(process.index, self.num_units, process.count)


@dataclass(frozen=True)
class Identity:
    """Everything that decides the rows of a job."""

    kind: str
    """Of the source, e.g. `coco`."""
    names_sha256: str
    """Of the scene names in order."""
    plan: Plan
    configs: Mapping[str, Any]
    """Config hash -> resolved config, JSON. Several where the scenes choose (with or without a start)."""
    asset_version: str
    package_version: str
    options: Mapping[str, Any]
    """Options of the reader, JSON."""

    @property
    def config_hash(self) -> str:
        """Of all configs together; stands in for a scene's own where that is unknown."""
        return hashlib.sha256("|".join(sorted(self.configs)).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """As stored in `job.json`: a continued job must agree with it."""
        content = {
            "format": JOB_FORMAT,
            "source": {"kind": self.kind, "scenes": self.plan.total, "names_sha256": self.names_sha256},
            "options": dict(self.options),
            "scenes_per_shard": self.plan.scenes_per_shard,
            "configs": dict(self.configs),
            "asset_version": self.asset_version,
            "package_version": self.package_version,
        }
        return json.loads(json.dumps(content))


def hash_names(names: Sequence[str]) -> str:
    """Order-dependent checksum of scene names."""
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()


def open_job(folder: Path, identity: Identity, *, overwrite: bool = False) -> None:
    """Writes `job.json`, or checks that the folder's is the same. `overwrite` first removes what an earlier job left.

    Raises JobError naming what differs.
    """
    if overwrite:
        remove_job(folder)
    path, wanted = folder / "job.json", identity.to_json()
    if not path.exists():
        if any(folder.glob("*.array_record-*")) or (folder / "dataset_info.json").exists():
            raise JobError(f"{folder}: holds a dataset that no job.json explains; choose an empty folder")
        # Of two processes that start together with different flags, the second must notice.
        publish_json(path, wanted, first_wins=True)
    stored = read_json(path)
    if stored != wanted:
        raise JobError(
            f"{path}: the folder belongs to a job with another {', '.join(_differences(stored, wanted)) or 'format'}; "
            "choose another --output, or --overwrite to fit everything again"
        )


def read_plan(folder: Path) -> tuple[Plan, dict[str, Any]]:
    """Plan and identity of an existing job. Raises JobError where the folder has none."""
    content = read_json(folder / "job.json")
    try:
        assert isinstance(content, dict)
        if content["format"] != JOB_FORMAT:
            raise JobError(f"{folder / 'job.json'}: format {content['format']}, expected {JOB_FORMAT}")
        return Plan(int(content["source"]["scenes"]), int(content["scenes_per_shard"])), content
    except (AssertionError, KeyError, TypeError) as error:
        raise JobError(f"{folder}: no readable job.json, expected the --output of experiments.fit") from error


def remove_job(folder: Path) -> None:
    """Removes the files of a job, and nothing else; `job.json` goes last but the fits per scene, which are replaced, stay."""
    try:
        for name in ("done", "claims"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for path in (*folder.glob(f"{DATASET}-{SPLIT}.array_record-*"), *folder.glob("progress-*-of-*.jsonl")):
            path.unlink(missing_ok=True)
        for name in (*_OWN_FILES, "job.json"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise JobWriteError(f"{folder}: cannot be cleared ({error})") from error


def _changed_settings(stored: Any, wanted: Mapping[str, Any]) -> list[str]:
    """`config: path (value there, value here)` of the settings that differ, at most a few of them."""
    if not isinstance(stored, dict) or len(stored) != len(wanted):
        return ["number of configs"]
    paths = []
    # A config's place is that of its hash, which differs: configs are compared in the order in which they were given.
    for there, here in zip(stored.values(), wanted.values()):
        paths += _changed_paths(there, here, "")
    if not paths:
        return [f"config ({', '.join(sorted(stored))} there, {', '.join(sorted(wanted))} here)"]
    shown = [f"config: {path} ({old!s:.40} there, {new!s:.40} here)" for path, old, new in paths[:_SHOWN_SETTINGS]]
    more = len(paths) - len(shown)
    return [*shown, *([f"{more} more settings of the config"] if more else [])]


def _changed_paths(there: Any, here: Any, path: str) -> list[tuple[str, Any, Any]]:
    """(path as `--set` takes it, value there, value here) of every leaf that differs."""
    if there == here:
        return []
    if isinstance(there, dict) and isinstance(here, dict):
        return [
            found
            for name in [*here, *(name for name in there if name not in here)]
            for found in _changed_paths(there.get(name), here.get(name), f"{path}.{name}" if path else str(name))
        ]
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        # Stages are called by their names, as in `--set`.
        labels = [entry.get("name", i) if isinstance(entry, dict) else i for i, entry in enumerate(here)]
        return [
            found
            for label, old, new in zip(labels, there, here, strict=True)
            for found in _changed_paths(old, new, f"{path}.{label}")
        ]
    return [(path, there, here)]


def _differences(stored: Any, wanted: Mapping[str, Any]) -> list[str]:
    """Readable names of the entries that differ, configs down to the setting."""
    if not isinstance(stored, dict):
        return ["format"]
    names = []
    for key, value in wanted.items():
        if stored.get(key) == value:
            continue
        if isinstance(value, dict) and isinstance(stored.get(key), dict) and key != "configs":
            names += [
                f"{key}.{k} ({stored[key].get(k)} there, {value.get(k)} here)"
                for k in sorted(set(value) | set(stored[key]))
                if stored[key].get(k) != value.get(k)
            ]
        elif key == "configs":
            names += _changed_settings(stored.get(key), value)
        else:
            names.append(f"{key} ({stored.get(key)} there, {value} here)")
    return names
