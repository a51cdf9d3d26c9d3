"""Charts of the report: bars, failures."""

from __future__ import annotations

import numpy as np
import pytest
from export_cases import FITTED, NAMES, PEOPLE
from hypothesis import given, settings
from hypothesis import strategies as st

from annyfit_jax.metrics.word_scores import AGE_GROUPS
from annyfit_jax.report.charts import BINS, charts, failures, grouped, histogram, round_edges
from annyfit_jax.report.people_table import Table
from annyfit_jax.report.report_columns import fit_columns

# ------------------------------------------------------------------------------------------------ charts and choice


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e5, 1e5), st.floats(0, 1e5))
def test_edges_cover_the_range_with_few_round_bars(low, span):
    edges = round_edges(low, low + span)
    assert 2 <= len(edges) <= BINS + 2
    step = edges[1] - edges[0]
    assert edges[0] <= low + 1e-6 * step + 1e-9 * abs(low)
    assert edges[-1] >= low + span - 1e-6 * step - 1e-9 * abs(low)
    assert float(f"{step:.0e}") == pytest.approx(step, rel=1e-6)  # 1, 2 or 5 times a power of ten


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.floats(-50, 50), st.just(float("nan"))), max_size=80))
def test_histograms_count_everybody_known(values):
    chart = histogram(np.array(values, float))
    known = np.isfinite(values).sum() if values else 0
    assert sum(chart["counts"]) == chart["known"] == known
    assert len(chart["edges"]) == len(chart["counts"]) + 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.floats(0, 110), st.just(float("nan"))), max_size=80))
def test_groups_count_everybody_known_once(values):
    drawn = grouped(np.array(values, float), AGE_GROUPS)
    assert sum(bar["count"] for bar in drawn["bars"]) == drawn["known"] == np.isfinite(values).sum()
    for bar in drawn["bars"]:
        low, high = bar["from"] or -1.0, bar["to"] or np.inf
        assert bar["count"] == sum(low < value <= high for value in values)


def test_failures_count_people_scenes_and_who_was_set_aside(fits):
    table = Table()
    for outcome in fits.outcomes():
        table.add(outcome, fit_columns(outcome.fit))
    rows = {(row["what"], row["status"]): row["count"] for row in failures(table)}
    assert rows["people", "ok"] == sum(FITTED.values())
    assert rows["people", "skipped:no_keypoints"] == 1
    assert rows["people", "set aside: crowd annotation: 12 people"] == 1
    assert rows["people", "failed:not_finite"] == PEOPLE["failed"]
    assert sum(count for (what, _), count in rows.items() if what == "scenes") == len(NAMES)
    assert {chart["key"] for chart in charts(table, table.columns())} >= {"depth_m", "age_years", "people"}
