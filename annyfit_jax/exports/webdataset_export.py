"""Fits as WebDataset shards: tar files with a photo and the parameters of a scene side by side, for loaders that stream.

    people-00003.tar: scene0768.jpg, scene0768.npz, scene0768.json, scene0769.jpg, ...

`.npz` holds what `annyfit export --format=npz` writes of a scene, `.json` name, people, statuses and notes, `.jpg` the photo
where it was asked for. The shards are units of an engine: each is written whole, by whichever worker has it."""

from __future__ import annotations

import functools
import io
import json
import tarfile
import threading
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging

from annyfit_jax.engine.running import run
from annyfit_jax.engine.stages import EachUnit, Engine, Stage
from annyfit_jax.exports.training_set import photos_from
from annyfit_jax.jobs.fit_source import Outcome, open_fits
from annyfit_jax.people.fitted import FACTS
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.file_names import file_stem
from annyfit_jax.store.locations import place

Task = tuple[int, Sequence[str], range]


def write_webdataset(
    fits: str,
    output: str,
    *,
    scenes: Sequence[str] = (),
    images: str = "",
    scenes_per_shard: int = 512,
    engine: Engine | None = None,
    stop: threading.Event | None = None,
) -> tuple[list[str], int, int]:
    """Writes the shards that are not there; returns their names, and how many scenes and people are in those written now.

    Args:
      fits: as `open_fits` takes it.
      output: folder, also in a bucket.
      scenes: names; all by default.
      images: folder of the photos, or a cue dataset that has them; empty = no photos.

    Raises FileNotFoundError, FitFileError, JobWriteError.
    """
    total = len(scenes) or open_fits(fits, details=False).total
    spans = [range(k, min(k + scenes_per_shard, total)) for k in range(0, total, scenes_per_shard)]
    names = [f"people-{unit:05d}.tar" for unit in range(len(spans))]
    there = place(output).files()
    written: list[tuple[int, int]] = []
    stage = Stage(
        "webdataset", functools.partial(_make, fits, output, images), range(len(spans)),
        needed=lambda unit: names[unit] not in there,
        task=lambda unit: (unit, [scenes[i] for i in spans[unit]] if scenes else [], spans[unit]),
        commit=lambda unit, counts: written.append(counts), accelerator=False,
    )  # fmt: skip
    run([stage], engine, stop)
    return names, sum(count for count, _ in written), sum(people for _, people in written)


def _make(fits: str, output: str, images: str, _: threading.Event) -> EachUnit:
    source = open_fits(fits, details=False)
    photo = photos_from(images) if images else None

    def write(task: Task) -> tuple[int, tuple[int, int]]:
        unit, names, span = task
        count = people = 0
        outcomes = map(source.outcome, names) if names else source.part(span)
        target = place(output) / f"people-{unit:05d}.tar"
        with target.replacing() as temporary, tarfile.open(temporary, "w") as tar:
            for outcome in outcomes:
                if not outcome.fit.ok.any():
                    continue
                if not _add_scene(tar, outcome, photo):
                    continue
                count, people = count + 1, people + int(outcome.fit.ok.sum())
        logging.info("%s: %d scenes, %d people", target.name, count, people)
        return unit, (count, people)

    return EachUnit(write)


def _add_scene(tar: tarfile.TarFile, outcome: Outcome, photo: Callable[[Outcome], bytes] | None) -> bool:
    """Adds the files of a scene; False, with a warning, where its photo cannot be read."""
    fit = outcome.fit
    key = file_stem(fit.name).replace(".", "_")  # what stands behind the first dot is the kind of a file
    try:
        jpeg = photo(outcome) if photo else b""
    except SceneError as error:
        logging.warning("left out: %s", error)
        return False
    arrays = io.BytesIO()
    values = {name: getattr(fit, name) for name in FACTS if getattr(fit, name) is not None}
    np.savez_compressed(arrays, allow_pickle=False, **values)
    known = {
        "name": fit.name, "image_path": fit.image_path, "person_ids": [str(person) for person in fit.person_ids],
        "status": [str(status) for status in fit.status], "notes": [str(note) for note in fit.scene_notes],
        "config_hash": fit.config_hash, "asset_version": fit.asset_version,
    }  # fmt: skip
    files = {"jpg": jpeg, "npz": arrays.getvalue(), "json": json.dumps(known).encode()}
    for kind, content in files.items():
        if content:
            entry = tarfile.TarInfo(f"{key}.{kind}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return True
