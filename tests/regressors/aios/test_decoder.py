"""A layer of the decoder against recordings, in the four layouts of tokens."""

from __future__ import annotations

import aios_golden as golden
import jax.numpy as jnp
import pytest
from aios_parts import SMALL, TOLERANCE, no_draws, sizes_of
from helpers import max_abs

from annyfit_jax.regressors.aios import (
    tokens,
)
from annyfit_jax.regressors.aios.aios_config import naive
from annyfit_jax.regressors.aios.decoder import DecoderLayer

pytestmark = pytest.mark.unoptimised


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "config", "layout"),
    [
        ("loc", SMALL, tokens.LOCATION),
        ("body", SMALL, tokens.BODY),
        ("whole", SMALL, tokens.WHOLE_BODY),
        ("naive", naive(width=32, heads=4, feedforward=48), tokens.BOXES),
    ],
)
def test_decoder_layer(case, config, layout):
    found = golden.arrays("decoder_layer")
    module = golden.fill_module(
        lambda: DecoderLayer(config, rngs=no_draws()), golden.under("w/", found), ("decoder", "layers", 0),
        "transformer.decoder.layers.0.",
    )  # fmt: skip
    got = module(
        *(jnp.asarray(found[f"{case}_{key}"]) for key in ("tgt", "query_pos", "ref4")),
        jnp.asarray(found["memory"]), jnp.asarray(found["padding_mask"]), None, sizes=sizes_of(found),
        tokens_per_person=tokens.size(layout), visibility=tokens.visibility(config, layout),
    )  # fmt: skip
    assert max_abs(got, found[f"{case}_out"]) < TOLERANCE
