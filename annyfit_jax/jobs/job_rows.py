"""What a job stores per scene: one record with a row per input person, of the fields below.

| field | shape | meaning |
|---|---|---|
| `row_version`, `scene_index`, `name` | (), (), text | version of this table; position and name in the input |
| `scene_status`, `scene_reason` | text | `ok` = the scene was fitted; else why not, as a word and in full |
| `content_hash`, `config_hash`, `asset_version` | text | what the rows were computed from |
| `image_path`, `image_size`, `K`, `start_origin`, `scene_notes` | text, (2,), (3, 3), text, texts | as in `SceneFit` |
| `person_ids`, `person_keys` | n texts | the input's name of a person; `person_key` |
| `person_index` | (n,) | row in the input scene, -1 = set aside by the reader |
| `status`, `notes` | n texts | `ok`, `failed:<reason>` or `skipped:<reason>`; remarks separated by `;` |
| `root_rotvec`, `transl`, `pose`, `shape` | (n, 3), (n, 3), (n, 162, 3), (n, 6) | as in `SceneFit`, NaN without a fit |
| `height_m`, `depth_m`, `reprojection_px`, `start_reprojection_px`, `age_word`, `gender_word` | (n,) | as in `SceneFit` |
| `keypoints_2d`, `fitted_keypoints_3d` | (n, 17, 3) | as in `SceneFit` |
| those of `results.ADDED` | (n, ...) | as in `SceneFit`: depth cue, spreads, convergence; NaN = unknown; since version 2 or 3 |

Start and loss curves are not in it; the `.npz` per scene of small jobs has them.
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
from annyfit_jax.people.scene import Scene
from annyfit_jax.records import wire
from annyfit_jax.records.fit_files import ADDED, ADDED_LATER, SceneFit
from annyfit_jax.records.wire import Field, Record

ROW_VERSION = 3
"""Version 1, still read, has none of `fit_files.ADDED`, version 2 none of `ADDED_LATER`."""
PARAMETERS = ("root_rotvec", "transl", "pose", "shape")
_ARRAYS: dict[str, tuple[int, ...]] = {
    "root_rotvec": (3,), "transl": (3,), "pose": (162, 3), "shape": (6,), "height_m": (), "depth_m": (),
    "reprojection_px": (), "start_reprojection_px": (), "age_word": (), "gender_word": (), "keypoints_2d": (17, 3),
    "fitted_keypoints_3d": (17, 3), **ADDED,
}  # fmt: skip
"""Per-person float32 arrays and the shape of a row."""
_SCENE_TEXTS = (
    "name", "scene_status", "scene_reason", "content_hash", "config_hash", "asset_version", "image_path", "start_origin",
)  # fmt: skip
_TEXT_LISTS = ("scene_notes", "person_ids", "person_keys", "status", "notes")
_PERSON_TEXTS = _TEXT_LISTS[1:]

FIELDS: dict[str, Field] = {
    "row_version": Field("int"),
    "scene_index": Field("int"),
    **dict.fromkeys(_SCENE_TEXTS, Field("text")),
    **dict.fromkeys(_TEXT_LISTS, Field("texts")),
    "image_size": Field("array", (2,), "int32"),
    "K": Field("array", (3, 3), "float32"),
    "person_index": Field("array", (None,), "int32"),
    **{name: Field("array", (None, *shape), "float32") for name, shape in _ARRAYS.items()},
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
        asset_version=fit.asset_version, image_path=fit.image_path, start_origin=fit.start_origin,
        scene_notes=[str(note) for note in fit.scene_notes],
        image_size=np.asarray(fit.image_size, np.int32), K=np.asarray(fit.K, np.float32),
        person_ids=list(info.person_ids), person_index=np.arange(n, dtype=np.int32),
        status=[str(s) for s in fit.status], notes=[str(note) for note in fit.notes],
        arrays={name: np.asarray(getattr(fit, name), np.float32) for name in _ARRAYS},
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
        arrays={name: _absent(name, n) for name in _ARRAYS},
    )  # fmt: skip
    return _completed(row, info)


def _completed(row: SceneRow, info: SceneInfo) -> SceneRow:
    """Adds the people that the reader set aside, and the keys."""
    aside = info.set_aside
    arrays = {name: np.concatenate([array, _absent(name, len(aside))]) for name, array in row.arrays.items()}
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


def _absent(name: str, n: int) -> np.ndarray:
    return np.full((n, *_ARRAYS[name]), -1.0 if name.endswith("_word") else np.nan, np.float32)


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
    for name, shape in _ARRAYS.items():
        if row.arrays[name].shape != (n, *shape):
            raise ValueError(f"scene {row.name}: {name}: expected shape {(n, *shape)}, got {row.arrays[name].shape}")
    own = {name: getattr(row, name) for name in FIELDS if name not in _ARRAYS and name != "row_version"}
    return wire.serialize({"row_version": ROW_VERSION, **own, **row.arrays}, FIELDS)


def decode(serialized: bytes, where: str = "record") -> SceneRow:
    """The row of a record. Raises SceneError (record, field, expectation) on a broken one."""
    record = Record(serialized, where)
    version = record.read("row_version", FIELDS["row_version"])
    if version not in (1, 2, ROW_VERSION):
        raise ValueError(f"{where}: written by another version of this program")
    absent = {1: ADDED, 2: ADDED_LATER}.get(version, {})
    stored = {name: field for name, field in FIELDS.items() if name not in absent}
    values = {name: record.read(name, field) for name, field in stored.items() if name != "row_version"}
    n = len(values["status"])
    arrays = {name: values[name] if name in values else _absent(name, n) for name in _ARRAYS}
    return SceneRow(**{k: v for k, v in values.items() if k not in _ARRAYS}, arrays=arrays)


# ------------------------------------------------------------------------------------------------ tables


def counts(rows: Sequence[SceneRow]) -> dict[str, Any]:
    """Totals of some scenes, JSON: scenes and people by status."""
    return {
        "scenes": dict(sorted(Counter(row.scene_status for row in rows).items())),
        "people": dict(sorted(Counter(status for row in rows for status in row.status).items())),
        "retryable": sum(row.retryable for row in rows),
    }


def people_table(row: SceneRow) -> list[dict[str, Any]]:
    """One JSON-able entry per person, as `results.people_rows` with the person's key."""

    def number(value: np.floating) -> float | None:
        return round(float(value), 4) if np.isfinite(value) else None

    a = row.arrays
    return [
        {
            "scene": row.name,
            "person": row.person_ids[i],
            "status": row.status[i],
            "age": number(a["shape"][i, 1]),
            "gender": number(a["shape"][i, 0]),
            **{k: number(a[k][i]) for k in ("height_m", "depth_m", "reprojection_px", "start_reprojection_px")},
            "notes": row.notes[i],
            "key": row.person_keys[i],
        }
        for i in range(len(row))
    ]
