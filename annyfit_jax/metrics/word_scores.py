"""Classes of age and gender, and F1 over them. Pure numpy.

Relative Human's codes: age 0 adult, 1 teen, 2 kid, 3 baby; gender 0 male, 1 female; -1 unlabelled. Anny-Fit's evaluation of
them is not public; that its figures are **macro** F1 over all four (two) classes is a reading of published numbers: an
adult-only model's 23.29 and 34.83 are what a constant answer scores that way. How misses enter is unknown: leave them out, or
pass them with `NO_PREDICTION`, which makes them false negatives.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from annyfit_jax.people.words import AGE_CLASSES, GENDER_CLASSES, age_class

AGE_ANCHORS = np.array(list(AGE_CLASSES.values()))
"""baby, toddler, child, teenager, adult, senior."""
GENDER_ANCHORS = np.array(list(GENDER_CLASSES.values()))
"""male, neutral, female."""
AGE_CUTS = (0.33, 0.5, 0.66)
"""Anny `age` below: baby, kid, teen; else adult (a visualisation script of the Anny-Fit repository)."""
YEARS = ((0.0, 0.05, 0.215, 0.415, 0.67, 0.77, 0.83, 1.0), (0.0, 1.0, 4.0, 11.0, 16.0, 18.0, 64.0, 110.0))
"""Knots of Anny's WHO calibration: `age` phenotype, years; piecewise linear, the same for both sexes."""
NO_PREDICTION = -1


def nearest_anchor(values: Float[np.ndarray, "n"], anchors: Float[np.ndarray, "k"]) -> Int[np.ndarray, "n"]:
    """Index of the nearest anchor, the lower one where two are equally near."""
    return np.abs(np.asarray(values, np.float64)[:, None] - anchors).argmin(1)


def gender_side(values: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """0 male below 0.5, 2 female above, 1 at exactly 0.5."""
    return np.where(values > 0.5, 2, np.where(values < 0.5, 0, 1))


def age_years(age: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
    """Years of an age phenotype, clipped to [0, 1]."""
    return np.interp(np.asarray(age, np.float64), *YEARS)


AGE_GROUPS = tuple(
    (float(np.interp((low + high) / 2, *YEARS)), name)
    for (name, low), high in zip(AGE_CLASSES.items(), [*AGE_ANCHORS[1:], 2.0 - AGE_ANCHORS[-1]], strict=True)
)
"""Upper end in years and name of each class of age: up to where the next class's anchor is nearer. The last one has no end."""


def age_group(age: float) -> str:
    """The class of an age phenotype, with its years on Anny's calibration: `adult (14 to 64 years)`.

    Raises ValueError on NaN.
    """
    name = age_class(age)
    row = [group for _, group in AGE_GROUPS].index(name)
    low = 0.0 if row == 0 else AGE_GROUPS[row - 1][0]
    if row == len(AGE_GROUPS) - 1:
        return f"{name} (from {low:.0f} years)"
    return f"{name} ({low:.0f} to {AGE_GROUPS[row][0]:.0f} years)"


def relative_human_age(age: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Relative Human's age code of an age phenotype, by `AGE_CUTS`: a fit at the anchor 0.66 is an adult, 0.6599 a teen."""
    return 3 - np.searchsorted(AGE_CUTS, np.asarray(age, np.float64), side="right")


def relative_human_gender(gender: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """0 male up to 0.5, 1 female above."""
    return (np.asarray(gender, np.float64) > 0.5).astype(np.int64)


def class_f1(predicted: Int[np.ndarray, "n"], truth: Int[np.ndarray, "n"], classes: int) -> Float[np.ndarray, "k"]:
    """F1 = 2 TP / (2 TP + FP + FN) of the classes 0 .. `classes` - 1; 0 where nothing is of the class on either side.

    People whose truth is negative are left out. A prediction of `NO_PREDICTION` is a false negative of the truth's class.
    """
    predicted, truth = _labelled(predicted, truth)
    label = np.arange(classes)[:, None]
    hits = ((predicted == label) & (truth == label)).sum(1)
    whole = (predicted == label).sum(1) + (truth == label).sum(1)
    return np.where(whole > 0, 2 * hits / np.maximum(whole, 1), 0.0)


def f1_macro(predicted: Int[np.ndarray, "n"], truth: Int[np.ndarray, "n"], classes: int) -> float:
    """Mean F1 over **all** classes, those absent on both sides as 0: the one to report for Relative Human."""
    return float(class_f1(predicted, truth, classes).mean()) if _labelled(predicted, truth)[1].size else float("nan")


def f1_macro_present(predicted: Int[np.ndarray, "n"], truth: Int[np.ndarray, "n"], classes: int) -> float:
    """Mean F1 over the classes that occur on either side (scikit-learn's default)."""
    predicted, truth = _labelled(predicted, truth)
    seen = np.isin(np.arange(classes), np.concatenate([predicted, truth]))
    return float(class_f1(predicted, truth, classes)[seen].mean()) if seen.any() else float("nan")


def f1_weighted(predicted: Int[np.ndarray, "n"], truth: Int[np.ndarray, "n"], classes: int) -> float:
    """Mean F1 weighted by the number of people of each class."""
    scores = class_f1(predicted, truth, classes)
    count = (_labelled(predicted, truth)[1] == np.arange(classes)[:, None]).sum(1)
    return float((scores * count).sum() / count.sum()) if count.any() else float("nan")


def f1_micro(predicted: Int[np.ndarray, "n"], truth: Int[np.ndarray, "n"]) -> float:
    """F1 of all classes pooled: with one answer per person, the share of right answers."""
    predicted, truth = _labelled(predicted, truth)
    return float((predicted == truth).mean()) if truth.size else float("nan")


def macro_f1(predicted: Int[np.ndarray, "n"], truth: Int[np.ndarray, "n"]) -> float:
    """Mean over the classes present **in the truth**, as the synthetic scenes' tables have it; NaN for no person."""
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    scores = []
    for label in np.unique(truth):
        hit = np.sum((predicted == label) & (truth == label))
        scores.append(2 * hit / (np.sum(predicted == label) + np.sum(truth == label)))
    return float(np.mean(scores)) if scores else float("nan")


def _labelled(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted, truth = np.asarray(predicted, np.int64), np.asarray(truth, np.int64)
    if predicted.shape != truth.shape or truth.ndim != 1:
        raise ValueError(f"F1: expected predicted (n,) and truth (n,), got {predicted.shape} and {truth.shape}")
    return predicted[truth >= 0], truth[truth >= 0]
