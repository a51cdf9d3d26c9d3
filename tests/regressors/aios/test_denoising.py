"""Denoising queries against recordings."""

from __future__ import annotations

import aios_golden as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs

from annyfit_jax.regressors.aios import denoising
from annyfit_jax.regressors.aios.aios_config import AiosConfig

# ------------------------------------------------------------------------------------------------ denoising


@pytest.mark.parametrize("case", ["aios", "box"])
def test_denoising_queries(case):
    """From the recorded draws; the recording's replaced labels stand in the order of their queries."""
    found = golden.under(f"{case}/", golden.arrays("masks_dn"))
    replaced = found["dn_label_u"] < 0.5
    label = np.zeros((2, 4), int)
    label[replaced] = found["dn_new_label"][: replaced.sum()]
    remainder = np.zeros((2, 4), int)
    remainder[0, 3] = found["dn_resid0"][0]
    boxes = np.zeros((2, 3, 4), np.float32)
    boxes[0], boxes[1, :2] = found["dn_gt_boxes0"], found["dn_gt_boxes1"]
    draws = denoising.Draws(
        jnp.asarray(remainder), jnp.asarray(found["dn_label_u"]), jnp.asarray(label), jnp.asarray(found["dn_box_u"]),
        jnp.zeros((2, 4, 4)),
    )  # fmt: skip
    table = np.random.default_rng(0).normal(size=(101, 256)).astype(np.float32)
    people = jnp.array([[True, True, True], [True, True, False]])
    make = jax.jit(denoising.make, static_argnums=0)
    queries, clean = make(AiosConfig(), draws, jnp.asarray(table), people, jnp.asarray(boxes))
    assert max_abs(queries.reference, found["dn_refpoint_unsig"]) < 1e-5
    assert max_abs(clean.boxes, found["dn_known_boxes"]) < 1e-6
    np.testing.assert_array_equal(clean.labels, found["dn_known_labels"])
    np.testing.assert_array_equal(queries.content, table[np.where(replaced, label, 1)])
    # The recorded table is not there, but the recorded queries repeat where ours do.
    ours, theirs = (x.reshape(8, -1) for x in (np.asarray(queries.content), found["dn_query"]))
    np.testing.assert_array_equal(
        (ours[:, None] == ours).all(-1), np.isclose(theirs[:, None], theirs, atol=1e-6).all(-1)
    )
    np.testing.assert_array_equal(queries.group, [[0, 0, 0, 1], [0, 0, 1, 1]])


def test_people_need_not_come_first():
    """Targets in any order, gaps included: the same queries from the same draws."""
    config = AiosConfig(denoising=7)
    boxes = jax.random.uniform(jax.random.key(0), (1, 4, 4))
    people = jnp.array([[False, True, False, True]])
    draws = denoising.draw(jax.random.key(1), config, people)
    table = jax.random.normal(jax.random.key(2), (101, 8))
    got = denoising.make(config, draws, table, people, boxes)
    packed = denoising.make(config, draws, table, jnp.ones((1, 2), bool), boxes[:, jnp.array([1, 3])])
    jax.tree.map(np.testing.assert_array_equal, got, packed)
    np.testing.assert_array_equal(got[1].boxes[0, :2], boxes[0, jnp.array([1, 3])])


def test_an_image_without_people():
    config = AiosConfig(denoising=5)
    people = jnp.zeros((1, 3), bool)
    draws = denoising.draw(jax.random.key(0), config, people)
    queries, clean = denoising.make(config, draws, jnp.ones((101, 8)), people, jnp.zeros((1, 3, 4)))
    assert np.isfinite(queries.reference).all()
    assert not clean.real.any()
    assert (clean.labels == denoising.NOBODY).all()
