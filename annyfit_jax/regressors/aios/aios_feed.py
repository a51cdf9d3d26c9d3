"""The data of a training run of AiOS as config: sets with their probabilities, augmentation, padded sizes."""

from __future__ import annotations

import functools
import glob
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from annyfit_jax.regressors.aios import augment
from annyfit_jax.regressors.aios.aios_batch import Batch
from annyfit_jax.regressors.aios.aios_config import SMPLX, BodyHead
from annyfit_jax.regressors.aios.augment import Augmentation, Row
from annyfit_jax.regressors.aios.examples import Example, FitsSource, HumanDataSource
from annyfit_jax.training.training_data import Mixed, Size, Source, smallest_bucket

BUCKETS = ((1344, 800), (800, 1344), (1088, 1088), (1344, 1344), (832, 640), (640, 832))
"""Padded sizes (width, height): few programs to compile, and little padding at the published sizes."""


@dataclass(frozen=True)
class DataSet:
    """One set of pictures."""

    name: str
    probability: float
    """Share of the rows that come from it; 0: not opened."""
    path: str = ""
    """HumanData files (a pattern), or the folder of a dataset of fits."""
    images: str = ""
    """HumanData: the folder that picture names are relative to."""
    kind: str = "humandata"
    """`humandata` or `fits`."""
    crop: float = 0.3
    """Probability of a crop around people."""
    subset: float = 0.5
    """Probability that a crop is around some of them only."""
    has_3d: bool = True
    """Whether 3D points are to be trusted."""
    every: int = 1
    """n: only every n-th picture is used."""

    def __post_init__(self) -> None:
        if self.kind not in ("humandata", "fits"):
            raise ValueError(f"set {self.name}: kind must be 'humandata' or 'fits', got {self.kind!r}")
        if not self.probability >= 0 or self.every < 1:
            raise ValueError(f"set {self.name}: expected probability >= 0 and every >= 1")


@dataclass(frozen=True)
class AiosFeed:
    """See `annyfit_jax.training.training_data.Feed`."""

    sets: tuple[DataSet, ...]
    head: BodyHead = SMPLX
    """That of the network."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    max_people: int = 40
    """Rows of the targets; of more people in a picture the largest boxes stay."""
    buckets: tuple[Size, ...] = BUCKETS

    def sources(self) -> list[Mixed]:
        """Opens the sets of positive probability."""
        wanted = [part for part in self.sets if part.probability > 0]
        return [Mixed(part.name, self._open(part), part.probability) for part in wanted]

    def row(self, source: str, example: Example, random: np.random.Generator) -> Row:
        """See `augment.prepare`."""
        part = self._named[source]
        return augment.prepare(example, random, self.augmentation, self.head, self.max_people, part.crop, part.subset)

    def size(self, rows: Sequence[Row]) -> Size:
        """The smallest bucket that holds all pictures."""
        height, width = (max(row.image.shape[axis] for row in rows) for axis in (0, 1))
        return smallest_bucket((width, height), self.buckets)

    def batch(self, rows: Sequence[Row], size: Size) -> Batch:
        """Padded to `size`."""
        return augment.batch(rows, size)

    def _open(self, part: DataSet) -> Source:
        if not part.path:
            raise ValueError(f"set {part.name}: no path; give --set=feed.sets.{part.name}.path=... or probability=0")
        if part.kind == "fits":
            return FitsSource(part.path, self.head, every=part.every)
        files = sorted(glob.glob(part.path, recursive=True))
        if not files:
            raise ValueError(f"set {part.name}: no file {part.path}")
        return HumanDataSource(files, part.images, self.head, has_3d=part.has_3d, every=part.every)

    @functools.cached_property
    def _named(self) -> dict[str, DataSet]:
        return {part.name: part for part in self.sets}
