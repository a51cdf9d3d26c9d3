"""A source of training examples that are numbers."""

from __future__ import annotations

import dataclasses

import numpy as np

from annyfit_jax.people.scene import SceneError
from annyfit_jax.training.training_data import Mixed

# ------------------------------------------------------------------------------------------------ data


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A feed of numbers: source `a` has 0..9, `b` 100..104; 3 cannot be read."""

    def sources(self):
        return [Mixed("a", list(range(10)), 0.75), Mixed("b", [100 + k for k in range(5)], 0.25), Mixed("no", [], 0.0)]

    def row(self, source, example, random):
        if example == 3:
            raise SceneError("three")
        return source, example, random.integers(1 << 30)

    def size(self, rows):
        return 1, 1

    def batch(self, rows, size):
        return np.array([row[1] for row in rows])
