"""The report of an evaluation as text."""

from __future__ import annotations

import math
from collections.abc import Mapping


def table(
    pooled: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None
) -> str:
    """Metrics as rows, start and fit as columns; with `intervals` their bounds and those of the difference."""
    columns = [*pooled, *(name for name in intervals or () if name not in pooled)]
    fit = pooled["fit"]
    counts = [name for name, value in fit.items() if isinstance(value, int)]
    rows = [["", *columns]]
    for name in fit:
        if name not in counts:
            cells = [number(pooled[c][name]) if c in pooled else _difference(pooled, c, name) for c in columns]
            bounds = [_bounds(intervals[c][name]) if intervals else "" for c in columns]
            rows.append([name, *(f"{cell} {bound}".rstrip() for cell, bound in zip(cells, bounds))])
    widths = [max(len(row[i]) for row in rows) + 2 * (i > 0) for i in range(len(columns) + 1)]
    lines = [", ".join(f"{fit[name]} {name}" for name in counts)]
    return "\n".join([*lines, *(_line(row, widths) for row in rows)])


def number(value: float) -> str:
    """Three digits after the point below 10, else one; n.a. for NaN."""
    return "n.a." if math.isnan(value) else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _difference(pooled: Mapping[str, Mapping[str, float]], column: str, name: str) -> str:
    last, first = column.split(" - ")
    return number(pooled[last][name] - pooled[first][name])


def _bounds(interval: tuple[float, float]) -> str:
    return f"[{number(interval[0])}, {number(interval[1])}]"


def _line(row: list[str], widths: list[int]) -> str:
    return (row[0].ljust(widths[0]) + "".join(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))).rstrip()
