"""Synthetic scenes as a cue dataset: what either generator makes, and how it is named in the dataset's plan.

state = write_dataset(rendered_scenes(seed=1, difficulty="hard"), "dataset", 2000)
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from absl import logging
from PIL import Image

from annyfit_jax import synthetic
from annyfit_jax.engine.stages import Engine
from annyfit_jax.inputs import cue_dataset
from annyfit_jax.people.scene import Scene
from annyfit_jax.records.encoded_pictures import PICTURE_QUALITY
from annyfit_jax.synthetic import measure, world, world_config

_SHEET_COLUMNS, _SHEET_ROWS, _SHEET_TILE = 6, 4, 224


class MadeScenes(NamedTuple):
    """Scenes to write."""

    make: Callable[[Sequence[int]], Iterable[Scene]]
    """Scenes by their indices; scene i does not depend on how the work is cut."""
    fingerprint: dict[str, Any]
    """What they are, JSON; part of the dataset's plan, so that a rerun of another kind is refused."""
    version: str
    photo: Callable[[Scene], bytes] | None


def plain_scenes(seed: int, people: tuple[int, ...] = (), bias: tuple[float, float] = (1.0, 1.0)) -> MadeScenes:
    """Scenes without pictures (`synthetic.Recipe`). Raises ValueError."""
    recipe = synthetic.Recipe(seed, people, bias)
    described = {"synthetic": synthetic.GENERATOR_VERSION, **dataclasses.asdict(recipe)}
    return MadeScenes(functools.partial(_plain, recipe), described, str(synthetic.GENERATOR_VERSION), None)


def rendered_scenes(
    seed: int, difficulty: str = "standard", start: str = "multihmr", assignments: Sequence[str] = ()
) -> MadeScenes:
    """Scenes with pictures.

    Args:
      difficulty, start: preset of the world (`world_config.preset`).
      assignments: `path=value` changes of the preset.

    Raises ValueError on one that does not exist.
    """
    config = world_config.override(world_config.preset(difficulty, start), assignments)
    made = world.World(seed, config)
    return MadeScenes(
        functools.partial(_rendered, seed, config), made.fingerprint(), f"world-{world.WORLD_VERSION}", world.jpeg
    )


# Generators hold compiled programs, which do not travel: a worker makes its own, once.


def _plain(recipe: synthetic.Recipe, indices: Sequence[int]) -> Iterable[Scene]:
    return _generator(recipe).scenes(indices)


def _rendered(seed: int, config: world_config.WorldConfig, indices: Sequence[int]) -> Iterable[Scene]:
    return _world(seed, config).scenes(indices)


@functools.lru_cache(maxsize=1)
def _generator(recipe: synthetic.Recipe) -> synthetic.Generator:
    return synthetic.Generator(recipe)


@functools.lru_cache(maxsize=1)
def _world(seed: int, config: world_config.WorldConfig) -> world.World:
    return world.World(seed, config)


def write_dataset(
    scenes: MadeScenes,
    output: str | Path,
    count: int,
    *,
    scenes_per_shard: int = cue_dataset.DEFAULT_SCENES_PER_SHARD,
    on_shard: Callable[[int], None] | None = None,
    engine: Engine | None = None,
    stop: threading.Event | None = None,
) -> cue_dataset.Progress:
    """Writes `count` scenes; finished shards are kept, more scenes become more shards. Raises StoreError on another dataset."""
    started = time.monotonic()
    return cue_dataset.write(
        output,
        cue_dataset.Plan(count, scenes.fingerprint, scenes_per_shard),
        scenes.make,
        engine=engine,
        stop=stop,
        photo=scenes.photo,
        provenance={"cues": {"all": {"expert": "synthetic", "version": scenes.version}}},
        on_shard=on_shard
        or (lambda shard: logging.info("shard %d written, %.0f s", shard, time.monotonic() - started)),
    )


def measured(scenes: MadeScenes, count: int, sheet: str | None = None) -> dict[str, float]:
    """The errors that the noise of rendered scenes causes, by name, and the scenes made in a second of processor time.

    Args:
      count: how many scenes are looked at.
      sheet: JPEG file for a sheet of the first 24 pictures.
    """
    next(iter(scenes.make(range(1))))  # compiles
    started = time.process_time()
    made = cast(list[world.RenderedScene], list(scenes.make(range(count))))
    seconds = time.process_time() - started
    if sheet:
        pictures = measure.sheet(made[: _SHEET_COLUMNS * _SHEET_ROWS], _SHEET_COLUMNS, _SHEET_TILE)
        Image.fromarray(pictures).save(sheet, quality=PICTURE_QUALITY)
    return {**measure.measure(made), "scenes per second of processor time": count / seconds}
