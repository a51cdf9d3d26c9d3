"""The attacks of `experiments.studies.fuzz` at small size, and that they would be noticed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from experiments.studies import fuzz


@pytest.mark.parametrize("name", fuzz.AREAS)
def test_nothing_but_the_documented_errors(name):
    tally = fuzz.attack(name, fuzz.AREAS[name], 150, seed=1, limit_s=60.0)
    assert not tally.bad, tally.examples
    assert tally.counts["accepted"] > 0  # otherwise nothing was tried
    assert tally.counts["refused"] > 0
    assert sum(tally.counts.values()) == 150


def test_the_areas_have_a_million_cases():
    assert sum(area.cases for area in fuzz.AREAS.values()) >= 1_000_000


def bad(_: Path) -> fuzz.Case:
    def case(rng: random.Random) -> bool:
        kind = rng.randrange(4)
        if kind == 0:
            raise KeyError("oh")
        if kind == 1:
            raise fuzz.Silent("wrong")
        while kind == 2:
            pass
        return True

    return case


def test_what_goes_wrong_is_counted_and_can_be_repeated():
    area = fuzz.Area("bad", 12, bad)
    tally = fuzz.attack("bad", area, 12, limit_s=0.05)
    assert all(tally.counts[kind] for kind in ("crashes", "silent", "hangs", "accepted"))
    assert tally.bad == 12 - tally.counts["accepted"]
    assert len(tally.examples) == 5
    number = int(tally.examples[0].split("--first=")[1].split()[0])
    again = fuzz.attack("bad", area, 1, first=number, limit_s=0.05)
    assert again.examples == tally.examples[:1]


def test_a_case_is_made_from_its_number_alone():
    value = [{"a": 1, "b": [1, 2, {"c": "d"}]}] * 3
    made = [
        (
            fuzz.hostile_json(rng, value, 2),
            fuzz.hostile_bytes(rng, b"0123456789" * 20),
            fuzz.hostile_text(rng, "some text"),
        )
        for rng in (random.Random("0/x/7"), random.Random("0/x/7"), random.Random("0/x/8"))
    ]
    assert repr(made[0]) == repr(made[1]) != repr(made[2])
    assert value == [{"a": 1, "b": [1, 2, {"c": "d"}]}] * 3
