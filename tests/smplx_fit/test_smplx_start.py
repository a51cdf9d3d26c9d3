"""Where a fit of SMPL-X starts, from fits of Anny that are written by hand."""

from __future__ import annotations

import dataclasses

import laid_smplx
import numpy as np
import pytest
from fit_cases import make_scene
from fitted_people import make_fit
from helpers import max_abs
from second_order_cases import plus_config

from annyfit_jax.fit.fit_body import anny_body
from annyfit_jax.fit.second_order.columns import DEPTH_SCALE, FOCAL, GROUND, PITCH, ROLL
from annyfit_jax.fit.second_order.map_cues import Facts
from annyfit_jax.fit.starts import PreparedScene
from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.smplx_fit.smplx_map_body import fit_body_of
from annyfit_jax.smplx_fit.smplx_start import SmplxStarter, reading_of, with_expected_heights
from body_models import smplx

ROW = {name: row for row, name in enumerate(smplx.JOINTS[1:])}


@pytest.fixture(scope="module")
def starters(load_anny, tmp_path_factory) -> tuple[SmplxStarter, SmplxStarter]:
    """Without and with a child's template."""
    model, config = load_anny(), plus_config()
    made = []
    for kid in (False, True):
        laying = laid_smplx.laying(model, tmp_path_factory.mktemp("body"), kid=kid)
        made.append(SmplxStarter(laying, anny_body(model, config), fit_body_of(laying, config), config))
    return made[0], made[1]


@pytest.fixture(scope="module")
def case() -> tuple:
    """Two people with a fit, an adult and a child, and one without; the scene has the two."""
    fit = make_fit(
        camera=np.tile(np.array([0.1, np.pi / 2 + 0.05, 1.5], np.float32), (3, 1)), depth_scale=np.full(3, 1.2)
    )
    scene = make_scene("photo", fit.keypoints_2d[:2].astype(np.float64), intrinsics=fit.K.astype(np.float64))
    start = BodyParameters(fit.root_rotvec[:2], fit.transl[:2], fit.pose[:2], fit.shape[:2])
    ready = PreparedScene(
        scene, start, np.array([0, 1]), {2: "no_keypoints"}, {2: "9"}, [[], []], "keypoints", from_cue=np.zeros(2, bool)
    )
    return ready, fit


def test_a_child_is_left_out_where_there_is_no_shape_for_it(starters, case):
    plain, with_child = starters
    assert [a.tolist() for a in plain.can_be_fitted(case[1])] == [[True, False, False], [False, True, False]]
    assert [a.tolist() for a in with_child.can_be_fitted(case[1])] == [[True, True, False], [False, False, False]]
    start = plain(*case)
    assert start is not None and start.rows.tolist() == [0] and len(start.ready.scene) == 1
    nobody = dataclasses.replace(case[1], status=np.full(3, "failed:not_finite"))
    assert plain(case[0], nobody) is None


def test_words_decide_the_blend_with_a_child(starters, case):
    ready, fit = case
    tall = starters[1]._height
    start = starters[1](ready, dataclasses.replace(fit, height_m=np.array([tall, 0.75 * tall, np.nan], np.float32)))
    assert start.shape_precision[:, -1].tolist() == [1e8, 0.0]
    assert start.start.shape[:, -1].tolist() == pytest.approx([0.0, 0.5], abs=0.01)  # the made child is half as tall
    assert (start.start.shape[1, :-1] == 0).all()


def test_the_betas_of_the_start_give_the_height(starters, case):
    start = starters[0](*case)
    slope, height = starters[0]._height_slope, starters[0]._height
    wanted = np.clip((1.7 - height) * slope / (slope @ slope), -3, 3)
    assert max_abs(start.start.shape[0], wanted) < 1e-6


def test_height_to_be_expected_is_that_of_the_population(starters, case):
    """A man of the age phenotype .7: 1.7 to 1.8 m, give or take several centimetres; a girl of .2 is smaller."""
    height = starters[1](*case).height
    assert 1.65 < height[0, 0] < 1.85 and 0.03 < height[0, 1] < 0.15
    assert 0.8 < height[1, 0] < 1.3 and 0.02 < height[1, 1] < 0.15


def test_hands_and_face_come_from_anny_only_where_they_were_seen(starters, case):
    ready, fit = case
    frames = starters[1].laying.frames
    seen = np.zeros((3, 5), np.float32)
    seen[0] = (1, 0, 0, 0, 1)
    start = starters[1](ready, dataclasses.replace(fit, parts_seen=seen))
    own, carried = frames.own(start.start.pose), frames.of_anny(fit.pose[:2])
    left, right = (slice(24, 39), slice(39, 54))
    assert max_abs(start.start.pose[0, left], carried[0, left]) < 1e-9
    means = np.asarray(starters[1].laying.model.hand_means).reshape(2, 15, 3)
    assert max_abs(own[0, right], means[1]) < 1e-6 and max_abs(own[1, left], means[0]) < 1e-6
    assert np.abs(own[:, [ROW["jaw"], ROW["left_eye"], ROW["left_foot"]]]).max() < 1e-6
    assert start.pose_precision[0, ROW["left_wrist"]] > 100 and start.pose_precision[0, ROW["right_wrist"]] == 0
    assert start.pose_precision[0, ROW["right_ankle"]] > 100 and start.pose_precision[1].max() == 0


def test_a_known_pose_is_a_prior(starters, case):
    ready, fit = case
    start = starters[1](dataclasses.replace(ready, from_cue=np.array([True, False])), fit)
    assert (start.pose_precision[0] > 1).all() and not start.pose_precision[1].any()
    assert start.root_precision.tolist() == pytest.approx([100.0, 0.0])
    assert max_abs(start.pose_mean[0], starters[1].laying.frames.of_anny(ready.start.pose)[0]) < 1e-9


def test_the_scene_is_that_of_anny(starters, case):
    """A camera rolled by a quarter turn and a little more."""
    start = starters[1](*case)
    assert start.roll_mode == pytest.approx(np.pi / 2)
    wanted = {PITCH: 0.1, ROLL: 0.05, GROUND: 1.5, DEPTH_SCALE: np.log(1.2), FOCAL: 0.0}
    assert start.scene[list(wanted)].tolist() == pytest.approx(list(wanted.values()), abs=1e-6)


def test_exchanged_sides_are_read_as_anny_read_them(case):
    ready, fit = case
    points = np.asarray(fit.fitted_keypoints_3d, np.float64)[:2] * 0.3 + np.array([0.0, 0.0, 4.0])
    fit = dataclasses.replace(fit, fitted_keypoints_3d=np.concatenate([points, points[:1]]).astype(np.float32))
    pixels = np.concatenate([project(points, fit.K.astype(np.float64)), np.ones((2, 17, 1))], -1)
    legs = pixels.copy()
    legs[1, 11:] = pixels[1, [12, 11, 14, 13, 16, 15]]
    scene = dataclasses.replace(ready.scene, keypoints=legs)
    assert reading_of(scene, fit, np.array([0, 1])).tolist() == [0, 2]


def test_measured_heights_and_expected_ones_are_one_gaussian():
    facts = Facts(np.array([1.8, 1.0]), np.array([1e4, 0.0]), np.zeros(2), np.zeros(2))
    both = with_expected_heights(facts, np.array([[1.6, 1.7], [0.1, 0.05]]))
    assert both.height_m.tolist() == pytest.approx([(1e4 * 1.8 + 100 * 1.6) / 10100, 1.7])
    assert both.height_precision.tolist() == pytest.approx([10100.0, 400.0])
