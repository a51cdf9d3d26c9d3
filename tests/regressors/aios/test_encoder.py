"""The encoder of AiOS against recordings: references, proposals, a layer."""

from __future__ import annotations

import aios_golden as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aios_parts import TOLERANCE, level_masks, no_draws, sizes_of
from helpers import max_abs

from annyfit_jax.regressors.aios import (
    positions,
)
from annyfit_jax.regressors.aios.aios_config import AiosConfig
from annyfit_jax.regressors.aios.encoder import EncoderLayer


def test_encoder_references():
    found = golden.arrays("embeddings")
    masks, sizes = level_masks()
    valid = jnp.stack([positions.valid_counts(mask) for mask in masks], axis=1)
    assert max_abs(positions.encoder_references(valid, sizes), found["enc_ref_points"]) < TOLERANCE


@pytest.mark.parametrize("case", ["prop", "propwide"])
def test_proposals(case):
    """Invalid ones are infinite in both; valid ones agree."""
    found = golden.arrays("embeddings")
    if case == "prop":
        masks, sizes = level_masks()
        valid = jnp.stack([positions.valid_counts(mask) for mask in masks], axis=1)
        padding = jnp.asarray(found["prop_mask"])
    else:  # one tall level without padding, whose first and last rows are invalid
        sizes, padding = [(60, 4)], jnp.zeros((1, 240), bool)
        valid = jnp.array([[[4.0, 60.0]]])
    got, usable = jax.jit(lambda counts, masked: positions.proposals(counts, masked, sizes))(valid, padding)
    expected = found[f"{case}_out"]
    np.testing.assert_array_equal(np.isinf(got), np.isinf(expected))
    np.testing.assert_array_equal(usable, np.isfinite(expected).all(-1))
    assert max_abs(np.where(np.isinf(got), 0, got), np.where(np.isinf(expected), 0, expected)) < TOLERANCE
    assert bool(usable.any())
    assert not bool(usable.all())


# ------------------------------------------------------------------------------------------------ layers


def test_encoder_layer():
    found = golden.arrays("encoder_layer")
    config = AiosConfig(width=32, heads=4, feedforward=48)
    module = golden.fill_module(
        lambda: EncoderLayer(config, rngs=no_draws()), golden.under("w/", found), ("encoder", "layers", 0),
        "transformer.encoder.layers.0.",
    )  # fmt: skip
    layer = jax.jit(lambda *given: module(*given, sizes=sizes_of(found)))
    got = layer(*(found[key] for key in ("src", "pos", "ref_points", "padding_mask")))
    assert max_abs(got, found["out"]) < TOLERANCE
