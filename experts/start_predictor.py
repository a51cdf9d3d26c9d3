"""Bodies for the people of a cue dataset, by the network of `start=multihmr`: what distillation begins from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from annyfit_jax.inputs.cue_source import CueSource
from annyfit_jax.inputs.photos import read_photo
from annyfit_jax.people.scene import BodyParameters, Scene, SceneError
from annyfit_jax.regressors.multihmr.multihmr_regressor import MultiHmrRegressor
from experts.adapters.multihmr_start import MultiHmr
from experts.interfaces import People, Photo


class PeoplePredictor:
    """Bodies that a network gives to people in boxes, by the expert of `start=multihmr`."""

    def __init__(self, checkpoint: str | Path, regressor: MultiHmrRegressor, batch: int) -> None:
        """
        Args:
          checkpoint: weights in PyTorch's format.
          regressor: the `MultiHmrRegressor` that the weights are of.
          batch: pictures at once.

        Raises ExpertError on weights of another network.
        """
        self._expert, self._batch = MultiHmr(checkpoint=str(checkpoint), config=regressor.config, batch=batch), batch
        self._expert.load()

    def people(self, source: CueSource, indices: range) -> Iterator[tuple[Scene, BodyParameters]]:
        """Scenes of a dataset, each with a body per box. Raises SceneError for a scene without picture or boxes."""
        for first in range(indices.start, indices.stop, self._batch):
            part = range(first, min(first + self._batch, indices.stop))
            scenes = [source.load(i) for i in part]
            seen = [_seen(source, i, scene) for i, scene in zip(part, scenes)]
            bodies = self._expert.start([photo for photo, _ in seen], [people for _, people in seen])
            yield from zip(scenes, bodies, strict=True)


def _seen(source: CueSource, index: int, scene: Scene) -> tuple[Any, Any]:
    """Photo and people of a scene, as experts take them."""
    photo = source.photo(index)
    if not photo or scene.boxes is None:
        raise SceneError(f"{source.location}: scene {scene.name}: packed without its {'boxes' if photo else 'photo'}")
    pixels = read_photo(photo, where=f"{source.location}: scene {scene.name}: photo")
    people = People(scene.boxes, keypoints=scene.keypoints, intrinsics=scene.intrinsics)
    return Photo(scene.name, scene.image_path or "", pixels), people
