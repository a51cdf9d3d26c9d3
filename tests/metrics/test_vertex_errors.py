"""Errors of vertices against recorded numbers."""

from __future__ import annotations

from helpers import max_abs
from metric_recordings import MM, read_npz

from annyfit_jax import metrics


def test_vertex_errors_equal_the_formula_of_multi_hmr():
    golden = read_npz("pve.npz")
    arguments = (golden["pred_vertices"], golden["gt_vertices"])
    pve = metrics.pve(*arguments, golden["pred_pelvis"], golden["gt_pelvis"])
    assert max_abs(pve * MM, golden["pve_mm"]) < 1e-6
    assert max_abs(metrics.pa_pve(*arguments) * MM, golden["pa_pve_mm"]) < 1e-6
