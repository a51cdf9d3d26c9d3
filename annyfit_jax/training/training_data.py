"""Batches for training: sources mixed by probabilities and augmented, in an order that a continued run takes up exactly.

A `Feed` says where pictures come from and what a row of a batch is; this module decides which row comes when. Row i of a seed
is always the same, whatever the number of processes; process p of P takes rows p, p + P, ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import numpy as np
from absl import logging

from annyfit_jax.people.scene import SceneError

if TYPE_CHECKING:
    import grain

Size = tuple[int, int]


class Source(Protocol):
    """Annotated pictures with random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Mixed(NamedTuple):
    """A source and how often it is drawn."""

    name: str
    source: Source
    probability: float


class Feed(Protocol):
    """What turns a config into rows and rows into batches."""

    def sources(self) -> Sequence[Mixed]:
        """Opens the data. Raises SceneError or ValueError on data that cannot be read."""
        ...

    def row(self, source: str, example: Any, random: np.random.Generator) -> Any:
        """One training row; the same state of `random` gives the same row. A SceneError leaves the picture out."""
        ...

    def size(self, rows: Sequence[Any]) -> Size:
        """The padded size (width, height) that a batch of these rows needs, one of few."""
        ...

    def batch(self, rows: Sequence[Any], size: Size) -> Any:
        """A pytree of arrays with a leading batch axis."""
        ...


class _Named:
    """A source whose examples know where they are from."""

    def __init__(self, name: str, source: Source) -> None:
        self.name, self.source = name, source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> tuple[str, Any]:
        try:
            return self.name, self.source[int(index)]
        except SceneError as error:
            logging.warning("left out: %s", error)
            return self.name, None


def rows(
    feed: Feed, batch: int, seed: int, *, process: int = 0, processes: int = 1, threads: int = 8
) -> grain.IterDataset:
    """Lists of `batch` rows for this process, without end.

    Raises ValueError where a source is empty or no probability is positive.
    """
    import grain

    parts = [part for part in feed.sources() if part.probability > 0]
    if not parts:
        raise ValueError("feed: no source with a positive probability")
    for part in parts:
        if not len(part.source):
            raise ValueError(f"feed: the source {part.name!r} is empty")
    shuffled = [
        grain.MapDataset.source(_Named(part.name, part.source)).seed(seed + index).shuffle().repeat()
        for index, part in enumerate(parts)
    ]
    mixed = grain.MapDataset.mix(shuffled, [part.probability for part in parts]).seed(seed)

    def made(named: tuple[str, Any], random: np.random.Generator) -> Any:
        name, example = named
        if example is None:
            return None
        try:
            return feed.row(name, example, random)
        except SceneError as error:
            logging.warning("left out: %s", error)
            return None

    own = mixed.random_map(made)[process::processes]
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * batch)
    return own.to_iter_dataset(options).batch(batch, drop_remainder=True, batch_fn=list)


def padded(feed: Feed, rows: Sequence[Any]) -> Any:
    """Rows as a batch; all processes pad to one size."""
    size = feed.size(rows)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        size = tuple(int(v) for v in np.max(multihost_utils.process_allgather(np.array(size)), axis=0))
        assert len(size) == 2
    return feed.batch(rows, size)


def smallest_bucket(need: Size, buckets: Sequence[Size]) -> Size:
    """The bucket (width, height) of least area that holds `need`. Raises ValueError if none does."""
    fitting = [bucket for bucket in buckets if bucket[0] >= need[0] and bucket[1] >= need[1]]
    if not fitting:
        raise ValueError(f"images of {need[0]} x {need[1]} pixels fit none of the padded sizes {tuple(buckets)}")
    return min(fitting, key=lambda bucket: bucket[0] * bucket[1])
