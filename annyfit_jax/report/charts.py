"""Overview charts, as data for the page: histograms over everybody and counts of what failed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from annyfit_jax.report.people_table import Table
from annyfit_jax.report.report_columns import ALL, Columns

BINS = 24
_STATUSES = 20
_TAIL = 0.005
"""Share of the people beyond each end of a chart, who are counted in its last bars."""
CHARTS = (
    "trust", "mpjpe_root", "pa_mpjpe", "mpjpe_abs", "depth_err", "height_err", "age_err", "reprojection_share",
    "seen_keypoints", "age_years",
    "gender", "height_m", "depth_m", "sd_depth_m", "sd_height_m", "cue_gap", "moved_m",
)  # fmt: skip
"""Columns with a histogram, in the order of the page."""


def charts(table: Table, columns: Columns) -> list[dict[str, Any]]:
    """Histograms of the known columns, and people per scene."""
    labels = {column.key: column for column in ALL}
    out = []
    for key in CHARTS:
        if key in columns:
            column, values = labels[key], columns[key]
            drawn = grouped(values, column.groups) if column.groups else histogram(values)
            out.append({"key": key, "label": column.label, "unit": column.unit, "help": column.help, **drawn})
    people = np.array(table.people, float)
    if len(people):
        edges = np.arange(0.5, max(people.max(), 1) + 1.5)
        if len(edges) > BINS + 1:
            edges = np.linspace(0.5, people.max() + 0.5, BINS + 1)
        counts, _ = np.histogram(people, edges)
        out.append(_chart("people", "People per scene", "", "Fitted or not", edges, counts, people))
    return out


def histogram(values: np.ndarray) -> dict[str, Any]:
    """Edges, counts, median and mean of the finite values; the outermost bars hold what lies beyond."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {"edges": [0.0, 1.0], "counts": [0], "median": None, "mean": None, "known": 0}
    low, high = np.quantile(finite, [_TAIL, 1 - _TAIL])
    edges = round_edges(float(low), float(high))
    counts, _ = np.histogram(finite.clip(edges[0], edges[-1]), edges)
    return _data(edges, counts, finite)


def grouped(values: np.ndarray, groups: tuple[tuple[float, str], ...]) -> dict[str, Any]:
    """Name, ends and count of each group of the finite values; the first group has no lower and the last no upper end."""
    finite = values[np.isfinite(values)]
    ends = [None, *(upper for upper, _ in groups[:-1]), None]
    rows = np.searchsorted([upper for upper, _ in groups[:-1]], finite, side="left")
    counts = np.bincount(rows, minlength=len(groups))
    bars = [
        {"name": name, "from": ends[i], "to": ends[i + 1], "count": int(counts[i])}
        for i, (_, name) in enumerate(groups)
    ]
    return {"bars": bars, "known": len(finite)}


def round_edges(low: float, high: float, bins: int = BINS) -> np.ndarray:
    """Edges at multiples of 1, 2 or 5 times a power of ten that cover [low, high] with at most `bins` bars, at least 1."""
    span = max(high - low, 1e-6, 1e-6 * abs(high))
    power = 10.0 ** np.floor(np.log10(span / bins))
    for step in (1 * power, 2 * power, 5 * power, 10 * power, 20 * power):
        first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
        if last - first <= bins:
            break
    return np.arange(first, max(last, first + 1) + 1) * step


def failures(table: Table) -> list[dict[str, Any]]:
    """Counts of people and scenes by what became of them, most frequent first; `what` is `people` or `scenes`."""
    people = Counter(table.statuses[code] for code in table.person_status)
    people.update(f"set aside: {reason}" for rows in table.aside.values() for _, reason in rows)
    scenes = Counter(table.statuses[code] for code in table.status)
    out = []
    for what, counts in (("people", people), ("scenes", scenes)):
        rows = counts.most_common(_STATUSES)
        rest = sum(counts.values()) - sum(count for _, count in rows)
        rows += [("others", rest)] if rest else []
        out += [{"what": what, "status": status, "count": count} for status, count in rows]
    return out


def _chart(key: str, label: str, unit: str, help_: str, edges, counts, values) -> dict[str, Any]:
    return {"key": key, "label": label, "unit": unit, "help": help_, **_data(edges, counts, values)}


def _data(edges: np.ndarray, counts: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    return {
        "edges": [float(f"{edge:.6g}") for edge in edges],
        "counts": [int(count) for count in counts],
        "median": float(f"{np.median(values):.4g}"),
        "mean": float(f"{values.mean():.4g}"),
        "known": len(values),
    }
