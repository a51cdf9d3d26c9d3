"""Mixing and order of data, buckets of sizes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from number_source import Numbers

from annyfit_jax.training import training_data
from annyfit_jax.training.training_data import Mixed


def take(count: int, **options) -> list:
    iterator = iter(training_data.rows(Numbers(), 4, 7, threads=1, **options))
    return [row for _ in range(count) for row in next(iterator)]


def test_sources_are_mixed_by_their_probabilities():
    found = take(100)
    assert sum(source == "b" for source, _, _ in found) == pytest.approx(0.25 * len(found), rel=0.1)
    assert {number for source, number, _ in found if source == "a"} == set(range(10)) - {3}
    first, second = ([n for s, n, _ in found if s == "a"][k : k + 9] for k in (0, 9))
    assert sorted(first) == sorted(second)  # an epoch has each picture once,
    assert first != second  # and the next in another order
    assert len({draw for _, _, draw in found}) == len(found)


def test_rows_do_not_depend_on_the_number_of_processes():
    alone = set(take(20))
    shared = set(take(10, process=0, processes=2)) | set(take(10, process=1, processes=2))
    assert len(alone & shared) >= 0.9 * len(
        alone
    )  # but for those at the end, as unread pictures shift a process's place


def test_going_on_to_the_sample():
    straight = iter(training_data.rows(Numbers(), 4, 7, threads=1))
    for _ in range(5):
        next(straight)
    place = straight.get_state()
    expected = [next(straight) for _ in range(5)]
    later = iter(training_data.rows(Numbers(), 4, 7, threads=2))
    later.set_state(place)
    assert [next(later) for _ in range(5)] == expected


def test_empty_sources_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Empty(Numbers):
        def sources(self):
            return [Mixed("none", [], 1.0)]

    with pytest.raises(ValueError, match="'none' is empty"):
        training_data.rows(Empty(), 4, 0)


@settings(max_examples=50, deadline=None)
@given(st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_buckets_hold_what_they_are_for(need):
    buckets = ((10, 40), (40, 10), (40, 40), (20, 20))
    found = training_data.smallest_bucket(need, buckets)
    assert found[0] >= need[0] and found[1] >= need[1]
    assert all(b[0] * b[1] >= found[0] * found[1] for b in buckets if b[0] >= need[0] and b[1] >= need[1])


def test_too_large_for_all_buckets():
    with pytest.raises(ValueError, match="50 x 3 pixels fit none"):
        training_data.smallest_bucket((50, 3), ((40, 40),))
