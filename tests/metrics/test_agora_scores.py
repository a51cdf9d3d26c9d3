"""Scores of AGORA against recorded numbers of its protocol."""

from __future__ import annotations

import numpy as np
import pytest
from metric_recordings import read_json

from annyfit_jax import metrics
from annyfit_jax.metrics import agora_scores
from annyfit_jax.metrics.people_of_image import TruthPeople
from annyfit_jax.metrics.skeletons import SMPL24


def test_agora_equals_the_recorded_protocol():
    golden = read_json("agora_protocol.json")
    images = []
    for image in golden["images"]:
        gt = {key: np.array(value) for key, value in image.items()}
        valid = gt["gt_valid"].astype(bool)
        truth = TruthPeople(
            name="image", names=SMPL24, joints_2d=gt["gt_joints2d"], labelled=np.ones(gt["gt_joints2d"].shape[:2], bool),
            joints_smplx=gt["gt_joints3d"], vertices=gt["gt_verts"], counted=valid, valid=valid,
            kid=gt["gt_kid"].astype(bool),
        )  # fmt: skip
        found = metrics.match_2d_greedy(gt["pred_joints2d"], truth.joints_2d, None, 0.1, valid)
        assert found.pairs.tolist() == image["best_match"]
        assert found.false_positives.tolist() == image["false_positives"]
        assert found.misses.tolist() == image["misses"]
        # Invalid people who are matched, and predictions on them, are in no rate of the plain matching.
        images.append(agora_scores.image_errors(gt["pred_joints2d"], truth, gt["pred_joints3d"], gt["pred_verts"]))
    pooled = agora_scores.pool(images)
    names = {
        "count": "people",
        "miss": "missed",
        "fp": "false_positives",
        "kid_count": "kid_people",
        "kid_miss": "kid_missed",
    }
    for key, value in golden["expected"].items():
        if key.endswith("_unrounded"):
            ours = pooled[f"{key.removesuffix('_unrounded')}_mm"]
            assert ours == pytest.approx(value, abs=1e-6), key
        else:
            assert pooled[str(names.get(key, key))] == value, key
    assert pooled["people_f1"] == pytest.approx(pooled["f1"], abs=0.1)
    assert pooled["people_precision"] > pooled["precision"] + 0.005  # predictions on invalid people are left alone
