"""Which fits to trust: every check sees what it is for, and nothing else; what cannot be checked costs nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fitted_people import make_fit

from annyfit_jax.fit import trust
from annyfit_jax.people import anatomy
from annyfit_jax.records.fit_files import SceneFit
from body_models import anny

PEOPLE = 3


def good(**changes) -> SceneFit:
    """Three plausible people side by side, 4 m away, with all cues agreeing; the third was not fitted."""
    stand = np.zeros((17, 3))
    stand[:, 1] = np.linspace(-0.8, 0.8, 17)
    stand[1::2, 0], stand[2::2, 0] = 0.15, -0.15
    transl = np.array([[-1.0, 0, 4], [1.0, 0, 4], [0, 0, np.nan]], np.float32)
    fields = {
        "transl": transl,
        "pose": np.zeros((PEOPLE, 162, 3), np.float32),
        "shape": np.array(
            [[0.05, 0.66, 0.5, 0.5, 0.5, 0.5], [0.95, 0.33, 0.5, 0.5, 0.5, 0.5], [np.nan] * 6], np.float32
        ),
        "age_word": np.array([0.66, 0.33, -1], np.float32),
        "gender_word": np.array([0.0, 1.0, -1], np.float32),
        "depth_m": transl[:, 2],
        "height_m": np.array([1.7, 1.3, np.nan], np.float32),
        "reprojection_px": np.array([1.0, 1.0, np.nan], np.float32),
        "fitted_keypoints_3d": (stand + transl[:, None]).astype(np.float32),
        "visible_depth_m": transl[:, 2] - np.float32(0.1),
        "depth_cue_m": (transl[:, 2] - 0.1) / np.float32(1.05),
        "depth_scale": np.array([1.05, 1.05, np.nan], np.float32),
        "sd_depth_m": np.array([0.1, 0.1, np.nan], np.float32),
        "converged": np.array([1, 1, np.nan], np.float32),
        "spread_m": np.array([0.01, 0.01, np.nan], np.float32),
    }
    return make_fit(**{**fields, **changes})


def with_first(name: str, value: float) -> SceneFit:
    array = np.array(getattr(good(), name))
    array[0] = value
    return good(**{name: array})


def bent_knees() -> SceneFit:
    limits = anatomy.joint_limits(anny.load())
    pose = np.zeros((PEOPLE, 162, 3), np.float32)
    where = int(np.argmax(limits.high))
    pose[0, limits.bones[where]] = limits.axes[where] * (limits.high[where] + 0.9)
    return good(pose=pose)


def ends() -> SceneFit:
    shape = good().shape
    shape[0, 2:] = [0.0, 1.0, 0.0, 0.5]
    return good(shape=shape)


def inside() -> SceneFit:
    joints = good().fitted_keypoints_3d
    joints[0] = joints[1] + np.float32(0.02)
    return good(fitted_keypoints_3d=joints)


def aged() -> SceneFit:
    shape = good().shape
    shape[0, 1] = 0.33
    return good(shape=shape)


def wrong_sex() -> SceneFit:
    shape = good().shape
    shape[0, 0] = 0.9
    return good(shape=shape)


BAD = {
    "reprojection": lambda: with_first("reprojection_px", 30.0),
    "depth": lambda: with_first("depth_cue_m", 3.0),
    "age": aged,
    "gender": wrong_sex,
    "limits": bent_knees,
    "penetration": inside,
    "converged": lambda: with_first("converged", 0.0),
    "uncertainty": lambda: with_first("sd_depth_m", 1.0),
    "alternatives": lambda: with_first("spread_m", 0.3),
}


def test_every_check_has_a_limit_and_a_field():
    checks = {f.name for f in dataclasses.fields(trust.Trust)} - {"fitted"}
    assert checks == set(trust.LIMITS) == set(BAD)


def test_good_people_are_trusted_and_missing_ones_are_not():
    found = trust.judge(good())
    assert (found.score[:2] > 0.8).all()
    assert found.score[2] == 0
    assert found.reasons() == [[], [], ["not fitted"]]


@pytest.mark.parametrize("name", BAD)
def test_a_check_sees_what_it_is_for(name):
    before, after = trust.judge(good()), trust.judge(BAD[name]())
    assert after.strains[name][0] > before.strains[name][0] + 0.3
    others = set(trust.LIMITS) - {name}
    if name == "penetration":  # whoever is moved also changes extents
        others -= {"reprojection"}
    for other in others:
        np.testing.assert_allclose(after.strains[other][0], before.strains[other][0], atol=1e-6, err_msg=other)
    assert after.score[0] < before.score[0]
    if name != "penetration":  # two people are in each other
        np.testing.assert_allclose(after.score[1], before.score[1])
    if after.strains[name][0] >= 1:
        assert name in after.reasons()[0]
        assert after.score[0] <= 0.5


def test_the_ends_of_the_shape_count():
    assert trust.judge(ends()).limits[0] == 3
    assert trust.judge(good()).limits[0] == 0


def test_what_cannot_be_checked_costs_nothing():
    """A first-order fit without words and without depth: most checks are blind."""
    blind = dict.fromkeys(
        ("depth_cue_m", "depth_scale", "visible_depth_m", "sd_depth_m", "converged"),
        np.full(PEOPLE, np.nan, np.float32),
    )
    unknown = np.full(PEOPLE, -1.0, np.float32)
    found = trust.judge(good(**blind, age_word=unknown, gender_word=unknown))
    for name in ("depth", "age", "gender", "converged", "uncertainty"):
        assert np.isnan(getattr(found, name)).all(), name
        assert (found.strains[name] == 0).all()
    assert (found.score[:2] >= trust.judge(good()).score[:2]).all()


def test_without_a_scale_of_the_solver_depth_cues_are_compared_with_each_other():
    joints = np.repeat(good().fitted_keypoints_3d[:1], PEOPLE, 0)
    fit = good(
        depth_scale=np.full(PEOPLE, np.nan, np.float32), visible_depth_m=np.full(PEOPLE, np.nan, np.float32),
        depth_m=np.array([4.0, 5.0, 6.0], np.float32), depth_cue_m=np.array([2.0, 2.5, 4.5], np.float32),
        fitted_keypoints_3d=joints,
    )  # fmt: skip
    np.testing.assert_allclose(trust.judge(fit).depth, [0.0, 0.0, np.log(1.5)], atol=1e-6)


def test_neutral_words_say_nothing_of_gender():
    assert np.isnan(trust.judge(with_first("gender_word", 0.5)).gender[0])


def test_scores_are_between_zero_and_one_whatever_the_numbers():
    rng = np.random.default_rng(0)
    for _ in range(20):
        wild = {
            name: (rng.normal(size=np.shape(getattr(good(), name))) * 10.0 ** rng.integers(-3, 5)).astype(np.float32)
            for name in ("reprojection_px", "depth_cue_m", "shape", "pose", "sd_depth_m", "height_m", "depth_m")
        }
        score = trust.judge(good(**wild)).score
        assert ((score >= 0) & (score <= 1)).all()


def test_fits_of_another_body_are_judged_by_what_they_share():
    fit = good(
        shape=np.zeros((PEOPLE, 10), np.float32), pose=np.zeros((PEOPLE, 54, 3), np.float32),
        phenotype_labels=np.array([f"beta{i}" for i in range(10)]),
    )  # fmt: skip
    found = trust.judge(fit)
    for name in ("age", "gender", "limits"):
        assert np.isnan(getattr(found, name)).all(), name
    assert (found.score[:2] > 0.5).all()
