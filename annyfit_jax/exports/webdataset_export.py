"""Fits as WebDataset shards: tar files with a photo and the parameters of a scene side by side, for loaders that stream.

    people-00003.tar: scene0768.jpg, scene0768.npz, scene0768.json, scene0769.jpg, ...

`.npz` holds what `annyfit export --format=npz` writes of a scene, `.json` name, people, statuses and notes, `.jpg` the photo
where it was asked for."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from annyfit_jax.exports.training_set import Photo
from annyfit_jax.jobs.fit_source import Outcome
from annyfit_jax.people.fitted import FACTS
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.file_names import file_stem


def write_tar(
    photo: Photo | None, outcomes: Iterable[Outcome], folder: Path, part: int
) -> tuple[list[Path], dict[str, Any]]:
    """Writes a shard, `people-<part>.tar`; returns it, and how many scenes and people (`rows`) are in it.

    Args:
      photo: JPEG bytes of a scene (`training_set.photos_from`); None: no photos.
    """
    scenes = people = 0
    path = folder / f"people-{part:05d}.tar"
    with tarfile.open(path, "w") as tar:
        for outcome in outcomes:
            if outcome.fit.ok.any() and _add_scene(tar, outcome, photo):
                scenes, people = scenes + 1, people + int(outcome.fit.ok.sum())
    return [path], {"scenes": scenes, "rows": people}


def _add_scene(tar: tarfile.TarFile, outcome: Outcome, photo: Photo | None) -> bool:
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
