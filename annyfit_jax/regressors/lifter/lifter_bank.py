"""The bank of poses that views are drawn from: a file of `experiments.builders.build_lifter_bank`, which is not shipped."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from annyfit_jax.lifting.lifter_rig import BONES

SOURCES = ("subjects", "activities", "postures")
"""The two files of motion capture, and the project's own postures."""


class Bank(NamedTuple):
    """n poses, each with its mirrored twin among them."""

    pose: Float[Array, "n B 3"]
    """Rotation vectors of `lifter_rig.BONES` in their own rest frames, radians."""
    up: Float[Array, "n 3"]
    """The world's up in the axes of the root."""
    age: Int[Array, "n"]
    """Class of age (`people.words.AGE_CLASSES`) that takes the posture; -1: any."""
    rows: tuple[Int[Array, "_"], ...]
    """Poses of each of `SOURCES`."""


def load_bank(path: str | Path, *, held_out: bool = False) -> Bank:
    """The poses for training, or those held out. Raises FileNotFoundError, ValueError for a bank of other bones."""
    if not str(path):
        raise ValueError(
            "lifter: no bank of poses; give --set=regressor.data.bank=FILE (experiments.builders.build_lifter_bank)"
        )
    with np.load(path) as file:
        arrays = dict(file)
    if tuple(str(name) for name in arrays["bones"]) != BONES:
        raise ValueError(f"{path}: a bank of other bones; make it again with experiments.builders.build_lifter_bank")
    kept: Bool[np.ndarray, "n"] = arrays["held_out"] == held_out
    source = arrays["source"][kept]
    return Bank(
        pose=jnp.asarray(arrays["pose"][kept], jnp.float32),
        up=jnp.asarray(arrays["up"][kept], jnp.float32),
        age=jnp.asarray(arrays["age"][kept], jnp.int32),
        rows=tuple(jnp.asarray(np.flatnonzero(source == s), jnp.int32) for s in range(len(SOURCES))),
    )
