"""What Multi-HMR is given, and what it answers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float

from annyfit_jax.regressors.multihmr.multihmr_people import Bodies


class Targets(NamedTuple):
    """The true people of each picture, nearest first; P rows, padding is finite and does not matter."""

    people: Bool[Array, "batch P"]
    root_rotvec: Float[Array, "batch P 3"]
    transl: Float[Array, "batch P 3"]
    """Root bone, camera axes, metres."""
    pose: Float[Array, "batch P 162 3"]
    phenotypes: Float[Array, "batch P 6"]
    weight: Float[Array, "batch P"]
    """How much a person counts; 1 where labels are equally good."""


class Batch(NamedTuple):
    """Square pictures, and in training their people."""

    images: Float[Array, "batch S S 3"]
    """Normalised RGB (`square_preprocess.square`)."""
    intrinsics: Float[Array, "batch 3 3"] | None
    """Of the square pictures, pixels. None: those that the network sees (not in training)."""
    targets: Targets | None = None


class People(NamedTuple):
    """Candidates of each picture, best first. Keep those with `valid`."""

    scores: Float[Array, "batch person"]
    valid: Bool[Array, "batch person"]
    bodies: Bodies
    heads: Float[Array, "batch person 2"]
    """Pixels of the square picture."""
    intrinsics: Float[Array, "batch 3 3"]


def blank_targets(batch: int, rows: int) -> Targets:
    """Nobody, as host arrays of the shapes of training."""
    shapes: dict[str, Any] = {
        "root_rotvec": (3,), "transl": (3,), "pose": (162, 3), "phenotypes": (6,), "weight": (),
    }  # fmt: skip
    fields = {name: np.zeros((batch, rows, *shape), np.float32) for name, shape in shapes.items()}
    fields["transl"][..., 2] = 1.0
    fields["phenotypes"][:] = 0.5
    return Targets(people=np.zeros((batch, rows), bool), **fields)  # pyright: ignore[reportArgumentType]
