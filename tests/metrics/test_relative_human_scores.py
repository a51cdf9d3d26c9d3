"""Scores of Relative Human against recorded numbers of the public evaluator."""

from __future__ import annotations

import numpy as np
import pytest
from metric_recordings import read_json

from annyfit_jax import metrics
from annyfit_jax.metrics import relative_human_scores
from annyfit_jax.metrics.people_of_image import PredictedPeople
from annyfit_jax.metrics.skeletons import RH14
from annyfit_jax.truth.relative_human_truth import people_of

# ------------------------------------------------------------------------------------------------ whole evaluators


def predicted_rh(people: list[dict]) -> PredictedPeople:
    pixels = np.array([p["kp2ds"] for p in people], np.float64).reshape(-1, 14, 2)
    depth = np.array([p["trans"][2] for p in people], np.float64)
    return PredictedPeople(names=RH14, joints_2d=pixels, joints_3d=np.zeros((len(pixels), 14, 3)), depth=depth)


def test_relative_human_equals_the_public_evaluator():
    golden = read_json("relative_human.json")
    for case in golden["cases"]:
        expected, images = case["expected"], {}
        for image, people in case["annots"].items():
            truth = people_of(image, people, "annots")
            errors = relative_human_scores.image_errors(predicted_rh(case["results"].get(image, [])), truth)
            shares = expected["pckh_per_person"].get(image, [])
            np.testing.assert_allclose(errors["pckh"], shares, atol=1e-6)
            images[image] = errors
        counts = [int(errors["predictions"][0]) for errors in images.values()]
        assert counts == expected["count_predictions"]
        assert [int(errors["false_positives"][0]) for errors in images.values()] == expected["false_positives"]
        assert [int(errors["misses"][0]) for errors in images.values()] == expected["misses"]
        pooled = relative_human_scores.pool(list(images.values()))
        assert pooled["missed"] == expected["n_missed"]
        assert pooled["pairs"] == sum(expected["n_pairs"].values())
        for key in ("precision", "recall", "f1"):
            assert pooled[key] == expected[key], key
        for key in ("PCRD_0.2", *(f"PCRD_0.2_{age}" for age in golden["age_codes"])):
            assert pooled[key] == pytest.approx(expected.get(key, np.nan), abs=1e-6, nan_ok=True), key
        assert pooled["mPCKh_0.6"] == pytest.approx(expected["mPCKh"], abs=1e-6)
        for key, share in zip(("equal", "nearer", "farther"), expected["percent_equal_close_far"], strict=True):
            assert pooled[f"depth_{key}"] * 100 == pytest.approx(share, abs=0.0051), key


def test_matches_of_relative_human_equal_the_public_ones():
    """Indices of people count those with keypoints, which in these recordings is everybody."""
    for case in read_json("relative_human.json")["cases"]:
        for image, pairs in case["expected"]["matches"].items():
            truth = people_of(image, case["annots"][image], "annots")
            predicted = predicted_rh(case["results"][image]).joints_2d
            found = metrics.match_2d_greedy(predicted, truth.joints_2d, truth.labelled)
            assert found.pairs.tolist() == pairs
            assert found.misses.tolist() == case["expected"]["missed"].get(image, [])
