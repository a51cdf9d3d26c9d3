"""What is to be stored, how it is cut into units, and how a later run goes on.

The settings of a store (`job.json`, `plan.json`) never change. Its scenes may: new ones become units of their own behind the
others, in an order that stays, so that photos can be added to a collection. A scene that is gone from the input stops the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from absl import logging

from annyfit_jax.records.wire import Field
from annyfit_jax.store.locations import Location

FORMAT = 2
DEFAULT_SCENES_PER_SHARD = 512
_SHOWN_SETTINGS = 5


class StoreError(ValueError):
    """A folder that cannot be used as asked."""


@dataclass(frozen=True)
class Kind:
    """What a store holds."""

    name: str
    version: int
    """Of the table of fields; becomes the dataset's version."""
    fields: Mapping[str, Field] = field(repr=False)
    description: str
    split: str = "train"
    facts: tuple[str, ...] = ()
    """Per record: lists in the commit records."""
    identity: str = "plan.json"
    """The file with the settings."""
    program: str = "another program"
    """Who writes such folders, for messages."""


@dataclass(frozen=True)
class Plan:
    """What a run wants to be in a store. Equal plans write equal files."""

    total: int
    """Scenes of the input."""
    source: Mapping[str, Any]
    """What decides the records besides the scenes, JSON: a rerun with other settings is refused."""
    scenes_per_shard: int = DEFAULT_SCENES_PER_SHARD
    names: Sequence[str] = field(default=(), repr=False)
    """Unique names of the scenes in input order; empty where a scene is its number."""
    stamp: Callable[[int], str] | None = field(default=None, repr=False)
    """A cheap fingerprint of what an input scene is made from, by its index: a unit of which one has changed is done again."""
    kind: Kind = field(kw_only=True)

    def __post_init__(self) -> None:
        if self.total < 1 or self.scenes_per_shard < 1:
            raise StoreError(
                f"expected at least 1 scene and 1 scene per shard, got {self.total} and {self.scenes_per_shard}"
            )

    @property
    def num_shards(self) -> int:
        """How many units a new store has; the last may be shorter."""
        return -(-self.total // self.scenes_per_shard)

    @property
    def described(self) -> Mapping[str, Any]:
        """What the settings say besides the cut."""
        return {"source": self.source}

    def to_json(self) -> dict[str, Any]:
        """The settings as they are stored and compared."""
        settings = {
            "format": FORMAT, "schema_version": self.kind.version, "scenes_per_shard": self.scenes_per_shard, **self.described,
        }  # fmt: skip
        return json.loads(json.dumps(settings))


@dataclass(frozen=True)
class Cut:
    """Units of consecutive scenes: those of each part are cut by themselves, so that a growth leaves the others as they are."""

    parts: tuple[int, ...]
    """Scenes of the first run, then those that each growth added."""
    scenes_per_shard: int

    @property
    def total(self) -> int:
        """Scenes."""
        return sum(self.parts)

    @property
    def spans(self) -> list[range]:
        """The scenes of every unit, by their positions in the store."""
        spans, start = [], 0
        for size in self.parts:
            stop = start + size
            spans += [range(k, min(k + self.scenes_per_shard, stop)) for k in range(start, stop, self.scenes_per_shard)]
            start = stop
        return spans


@dataclass(frozen=True)
class Opened:
    """A store's state as `open_plan` found or made it."""

    cut: Cut
    order: Sequence[int]
    """The input index of every position of the store."""
    grown: int = 0
    """Scenes that were added to a store that was there before."""


def open_plan(folder: Location, plan: Plan) -> Opened:
    """Begins a store or goes on with one. Raises StoreError naming the settings that differ, or a scene that is gone."""
    path, wanted = folder / plan.kind.identity, plan.to_json()
    stored = path.read_json()
    if stored is None:
        if path.exists():
            raise StoreError(f"{path}: not JSON; choose an empty folder")
        if (folder / "dataset_info.json").exists() or any("array_record-" in name for name in folder.files()):
            raise StoreError(f"{folder}: holds a dataset that no {path.name} explains; choose an empty folder")
        parts = [plan.total]
        _put_names(folder, 0, plan.names)
        # Of two runs that start together with different flags, the second must notice.
        path.put_json({**wanted, "parts": parts}, if_absent=True)
        stored = path.read_json()
    stored = _of_today(folder, stored, plan, wanted)
    settings = {key: value for key, value in stored.items() if key != "parts"}
    if settings != wanted:
        raise StoreError(
            f"{path}: the folder belongs to a job with another {', '.join(differences(settings, wanted)) or 'format'}; "
            "choose another --output, or --overwrite to do everything again"
        )
    parts = list(stored["parts"])
    if not plan.names:
        order: Sequence[int] = range(plan.total)
        _check_gone(path, sum(parts) - plan.total, "")
        added: list[int] = list(range(sum(parts), plan.total))
    else:
        known = read_names(folder, len(parts))
        place = {name: index for index, name in enumerate(plan.names)}
        gone = [name for name in known if name not in place]
        _check_gone(path, len(gone), gone[0] if gone else "")
        added = sorted(place[name] for name in place.keys() - set(known))
        order = [*(place[name] for name in known), *added]
    if added:
        logging.info(
            "%s: %d scenes are new: %d units more", folder, len(added), -(-len(added) // plan.scenes_per_shard)
        )
        _put_names(folder, len(parts), [plan.names[i] for i in added] if plan.names else ())
        parts.append(len(added))
        path.put_json({**wanted, "parts": parts})
    return Opened(Cut(tuple(parts), plan.scenes_per_shard), order, len(added))


def read_cut(folder: Location, kind: Kind) -> tuple[Cut, dict[str, Any]]:
    """How an existing store is cut, and its settings. Raises StoreError where the folder has none."""
    path = folder / kind.identity
    content = path.read_json()
    try:
        assert isinstance(content, dict)
        if content.get("format") == 1:  # fit jobs of version 0.1
            return Cut((int(content["source"]["scenes"]),), int(content["scenes_per_shard"])), content
        if content["format"] != FORMAT:
            raise StoreError(f"{path}: format {content['format']}, expected {FORMAT}")
        return Cut(tuple(map(int, content["parts"])), int(content["scenes_per_shard"])), content
    except (AssertionError, KeyError, TypeError) as error:
        raise StoreError(f"{folder}: no readable {path.name}, expected the --output of {kind.program}") from error


def read_names(folder: Location, parts: int) -> list[str]:
    """The scene names of a store in its order. Raises StoreError."""
    names: list[str] = []
    for part in range(parts):
        path = folder / f"names-{part:05d}.json"
        content = path.read_json()
        if not isinstance(content, list):
            raise StoreError(f"{path}: the names of the scenes are missing; choose another --output")
        names += content
    return names


def stamp_of(stamps: Sequence[str]) -> str:
    """The fingerprint of a unit's input."""
    return hashlib.sha256("|".join(stamps).encode()).hexdigest()[:16]


def hash_names(names: Sequence[str]) -> str:
    """Order-dependent checksum of scene names, as version 0.1 stored it."""
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()


def _put_names(folder: Location, part: int, names: Sequence[str]) -> None:
    if names:
        (folder / f"names-{part:05d}.json").put(json.dumps(list(names)).encode())


def _check_gone(path: Location, count: int, first: str) -> None:
    if count > 0:
        example = f", the first is {first}" if first else ""
        raise StoreError(
            f"{path}: {count} scenes of the job are not in the input any more{example}; bring them back, choose another "
            "--output, or --overwrite to do everything again"
        )


def _of_today(folder: Location, stored: Any, plan: Plan, wanted: dict[str, Any]) -> dict[str, Any]:
    """The settings of a store; those of an unfinished fit job of version 0.1 are rewritten, and its units stay."""
    path = folder / plan.kind.identity
    if not isinstance(stored, dict):
        raise StoreError(f"{path}: not a table of settings; choose an empty folder")
    if stored.get("format") == FORMAT:
        return stored
    source = stored.get("source", {})
    same = stored.get("format") == 1 and source.get("names_sha256") == hash_names(plan.names)
    new = {**stored, "format": FORMAT, "schema_version": plan.kind.version, "source": {"kind": source.get("kind")}}
    if not same or new != wanted:
        raise StoreError(
            f"{path}: begun by version 0.1 with other settings or scenes, or as another kind of dataset; it can be read, but "
            "not gone on with: choose another --output, or --overwrite"
        )
    _put_names(folder, 0, plan.names)
    upgraded = {**new, "parts": [plan.total]}
    path.put_json(upgraded)
    logging.info("%s: begun by version 0.1; its finished units stay", folder)
    return upgraded


# ------------------------------------------------------------------------------------------------ what differs


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Readable names of the settings that differ, each with its value there and here."""
    names = []
    for key, value in wanted.items():
        if stored.get(key) == value:
            continue
        if key == "configs":
            names += _changed_configs(stored.get(key), value)
        else:
            names += [
                f"{path} ({old!s:.40} there, {new!s:.40} here)"
                for path, old, new in _changed(stored.get(key), value, key)
            ]
    return names


def _changed_configs(stored: Any, wanted: Mapping[str, Any]) -> list[str]:
    """`config: path (value there, value here)` of the settings that differ, at most a few of them."""
    if not isinstance(stored, dict) or len(stored) != len(wanted):
        return ["number of configs"]
    paths = []
    # A config's place is that of its hash, which differs: configs are compared in the order in which they were given.
    for there, here in zip(stored.values(), wanted.values()):
        paths += _changed(there, here, "")
    if not paths:
        return [f"config ({', '.join(sorted(stored))} there, {', '.join(sorted(wanted))} here)"]
    shown = [f"config: {path} ({old!s:.40} there, {new!s:.40} here)" for path, old, new in paths[:_SHOWN_SETTINGS]]
    more = len(paths) - len(shown)
    return [*shown, *([f"{more} more settings of the config"] if more else [])]


def _changed(there: Any, here: Any, path: str) -> list[tuple[str, Any, Any]]:
    """(path as `--set` takes it, value there, value here) of every leaf that differs."""
    if there == here:
        return []
    if isinstance(there, dict) and isinstance(here, dict):
        return [
            found
            for name in [*here, *(name for name in there if name not in here)]
            for found in _changed(there.get(name), here.get(name), f"{path}.{name}" if path else str(name))
        ]
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        # Stages are called by their names, as in `--set`.
        labels = [entry.get("name", i) if isinstance(entry, dict) else i for i, entry in enumerate(here)]
        return [
            found
            for label, old, new in zip(labels, there, here, strict=True)
            for found in _changed(old, new, f"{path}.{label}" if path else str(label))
        ]
    return [(path, there, here)]
