"""Attention among people in blocks against attention under the recorded masks."""

from __future__ import annotations

import aios_golden as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aios_parts import no_draws
from helpers import max_abs

from annyfit_jax.regressors.aios import (
    attention,
    tokens,
)
from annyfit_jax.regressors.aios.aios_config import AiosConfig, naive
from annyfit_jax.regressors.layers import HostRandom

# ------------------------------------------------------------------------------------------------ attention patterns


def dense_mask(config: AiosConfig, layout: tokens.Layout, people: int, groups: np.ndarray | None = None) -> np.ndarray:
    """True where forbidden: the pattern written out, one image."""
    visible = tokens.visibility(config, layout)
    person = np.repeat(np.arange(people), tokens.size(layout))
    token = np.tile(np.arange(tokens.size(layout)), people)
    allowed = person[:, None] == person
    allowed |= np.isin(token, visible.queries)[:, None] & np.isin(token, visible.keys)
    if groups is not None:
        n = len(groups)
        allowed = np.block(
            [[groups[:, None] == groups, np.ones((n, token.size), bool)], [np.zeros((token.size, n), bool), allowed]]
        )
    return ~allowed


@pytest.mark.parametrize(("case", "config"), [("aios", AiosConfig()), ("box", naive())])
def test_patterns_are_the_recorded_masks(case, config):
    found = golden.under(f"{case}/", golden.arrays("masks_dn"))
    _, second, third = tokens.layouts(config)
    np.testing.assert_array_equal(dense_mask(config, second, 4), found["eval_mask2"])
    np.testing.assert_array_equal(dense_mask(config, third, 4), found["eval_mask3"])
    for image, people in enumerate((3, 2)):
        groups = np.arange(4) // people
        for stage, (layout, kept) in enumerate([(tokens.LOCATION, 9), (second, 4), (third, 4)], 1):
            expected = found[f"train_mask{stage}"][image]
            np.testing.assert_array_equal(dense_mask(config, layout, kept, groups), expected)


PATTERNS = [AiosConfig(attention=a) for a in ("ours", "full", "inter_human")] + [naive()]


@pytest.mark.slow
@pytest.mark.parametrize("denoising", [0, 5])
@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("config", PATTERNS, ids=lambda c: c.attention if c.joints else "naive")
def test_blocks_equal_masked_attention(config, stage, denoising):
    """Against all scores and a mask, in numpy and float64."""
    layout = tokens.layouts(config)[stage]
    people, width, heads = 3, 32, 4
    count = denoising + people * tokens.size(layout)
    rng = np.random.default_rng(stage)
    x, position = rng.normal(size=(2, 2, count, width))
    groups = np.sort(rng.integers(0, 3, (2, denoising)), axis=-1)
    module = attention.PeopleAttention(width, heads, rngs=HostRandom.of(jax.random.key(1)))
    got = module(
        jnp.asarray(x, jnp.float32), jnp.asarray(position, jnp.float32), jnp.asarray(groups) if denoising else None,
        tokens_per_person=tokens.size(layout), visibility=tokens.visibility(config, layout),
    )  # fmt: skip

    kernel = np.asarray(module.input.kernel[...], np.float64)
    q, k = ((x + position) @ kernel[:, part] for part in (slice(0, 32), slice(32, 64)))
    q, k, v = (part.reshape(2, count, heads, -1).swapaxes(1, 2) for part in (q, k, x @ kernel[:, 64:]))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(width / heads)
    for image in range(2):
        scores[image, :, dense_mask(config, layout, people, groups[image])] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    joined = (weights @ v).swapaxes(1, 2).reshape(2, count, width)
    expected = joined @ np.asarray(module.output.kernel[...], np.float64)
    assert max_abs(got, expected) < 1e-5


def test_no_matrix_over_all_tokens():
    """Scores of 100 people in the last stage: the compiled program has no 3900 x 3900 array."""
    module = attention.PeopleAttention(32, 4, rngs=no_draws())
    visible = tokens.visibility(AiosConfig(), tokens.WHOLE_BODY)
    x = jax.ShapeDtypeStruct((1, 3900, 32), jnp.float32)
    lowered = jax.jit(lambda x, p: module(x, p, None, tokens_per_person=39, visibility=visible)).lower(x, x)
    analysis = lowered.compile().memory_analysis()
    assert analysis is not None
    assert analysis.temp_size_in_bytes < 0.2 * 4 * 3900 * 3900 * 4
