"""Recordings of the official Multi-HMR modules, and networks as they were recorded."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import recorded_weights
from flax import nnx
from helpers import GOLDENS, read_only, require_shared

from annyfit_jax.regressors.aios.aios_checkpoint import to_ours, to_theirs
from annyfit_jax.regressors.multihmr import multihmr_checkpoint, multihmr_model
from annyfit_jax.regressors.multihmr.head_detection import Patches
from annyfit_jax.regressors.multihmr.multihmr_config import HeadConfig, MultiHmrConfig, smplx_config
from annyfit_jax.regressors.vit import VitConfig

LOCAL = GOLDENS / "multihmr"
TINY_VIT = VitConfig(48, 2, 3, table=5)
TINY_ANNY = MultiHmrConfig(size=112, vit=TINY_VIT, head=HeadConfig(64, 2, 4, 16, 128), max_people=4)
TINY_SMPLX = smplx_config(size=112, vit=TINY_VIT, max_people=4)


def path(name: str) -> Path:
    """A recording: in the clone, or beside it (else the test is skipped)."""
    return LOCAL / name if (LOCAL / name).exists() else require_shared(Path("golden") / "multihmr" / name)


@functools.cache
def arrays(name: str) -> dict[str, np.ndarray]:
    return read_only(path(f"{name}.npz"))


def tiny_images() -> jax.Array:
    """The three pictures (image, h, w, 3) of the small networks' recordings."""
    return jnp.asarray(arrays("tiny_picture")["image"].transpose(0, 2, 3, 1))


@functools.cache
def table(name: str):
    return json.loads(path(f"{name}.json").read_text())


def recorded(config: MultiHmrConfig, seed: int, own: dict[str, np.ndarray]) -> nnx.State:
    """Variables as the recordings had them: made from their names; `own` by name."""

    def value(place, variable):
        leaf, name = str(place[-1]), multihmr_checkpoint.torch_name(config, place)
        theirs = to_theirs(np.broadcast_to(np.float32(0), variable.shape), leaf).shape
        made = own[name] if name in own else recorded_weights.tensor(seed, name, theirs)
        return place, variable.replace(jnp.asarray(to_ours(made, leaf)))

    return nnx.from_flat_state([value(p, v) for p, v in nnx.to_flat_state(multihmr_model.graph_and_shapes(config)[1])])


def patches_of(index: np.ndarray, images: int, people: int) -> tuple[Patches, tuple[np.ndarray, np.ndarray]]:
    """Flat (image, row, column) rows as padded lists, and where each row went."""
    row, column = np.zeros((images, people), int), np.zeros((images, people), int)
    valid = np.zeros((images, people), bool)
    image, slot = index[0], np.array([(index[0][:k] == index[0][k]).sum() for k in range(index.shape[1])])
    row[image, slot], column[image, slot], valid[image, slot] = index[1], index[2], True
    score = jnp.asarray(valid, jnp.float32)
    return Patches(jnp.asarray(row), jnp.asarray(column), jnp.asarray(valid), score), (image, slot)


def close(actual, expected, tolerance: float = 2e-5) -> None:
    """Largest difference, relative to the largest value."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    scale = max(np.abs(expected).max(), 1e-3)
    assert np.abs(actual - expected).max() <= tolerance * scale
