"""What a job stores per scene: one record with a row per input person, of the fields of `FIELDS`.

The arrays with a row per person are those of `annyfit_jax.people.fitted.ROWS`. Start and loss curves are not in it; the `.npz`
per scene of small jobs has them. A table of all fields stands in `docs/formats.md`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from annyfit_jax.inputs.cue_schema import content_hash as hash_cues
from annyfit_jax.people.fitted import FACTS, FORMAT_VERSION, ROWS, Fact, SceneFit, columns
from annyfit_jax.people.scene import Scene
from annyfit_jax.records import wire
from annyfit_jax.records.wire import Field, Record

ROW_VERSION = FORMAT_VERSION
"""Older versions, still read, have fewer of the fields of `fitted.ROWS`."""
PARAMETERS = ("root_rotvec", "transl", "pose", "shape")
_PERSON_TEXTS = ("person_ids", "person_keys", "status", "notes")


def _as_in_fit(name: str, kind: Any, shape: tuple[int | None, ...] = (), dtype: str = "float64") -> Field:
    fact = FACTS[name]
    return Field(kind, shape, dtype, fact.since, unit=fact.unit, meaning=fact.meaning)


def _person_array(name: str, fact: Fact) -> Field:
    return Field(
        "array", (None, *fact.row_shape()), fact.kind, fact.since, per_person=True, unit=fact.unit, meaning=fact.meaning
    )


FIELDS: dict[str, Field] = {
    "row_version": Field("int", meaning="version of this table"),
    "scene_index": Field("int", meaning="position in the input"),
    "name": _as_in_fit("name", "text"),
    "scene_status": Field("text", meaning="`ok` = the scene was fitted, else why not, as a word"),
    "scene_reason": Field("text", meaning="why not, in full"),
    "content_hash": Field("text", meaning="names the cues that the rows were computed from"),
    **{
        name: _as_in_fit(name, "text")
        for name in ("config_hash", "asset_version", "image_path", "lens", "start_origin")
    },
    "scene_notes": _as_in_fit("scene_notes", "texts"),
    "person_ids": _as_in_fit("person_ids", "texts"),
    "person_keys": Field("texts", meaning="names of the results, `person_key`"),
    "status": _as_in_fit("status", "texts"),
    "notes": _as_in_fit("notes", "texts"),
    "image_size": _as_in_fit("image_size", "array", (2,), "int32"),
    "K": _as_in_fit("K", "array", (3, 3), "float32"),
    "person_index": Field("array", (None,), "int32", meaning="row in the input scene, -1 = set aside by the reader"),
    **{name: _person_array(name, fact) for name, fact in ROWS.items()},
}


@dataclass
class SceneRow:
    """The outcome of one scene and its n people (see the module's table)."""

    scene_index: int
    name: str
    scene_status: str = "ok"
    scene_reason: str = ""
    content_hash: str = ""
    config_hash: str = ""
    asset_version: str = ""
    image_path: str = ""
    lens: str = ""
    start_origin: str = ""
    scene_notes: list[str] = field(default_factory=list)
    image_size: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int32))
    K: np.ndarray = field(default_factory=lambda: np.full((3, 3), np.nan, np.float32))
    person_ids: list[str] = field(default_factory=list)
    person_keys: list[str] = field(default_factory=list)
    person_index: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    status: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """Per-person arrays by name."""

    def __len__(self) -> int:
        return len(self.status)

    @property
    def num_ok(self) -> int:
        """People with a fit."""
        return self.status.count("ok")

    @property
    def retryable(self) -> bool:
        """Whether another attempt may do better: something failed, rather than was left out."""
        return any(status.startswith("failed:") for status in (self.scene_status, *self.status))


@dataclass(frozen=True)
class SceneInfo:
    """What a row needs of a scene, kept while the scene itself is being fitted."""

    index: int
    name: str
    content_hash: str
    config_hash: str
    person_ids: tuple[str, ...]
    image_size: tuple[int, int] = (0, 0)
    intrinsics: np.ndarray | None = None
    image_path: str = ""
    set_aside: tuple[tuple[str, str], ...] = ()
    """(person id, reason) of people that the reader set aside."""
    notes: tuple[str, ...] = ()


def scene_info(index: int, name: str, scene: Scene, config_hash: str) -> SceneInfo:
    """Of a scene that was read; its arrays may still be unusable."""
    n = len(scene)
    ids = [str(person) for person in scene.person_ids] if len(scene.person_ids) == n else [str(i) for i in range(n)]
    try:
        content, size = hash_cues(scene), (int(scene.image_size[0]), int(scene.image_size[1]))
        intrinsics = np.asarray(scene.intrinsics, np.float32).reshape(3, 3)
    except (TypeError, ValueError, OverflowError):  # arrays of the wrong kind; validation says what is wrong with them
        content, size, intrinsics = _hash_of("unhashable", name), (0, 0), None
    return SceneInfo(
        index, name, content, config_hash, tuple(ids), size, intrinsics, scene.image_path or "",
        tuple((str(person), str(reason)) for person, reason in scene.skipped), tuple(scene.notes),
    )  # fmt: skip


def unread_info(index: int, name: str, num_people: int, config_hash: str) -> SceneInfo:
    """Of a scene that cannot be read; `num_people` where the source knows it, else 0."""
    return SceneInfo(index, name, _hash_of("unread", name), config_hash, tuple(str(i) for i in range(num_people)))


def _hash_of(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def person_key(content_hash: str, person: str, config_hash: str, asset_version: str) -> str:
    """32 hex digits that name a result: the scene's cues, which person of it, config, body model."""
    return _hash_of(content_hash, person, config_hash, asset_version)[:32]


# ------------------------------------------------------------------------------------------------ making rows


def row_of_fit(info: SceneInfo, fit: SceneFit) -> SceneRow:
    """The row of a fitted scene. Raises ValueError where the fit has another number of people than the scene."""
    n = len(info.person_ids)
    if len(fit) != n:
        raise ValueError(f"scene {info.name}: the fit has {len(fit)} people, expected {n}")
    row = SceneRow(
        info.index, info.name, content_hash=info.content_hash, config_hash=fit.config_hash,
        asset_version=fit.asset_version, image_path=fit.image_path, lens=fit.lens, start_origin=fit.start_origin,
        scene_notes=[str(note) for note in fit.scene_notes],
        image_size=np.asarray(fit.image_size, np.int32), K=np.asarray(fit.K, np.float32),
        person_ids=list(info.person_ids), person_index=np.arange(n, dtype=np.int32),
        status=[str(s) for s in fit.status], notes=[str(note) for note in fit.notes],
        arrays={name: np.asarray(getattr(fit, name), fact.kind) for name, fact in ROWS.items()},
    )  # fmt: skip
    return _completed(row, info)


def row_without_fit(info: SceneInfo, status: str, reason: str, asset_version: str) -> SceneRow:
    """The row of a scene of which nobody was fitted, and why: `failed:<word>` or `skipped:<word>`."""
    n = len(info.person_ids)
    row = SceneRow(
        info.index, info.name, scene_status=status, scene_reason=reason, content_hash=info.content_hash,
        config_hash=info.config_hash, asset_version=asset_version, image_path=info.image_path,
        scene_notes=list(info.notes), image_size=np.array(info.image_size, np.int32),
        K=np.full((3, 3), np.nan, np.float32) if info.intrinsics is None else info.intrinsics,
        person_ids=list(info.person_ids), person_index=np.arange(n, dtype=np.int32),
        status=[status] * n, notes=[""] * n,
        arrays={name: fact.absent(n) for name, fact in ROWS.items()},
    )  # fmt: skip
    return _completed(row, info)


def _completed(row: SceneRow, info: SceneInfo) -> SceneRow:
    """Adds the people that the reader set aside, and the keys."""
    aside = info.set_aside
    arrays = {name: np.concatenate([array, ROWS[name].absent(len(aside))]) for name, array in row.arrays.items()}
    people = [*(str(i) for i in row.person_index), *(f"set aside {person}" for person, _ in aside)]
    return replace(
        row,
        person_ids=[*row.person_ids, *(person for person, _ in aside)],
        person_keys=[person_key(row.content_hash, person, row.config_hash, row.asset_version) for person in people],
        person_index=np.concatenate([row.person_index, np.full(len(aside), -1, np.int32)]),
        status=[*row.status, *(f"skipped:{word_of(reason)}" for _, reason in aside)],
        notes=[*row.notes, *(reason for _, reason in aside)],
        arrays=arrays,
    )


def word_of(reason: str) -> str:
    """A reason in full as a word that reasons can be counted by: what stands before the first colon or digit."""
    head = re.split(r"[:\d]", reason.lower(), maxsplit=1)[0]
    return re.sub(r"[^a-z]+", "_", head).strip("_")[:48] or "set_aside"


# ------------------------------------------------------------------------------------------------ records


def features():
    """The TFDS features of a record."""
    return wire.features(FIELDS)


def encode(row: SceneRow) -> bytes:
    """A record; equal rows give equal bytes."""
    n = len(row)
    for name in (*_PERSON_TEXTS, "person_index"):
        if len(getattr(row, name)) != n:
            raise ValueError(f"scene {row.name}: {name}: expected {n} entries, got {len(getattr(row, name))}")
    for name, fact in ROWS.items():
        expected = (n, *fact.row_shape())
        if row.arrays[name].shape != expected:
            raise ValueError(f"scene {row.name}: {name}: expected shape {expected}, got {row.arrays[name].shape}")
    own = {name: getattr(row, name) for name in FIELDS if name not in ROWS and name != "row_version"}
    return wire.serialize({"row_version": ROW_VERSION, **own, **row.arrays}, FIELDS)


def decode(serialized: bytes, where: str = "record") -> SceneRow:
    """The row of a record. Raises SceneError (record, field, expectation) on a broken one."""
    record = Record(serialized, where)
    version = record.read("row_version", FIELDS["row_version"])
    if version not in range(1, ROW_VERSION + 1):
        raise ValueError(f"{where}: written by another version of this program")
    stored = {name: field for name, field in FIELDS.items() if field.since <= version}
    values = {name: record.read(name, field) for name, field in stored.items() if name != "row_version"}
    n = len(values["status"])
    arrays = {name: values[name] if name in values else fact.absent(n) for name, fact in ROWS.items()}
    return SceneRow(**{k: v for k, v in values.items() if k not in ROWS}, arrays=arrays)


# ------------------------------------------------------------------------------------------------ tables


def counts(rows: Sequence[SceneRow]) -> dict[str, Any]:
    """Totals of some scenes, JSON: scenes and people by status."""
    return {
        "scenes": dict(sorted(Counter(row.scene_status for row in rows).items())),
        "people": dict(sorted(Counter(status for row in rows for status in row.status).items())),
        "retryable": sum(row.retryable for row in rows),
    }


def people_table(row: SceneRow) -> list[dict[str, Any]]:
    """One JSON-able entry per person, a line of `people.jsonl`: the fields and parts that `Fact.listed` names."""

    def number(value: np.floating) -> float | None:
        return round(float(value), 4) if np.isfinite(value) else None

    def listed(i: int) -> dict[str, float | None]:
        values: dict[str, Any] = {}
        for name, fact in ROWS.items():
            if fact.listed:
                values |= columns(name, row.arrays[name][i])
        return {name: number(values[name]) for fact in ROWS.values() for name in fact.listed}

    return [
        {
            "scene": row.name,
            "person": row.person_ids[i],
            "status": row.status[i],
            **listed(i),
            "notes": row.notes[i],
            "key": row.person_keys[i],
        }
        for i in range(len(row))
    ]
