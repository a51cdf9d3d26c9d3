"""The questions that a vision-language model is asked about a person, and what the answers mean.

A model is used as a classifier: per attribute a short list of classes, each with an anchor (a phenotype value of Anny), and the
answer `unknown`. The table is part of the config (`--set=words.attributes.age.anchors.child=0.3`). Age has six classes, denser
in the early years, in which bodies change most; gender has three. Weight, muscle and height classes work the same way.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax.core import FrozenDict
from jaxtyping import Float

from annyfit_jax.people.words import AGE_CLASSES, GENDER_CLASSES

UNKNOWN = "unknown"
"""The answer of a model that cannot tell; a value like the classes, never guessed away."""
UNKNOWN_ANCHOR = -1.0


@dataclass(frozen=True)
class Attribute:
    """A question with a fixed list of answers."""

    name: str
    """Key in the JSON answer, and of `Words`."""
    question: str
    """What is asked, as a phrase."""
    anchors: FrozenDict[str, float]
    """Class -> phenotype value in [0, 1], in the order in which they are offered."""
    synonyms: FrozenDict[str, float]
    """Other words -> phenotype value; one that is no class's anchor names the class nearest to it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The answers that are offered, in their order."""
        return tuple(self.anchors)

    def labels(self) -> dict[str, str]:
        """Every word that says a class, lower case, longest first -> the class."""
        nearest = lambda value: min(self.anchors, key=lambda name: abs(self.anchors[name] - value))  # noqa: E731
        table = {word.lower(): nearest(value) for word, value in self.synonyms.items()}
        table |= {name.lower(): name for name in self.anchors}
        return dict(sorted(table.items(), key=lambda entry: -len(entry[0])))


def _table(entries: Mapping[str, float]) -> FrozenDict[str, float]:
    return FrozenDict({word: float(value) for word, value in entries.items()})


AGE = Attribute(
    "age",
    "age group",
    _table(AGE_CLASSES),
    _table(
        {
            "newborn": 0.0, "infant": 0.0, "babies": 0.0, "kid": 0.33, "preteen": 0.33, "young child": 0.33, "teen": 0.5,
            "adolescent": 0.5, "youth": 0.5, "young adult": 0.66, "grown-up": 0.66, "grownup": 0.66, "middle-aged": 0.66,
            "middle aged": 0.66, "older adult": 0.999, "elderly adult": 0.999, "elder": 0.999, "elderly": 0.999,
            "old person": 0.999, "old man": 0.999, "old woman": 0.999,
        }
    ),
)  # fmt: skip
GENDER = Attribute(
    "gender",
    "apparent gender",
    _table(GENDER_CLASSES),
    _table(
        {
            "man": 0.0, "boy": 0.0, "guy": 0.0, "gentleman": 0.0, "m": 0.0, "woman": 1.0, "girl": 1.0, "lady": 1.0, "f": 1.0,
            "androgynous": 0.5, "non-binary": 0.5, "nonbinary": 0.5,
        }
    ),
)  # fmt: skip
WEIGHT = Attribute(
    "weight",
    "build for the age",
    _table({"thin": 0.2, "average": 0.5, "heavy": 0.8}),
    _table({"slim": 0.2, "skinny": 0.2, "lean": 0.2, "normal": 0.5, "medium": 0.5, "overweight": 0.8, "obese": 0.8}),
)
MUSCLE = Attribute(
    "muscle",
    "muscularity",
    _table({"weak": 0.2, "average": 0.5, "muscular": 0.8}),
    _table({"slight": 0.2, "normal": 0.5, "medium": 0.5, "athletic": 0.8, "strong": 0.8}),
)
HEIGHT = Attribute(
    "height",
    "height for the age",
    _table({"short": 0.3, "average": 0.5, "tall": 0.7}),
    _table({"small": 0.3, "normal": 0.5, "medium": 0.5, "big": 0.7}),
)
DEFAULT_ATTRIBUTES = (AGE, GENDER)
ALL_ATTRIBUTES = (AGE, GENDER, WEIGHT, MUSCLE, HEIGHT)

# Somebody who says one of these does not answer, whatever else is said.
_REFUSAL = re.compile(
    r"\b(?:sorry|apologi[sz]e|(?:can(?:no|')?t|unable to|not able to|not possible to|impossible to|decline to|won't)\s+"
    r"(?:\w+\s+){0,2}(?:tell|say|determine|identify|assess|infer|guess|provide|help|assist|answer|see|know|judge|estimate)|"
    r"not (?:sure|certain|clear|visible)|no (?:person|people|one)|unclear|uncertain|unsure|undetermined|n/a)\b",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"(?:\b(?:not|no|never|neither|nor|without|than)|n't)\s+(?:(?:an?|the|any|really|quite|longer|yet)\s+)*$",
    re.IGNORECASE,
)
_NEGATION_REACH = 80
"""Characters before a word in which its negation may begin."""


# ------------------------------------------------------------------------------------------------ asking


def instructions(attributes: Sequence[Attribute], subject: str) -> str:
    """The text that goes with the picture. `subject` says whom it is about."""
    lines = [
        f'"{a.name}": {a.question}, one of ' + ", ".join(f'"{name}"' for name in (*a.classes, UNKNOWN))
        for a in attributes
    ]
    return (
        f"{subject} Classify this person.\n"
        + "\n".join(lines)
        + f'\nUse "{UNKNOWN}" where the picture does not show it. '
        "Answer with one JSON object with exactly these keys and nothing else."
    )


def json_schema(attributes: Sequence[Attribute]) -> dict[str, Any]:
    """The form of the answer, for servers that can enforce one."""
    return {
        "type": "object",
        "properties": {a.name: {"type": "string", "enum": [*a.classes, UNKNOWN]} for a in attributes},
        "required": [a.name for a in attributes],
        "additionalProperties": False,
    }


# ------------------------------------------------------------------------------------------------ reading answers


def classify(text: str, attribute: Attribute) -> str:
    """The class that an answer names, or `unknown`.

    Words count whole and in any case; synonyms count; longer expressions win over words inside them ("young adult" is
    an adult); a negated word does not count ("not a child"). An answer that names several classes, refuses, or names
    none is `unknown`.
    """
    if _REFUSAL.search(text):
        return UNKNOWN
    classes: set[str] = set()
    left = text.lower()
    for word, name in attribute.labels().items():
        pattern = rf"(?<![\w-]){re.escape(word)}(?![\w-])"
        for match in re.finditer(pattern, left):
            if not _NEGATED.search(left, max(0, match.start() - _NEGATION_REACH), match.start()):
                classes.add(name)
        left = re.sub(pattern, lambda match: "\0" * len(match[0]), left)
    return classes.pop() if len(classes) == 1 else UNKNOWN


_MAX_ANSWER_CHARACTERS = 20_000
"""Longer texts are no answer to a question about one person."""
_MAX_BRACES = 64
"""Places of a text at which an object is looked for; every one may cost a scan of the whole text."""


def read_answer(text: str, attributes: Sequence[Attribute]) -> dict[str, str]:
    """Attribute -> class or `unknown`, from an answer in the JSON form, or from chatter around or instead of it.

    A text of more than 20 000 characters says nothing: `unknown`.
    """
    if len(text) > _MAX_ANSWER_CHARACTERS:
        return {a.name: UNKNOWN for a in attributes}
    entries = _json_object(text)
    if entries is None:
        # Without the form one text answers every question; a word of one attribute is no word of another.
        return {a.name: classify(text, a) for a in attributes}
    lowered = {str(key).strip().lower(): value for key, value in entries.items()}
    return {
        a.name: classify(value, a) if isinstance(value := lowered.get(a.name.lower()), str) else UNKNOWN
        for a in attributes
    }


def _json_object(text: str) -> dict | None:
    """The first JSON object in a text (models wrap it in fences or chatter); None where there is none."""
    decoder = json.JSONDecoder()
    for match in itertools.islice(re.finditer(r"\{", text), _MAX_BRACES):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return None


# ------------------------------------------------------------------------------------------------ probabilities


@dataclass(frozen=True)
class Token:
    """A generated token and its likeliest alternatives."""

    text: str
    alternatives: tuple[tuple[str, float], ...]
    """(text, log-probability), the chosen one among them."""


def probabilities_from_tokens(tokens: Sequence[Token], attribute: Attribute) -> Float[np.ndarray, "c"] | None:
    """Class probabilities from the log-probabilities of the token that begins the attribute's value.

    An alternative counts for the classes whose words it can begin, in equal shares; the token that was chosen counts for
    the class that the whole answer names. What is missing to 1 (unlisted alternatives, `unknown`, other words) is the
    probability of `unknown`. None where the tokens do not hold the attribute in the JSON form.
    """
    text = "".join(token.text for token in tokens)
    match = re.search(rf'"{re.escape(attribute.name)}"\s*:\s*"', text, re.IGNORECASE)
    if match is None:
        return None
    ends = np.cumsum([len(token.text) for token in tokens])
    position = int(np.searchsorted(ends, match.end(), side="right"))
    if position == len(tokens):
        return None
    answered = read_answer(text, [attribute])[attribute.name]
    chosen = tokens[position].text
    labels = {**attribute.labels(), UNKNOWN: UNKNOWN}
    mass = dict.fromkeys((*attribute.classes, UNKNOWN), 0.0)
    for alternative, logprob in tokens[position].alternatives:
        if alternative == chosen:
            names = {answered}
        else:
            begin = alternative.lower().lstrip(' \n\t:"').split('"')[0].strip()
            names = {name for word, name in labels.items() if begin and (word.startswith(begin) or begin == word)}
        for name in names:
            mass[name] += float(np.exp(min(logprob, 0.0))) / len(names)
    values = np.array([mass[name] for name in attribute.classes])
    return values / max(1.0, values.sum() + mass[UNKNOWN])


def probabilities_from_votes(votes: Sequence[str], attribute: Attribute) -> Float[np.ndarray, "c"]:
    """Class frequencies of repeated or varied questions; votes for `unknown` are what is missing to 1."""
    if not votes:
        return np.zeros(len(attribute.classes))
    return np.array([sum(vote == name for vote in votes) for name in attribute.classes]) / len(votes)


def decide(
    probabilities: Float[np.ndarray, "n c"], attribute: Attribute, *, reduce: str = "best", minimum: float = 0.0
) -> tuple[Float[np.ndarray, "n"], list[str]]:
    """(anchors, words) of n people; -1 and an empty word where `unknown` is likelier than any class, or the best class less
    likely than `minimum`.

    `reduce`: `best`, the anchor of the likeliest class; `expected`, the mean anchor under the probabilities of the classes.
    """
    if reduce not in ("best", "expected"):
        raise ValueError(f"reduce: expected `best` or `expected`, got {reduce!r}")
    values = np.asarray(probabilities, np.float64).reshape(-1, len(attribute.classes))
    anchors = np.array([attribute.anchors[name] for name in attribute.classes])
    best = values.argmax(1)
    top = values[np.arange(len(values)), best]
    known = (top > 0) & (top >= minimum) & (top >= 1.0 - values.sum(1) - 1e-9)
    total = np.maximum(values.sum(1), 1e-12)
    chosen = anchors[best] if reduce == "best" else values @ anchors / total
    words = [attribute.classes[k] if ok else "" for k, ok in zip(best, known, strict=True)]
    return np.where(known, chosen, UNKNOWN_ANCHOR), words
