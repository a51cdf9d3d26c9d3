"""A dataset of fits to train on: an example per image, read by TFDS and Grain without builder code or TensorFlow.

    ds = tfds.builder_from_directory(folder).as_data_source("train")

Features of a fit are declared with its fields (`annyfit_jax.people.fitted`), the others in `fields`; `docs/formats.md` has a
table.

`labels.json` beside the shards names bones and phenotypes. Scenes in which nobody was fitted are in `set_aside.jsonl`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from annyfit_jax.engine.stages import Engine
from annyfit_jax.exports import exported_people
from annyfit_jax.inputs.cue_source import CueSource, is_cue_dataset, open_cues
from annyfit_jax.inputs.photos import jpeg_bytes, read_photo
from annyfit_jax.jobs.fit_source import FitSource, Outcome
from annyfit_jax.people.fitted import FACTS, FORMAT_VERSION, Fact, SceneFit
from annyfit_jax.people.lens import straightened
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records import wire
from annyfit_jax.records.encoded_pictures import PHOTO_QUALITY, encoded
from annyfit_jax.records.file_names import file_inside
from annyfit_jax.records.fit_files import FitFileError
from annyfit_jax.records.wire import Field
from annyfit_jax.store.datasets import Kind, Packed, Plan, Progress, SetAside, write
from annyfit_jax.store.locations import Location, place
from annyfit_jax.store.plan import DEFAULT_SCENES_PER_SHARD

VERSION = FORMAT_VERSION
"""Version 1 had no spreads and no `loss_weight`."""
Photo = Callable[[Outcome], bytes]
Weigh = Callable[[SceneFit], np.ndarray]


def fields(num_bones: int = 162, num_phenotypes: int = 6) -> dict[str, Field]:
    """The table for a body with these numbers of posed bones and shape parameters."""

    def person(*shape: int, unit: str = "", meaning: str, dtype: str = "float32", since: int = 1) -> Field:
        return Field("array", (None, *shape), dtype, since, per_person=True, unit=unit, meaning=meaning)

    def own(fact: Fact) -> Field:
        shape = fact.row_shape(num_bones, num_phenotypes)
        return person(*shape, unit=fact.unit, meaning=fact.meaning, dtype=fact.kind, since=fact.since)

    def text(name: str) -> Field:
        return Field("texts" if FACTS[name].kind == "texts" else "text", meaning=FACTS[name].meaning)

    return {
        "table_version": Field("int", meaning="version of this table"),
        "scene_index": Field("int", meaning="position in the input of the job, -1 = unknown"),
        "name": text("name"),
        "image_path": text("image_path"),
        "image_jpeg": Field("blob", meaning="the photo, empty where it was not asked for"),
        "image_size": Field("array", (2,), "int32", unit="pixels", meaning="width, height"),
        "intrinsics": Field("array", (3, 3), "float32", unit="pixels", meaning="pinhole matrix K"),
        "person_ids": text("person_ids"),
        "person_keys": Field("texts", meaning="names of the results, empty where they are not stored"),
        "status": text("status"),
        "notes": text("notes"),
        "fitted": person(
            dtype="bool", meaning="the person has a fit; where it is False the parameters are not to be used"
        ),
        "seen_keypoints": person(dtype="int32", unit="of 17", meaning="how many keypoints the fit was given"),
        "boxes": person(4, unit="pixels", meaning="x0, y0, x1, y1 around the seen keypoints"),
        **{fact.training: own(fact) for fact in FACTS.values() if fact.training},
        "loss_weight": person(since=2, meaning="how much the body counts in a loss; 0 = only that somebody is there"),
        **{name: text(name) for name in ("start_origin", "config_hash", "asset_version")},
        "content_hash": Field("text", meaning="names the cues that the fit was computed from"),
    }


def write_training_set(
    source: FitSource,
    output: str | Path | Location,
    *,
    names: Sequence[str] = (),
    photo: Photo | None = None,
    weigh: Weigh | None = None,
    scenes_per_shard: int = DEFAULT_SCENES_PER_SHARD,
    on_shard: Callable[[int], None] | None = None,
    engine: Engine | None = None,
    stop: threading.Event | None = None,
) -> Progress:
    """Writes the dataset; call it again to continue an interrupted call.

    Args:
      names: scenes to write, in this order; all by default.
      photo: JPEG bytes of a scene, empty where there is none; a scene for which it raises SceneError is set aside.
      weigh: `loss_weight` (n,) of the people of a scene; None: 1.
      on_shard: told each shard that was written.
      engine, stop: who writes them, and an event that asks to stop.

    Raises StoreError where the folder belongs to other fits, FitFileError on fits that cannot be read.
    """
    first = source.load(names[0]) if names else next(iter(source), None)
    if first is None:
        raise FitFileError(f"{source.location}: nobody was fitted")
    table = fields(first.pose.shape[1], first.shape.shape[1])
    kind = Kind(
        "fitted_people", VERSION, table, "Bodies fitted to the people of images, to train on.", facts=("people",)
    )
    described = {
        "fits": Path(source.location).name, "fingerprint": source.fingerprint, "names": list(names),
        "images": photo is not None,
    }  # fmt: skip
    plan = Plan(len(names) or source.total, described, scenes_per_shard, kind=kind)

    def records(span: Sequence[int]) -> Iterable[Packed | SetAside]:
        assert isinstance(span, range)  # the plan names no scenes, so they stay in order
        outcomes = map(source.outcome, names[span.start : span.stop]) if names else source.part(span)
        return (_pack(outcome, table, photo, weigh) for outcome in outcomes)

    state = write(output, plan, records, on_shard=on_shard, engine=engine, stop=stop)
    (place(output) / "labels.json").put_json(_labels(first))
    return state


def _pack(
    outcome: Outcome, table: dict[str, Field], photo: Photo | None, weigh: Weigh | None = None
) -> Packed | SetAside:
    fit = outcome.fit
    if not fit.ok.any():
        return SetAside(fit.name, outcome.reason or "nobody was fitted")
    for name in ("pose", "shape"):
        if getattr(fit, name).shape[1:] != table[name].shape[1:]:
            return SetAside(
                fit.name, f"{name}: expected {table[name].shape[1:]} per person, got {getattr(fit, name).shape[1:]}"
            )
    try:
        record = wire.serialize(example(outcome, photo(outcome) if photo else b"", weigh), table)
    except SceneError as error:
        return SetAside(fit.name, str(error))
    return Packed(fit.name, record, {"people": int(fit.ok.sum())})


def example(outcome: Outcome, jpeg: bytes = b"", weigh: Weigh | None = None) -> dict[str, object]:
    """The values of a record, by the names of `fields`."""
    fit = outcome.fit
    texts = {name: [str(text) for text in getattr(fit, name)] for name in ("person_ids", "status", "notes")}
    return {
        "table_version": VERSION,
        "scene_index": outcome.index,
        "name": fit.name,
        "image_path": fit.image_path,
        "image_jpeg": jpeg,
        "image_size": fit.image_size,
        "intrinsics": fit.K,
        **texts,
        "person_keys": list(outcome.person_keys[: len(fit)]),
        "fitted": fit.ok,
        "seen_keypoints": exported_people.seen(fit).sum(1),
        "boxes": exported_people.boxes(fit),
        **{fact.training: getattr(fit, name) for name, fact in FACTS.items() if fact.training},
        "loss_weight": np.ones(len(fit)) if weigh is None else weigh(fit),
        "start_origin": fit.start_origin,
        "config_hash": fit.config_hash,
        "asset_version": fit.asset_version,
        "content_hash": outcome.content_hash,
    }


def _labels(fit: SceneFit) -> dict[str, object]:
    return {
        "bone_labels": [str(label) for label in fit.bone_labels],
        "phenotype_labels": [str(label) for label in fit.phenotype_labels],
        "frame": fit.frame,
    }


def photos_from(path: str | Path) -> Photo:
    """Photos of scenes from a folder of photos, or from the cue dataset that the job was fitted to; both also in a bucket.

    In a folder a photo is found under the path that the fit names, relative to the folder, or under its file name alone.
    The photo of a scene that has none there is a SceneError.
    """
    folder = place(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder of photos, or a cue dataset")
    if is_cue_dataset(folder):
        return functools.partial(_packed_photo, open_cues(str(folder)))
    return functools.partial(_photo_object, folder) if folder.remote else functools.partial(_photo_file, folder.path)


def _packed_photo(cues: CueSource, outcome: Outcome) -> bytes:
    index, name = outcome.index, outcome.fit.name
    if not 0 <= index < len(cues) or cues.names[index] != name:
        raise SceneError(f"{cues.location}: scene {name}: not at its place {index}; is it the input of the job?")
    jpeg = cues.photo(index)
    if not jpeg:
        raise SceneError(f"{cues.location}: scene {name}: packed without its photo")
    return _straight(jpeg, outcome.fit)


def _photo_file(folder: Path, outcome: Outcome) -> bytes:
    stored = Path(outcome.fit.image_path)
    if not stored.name:
        raise SceneError(f"scene {outcome.fit.name}: the fit names no photo")
    for relative in (stored.relative_to(stored.anchor), Path(stored.name)):
        path = file_inside(folder, str(relative))
        if path is not None and path.resolve().is_relative_to(folder.resolve()):
            return _straight(jpeg_bytes(path), outcome.fit)
    raise SceneError(f"{folder}: {stored.name}: no such photo")


def _photo_object(folder: Location, outcome: Outcome) -> bytes:
    stored = outcome.fit.image_path
    if not stored:
        raise SceneError(f"scene {outcome.fit.name}: the fit names no photo")
    below = stored.removeprefix(f"{folder}/")
    for name in dict.fromkeys((below.lstrip("/"), below.rpartition("/")[2])):
        if ".." not in name.split("/") and (folder / name).is_file():
            return _straight(jpeg_bytes(str(folder / name)), outcome.fit)
    raise SceneError(f"{folder}: {stored}: no such photo")


def _straight(jpeg: bytes, fit: SceneFit) -> bytes:
    """The photo without the distortion of its lens, as the labels are; the same bytes where there is none."""
    if not fit.lens:
        return jpeg
    pixels = read_photo(jpeg, where=f"{fit.name}: photo", upright=False)
    return encoded(straightened(pixels, fit.lens, np.asarray(fit.K, np.float64)), quality=PHOTO_QUALITY)


# ------------------------------------------------------------------------------------------------ reading


class FitRecords:
    """Random access to the records of such a dataset. Can be pickled: worker processes open the shards themselves."""

    def __init__(self, folder: str | Path, every: int = 1) -> None:
        """`every`: n uses only every n-th record. Raises SceneError if the folder is no such dataset."""
        self.folder, self.every = Path(folder), every
        if not (self.folder / "dataset_info.json").is_file() or not (self.folder / "labels.json").is_file():
            raise SceneError(f"{folder}: expected a dataset of fits with dataset_info.json and labels.json")

    @functools.cached_property
    def _records(self) -> Any:
        import tensorflow_datasets as tfds

        builder: Any = tfds.builder_from_directory(str(self.folder))
        return builder.as_data_source("train")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_records"}

    def __len__(self) -> int:
        return -(-len(self._records) // self.every)

    def __getitem__(self, index: int) -> Any:
        return self._records[index * self.every]


def record_name(record: Any) -> str:
    """Name of a record's scene."""
    value = record["name"]
    value = value.item() if isinstance(value, np.ndarray) else value
    return value.decode() if isinstance(value, bytes) else str(value)


def record_photo(record: Any, name: str) -> bytes:
    """Encoded photo of a record. Raises SceneError, with `name`, where the fits were exported without photos."""
    photo = record["image_jpeg"]
    photo = photo if isinstance(photo, bytes) else np.asarray(photo).tobytes()
    if not photo:
        raise SceneError(f"{name}: image_jpeg: empty; export the fits with their photos")
    return photo
