"""Scenes into lists of people: which scenes are fitted together, with little padding and few lengths.

A list takes whole scenes up to a number of people, and up to a fixed number of pairs per person. Lists of one round have one
length: each device of a machine solves one of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from annyfit_jax.fit.problem import Capacity, count_pairs

PAIRS_PER_PERSON = 12
"""Room for pairs: a list of N people takes up to 12 N (a scene of n people has n (n - 1) / 2, which fills it at n = 25)."""


class Size(NamedTuple):
    """What a scene, or a list, needs."""

    people: int
    pairs: int


def size_of(num_people: int) -> Size:
    """The size of a scene."""
    return Size(num_people, count_pairs(num_people))


def capacity(length: int) -> Capacity:
    """Array lengths of a list (every scene has somebody, so there are no more scenes than people)."""
    return Capacity(length, length * PAIRS_PER_PERSON, length)


def fits(size: Size, length: int) -> bool:
    """Whether a list of that length has room."""
    return size.people <= length and size.pairs <= length * PAIRS_PER_PERSON


def fill(sizes: Sequence[Size], length: int, count: int) -> tuple[list[list[int]], list[int]]:
    """Fill `count` lists of one length; returns (indices per list, increasing; indices left over, increasing).

    First fit, largest scene first, ties by index: the result depends on the sizes alone.
    """
    room = [Size(0, 0)] * count
    lists: list[list[int]] = [[] for _ in range(count)]
    left: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i].people, i)):
        for k, used in enumerate(room):
            together = Size(used.people + sizes[index].people, used.pairs + sizes[index].pairs)
            if fits(together, length):
                room[k] = together
                lists[k].append(index)
                break
        else:
            left.append(index)
    return [sorted(chosen) for chosen in lists], sorted(left)


def smallest_length(sizes: Sequence[Size], lengths: Sequence[int], count: int) -> int:
    """The smallest length whose `count` lists take all scenes: one of `lengths`, else a power of two beyond them."""
    for length in sorted(lengths):
        if not fill(sizes, length, count)[1]:
            return length
    length = 1 << max(lengths).bit_length()
    while fill(sizes, length, count)[1]:
        length *= 2
    return length


def wanted(lengths: Sequence[int], count: int) -> int:
    """People to have at hand before a round is filled: twice what it takes, so that small scenes can fill the gaps that large
    ones leave."""
    return 2 * count * max(lengths)


def next_round(sizes: Sequence[Size], lengths: Sequence[int], count: int, *, last: bool) -> list[int]:
    """Indices (increasing) of the scenes to fit next, of those at hand; [] to wait for more.

    Full rounds of the longest lists as long as there is enough at hand to fill them well; of the `last` scenes, one round
    that takes them all, or a shorter one and the rest after it, whichever pads less. A scene too large for the longest list is
    a round of its own.

    Args:
      sizes: not empty.
      lengths: to choose from.
      count: lists of a round.
      last: no more scenes will come.
    """
    longest = max(lengths)
    for index, size in enumerate(sizes):
        if not fits(size, longest):
            return [index]
    if not last and sum(size.people for size in sizes) < wanted(lengths, count):
        return []
    lists, left = fill(sizes, longest, count)
    if left or not last:
        return sorted(itertools.chain(*lists))
    best, cost = list(range(len(sizes))), smallest_length(sizes, lengths, count)
    for length in lengths:
        lists, left = fill(sizes, length, count)
        if left and any(lists):
            together = length + smallest_length([sizes[i] for i in left], lengths, count)
            if together < cost:
                best, cost = sorted(itertools.chain(*lists)), together
    return best
