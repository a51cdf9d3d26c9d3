"""From a folder of photos to a cue dataset: boxes, masks, keypoints, depth, words, by one expert after another.

    state = precompute(PrecomputeOptions(images="photos", output="dataset"))

It may be stopped and continued, and done by a cluster; what each expert said is kept beside the dataset.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from absl import logging

from annyfit_jax.engine.running import run
from annyfit_jax.engine.stages import Engine
from annyfit_jax.inputs import SceneSource, cue_dataset, open_input
from annyfit_jax.inputs.keypoint_files import family_of_folder
from annyfit_jax.inputs.photos import jpeg_bytes, names_photos
from annyfit_jax.people.scene import Scene, SceneError
from annyfit_jax.store import datasets
from annyfit_jax.store.datasets import Packed, SetAside
from annyfit_jax.store.locations import is_remote, place
from experts import assemble, registry
from experts.adapters.coco_file import cues_in
from experts.interfaces import ExpertError
from experts.pipeline import Collection, Stages, failures
from experts.registry import ExpertSet


@dataclass(frozen=True)
class PrecomputeOptions:
    """What is asked about which photos, and by whom."""

    images: str
    output: str
    experts: str = "default"
    assignments: Sequence[str] = ()
    """`cue=expert`, `cue.option=value` or `people.rule=value`."""
    annotations: str = ""
    masks: str = ""
    depth: str = ""
    words: str = ""
    allow_noncommercial: bool = False
    stages: str = ""
    photos_per_shard: int = 64
    batch: int = 8
    limit: int | None = None
    with_images: bool = False
    retry_failed: bool = False
    log_every_s: float = 10.0
    engine: Engine = field(default_factory=Engine)


def precompute(options: PrecomputeOptions, stop: threading.Event | None = None) -> cue_dataset.Progress:
    """Asks every expert about every photo and packs the answers; returns the state of the dataset.

    Raises SceneError, ExpertError, StoreError, ValueError (input), JobWriteError, OSError (disk), Interrupted.
    """
    experts = registry.build(options.experts, [*precomputed(options), *options.assignments])
    _check(experts)
    registry.check_licences(experts, options.allow_noncommercial)
    collection = Collection.of_folder(options.images, options.limit)
    output = place(options.output)
    folder = place(options.stages) if options.stages else output / "stages"
    stages = Stages(folder, collection, experts, options.batch, options.log_every_s, options.retry_failed)
    logging.info("%s: %d photos", options.images, len(collection))
    described = {"experts": stages.keys, "people": registry.options_of(experts.people), "images": options.with_images}
    plan = cue_dataset.Plan(len(collection), described, options.photos_per_shard, collection.names, collection.stamp)
    dataset = datasets.open_dataset(output, plan)
    units = range(dataset.store.num_units)
    with dataset.store.alone():
        asked = stages.stages(len(units), dataset.indices)
        packed = datasets.stage(
            dataset, functools.partial(_records, stages, options.with_images), after=tuple(stage.name for stage in asked),
            redo=lambda unit: unit in stages.redone,
        )  # fmt: skip
        run([*asked, packed], options.engine, stop)
        state = datasets.finish(dataset.store)
        rows = failures(stages, [dataset.indices(unit) for unit in units])
        (output / "failures.jsonl").put("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return state


def _records(stages: Stages, with_images: bool, indices: Sequence[int]) -> Iterable[Packed | SetAside]:
    photo = _jpeg if with_images else None
    scenes = functools.partial(assemble.scenes, stages)
    return cue_dataset.records_of(scenes, photo, assemble.provenance(stages))(indices)


def _jpeg(scene: Scene) -> bytes:
    return jpeg_bytes(scene.image_path or "")


def precomputed(options: PrecomputeOptions) -> list[str]:
    """What the flags for existing cues mean as assignments; --set comes after them, and a cue it chooses is not taken."""
    chosen = {assignment.partition("=")[0] for assignment in options.assignments}
    result = []
    if options.words and not options.annotations:
        raise ValueError("--words names people by annotation id: give --annotations as well")
    if options.annotations:
        in_file = cues_in(options.annotations) | ({"words"} if options.words else set())
        for cue in sorted(in_file - chosen):
            result += [f"{cue}=coco", f"{cue}.path={options.annotations}"]
        if options.words and "words" not in chosen:
            result.append(f"words.words_file={options.words}")
    for cue, folder in (("segmenter", options.masks), ("depth", options.depth)):
        if folder and cue not in chosen:
            result += [f"{cue}=folder", f"{cue}.path={folder}"]
    return result


def _check(experts: ExpertSet) -> None:
    for cue in ("detector", "keypoints", "camera"):
        if getattr(experts, cue) is None:
            raise ExpertError(
                f"no expert for {cue}: nobody could be fitted; choose one with --set={cue}=NAME, or give --annotations"
            )


# ------------------------------------------------------------------------------------------------ photos as scenes


def are_photos(location: str) -> bool:
    """Whether a location is photos, and not scenes that perhaps have their photos beside them.

    Raises SceneError for a folder that holds photos and keypoint files.
    """
    if is_remote(location):
        return False
    path, signs = Path(location), ("preprocessed", "dataset_info.json", "plan.json")
    scenes = path.is_dir() and (any((path / sign).exists() for sign in signs) or any(path.glob("*.npz")))
    if scenes or not names_photos(location):
        return False
    if path.is_dir() and (family := family_of_folder(path)) is not None:
        raise SceneError(
            f"{location}: holds photos and keypoints of {family}: give the keypoints alone, with --images for their photos, or "
            "the photos alone"
        )
    return True


def scenes_of_photos(
    options: PrecomputeOptions, stop: threading.Event | None = None
) -> tuple[SceneSource, dict[str, Any]]:
    """Detects the people of photos; the scenes, and what decides them for the identity of a job.

    Args:
      options: `output` is the folder of all cues: there is a folder in it per choice of experts, and one with what
        the experts said.

    Raises SceneError where there is nobody in any photo; else as `precompute`.
    """
    key = hashlib.sha256("\n".join([options.experts, *options.assignments]).encode()).hexdigest()[:12]
    folder = place(options.output) / key
    stages = str(place(options.output) / "stages")
    state = precompute(replace(options, output=str(folder), stages=stages), stop)
    if not state.scenes and state.finished is False:
        raise SceneError(
            f"{options.images}: nobody to fit in any photo; the reasons are in {folder / 'set_aside.jsonl'}"
        )
    logging.info("%d people in %d photos; %d photos without", state.people, state.scenes, state.set_aside)
    return open_input(str(folder)), {"experts": [options.experts, *options.assignments]}
