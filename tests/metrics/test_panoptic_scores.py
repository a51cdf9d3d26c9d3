"""Scores of CMU Panoptic against recorded numbers of the public evaluator."""

from __future__ import annotations

import numpy as np
import pytest
from metric_recordings import read_json

from annyfit_jax.metrics import panoptic_scores


def test_panoptic_equals_the_public_evaluator():
    golden = read_json("panoptic_bev.json")
    chosen = golden["pred17_to_14"]
    for case in golden["cases"]:
        errors: dict[str, list[np.ndarray]] = {action: [] for action in panoptic_scores.ACTIONS}
        for image, gt in case["gt"].items():
            pred = case["pred"].get(image, {"kp2d": [], "kp3d": []})
            pixels, points = (np.array(pred[key]).reshape(-1, 17, d) for key, d in (("kp2d", 2), ("kp3d", 3)))
            person = panoptic_scores.bev_errors(
                pixels[:, chosen], points[:, chosen], np.array(gt["kp2d"]), np.array(gt["kp3d"]),
                roots=(golden["gt_root"], golden["gt_root"]), predicted_roots=points[:, golden["pred_root"]],
            )  # fmt: skip
            errors[next(action for action in panoptic_scores.ACTIONS if action in image)].append(person)
        for action, people in errors.items():
            assert np.concatenate(people).mean() == pytest.approx(case["expected_mm"][action], abs=1e-6)
        everybody = np.concatenate([person for people in errors.values() for person in people])
        assert everybody.mean() == pytest.approx(case["expected_mm"]["mean"], abs=1e-6)
