"""Which scenes get pictures: the worst and some at random."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from annyfit_jax.report.people_table import Table
from annyfit_jax.report.report_columns import ALL, Columns

WORST_BY = ("mpjpe_abs", "trust", "reprojection_share")
"""What decides by default: the first of these that is known."""


def worst_column(columns: Columns, wanted: str = "") -> str:
    """The column by which scenes are worst; empty where none is known. Raises ValueError on a wanted one that is not there."""
    known = [column.key for column in ALL if column.worse and column.key in columns]
    if wanted and wanted not in known:
        raise ValueError(f"worst by {wanted!r}: expected one of {', '.join(known) or 'none (nobody is fitted)'}")
    return wanted or next((key for key in WORST_BY if key in columns), "")


def badness(table: Table, columns: Columns, key: str) -> Float[np.ndarray, "scenes"]:
    """The worst person of each scene in a column, larger = worse; -inf where nobody has a number."""
    out = np.full(len(table), -np.inf)
    if key:
        sign = -1.0 if next(column for column in ALL if column.key == key).worse == "low" else 1.0
        values = np.where(np.isfinite(columns[key]), sign * columns[key], -np.inf)
        scene = np.repeat(np.arange(len(table)), table.people)
        np.maximum.at(out, scene, values)
    return out


def choose(
    bad: Float[np.ndarray, "scenes"], fitted: np.ndarray, count: int, seed: int
) -> tuple[Int[np.ndarray, "w"], Int[np.ndarray, "r"]]:
    """Worst scenes, worst first, and others at random, in order; together at most `count` (-1 = all) of the fitted ones."""
    rows = np.flatnonzero(fitted)
    count = len(rows) if count < 0 else min(count, len(rows))
    order = rows[np.argsort(-bad[rows], kind="stable")]
    worst = order[: (count + 1) // 2]
    rest = np.setdiff1d(rows, worst)
    random = (
        np.random.default_rng(seed).choice(rest, count - len(worst), replace=False) if count > len(worst) else rest[:0]
    )
    return worst, np.sort(random)
