"""How much is seen of a person: joints that say something of their own, and their extent."""

from __future__ import annotations

import numpy as np
import pytest

from annyfit_jax.fit import evidence

NO_DENSE = np.zeros((1, 138, 3))


def spread_out(*seen: int, confidence: float = 1.0) -> np.ndarray:
    keypoints = np.zeros((1, 17, 3))
    keypoints[0, :, 0], keypoints[0, :, 1] = 10.0 * np.arange(17), 5.0 * np.arange(17)
    keypoints[0, list(seen), 2] = confidence
    return keypoints


@pytest.mark.parametrize(
    ("keypoints", "joints"),
    [
        (spread_out(), 0),
        (spread_out(0), 1),
        (spread_out(0, 1, 2, 3, 4), 2),
        (spread_out(*range(17)), 14),
        (spread_out(5, 6, 11, confidence=0.25), 1.5),
        (spread_out(*range(17)) * [0.01, 0.01, 1], 1),
    ],
)
def test_joints_are_counted_by_what_they_say(keypoints, joints):
    assert evidence.joints_seen(keypoints, NO_DENSE, 0.5)[0] == pytest.approx(joints)


def test_dense_points_count_a_tenth_where_they_are_spread():
    dense = np.zeros((1, 138, 3))
    dense[0, :50, 2] = 1.0
    dense[0, :50, 0] = np.arange(50)
    assert evidence.joints_seen(spread_out(), dense, 0.5)[0] == pytest.approx(5)
    assert evidence.joints_seen(spread_out(), dense * [0, 0, 1], 0.5)[0] == 0


def test_the_extent_is_of_what_is_seen():
    dense = np.zeros((1, 138, 3))
    assert evidence.extent_px(spread_out(2, 9), dense, 0.5)[0] == 70
    assert evidence.extent_px(spread_out(2), dense, 0.5)[0] == 0
    assert evidence.extent_px(spread_out(), dense, 0.5)[0] == 0
    dense[0, 0] = [20, 200, 0.1]
    assert evidence.extent_px(spread_out(2), dense, 0.5)[0] == 190
    assert evidence.extent_px(spread_out(2, 9, confidence=0.2), dense, 0.5)[0] == 0


def test_too_little_is_few_joints_or_a_small_person():
    joints, extent = np.array([2.9, 3.0, 14.0]), np.array([500.0, 500.0, 7.0])
    assert evidence.enough(joints, extent).tolist() == [False, True, False]
