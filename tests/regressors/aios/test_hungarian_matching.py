"""Matching of queries to people against recordings and scipy. Tolerances: `aios_parts`."""

from __future__ import annotations

import aios_golden as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from annyfit_jax.regressors.aios import hungarian_matching
from annyfit_jax.regressors.aios.aios_model import LayerOutput
from annyfit_jax.regressors.aios.targets import Targets

# ------------------------------------------------------------------------------------------------ matching


def recorded_match(case: str, joints: bool) -> tuple[LayerOutput, Targets, list[int]]:
    found = golden.under(f"{case}/", golden.arrays("matcher"))
    counts = [len(found[f"tgt{image}_labels"]) for image in range(2)]
    most = max(counts)

    def padded(key: str) -> np.ndarray:
        rows = [found[f"tgt{image}_{key}"] for image in range(2)]
        return np.stack([np.concatenate([x, np.zeros((most - len(x), x.shape[1]), np.float32)]) for x in rows])

    xyv = padded("keypoints")
    xyv = np.concatenate([xyv[..., :34].reshape(2, most, 17, 2), xyv[..., 34:, None]], -1)
    empty = dict.fromkeys(Targets._fields)
    targets = Targets(
        **{
            **empty,
            "people": jnp.asarray(np.arange(most) < np.array(counts)[:, None]),
            "boxes": jnp.asarray(padded("boxes")),
            "body_joints": jnp.asarray(xyv),
        }
    )
    output = LayerOutput(jnp.asarray(found["pred_logits"]), jnp.asarray(found["pred_boxes"]))
    if joints:
        xy = found["pred_keypoints"][..., :34].reshape(2, -1, 17, 2)
        output = output._replace(body_joints=jnp.asarray(xy))
    return output, targets, counts


MATCH, COSTS = jax.jit(hungarian_matching.match), jax.jit(hungarian_matching.costs)


@pytest.mark.parametrize(
    ("case", "joints"),
    [(case, joints) for case in ("kp", "empty", "more_gt") for joints in (True, False)] + [("box", False)],
)
def test_matching(case, joints):
    """Costs and assignments; also of an image without people and of one with more people than queries."""
    found = golden.under(f"{case}/", golden.arrays("matcher"))
    output, targets, counts = recorded_match(case, joints)
    prefix = "" if joints or case == "box" else "naive_"
    cost = np.asarray(COSTS(output, targets))
    query = np.asarray(MATCH(output, targets))
    for image, count in enumerate(counts):
        expected = found[f"{prefix}cost{image}"]
        np.testing.assert_allclose(cost[image, :, :count], expected, rtol=1e-4, atol=1e-4)
        pairs = {(int(q), p) for p, q in enumerate(query[image]) if q >= 0}
        wanted = set(zip(found[f"{prefix}pred_idx{image}"].tolist(), found[f"{prefix}tgt_idx{image}"].tolist()))
        assert pairs == wanted


ASSIGN = jax.jit(hungarian_matching.assign)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=st.sampled_from([(1, 1), (4, 9), (7, 7), (9, 4)]), seed=st.integers(0, 2**31))
def test_assignment_is_optimal(data, shape, seed):
    """Against scipy, with people missing, ties and large offsets."""
    rng = np.random.default_rng(seed)
    kind = data.draw(st.sampled_from(["uniform", "ties", "offset"]))
    cost = rng.uniform(-5, 5, shape) if kind != "ties" else rng.integers(0, 3, shape)
    cost = (cost + (rng.uniform(0, 1000, (shape[0], 1)) if kind == "offset" else 0)).astype(np.float32)
    people = np.array(data.draw(st.lists(st.booleans(), min_size=shape[0], max_size=shape[0])))
    query = np.asarray(ASSIGN(jnp.asarray(cost), jnp.asarray(people)))
    assert (query[~people] == -1).all()
    chosen = np.flatnonzero(query >= 0)
    assert len(set(query[chosen])) == len(chosen) == min(people.sum(), shape[1])
    rows, columns = linear_sum_assignment(cost[people].astype(np.float64))
    best = cost[people].astype(np.float64)[rows, columns].sum()
    assert cost[chosen, query[chosen]].astype(np.float64).sum() == pytest.approx(best, abs=2e-3)


def test_padded_people_change_nothing():
    rng = np.random.default_rng(3)
    cost = rng.normal(size=(5, 20)).astype(np.float32)
    people = np.array([True, False, True, True, False])
    alone = ASSIGN(jnp.asarray(cost[people]), jnp.ones(3, bool))
    np.testing.assert_array_equal(np.asarray(ASSIGN(jnp.asarray(cost), jnp.asarray(people)))[people], alone)
