"""Words, classes, the camera and the dense set against the recorded tables."""

import json

import pytest
from helpers import GOLDENS
from hypothesis import given
from hypothesis import strategies as st

from annyfit_jax.people import words

GOLDEN = GOLDENS / "annyfit"


@pytest.mark.parametrize(("table", "anchor"), [("age_text", words.age_anchor), ("gender_text", words.gender_anchor)])
def test_words_match_the_recorded_answers(table, anchor):
    recorded = json.loads((GOLDEN / "tables.json").read_text())[table]
    assert len(recorded) >= 9
    assert {text: anchor(text) for text in recorded} == recorded


def test_the_table_order_decides_between_words():
    assert words.age_anchor("Senior, perhaps a TODDLER") == 0.1
    assert words.age_anchor("a child or a kid-like adult") == 0.33
    assert words.age_anchor("teenagers") == words.UNUSABLE
    assert words.gender_anchor("female, not male") == 0.0
    assert words.gender_anchor("unknown") == 0.5


@given(st.text())
def test_any_text_gives_an_anchor(text):
    assert words.age_anchor(text) in {*words.AGE_WORDS.values(), words.UNUSABLE}
    assert words.gender_anchor(text) in {*words.GENDER_WORDS.values(), words.UNUSABLE}


def test_classes_are_the_nearest_anchors():
    for name, anchor in words.AGE_CLASSES.items():
        assert words.age_class(anchor) == name
        assert words.age_class(anchor + 0.04) == name
        assert words.age_anchor(name) == anchor
    for name, anchor in words.GENDER_CLASSES.items():
        assert words.gender_class(anchor - 0.2) == name
        assert words.gender_anchor(name) == anchor
    assert words.age_class(-0.3) == "baby"
    assert words.age_class(1.7) == "senior"
    assert words.age_class(0.05) == "baby"  # halfway: the younger one
    with pytest.raises(ValueError, match="NaN"):
        words.age_class(float("nan"))
