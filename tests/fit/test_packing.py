"""Scenes into lists of people: nothing lost, nothing too long, little padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annyfit_jax.fit import packing
from annyfit_jax.fit.packing import Size, size_of

PEOPLE = st.lists(st.integers(1, 40), min_size=1, max_size=60)
LENGTHS = st.lists(st.sampled_from([4, 8, 32, 64, 128]), min_size=1, max_size=3, unique=True)


def drain(people: list[int], lengths: list[int], count: int, arriving: int = 1) -> tuple[list[list[int]], list[int]]:
    """Rounds (people counts of their scenes) of scenes that come one by one, and the lanes of every round."""
    waiting: list[int] = []
    rounds, lanes = [], []
    for step in range(0, len(people) + arriving, arriving):
        waiting += people[step : step + arriving]
        last = step + arriving > len(people)
        while waiting:
            chosen = packing.next_round([size_of(n) for n in waiting], lengths, count, last=last)
            if not chosen:
                break
            sizes = [size_of(waiting[i]) for i in chosen]
            rounds.append([waiting[i] for i in chosen])
            lanes.append(packing.smallest_length(sizes, lengths, count) * count)
            waiting = [n for i, n in enumerate(waiting) if i not in set(chosen)]
    assert not waiting
    return rounds, lanes


def coco_like(scenes: int, seed: int) -> list[int]:
    """People per image of a photo collection: many with one or two, a tail beyond 20."""
    rng = np.random.default_rng(seed)
    return [int(n) for n in np.clip(rng.geometric(0.3, scenes), 1, 14) + rng.choice([0, 8], scenes, p=[0.97, 0.03])]


@given(PEOPLE, LENGTHS, st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_every_scene_once_within_its_list(people, lengths, count):
    rounds, _ = drain(people, lengths, count)
    assert sorted(n for chosen in rounds for n in chosen) == sorted(people)
    for chosen in rounds:
        sizes = [size_of(n) for n in chosen]
        length = packing.smallest_length(sizes, lengths, count)
        lists, left = packing.fill(sizes, length, count)
        assert not left
        assert sorted(i for one in lists for i in one) == list(range(len(chosen)))
        for one in lists:
            total = Size(sum(sizes[i].people for i in one), sum(sizes[i].pairs for i in one))
            assert packing.fits(total, length)
            assert total.people <= packing.capacity(length).people
            assert total.pairs <= packing.capacity(length).pairs


@given(st.lists(st.integers(1, 25), min_size=1, max_size=60), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_only_the_named_lengths_are_used(people, count):
    """A program is compiled per length: no other may come up unless a single scene is longer than all."""
    lengths = [8, 32, 64]
    _, lanes = drain(people, lengths, count)
    assert {n // count for n in lanes} <= set(lengths)


def test_a_scene_beyond_the_longest_list_has_one_of_its_own():
    rounds, lanes = drain([3, 70, 2], [8, 32, 64], 1)
    assert [70] in rounds
    assert sorted(lanes) == [8, 256], "2415 pairs"
    many_pairs = Size(40, 40 * 39 // 2)
    assert not packing.fits(many_pairs, 64)
    assert packing.smallest_length([many_pairs], [8, 32, 64], 1) == 128


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_little_padding_on_a_photo_collection(count, seed):
    """Units of 256 scenes, as a job has them: the last lists of each are short."""
    people = coco_like(256, seed)
    _, lanes = drain(people, [8, 32, 64], count)
    waste = 1.0 - sum(people) / sum(lanes)
    assert 0.0 <= waste < (0.05 if count == 1 else 0.12)


def test_the_order_of_equal_sizes_decides_nothing_else():
    sizes = [size_of(n) for n in (5, 3, 5, 3, 1)]
    assert packing.fill(sizes, 8, 2) == ([[0, 1], [2, 3]], [4])
