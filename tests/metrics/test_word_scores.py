"""F1 of words against recorded numbers."""

from __future__ import annotations

import numpy as np
import pytest
from metric_recordings import read_json

from annyfit_jax import metrics
from annyfit_jax.metrics import word_scores


@pytest.mark.parametrize(("name", "classes"), [("age", 4), ("gender", 2)])
def test_f1_equals_scikit_learn(name, classes):
    cases = read_json("age_gender_f1.json")["cases"]
    assert len(cases) == 12
    for labels in cases:
        predicted, truth = np.array(labels[f"{name}_pred"]), np.array(labels[f"{name}_gt"])
        expected = {key.removeprefix(f"{name}_"): x for key, x in labels["expected"].items() if key.startswith(name)}
        np.testing.assert_allclose(metrics.class_f1(predicted, truth, classes), expected["f1_per_class"], atol=1e-12)
        for function, key in (
            (metrics.f1_macro, "macro_f1"),
            (metrics.f1_macro_present, "macro_f1_present_classes"),
            (metrics.f1_weighted, "weighted_f1"),
        ):
            assert function(predicted, truth, classes) == pytest.approx(expected[key], abs=1e-12), key
        assert metrics.f1_micro(predicted, truth) == pytest.approx(expected["micro_f1"], abs=1e-12)
        # The synthetic scenes' variant: the classes that occur in the truth.
        use = truth >= 0
        present = np.array(expected["f1_per_class"])[np.unique(truth[use])].mean()
        assert metrics.macro_f1(predicted[use], truth[use]) == pytest.approx(present, abs=1e-12)


def test_a_constant_answer_scores_the_published_figures():
    """Why macro F1: an adult-only model has 23.29 for age at a share of 0.87, a one-sex model 34.83 at 0.53."""
    adults = np.repeat([0, 1, 2, 3], [870, 60, 50, 20])
    assert metrics.f1_macro(np.zeros(1000, int), adults, 4) == pytest.approx(0.2329, abs=5e-4)
    sexes = np.repeat([0, 1], [5345, 4655])
    assert metrics.f1_macro(np.zeros(10000, int), sexes, 2) == pytest.approx(0.3483, abs=5e-4)


def test_a_class_of_age_has_the_years_of_the_calibration_and_no_false_precision():
    groups = [word_scores.age_group(age) for age in word_scores.AGE_ANCHORS]
    assert groups[0] == "baby (0 to 1 years)"
    assert groups[4] == "adult (14 to 64 years)"
    assert groups[5] == "senior (from 64 years)"
    uppers = [upper for upper, _ in word_scores.AGE_GROUPS]
    assert uppers == sorted(uppers)
    with pytest.raises(ValueError):
        word_scores.age_group(float("nan"))
