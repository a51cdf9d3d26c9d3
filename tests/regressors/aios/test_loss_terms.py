"""Terms of the loss of AiOS against recordings."""

from __future__ import annotations

import aios_golden as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aios_parts import TOLERANCE
from helpers import max_abs

from annyfit_jax.regressors.aios import (
    loss_terms,
)


def test_focal_loss():
    found = golden.arrays("ops")
    logits, target = jnp.asarray(found["focal_logits"]), jnp.asarray(found["focal_onehot"])
    value, gradient = jax.value_and_grad(lambda x: loss_terms.focal(x, target).sum() / found["focal_num"])(logits)
    assert value == pytest.approx(float(found["focal_out_times_queries"]), rel=1e-5)
    assert max_abs(gradient, found["focal_grad"]) < 1e-5


@pytest.mark.parametrize("joints", [17, 6])
def test_object_keypoint_similarity(joints):
    found = golden.under(f"oks{joints}_", golden.arrays("ops"))
    sigmas = loss_terms.BODY_SIGMAS if joints == 17 else loss_terms.PART_SIGMAS
    np.testing.assert_allclose(sigmas, found["sigmas"], rtol=1e-6)
    arguments = (
        jnp.asarray(found["pred"]).reshape(-1, joints, 2), jnp.asarray(found["gt"]).reshape(-1, joints, 2),
        jnp.asarray(found["valid"]), jnp.asarray(found["area"]), sigmas,
    )  # fmt: skip
    assert max_abs(loss_terms.object_keypoint_similarity(*arguments), found["value"]) < TOLERANCE
    assert max_abs(loss_terms.oks_loss(*arguments), found["loss"]) < TOLERANCE


def test_oks_without_joints_or_area_is_finite():
    def value(xy, visible, area):
        return loss_terms.oks_loss(xy, jnp.zeros((6, 2)), visible, area, loss_terms.PART_SIGMAS)

    for visible, area in ((jnp.zeros(6), 0.1), (jnp.ones(6), 0.0)):
        loss, gradient = jax.value_and_grad(value)(jnp.full((6, 2), 0.2), visible, jnp.float32(area))
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()
