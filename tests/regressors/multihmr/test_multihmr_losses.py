"""The loss of Multi-HMR against the recorded one, and what must not change it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from multihmr_golden import arrays

from annyfit_jax.regressors.multihmr import multihmr_losses
from annyfit_jax.regressors.multihmr.multihmr_config import LossConfig

pytestmark = pytest.mark.unoptimised

SIZE = 112
NAMES = ("bce", "offset", "rotmat", "shape", "dist", "transl", "j3d", "v3d", "j2d", "v2d")


def body(side: str) -> multihmr_losses.Body:
    """The recording's people as those of one picture."""
    found = arrays("losses")
    distance = found[f"{side}/dist_postprocessed"].reshape(4, 1)
    fields = {name: name for name in ("offset", "shape", "transl", "j3d", "v3d", "j2d", "v2d")} | {"matrices": "rotmat"}
    values = {ours: jnp.asarray(found[f"{side}/{theirs}"])[None] for ours, theirs in fields.items()}
    pelvis = found[f"{side}/transl_pelvis"].reshape(1, 4, 3)
    return multihmr_losses.Body(**values, raw_distance=jnp.asarray(distance)[None], pelvis=jnp.asarray(pelvis))


TERMS = jax.jit(multihmr_losses.terms, static_argnums=5)


def evaluate(predicted: multihmr_losses.Body, true: multihmr_losses.Body, valid) -> dict:
    found = arrays("losses")
    scores, positive = jnp.asarray(found["pred/scores"][..., 0]), jnp.asarray(found["target/scores"])
    return TERMS(scores, positive, predicted, true, jnp.asarray(valid), SIZE)


def test_terms_and_totals():
    found = arrays("losses")
    values = evaluate(body("pred"), body("target"), np.ones((1, 4), bool))
    for name in NAMES:
        assert float(values[name]) == pytest.approx(float(found[f"epoch0/{name}"]), rel=2e-5), name
    for epoch, pixels in (("epoch0", False), ("epoch10", True)):
        assert float(multihmr_losses.total(values, LossConfig(), pixels)) == pytest.approx(
            float(found[f"{epoch}/total"]), rel=2e-5
        )


def test_no_person_at_all():
    found = arrays("losses")
    scores = jnp.asarray(found["pred/scores"][..., 0])
    alone = multihmr_losses.detection(scores, jnp.zeros_like(scores))
    assert float(alone) == pytest.approx(float(found["bce_no_positive"]), rel=2e-5)
    values = evaluate(body("pred"), body("target"), np.zeros((1, 4), bool))
    assert all(float(values[name]) == 0.0 for name in NAMES[1:])


def test_padded_people_count_nothing():
    """Neither in values nor in gradients, whatever stands in their rows."""
    true = body("target")

    def padded(part):
        return jnp.concatenate([part, jnp.full_like(part[:, :2], jnp.nan)], axis=1)

    wide_true = multihmr_losses.Body(*(jnp.nan_to_num(padded(part), nan=3.0) for part in true))
    plain = evaluate(body("pred"), true, np.ones((1, 4), bool))
    wide = multihmr_losses.Body(*(jnp.nan_to_num(padded(part), nan=-7.0) for part in body("pred")))
    valid = np.array([[True] * 4 + [False] * 2])
    for name, value in evaluate(wide, wide_true, valid).items():
        assert float(value) == pytest.approx(float(plain[name]), rel=1e-6), name

    gradient = jax.jit(jax.grad(lambda p: multihmr_losses.total(evaluate(p, wide_true, valid), LossConfig())))(wide)
    for part in gradient:
        assert not np.asarray(part)[0, 4:].any()
        assert np.isfinite(np.asarray(part)).all()


def test_weights_of_people():
    """Weight 2 for one of four people is its share of the mean twice."""
    predicted, true = body("pred"), body("target")
    found = arrays("losses")
    scores, positive = jnp.asarray(found["pred/scores"][..., 0]), jnp.asarray(found["target/scores"])
    valid, weight = jnp.ones((1, 4), bool), jnp.array([[2.0, 1.0, 1.0, 1.0]])
    plain = TERMS(scores, positive, predicted, true, valid, SIZE)
    heavier = TERMS(scores, positive, predicted, true, valid, SIZE, weight)
    first = float(jnp.abs(predicted.transl[0, 0] - true.transl[0, 0]).sum()) / 4
    assert float(heavier["transl"] - plain["transl"]) == pytest.approx(first, rel=1e-4)


def test_a_term_that_is_not_finite_is_left_out():
    values = dict.fromkeys(NAMES, jnp.ones(())) | {"dist": jnp.array(jnp.nan), "transl": jnp.array(jnp.inf)}
    expected = sum(getattr(LossConfig(), name) for name in NAMES if name not in ("dist", "transl"))
    assert float(multihmr_losses.total(values, LossConfig())) == pytest.approx(expected)
