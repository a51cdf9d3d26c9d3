"""Which detections are people, and which of them are fitted."""

from __future__ import annotations

import numpy as np

from annyfit_jax.people.boxes import pairwise_iou
from experts.interfaces import Detections
from experts.people_rules import Rules, confident, match_boxes, reasons_to_skip, select_detections

# ------------------------------------------------------------------------------------------------ people


def test_overlaps_and_matches():
    a = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [5, 5, 5, 5]], float)
    b = np.array([[21, 0, 31, 10], [0, 0, 10, 5], [0, 0, 10, 9]], float)
    np.testing.assert_allclose(pairwise_iou(a, b), [[0, 0.5, 0.9], [9 / 11, 0, 0], [0, 0, 0]], atol=1e-9)
    assert match_boxes(a, b) == [2, 0, None]
    assert match_boxes(a[:2], b[:2], 0.6) == [None, 0]
    assert match_boxes(a, np.zeros((0, 4))) == [None, None, None]


def test_named_detections_keep_their_names():
    found = Detections(
        np.array([[0, 0, 50, 50], [0, 0, 50, 49], [-20, 10, 30, 500], [60, 60, 64, 64], [np.nan, 0, 5, 5.0]]),
        np.array([0.5, 0.9, 0.6, 0.8, 0.7]),
        ["7", "8", "9", "10", "11"],
        [("12", "crowd region")],
    )
    kept = select_detections(found, (100, 80), Rules())
    assert kept.ids == ["8", "9"]
    assert kept.boxes.tolist() == [[0, 0, 50, 49], [0, 10, 30, 80]]
    assert kept.skipped[0] == ("12", "crowd region")
    assert dict(kept.skipped)["7"] == "duplicate of person 8 (box)"
    assert dict(kept.skipped)["10"].startswith("too small")
    assert len(select_detections(found, (100, 80), Rules(min_score=0.85)).boxes) == 1


def test_people_without_enough_keypoints_and_twins_are_named():
    rng = np.random.default_rng(0)
    points = np.dstack([rng.uniform(0, 100, (4, 17)), rng.uniform(0, 100, (4, 17)), np.full((4, 17), 0.8)])
    points[1, 6:, 2] = 0.1
    points[2] = points[0] + [1.0, 0, -0.1]
    boxes = np.tile([0.0, 0, 100, 100], (4, 1))
    reasons = reasons_to_skip(points, boxes, ["a", "b", "c", "d"], Rules())
    assert reasons == {1: "6 confident keypoints, expected at least 7", 2: "duplicate of person a (keypoints)"}
    assert reasons_to_skip(points, boxes, ["a", "b", "c", "d"], Rules(min_keypoints=6, duplicate_keypoints=0.0)) == {}
    assert reasons_to_skip(np.zeros((0, 17, 3)), np.zeros((0, 4)), [], Rules()) == {}


def test_keypoints_outside_or_not_finite_do_not_count():
    points = np.array([[[5, 5, 0.9], [-0.1, 5, 0.9], [5, 20.5, 0.9], [np.nan, 5, 0.9], [5, 5, np.nan], [20, 20, 2.0]]])
    made = confident(points, (20, 20))
    assert (made[0, :, 2] > 0).tolist() == [True, False, False, False, False, True]
    assert np.isfinite(made).all()
    assert np.isnan(points).any()  # the input is left alone


def test_half_a_body_found_twice_is_known_by_its_mask():
    """Legs in another place: the poses alone are too far apart, the mask is the same."""
    rng = np.random.default_rng(1)
    points = np.dstack([rng.uniform(0, 100, (4, 17)), rng.uniform(0, 100, (4, 17)), np.full((4, 17), 0.8)])
    points[1] = points[0] + [15.0, 0, -0.1]
    boxes = np.tile([0.0, 0, 100, 100], (4, 1))
    masks = np.zeros((4, 100, 100), bool)
    masks[0, 10:90, 30:60] = masks[2, 10:90, 30:60] = True  # somebody else in the same pixels: another pose
    masks[1, 10:86, 30:60] = True
    ids = ["a", "b", "c", "d"]
    assert reasons_to_skip(points, boxes, ids, Rules()) == {}
    assert reasons_to_skip(points, boxes, ids, Rules(), masks) == {1: "duplicate of person a (mask)"}
    masks[1, 10:60] = False
    assert reasons_to_skip(points, boxes, ids, Rules(), masks) == {}
    assert reasons_to_skip(points, boxes, ids, Rules(), np.zeros_like(masks)) == {}
