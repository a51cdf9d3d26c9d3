"""Greedy matching against recorded numbers of a public evaluator."""

from __future__ import annotations

import numpy as np
from metric_recordings import read_json

from annyfit_jax import metrics
from annyfit_jax.metrics import greedy_matching

# ------------------------------------------------------------------------------------------------ matching


def matching_cases():
    for case in read_json("match_2d.json")["cases"]:
        gt = np.array(case["gt"])
        valid = None if case["gt_valid"] is None else np.array(case["gt_valid"], bool)
        predicted = np.array(case["pred"]).reshape(len(case["pred"]), *gt.shape[1:])
        yield (predicted, gt, np.array(case["gt_joint_mask"], bool), case["iou_thresh"], valid), case


def test_greedy_matching_equals_the_public_one():
    count = 0
    for arguments, case in matching_cases():
        found = metrics.match_2d_greedy(*arguments)
        assert found.pairs.tolist() == case["best_match"]
        assert found.false_positives.tolist() == case["false_positives"]
        assert found.misses.tolist() == case["misses"]
        count += 1
    assert count >= 30


def test_the_cost_is_the_largest_singular_value():
    """With the root of the summed squares some cases come out otherwise."""
    (predicted, truth, labelled, *_), _ = next(iter(matching_cases()))
    expected = [[np.linalg.norm((p - g)[use], 2) for g, use in zip(truth, labelled, strict=True)] for p in predicted]
    costs = greedy_matching.pair_costs(predicted, truth, labelled)
    np.testing.assert_allclose(costs, expected, rtol=1e-10)
    assert (costs <= np.sqrt(((predicted[:, None] - truth) ** 2 * labelled[None, ..., None]).sum((2, 3))) + 1e-9).all()
