"""Age and gender words of a vision-language model as phenotype anchors (`age` and `gender` of Anny in [0, 1]).

A word counts only as a whole word; upper and lower case are the same. Where an answer holds several known words the one
that comes first in the table wins, not the one that comes first in the answer: "senior or adult" reads adult.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

UNUSABLE = -1.0
"""The anchor of an answer without a known word."""

AGE_WORDS: Mapping[str, float] = {
    "baby": 0.0,
    "toddler": 0.1,
    "kid": 0.33,
    "child": 0.33,
    "teenager": 0.5,
    "teen": 0.5,
    "adult": 0.66,
    "elder": 0.999,
    "senior": 0.999,
}
GENDER_WORDS: Mapping[str, float] = {"male": 0.0, "female": 1.0, "neutral": 0.5, "unknown": 0.5}

AGE_CLASSES: Mapping[str, float] = {
    "baby": 0.0,
    "toddler": 0.1,
    "child": 0.33,
    "teenager": 0.5,
    "adult": 0.66,
    "senior": 0.999,
}
"""One name per age anchor, for reports."""
GENDER_CLASSES: Mapping[str, float] = {"male": 0.0, "neutral": 0.5, "female": 1.0}
"""One name per gender anchor, for reports."""


def _anchor(text: str, table: Mapping[str, float]) -> float:
    for word, anchor in table.items():
        if re.search(rf"\b{re.escape(word)}\b", text, flags=re.IGNORECASE):
            return anchor
    return UNUSABLE


def age_anchor(text: str) -> float:
    """Age phenotype in [0, 1] of an answer such as "a toddler."; -1 without a known word."""
    return _anchor(text, AGE_WORDS)


def gender_anchor(text: str) -> float:
    """Gender phenotype of an answer: 0 male, 0.5 neutral or unknown, 1 female; -1 without a known word."""
    return _anchor(text, GENDER_WORDS)


def _nearest(value: float, classes: Mapping[str, float]) -> str:
    if not value == value:
        raise ValueError("a phenotype value is NaN; a number is expected")
    return min(classes, key=lambda name: abs(classes[name] - value))


def age_class(age: float) -> str:
    """Name of the age anchor nearest to a phenotype value (baby, toddler, child, teenager, adult, senior).

    Halfway between two anchors the younger one is named. Raises ValueError on NaN.
    """
    return _nearest(float(age), AGE_CLASSES)


def gender_class(gender: float) -> str:
    """Name of the gender anchor nearest to a phenotype value (male, neutral, female). Raises ValueError on NaN."""
    return _nearest(float(gender), GENDER_CLASSES)
