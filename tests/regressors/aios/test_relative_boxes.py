"""Boxes as shares of the picture against recordings: refinement in logits, generalised IoU."""

from __future__ import annotations

import aios_golden as golden
import jax.numpy as jnp
from aios_parts import TOLERANCE, no_draws
from helpers import max_abs

from annyfit_jax.regressors.aios import (
    relative_boxes,
)
from annyfit_jax.regressors.layers import Mlp


def test_inverse_sigmoid():
    found = golden.arrays("embeddings")
    assert max_abs(relative_boxes.inverse_sigmoid(jnp.asarray(found["invsig_in"])), found["invsig_out"]) < 1e-5


# ------------------------------------------------------------------------------------------------ boxes, joints, rotations


def test_mlp_and_refinement():
    found = golden.arrays("ops")
    module = golden.fill_module(
        lambda: Mlp((16, 24, 24, 4), rngs=no_draws()), golden.under("mlp/", found),
        ("heads", "person", 0), "bbox_embed.0.",
    )  # fmt: skip
    delta = module(jnp.asarray(found["mlp_in"]))
    assert max_abs(delta, found["mlp_out"]) < TOLERANCE
    assert max_abs(relative_boxes.refine(jnp.asarray(found["refine_ref"]), delta), found["refine_out"]) < TOLERANCE


def test_generalised_iou():
    found = golden.arrays("ops")
    a, b = jnp.asarray(found["box_a"]), jnp.asarray(found["box_b"])
    assert max_abs(relative_boxes.to_corners(a), found["box_a_xyxy"]) < 1e-6
    assert max_abs(relative_boxes.from_corners(relative_boxes.to_corners(a)), found["xyxy_back"]) < 1e-6
    assert max_abs(relative_boxes.generalised_iou(a[:, None], b[None]), found["giou"]) < TOLERANCE
    assert max_abs(1 - relative_boxes.generalised_iou(a[:4], b), found["giou_diag_loss"]) < TOLERANCE
