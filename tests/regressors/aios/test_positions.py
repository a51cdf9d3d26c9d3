"""Embeddings of positions and boxes, and masks of padding, against recordings."""

from __future__ import annotations

import aios_golden as golden
import jax.numpy as jnp
import numpy as np
import pytest
from aios_parts import TOLERANCE, level_masks
from helpers import max_abs

from annyfit_jax.regressors.aios import (
    positions,
)

# ------------------------------------------------------------------------------------------------ embeddings, positions


def test_image_embedding():
    found = golden.arrays("embeddings")
    got = positions.image_embedding(jnp.asarray(found["pe_mask"]), 256)
    assert max_abs(got.transpose(0, 3, 1, 2), found["pe_out"]) < TOLERANCE


@pytest.mark.parametrize("numbers", [2, 4])
def test_box_embedding(numbers):
    found = golden.arrays("embeddings")
    got = positions.box_embedding(jnp.asarray(found[f"qpe_in{numbers}"]), 256)
    assert max_abs(got, found[f"qpe_out{numbers}"]) < TOLERANCE


def test_masks_and_valid_ratios():
    found = golden.arrays("embeddings")
    for level, (mask, (h, w)) in enumerate(zip(*level_masks())):
        np.testing.assert_array_equal(mask, found[f"maskdown{level}"])
        ratio = positions.valid_counts(mask) / jnp.array([w, h])
        assert max_abs(ratio, found[f"valid_ratio{level}"]) < 1e-6
