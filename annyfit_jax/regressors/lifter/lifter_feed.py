"""Batches of a lifter's training: rows are seeds, from which the step draws people; nothing is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt32

from annyfit_jax.training.training_data import Mixed, Size

_SEEDS = 4096


class _Seeds:
    """Numbers to begin with; the feed draws from each anew."""

    def __len__(self) -> int:
        return _SEEDS

    def __getitem__(self, index: int) -> int:
        return index


@dataclass(frozen=True)
class LifterFeed:
    """See `training_data.Feed`."""

    def sources(self) -> Sequence[Mixed]:
        """One: seeds."""
        return (Mixed("drawn", _Seeds(), 1.0),)

    def row(self, source: str, example: int, random: np.random.Generator) -> np.uint32:
        """A seed."""
        return np.uint32(random.integers(2**32))

    def size(self, rows: Sequence[np.uint32]) -> Size:
        """Nothing is padded."""
        return (1, 1)

    def batch(self, rows: Sequence[np.uint32], size: Size) -> UInt32[np.ndarray, "rows"]:
        """The seeds."""
        return np.asarray(rows, np.uint32)
