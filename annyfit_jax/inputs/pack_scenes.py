"""Scenes of any input packed into a cue dataset: the shards that TFDS, Grain and the fitting program read."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from annyfit_jax.engine.stages import Engine
from annyfit_jax.inputs import cue_dataset
from annyfit_jax.inputs.photos import jpeg_bytes
from annyfit_jax.inputs.scene_source import SceneSource
from annyfit_jax.people.scene import Scene, SceneError
from annyfit_jax.store.locations import place


def pack_scenes(
    source: SceneSource,
    output: str | Path,
    *,
    options: dict[str, Any] | None = None,
    cues: dict[str, Any] | None = None,
    limit: int | None = None,
    with_images: bool = False,
    scenes_per_shard: int = cue_dataset.DEFAULT_SCENES_PER_SHARD,
    engine: Engine | None = None,
    stop: threading.Event | None = None,
) -> cue_dataset.Progress:
    """Writes a dataset; shards that are finished already are kept.

    Args:
      source: opened with masks and depth maps.
      options: what `source` was opened with; a dataset is only continued with the same.
      cues: `{cue: {"expert", "version", "licence"}}`, stored with every scene.
      limit: number of scenes, counted from the first; None: all.
      with_images: also store the photos, as JPEG.

    Raises StoreError where the folder holds another dataset. A scene that cannot be read is set aside with the reason.
    """
    total = min(len(source), limit or len(source))
    described = {
        "input": Path(source.location).name, "kind": source.kind, "options": options or {}, "provenance": cues or {},
        "images": with_images,
    }  # fmt: skip
    plan = cue_dataset.Plan(total, described, scenes_per_shard, source.names[:total], source.stamp)
    logging.info("%s: %d scenes (%s), %d shards", source.location, total, source.kind, plan.num_shards)
    # Records of a dataset that is packed again keep saying where they first came from.
    origin = {} if source.kind == "cues" else {"reader": source.kind, "input": Path(source.location).name}
    started = time.monotonic()
    photos = _Photos(source)
    state = cue_dataset.write(
        output,
        plan,
        functools.partial(read_scenes, source),
        engine=engine,
        stop=stop,
        photo=photos if with_images else None,
        provenance=origin | ({"cues": cues} if cues else {}),
        on_shard=lambda shard: logging.info("shard %d written, %.0f s", shard, time.monotonic() - started),
    )
    if photos.missing:
        logging.warning(
            "%d of %d scenes were packed without a photo, because there is no such file; the first is %s",
            photos.missing, photos.asked, photos.first,
        )  # fmt: skip
    return state


def read_scenes(source: SceneSource, indices: Sequence[int]) -> Iterator[Scene | cue_dataset.SetAside]:
    """Some scenes, each read when its turn comes; those that cannot be read with the reason."""
    for index in indices:
        try:
            yield source.load(index)
        except SceneError as error:
            yield cue_dataset.SetAside(source.names[index], str(error))


class _Photos:
    """The photo of a scene as JPEG, upright; empty where there is none. Counts those that are missing."""

    def __init__(self, source: SceneSource) -> None:
        self._source = source
        self._index = {name: index for index, name in enumerate(source.names)}
        self.asked = self.missing = 0
        self.first = ""
        """The first scene without a photo, and the file that is not there."""

    def __call__(self, scene: Scene) -> bytes:
        """Raises SceneError on a broken photo."""
        self.asked += 1
        if packed := self._source.photo(self._index[scene.name]):
            return packed
        if scene.image_path and place(scene.image_path).is_file():
            return jpeg_bytes(scene.image_path)
        self.missing += 1
        self.first = self.first or f"{scene.name:.100} ({scene.image_path or 'its photo was not found':.200})"
        return b""
