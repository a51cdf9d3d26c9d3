"""Cue datasets on disk: the scenes of any input, packed into the shards of `records.shards`, read back by `cue_source`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annyfit_jax.inputs import cue_schema
from annyfit_jax.inputs.validate import validate_scene
from annyfit_jax.people.scene import Scene, SceneError
from annyfit_jax.records import shards
from annyfit_jax.records.shards import (
    DEFAULT_SCENES_PER_SHARD,
    TEMPLATE,
    DatasetError,
    Kind,
    Packed,
    Progress,
    SetAside,
    verify,
)

__all__ = [
    "DEFAULT_SCENES_PER_SHARD", "KIND", "TEMPLATE", "DatasetError", "Plan", "Progress", "SetAside", "verify", "write",
]  # fmt: skip

KIND = Kind(
    "cues",
    cue_schema.SCHEMA_VERSION,
    cue_schema.FIELDS,
    "Expert cues of people in images, one record per image.",
    facts=("people", "has_start"),
)


@dataclass(frozen=True)
class Plan(shards.Plan):
    """How a packing job is cut into shards. Equal plans write equal files."""

    kind: Kind = KIND


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
    """`shards.write` of scenes: a scene that cannot be packed is set aside with the reason.

    `scenes` yields the scenes of a range of input indices, or why one is set aside; `photo` gives JPEG bytes. Errors as in
    `shards.write`; of `scenes`, others than SceneError pass through.
    """

    def records(span: range) -> Iterable[Packed | SetAside]:
        return (_pack(scene, photo, provenance) for scene in scenes(span))

    return shards.write(
        output, plan, records, process_index=process_index, process_count=process_count, on_shard=on_shard
    )


def _pack(
    scene: Scene | SetAside, photo: Callable[[Scene], bytes] | None, provenance: dict[str, Any] | None
) -> Packed | SetAside:
    if isinstance(scene, SetAside):
        return scene
    try:
        cue_schema.check_count(len(scene), f"scene {scene.name}")
        validate_scene(scene, "packing")
        record = cue_schema.serialize(cue_schema.encode(scene, photo(scene) if photo else b"", provenance))
    except SceneError as error:
        return SetAside(scene.name, str(error))
    except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:  # what no check foresaw
        return SetAside(scene.name, f"scene {scene.name:.200}: cannot be packed ({type(error).__name__}: {error})")
    return Packed(scene.name, record, {"people": len(scene), "has_start": scene.start is not None})
