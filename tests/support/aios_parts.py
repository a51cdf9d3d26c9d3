"""Tolerance, sizes and layouts of the recorded parts of AiOS."""

from __future__ import annotations

import aios_golden as golden
import jax
import jax.numpy as jnp
import numpy as np

from annyfit_jax.regressors.aios import (
    positions,
)
from annyfit_jax.regressors.aios.aios_config import AiosConfig
from annyfit_jax.regressors.layers import HostRandom

TOLERANCE = 1e-4
SMALL = AiosConfig(width=32, heads=4, feedforward=48)


def no_draws() -> HostRandom:
    return HostRandom.of(None)


def sizes_of(found: dict[str, np.ndarray], key: str = "spatial_shapes") -> list[tuple[int, int]]:
    return [(int(h), int(w)) for h, w in found[key]]


def images_last(x: np.ndarray) -> jax.Array:
    """(n, c, h, w) to (n, h, w, c)."""
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def level_masks() -> tuple[list[jax.Array], list[tuple[int, int]]]:
    found = golden.arrays("embeddings")
    sizes = [found[f"maskdown{level}"].shape[1:] for level in range(4)]
    return [positions.level_mask(jnp.asarray(found["mask_full"]), size) for size in sizes], sizes
