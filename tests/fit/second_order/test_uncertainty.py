"""Whose standard deviations are multiplied by which factors, and that a fit stores them so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fit_cases import make_scene, trajectory

from annyfit_jax.fit import trust
from annyfit_jax.fit.second_order import uncertainty
from annyfit_jax.fit.second_order.uncertainty import FEW_KEYPOINTS, HARDER, WITHOUT_WORD, calibration, hardship
from annyfit_jax.people.scene import Scene


def people(count: int = 4, **fields) -> Scene:
    """People of whom all 17 keypoints are seen, and nothing else is known."""
    keypoints = np.ones((count, 17, 3))
    return make_scene("people", keypoints, **fields)


def factors(scene, knows_pose=False) -> dict[str, np.ndarray]:
    return hardship(scene, np.full(len(scene), knows_pose), 0.05)


def test_the_groups_have_factors_of_at_least_one():
    groups = calibration()
    for group in (WITHOUT_WORD, FEW_KEYPOINTS):
        assert set(groups[group]) == set(HARDER)
        assert min(groups[group].values()) >= 1.0 and groups[group]["depth"] > 1.05


def test_people_without_a_word_and_with_few_keypoints_are_less_certain():
    groups = calibration()
    scene = people(age=np.array([0.66, -1.0, 0.66, -1.0]))
    scene.keypoints[2:, 13:, 2] = 0.0
    for name, found in factors(scene).items():
        word, few = groups[WITHOUT_WORD][name], groups[FEW_KEYPOINTS][name]
        np.testing.assert_allclose(found, [1.0, word, few, max(word, few)])


def test_fourteen_keypoints_are_many():
    scene = people(2, age=np.full(2, 0.66))
    scene.keypoints[0, 14:, 2], scene.keypoints[1, 13:, 2] = 0.0, 0.04
    np.testing.assert_allclose(factors(scene)["depth"], [1.0, calibration()[FEW_KEYPOINTS]["depth"]])


@pytest.mark.parametrize("told", ["pose", "dense", "depth"])
def test_who_is_known_by_more_than_keypoints_has_the_factors_of_everybody(told):
    dense = np.zeros((4, 138, 3))
    dense[:, 0, 2] = 1.0
    more = {"pose": {}, "dense": {"dense_keypoints": dense}, "depth": {"median_depth": np.full(4, 3.0)}}[told]
    for found in factors(people(**more), knows_pose=told == "pose").values():
        np.testing.assert_array_equal(found, np.ones(4))


@pytest.mark.slow
def test_a_fit_stores_them_and_its_trust_does_not_change(load_anny, monkeypatch):
    from second_order_cases import plus_config

    from annyfit_jax.fit.fitter import Fitter

    scene = trajectory(0)[0]
    nothing = np.full(len(scene), -1.0)
    scene = dataclasses.replace(
        scene, start=None, age=nothing, gender=nothing, dense_keypoints=np.zeros_like(scene.dense_keypoints),
        median_depth=np.full(len(scene), np.nan),
    )  # fmt: skip
    fitter = Fitter(plus_config("map.lifted=1", "map.starts=0", "map.supposed_ages=()"), load_anny("float32"))
    (fit,) = fitter.fit([scene])
    ones = {name: np.ones(len(scene)) for name in HARDER}
    monkeypatch.setattr(uncertainty, "hardship", lambda *_: ones)
    (before,) = fitter.fit([scene])
    groups = calibration()[WITHOUT_WORD]
    np.testing.assert_allclose(fit.sd_depth_m, before.sd_depth_m * groups["depth"], rtol=1e-5)
    np.testing.assert_allclose(fit.sd_height_m, before.sd_height_m, rtol=1e-5)
    np.testing.assert_allclose(fit.sd_joints_m, before.sd_joints_m * groups["joints"], rtol=1e-5)
    np.testing.assert_allclose(fit.trust, before.trust, rtol=1e-5)
    np.testing.assert_allclose(before.trust, trust.judge(before).score, rtol=1e-5)
