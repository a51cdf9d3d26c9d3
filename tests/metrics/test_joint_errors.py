"""Procrustes alignments against recorded numbers of public evaluators."""

from __future__ import annotations

import pytest
from helpers import max_abs
from metric_recordings import read_npz

from annyfit_jax import metrics

# ------------------------------------------------------------------------------------------------ 3D


def test_procrustes_equals_public_evaluators():
    """mmpose, roma and BUDDI on 48 bodies, every eighth of them mirrored; 1e-9."""
    golden = read_npz("procrustes.npz")
    pred, gt = golden["pred"], golden["gt"]
    aligned = metrics.similarity_align(pred, gt)
    assert max_abs(aligned, golden["roma_aligned"]) < 1e-9
    assert max_abs(aligned, golden["mmpose_aligned"]) < 1e-9
    assert max_abs(metrics.distances(aligned, gt), golden["buddi_error_procrustes"]) < 1e-9
    assert max_abs(metrics.distances(metrics.centred_scale_align(pred, gt), gt), golden["buddi_error_scale"]) < 1e-9
    assert max_abs(metrics.rooted_errors(pred, gt, 0), golden["buddi_error_root"]) < 1e-9
    centred = metrics.distances(pred - pred.mean(1, keepdims=True), gt - gt.mean(1, keepdims=True))
    assert max_abs(centred, golden["buddi_error_translation"]) < 1e-9
    for alignment in ("none", "scale", "procrustes"):
        figure = metrics.mmpose_mpjpe(pred, gt, golden["mask"], alignment)
        assert figure == pytest.approx(float(golden[f"mmpose_mpjpe_{alignment}"]), abs=1e-9), alignment
    error = metrics.pa_mpjpe(pred, gt)
    assert max_abs(error, golden["buddi_error_procrustes"].mean(1)) < 1e-9
    unmirrored = metrics.pa_mpjpe(pred * [-1, 1, 1], gt)
    assert (error[7::8] > unmirrored[7::8] + 0.01).all()  # a mirrored body must not be un-mirrored


def test_joint_procrustes_equals_the_public_evaluator():
    golden, pairs = read_npz("joint_pa.npz"), 0
    for i in range(int(golden["n"])):
        pred, gt, visible = (golden[f"{i}_{key}"] for key in ("pred", "gt", "visible"))
        stacked = metrics.similarity_align(pred.reshape(-1, 3), gt.reshape(-1, 3)).reshape(gt.shape)
        assert max_abs(metrics.distances(stacked, gt), golden[f"{i}_joint_pa_error"]) < 1e-9
        expected = {key: float(golden[f"{i}_joint_pa_mpjpe{key}"]) for key in ("", "_visible")}
        assert metrics.joint_pa_mpjpe(pred, gt) == pytest.approx(expected[""], abs=1e-9)
        assert metrics.joint_pa_mpjpe(pred, gt, visible) == pytest.approx(expected["_visible"], abs=1e-9)
        assert max_abs(metrics.pa_mpjpe(pred, gt), golden[f"{i}_person_pa_mpjpe"]) < 1e-9
        assert max_abs(metrics.rooted_errors(pred, gt, 0).mean(1), golden[f"{i}_root_mpjpe"]) < 1e-9
        if len(pred) == 2:
            best = float(golden[f"{i}_joint_pa_mpjpe_best_of_two"])
            assert metrics.joint_pa_mpjpe_best_of_two(pred, gt) == pytest.approx(best, abs=1e-9)
            pairs += 1
    assert pairs
