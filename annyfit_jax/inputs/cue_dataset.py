"""Cue datasets: the scenes of any input, packed into units of `store.datasets`, read back by `cue_source`."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annyfit_jax.engine.stages import Engine
from annyfit_jax.inputs import cue_schema
from annyfit_jax.inputs.validate import validate_scene
from annyfit_jax.people.scene import Scene, SceneError
from annyfit_jax.store import datasets, plan
from annyfit_jax.store.datasets import Packed, Progress, SetAside, verify
from annyfit_jax.store.locations import Location
from annyfit_jax.store.plan import DEFAULT_SCENES_PER_SHARD, Kind, StoreError
from annyfit_jax.store.units import TEMPLATE

__all__ = [
    "DEFAULT_SCENES_PER_SHARD", "KIND", "TEMPLATE", "Plan", "Progress", "SetAside", "StoreError", "records_of", "verify",
    "write",
]  # fmt: skip

KIND = Kind(
    "cues",
    cue_schema.SCHEMA_VERSION,
    cue_schema.FIELDS,
    "Expert cues of people in images, one record per image.",
    facts=("people", "has_start"),
    program="annyfit pack",
)

Scenes = Callable[[Sequence[int]], Iterable[Scene | SetAside]]
"""The scenes of some input indices, or why one is set aside."""


@dataclass(frozen=True)
class Plan(plan.Plan):
    """How a packing job is cut into shards. Equal plans write equal files."""

    kind: Kind = KIND


def write(
    output: str | Path | Location,
    plan: Plan,
    scenes: Scenes,
    *,
    photo: Callable[[Scene], bytes] | None = None,
    provenance: dict[str, Any] | None = None,
    on_shard: Callable[[int], None] | None = None,
    engine: Engine | None = None,
    stop: threading.Event | None = None,
) -> Progress:
    """`datasets.write` of scenes: a scene that cannot be packed is set aside with the reason.

    `photo` gives JPEG bytes. Errors as in `datasets.write`; of `scenes`, others than SceneError pass through.
    """
    records = records_of(scenes, photo, provenance)
    return datasets.write(output, plan, records, on_shard=on_shard, engine=engine, stop=stop)


def records_of(
    scenes: Scenes, photo: Callable[[Scene], bytes] | None = None, provenance: dict[str, Any] | None = None
) -> datasets.Records:
    """The records of scenes, for `datasets.stage`."""
    return functools.partial(_records, scenes, photo, provenance)


def _records(
    scenes: Scenes, photo: Callable[[Scene], bytes] | None, provenance: dict[str, Any] | None, indices: Sequence[int]
) -> Iterable[Packed | SetAside]:
    return (_pack(scene, photo, provenance) for scene in scenes(indices))


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
