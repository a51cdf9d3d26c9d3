"""Confidence intervals of pooled metrics: the scenes are drawn again, with replacement, and pooled again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Metrics = dict[str, float]


def intervals(
    columns: Mapping[str, Sequence[T]],
    pool: Callable[[Sequence[T]], Metrics],
    *,
    rounds: int,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict[str, tuple[float, float]]]:
    """Percentile intervals per column and metric; with two columns or more, `<last> - <first>` as well.

    Every round draws the same scenes for all columns, so the difference is a paired one. People of one scene stay together:
    they share camera and cues, and are no independent samples. Rounds in which a metric is undefined (NaN) do not count
    for it; a metric undefined in all of them gives NaN.

    Args:
      columns: name -> errors per scene, the same scenes in the same order.
      pool: errors of scenes -> metrics.
      rounds: how many times to draw, at least 2.
      level: share of the rounds inside the interval.
    """
    lengths = {len(scenes) for scenes in columns.values()}
    if len(lengths) != 1 or not lengths or 0 in lengths:
        raise ValueError(
            f"intervals: expected columns over the same scenes, at least one; got {sorted(lengths)} scenes"
        )
    if rounds < 2 or not 0 < level < 1:
        raise ValueError(f"intervals: expected rounds >= 2 and a level in (0, 1), got {rounds} and {level}")
    (count,) = lengths
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[Metrics]] = {name: [] for name in columns}
    for _ in range(rounds):
        chosen = rng.integers(0, count, count)
        for name, scenes in columns.items():
            drawn[name].append(pool([scenes[i] for i in chosen]))
    names = list(columns)
    if len(names) > 1:
        first, last = drawn[names[0]], drawn[names[-1]]
        drawn[f"{names[-1]} - {names[0]}"] = [{key: b[key] - a[key] for key in b} for a, b in zip(first, last)]
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    return {
        name: {key: _interval([row[key] for row in rows], tails) for key in rows[0]} for name, rows in drawn.items()
    }


def _interval(values: list[float], tails: np.ndarray) -> tuple[float, float]:
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, tails)
    return float(low), float(high)
