"""Words of an answer and their probabilities."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts import attributes
from experts.attributes import AGE, ALL_ATTRIBUTES, GENDER, HEIGHT, UNKNOWN, Attribute, Token

# ------------------------------------------------------------------------------------------------ reading answers


@pytest.mark.parametrize(
    ("text", "age", "gender"),
    [
        ('{"age": "child", "gender": "female"}', "child", "female"),
        ('{"AGE": "Toddler.", "Gender": "MALE"}', "toddler", "male"),
        ('Sure!\n```json\n{"age": "kid", "gender": "boy"}\n```\nAnything else?', "child", "male"),
        ('{"age": "unknown", "gender": "neutral"}', UNKNOWN, "neutral"),
        ('{"age": 34, "gender": null}', UNKNOWN, UNKNOWN),
        ('{"gender": "lady"}', UNKNOWN, "female"),
        ('{broken {"age": "teen", "gender": "man"} tail}', "teenager", "male"),
        ("The person is an elderly woman.", "senior", "female"),
        ("A young adult man, not a child.", "adult", "male"),
        ("She is no longer a teenager but an adult woman", "adult", "female"),
        ("It isn't a baby; it is a toddler, a girl.", "toddler", "female"),
        ("either a child or a teenager, male", UNKNOWN, "male"),
        ("I'm sorry, but I can't determine the age of this adult male.", UNKNOWN, UNKNOWN),
        ("I am unable to tell whether this is a man or a woman", UNKNOWN, UNKNOWN),
        ("Not sure. Perhaps an adult?", UNKNOWN, UNKNOWN),
        ("There is no person in the picture.", UNKNOWN, UNKNOWN),
        ("adulthood, manly, females", UNKNOWN, UNKNOWN),
        ("old man", "senior", "male"),
        ("", UNKNOWN, UNKNOWN),
        ("{" * 2000, UNKNOWN, UNKNOWN),
        ("[" * 100000, UNKNOWN, UNKNOWN),
    ],
)
def test_answers_as_models_give_them(text, age, gender):
    assert attributes.read_answer(text, [AGE, GENDER]) == {"age": age, "gender": gender}


@given(st.text(max_size=200))
def test_any_text_is_a_class_or_unknown(text):
    answers = attributes.read_answer(text, ALL_ATTRIBUTES)
    for attribute in ALL_ATTRIBUTES:
        assert answers[attribute.name] in (*attribute.classes, UNKNOWN)


@pytest.mark.parametrize("attribute", ALL_ATTRIBUTES, ids=lambda a: a.name)
def test_every_class_and_synonym_is_read_back(attribute: Attribute):
    for word in (*attribute.classes, *attribute.synonyms):
        name = attributes.classify(word.upper(), attribute)
        assert name in attribute.classes
        anchors = {**attribute.synonyms, **attribute.anchors}
        assert attribute.anchors[name] == anchors[word]
    for name in attribute.classes:
        text = json.dumps({a.name: name if a is attribute else UNKNOWN for a in ALL_ATTRIBUTES})
        assert attributes.read_answer(text, ALL_ATTRIBUTES)[attribute.name] == name


def test_the_anchor_table_is_config():
    from experts.registry import build

    experts = build("server", ["words.attributes.age.anchors.child=0.3", "words.attributes.age.anchors.newborn=0.0"])
    assert experts.words.attributes[0].anchors["child"] == 0.3
    assert experts.words.attributes[0].classes[-1] == "newborn"
    assert AGE.anchors["child"] == 0.33
    assert "newborn" in attributes.instructions(experts.words.attributes, "This is somebody.")
    assert experts.words.attributes[1] == GENDER
    # A commit that looks like a number stays text.
    assert build("large", ["detector.revision=12345678"]).detector.revision == "12345678"


# ------------------------------------------------------------------------------------------------ probabilities


def tokens(*parts: tuple[str, dict[str, float]]) -> list[Token]:
    return [Token(text, tuple((t, float(np.log(p))) for t, p in others.items())) for text, others in parts]


def test_token_probabilities_go_to_the_classes_they_can_begin():
    said = tokens(
        ('{"', {'{"': 1}), ("age", {"age": 1}), ('":', {'":': 1}), (' "', {' "': 1}),
        ("t", {"t": 0.5, "s": 0.2, "adult": 0.15, "old": 0.1, "unknown": 0.05}), ("oddler", {"oddler": 0.9}), ('"}', {'"}': 1}),
    )  # fmt: skip
    values = attributes.probabilities_from_tokens(said, AGE)
    assert values is not None
    # What was chosen counts for the answer; "old" begins old man, old woman, older adult: senior.
    np.testing.assert_allclose(values, [0, 0.5, 0, 0, 0.15, 0.3], atol=1e-9)
    glued = tokens(('{"age": "adult', {'{"age": "adult': 1.0}), ('"}', {'"}': 1.0}))
    assert attributes.probabilities_from_tokens(glued, AGE).tolist() == [0, 0, 0, 0, 1, 0]  # pyright: ignore
    merged = tokens(('{"age":', {'{"age":': 1.0}), (' "ba', {' "ba': 0.8, ' "to': 0.2}), ('by"}', {'by"}': 1}))
    values = attributes.probabilities_from_tokens(merged, AGE)
    assert values is not None
    np.testing.assert_allclose(values, [0.8, 0.2, 0, 0, 0, 0])
    ambiguous = tokens(('{"age": "', {'{"age": "': 1}), ("child", {"child": 0.6, "t": 0.4}), ('"}', {'"}': 1}))
    values = attributes.probabilities_from_tokens(ambiguous, AGE)
    assert values is not None
    np.testing.assert_allclose(values, [0, 0.2, 0.6, 0.2, 0, 0])
    assert attributes.probabilities_from_tokens(tokens(("adult", {"adult": 1.0})), AGE) is None
    assert attributes.probabilities_from_tokens(tokens(('{"age": "', {'{"age": "': 1.0})), AGE) is None
    assert attributes.probabilities_from_tokens([], AGE) is None


@given(st.lists(st.tuples(st.text(max_size=8), st.floats(-20, 3)), min_size=1, max_size=8))
def test_token_probabilities_are_probabilities(others):
    said = [Token('{"age": "', (('{"age": "', 0.0),)), Token(others[0][0] or "x", tuple(others)), Token('"}', ())]
    values = attributes.probabilities_from_tokens(said, AGE)
    if values is not None:
        assert (values >= 0).all()
        assert values.sum() <= 1 + 1e-9


def test_votes_and_decisions():
    votes = ["child", "child", UNKNOWN, "adult"]
    values = attributes.probabilities_from_votes(votes, AGE)
    assert values.tolist() == [0, 0, 0.5, 0, 0.25, 0]
    table = np.array([values, [0, 0, 0.3, 0, 0.2, 0], np.zeros(6), [0, 0, 0, 0, 0, 1.0]])
    anchors, words = attributes.decide(table, AGE)
    assert words == ["child", "", "", "senior"]  # second: unknown (0.5) is likelier than any class
    assert anchors.tolist() == [0.33, -1, -1, 0.999]
    assert attributes.decide(table, AGE, minimum=0.6)[1] == ["", "", "", "senior"]
    mean, _ = attributes.decide(table, AGE, reduce="expected")
    np.testing.assert_allclose(mean, [(0.5 * 0.33 + 0.25 * 0.66) / 0.75, -1, -1, 0.999])
    assert attributes.decide(np.zeros((0, 3)), GENDER)[0].shape == (0,)
    assert attributes.probabilities_from_votes([], HEIGHT).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="expected `best` or `expected`"):
        attributes.decide(table, AGE, reduce="mode")
