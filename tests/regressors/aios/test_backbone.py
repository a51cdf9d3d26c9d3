"""Parts of the backbone against recordings."""

from __future__ import annotations

import aios_golden as golden
from aios_parts import TOLERANCE, images_last, no_draws
from helpers import max_abs

from annyfit_jax.regressors.aios.backbone import Bottleneck, FrozenNorm, InputProjection

# ------------------------------------------------------------------------------------------------ backbone


def test_bottleneck():
    found = golden.arrays("ops")
    module = golden.fill_module(
        lambda: Bottleneck(8, 4, 2, rngs=no_draws()), golden.under("bottleneck/", found),
        ("backbone", "stages", 1, 0), "backbone.0.body.layer2.0.",
    )  # fmt: skip
    got = module(images_last(found["bottleneck_in"]))
    assert max_abs(got.transpose(0, 3, 1, 2), found["bottleneck_out"]) < TOLERANCE


def test_frozen_norm():
    found = golden.arrays("ops")
    module = golden.fill_module(
        lambda: FrozenNorm(5), golden.under("fbn/", found), ("backbone", "stem_norm"), "backbone.0.body.bn1."
    )
    got = module(images_last(found["fbn_in"]))
    assert max_abs(got.transpose(0, 3, 1, 2), found["fbn_out"]) < TOLERANCE


def test_input_projection():
    found = golden.arrays("ops")
    module = golden.fill_module(
        lambda: InputProjection(12, 64, 3, 2, rngs=no_draws()), golden.under("proj3/", found),
        ("input_levels", "projections", 3), "input_proj.3.",
    )  # fmt: skip
    got = module(images_last(found["proj3_in"]))
    assert max_abs(got.transpose(0, 3, 1, 2), found["proj3_out"]) < TOLERANCE
