"""From a folder of photos to a cue dataset: boxes, masks, keypoints, depth, words, by one expert after another.

    state = precompute(PrecomputeOptions(images="photos", output="dataset"))

It may be stopped and continued, and done by a cluster; what each expert said is kept beside the dataset.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from annyfit_jax.engine.running import run
from annyfit_jax.engine.stages import Engine, Stage
from annyfit_jax.inputs import SceneSource, cue_dataset, cue_schema
from annyfit_jax.inputs.keypoint_files import family_of_files, family_of_folder, is_candidate
from annyfit_jax.inputs.photo_sources import as_folder, is_photo_source
from annyfit_jax.inputs.photos import SUFFIXES, jpeg_bytes, names_photos
from annyfit_jax.jobs.job_driver import Before
from annyfit_jax.people.scene import NobodyToFit, Scene, SceneError
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
    progress: str = ""
    """Folder for the lines of progress; default `output`."""
    photos_per_shard: int = 64
    batch: int = 8
    limit: int | None = None
    with_images: bool = False
    overwrite: bool = False
    """Of `scenes_of_photos`: pack the cues again; what these experts said before is still taken."""
    retry_failed: bool = False
    log_every_s: float = 10.0
    engine: Engine = field(default_factory=Engine)


def precompute(options: PrecomputeOptions, stop: threading.Event | None = None) -> cue_dataset.Progress:
    """Asks every expert about every photo and packs the answers; returns the state of the dataset.

    Raises SceneError, ExpertError, StoreError, ValueError (input), JobWriteError, OSError (disk), Interrupted.
    """
    work = _Work(options)
    with work.dataset.store.alone():
        run(work.stages_of_engine(), options.engine, stop)
        return work.finish()


class _Work:
    """What `precompute` does, opened: the dataset, the experts and their stages."""

    def __init__(self, options: PrecomputeOptions) -> None:
        experts = registry.build(options.experts, [*precomputed(options), *options.assignments])
        _check(experts)
        registry.check_licences(experts, options.allow_noncommercial)
        self.output, self._with_images = place(options.output), options.with_images
        images = options.images
        if is_photo_source(images):
            # Below the output, which all workers see.
            images = as_folder(images, place(options.stages or options.output) / "photos")
        self.collection = Collection.of_folder(images, options.limit)
        folder = place(options.stages) if options.stages else self.output / "stages"
        self._progress = place(options.progress or self.output)
        self.stages = Stages(
            folder, self.collection, experts, options.batch, options.log_every_s, options.retry_failed, self._progress
        )
        logging.info("%s: %d photos", options.images, len(self.collection))
        described = {
            "experts": self.stages.keys, "people": registry.options_of(experts.people), "images": options.with_images,
        }  # fmt: skip
        plan = cue_dataset.Plan(
            len(self.collection), described, options.photos_per_shard, self.collection.names, self.collection.stamp
        )
        self.dataset = datasets.open_dataset(self.output, plan)

    def stages_of_engine(self) -> list[Stage]:
        """A stage per expert, and the one that packs what they say."""
        asked = self.stages.stages(self.dataset.store.num_units, self.dataset.indices)
        records = functools.partial(_records, self.stages, self._with_images)
        redone = self.stages.redone
        packed = datasets.stage(
            self.dataset, records, after=tuple(self.stages.keys), redo=lambda unit: unit in redone,
            progress=self._progress, log_every_s=self.stages.log_every_s,
        )  # fmt: skip
        return [*asked, packed]

    def finish(self) -> cue_dataset.Progress:
        """Finishes the dataset, and lists what experts failed on."""
        state = datasets.finish(self.dataset.store)
        rows = failures(self.stages, [self.dataset.indices(unit) for unit in range(self.dataset.store.num_units)])
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (self.output / "failures.jsonl").put(lines.encode())
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
    if is_photo_source(location):
        return True
    if is_remote(location):
        return _are_bucket_photos(location)
    path, signs = Path(location), ("preprocessed", "dataset_info.json", "plan.json")
    scenes = path.is_dir() and (any((path / sign).exists() for sign in signs) or any(path.glob("*.npz")))
    if scenes or not names_photos(location):
        return False
    if path.is_dir() and (family := family_of_folder(path)) is not None:
        raise _mixed(location, family)
    return True


def _are_bucket_photos(location: str) -> bool:
    from annyfit_jax.inputs.cue_source import is_cue_dataset

    if is_cue_dataset(location):
        return False
    folder = place(location)
    names = list(folder.tree())
    if not names:
        return location.lower().endswith(SUFFIXES)
    scenes = any(name.startswith("preprocessed/") or (name.endswith(".npz") and "/" not in name) for name in names)
    if scenes or not any(name.lower().endswith(SUFFIXES) for name in names):
        return False
    if (family := family_of_files(folder / name for name in names if is_candidate(name))) is not None:
        raise _mixed(location, family)
    return True


def _mixed(location: str, family: str) -> SceneError:
    return SceneError(
        f"{location}: holds photos and keypoints of {family}: give the keypoints alone, with --images for their photos, or "
        "the photos alone"
    )


class ScenesOfPhotos(NamedTuple):
    """Scenes that are there as soon as the stages before have done their unit."""

    source: SceneSource
    """A scene per photo; one in which nobody is found raises NobodyToFit. `location` is the cue dataset."""
    identity: dict[str, Any]
    """What decides the scenes, for the identity of a job."""
    before: Before
    finish: Callable[[], cue_dataset.Progress]
    """Completes the cue dataset, after the stages."""
    units: tuple[tuple[int, ...], ...]
    """The photos of every unit of the stages."""


def scenes_of_photos(options: PrecomputeOptions) -> ScenesOfPhotos:
    """Opens photos as scenes whose people are found while a job runs.

    Args:
      options: `output` is the folder of all cues: there is a folder in it per choice of experts, and one with what the experts
        said.

    Raises as `precompute`.
    """
    key = hashlib.sha256("\n".join([options.experts, *options.assignments]).encode()).hexdigest()[:12]
    folder, stages = place(options.output) / key, place(options.output) / "stages"
    if options.overwrite:
        folder.remove()
    work = _Work(replace(options, output=str(folder), stages=str(stages)))
    dataset = work.dataset
    units = tuple(tuple(dataset.indices(unit)) for unit in range(dataset.store.num_units))
    source = SceneSource(
        "photos", work.collection.names, _Loader(work.stages, units), str(folder), stamps=work.collection.stamp
    )
    before = Before(work.stages_of_engine(), dataset.store, dataset.order, work.stages.redone)
    return ScenesOfPhotos(source, {"experts": [options.experts, *options.assignments]}, before, work.finish, units)


class _Loader:
    """The scene of a photo from what the experts said, as the cue dataset has it. Can be pickled where the experts can."""

    def __init__(self, stages: Stages, units: tuple[tuple[int, ...], ...]) -> None:
        self._stages, self._units = stages, units
        self._unit_of = {index: unit for unit, indices in enumerate(units) for index in indices}
        self._made: tuple[int, list[Scene | SetAside]] = (-1, [])
        self._provenance: dict[str, Any] | None = None

    def __call__(self, index: int) -> Scene:
        """Raises NobodyToFit where the photo has no scene."""
        unit = self._unit_of[index]
        if self._made[0] != unit:
            self._made = unit, list(assemble.scenes(self._stages, self._units[unit]))
        if self._provenance is None:
            self._provenance = assemble.provenance(self._stages)
        scene = self._made[1][self._units[unit].index(index)]
        if isinstance(scene, SetAside):
            raise NobodyToFit(scene.reason, ())
        cue_schema.check_count(len(scene), f"scene {scene.name}")
        record = cue_schema.serialize(cue_schema.encode(scene, b"", self._provenance))
        return cue_schema.decode(record, scene.name, with_masks=False, with_depth_map=False)
