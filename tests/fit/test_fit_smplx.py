"""The same objective and solver on another body: a synthetic SMPL-X person is found again from its projections."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import fit_cases
import jax
import numpy as np
import pytest
import smplx_synthetic
from helpers import max_abs

from annyfit_jax.fit.adam import BatchFit
from annyfit_jax.fit.config import FitConfig, Stage
from annyfit_jax.fit.fit_body import FitBody, smplx_body
from annyfit_jax.fit.objective import clamp
from annyfit_jax.fit.problem import Capacity, Variables
from annyfit_jax.people.scene import BodyParameters, Scene
from annyfit_jax.records.settings import table
from body_models import smplx

pytestmark = pytest.mark.slow

EVIDENCE = {"keypoints": 0.01, "dense": 0.01}
CONFIG = FitConfig(
    stages=(
        Stage("place", 40, table(transl=0.02, root_rotvec=0.02), table(**EVIDENCE, pose_prior=1.0, depth_order=1.0)),
        Stage(
            "all",
            120,
            table(transl=0.003, root_rotvec=0.01, shape=0.03, pose=0.01),
            table(**EVIDENCE, words=10.0, pose_prior=1e-4, shape_prior=1e-4, mesh_prior=1e-6, depth_order=1.0),
        ),
    ),
    mesh_samples=16,
    frozen_bones=("jaw", "left_eye", "right_eye", *smplx.JOINTS[25:]),
)
PEOPLE = 2


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FitBody]:
    path = smplx_synthetic.save(tmp_path_factory.mktemp("smplx"))
    with jax.enable_x64(True):
        yield smplx_body(smplx.load(path, dtype=np.float64), CONFIG)


@pytest.fixture(scope="module")
def case(body) -> tuple[Scene, BodyParameters, BodyParameters]:
    """A scene of two people seen in full, a perturbed start, and the truth."""
    rng = np.random.default_rng(5)
    truth = BodyParameters(
        root_rotvec=np.array([[np.pi, 0, 0], [2.8, 0.4, 0.3]]),
        transl=np.array([[-0.4, 0.1, 3.5], [0.6, 0.0, 4.5]]),
        pose=0.2 * rng.standard_normal((PEOPLE, 54, 3)),
        shape=rng.standard_normal((PEOPLE, 10)),
    )
    frozen = np.setdiff1d(np.arange(54), body.layout.free_bones)
    truth.pose[:, frozen] = 0.0
    noise = np.where(np.isin(np.arange(54), frozen)[:, None], 0.0, 0.1 * rng.standard_normal((PEOPLE, 54, 3)))
    start = BodyParameters(
        truth.root_rotvec + 0.15 * rng.standard_normal((PEOPLE, 3)),
        truth.transl + np.array([[0.1, -0.1, 0.4], [-0.1, 0.1, -0.4]]),
        truth.pose + noise,
        np.zeros((PEOPLE, 10)),
    )
    blank = fit_cases.make_scene("smplx", np.zeros((PEOPLE, 17, 3)))
    with jax.enable_x64(True):
        _, variables = fit_cases.flatten(CONFIG, [(blank, truth)])
        predicted = jax.jit(lambda body, v: body.predict(v, clamp))(body, variables)
    observed = []
    for points in predicted[:2]:
        camera = np.einsum("ij,jkn->nki", blank.intrinsics, points)
        observed.append(np.concatenate([camera[..., :2] / camera[..., 2:], np.ones_like(camera[..., :1])], -1))
    scene = fit_cases.make_scene(
        "smplx",
        observed[0],
        dense_keypoints=observed[1],
        median_depth=truth.transl[:, 2],
        age=np.full(PEOPLE, 0.66),
        gender=np.full(PEOPLE, 1.0),
    )
    return scene, start, truth


@pytest.fixture(scope="module")
def result(body, case) -> Iterator[tuple[Variables, BatchFit]]:
    with jax.enable_x64(True):
        _, start, out = fit_cases.fit(CONFIG, body, [case[:2]])
        yield start, out


def test_the_body_has_the_points_of_the_objective(body):
    keypoints, dense, mesh = body.layout.counts
    assert (keypoints, dense) == (17, 138)
    assert 0 < mesh <= CONFIG.mesh_samples
    assert len(body.layout.free_bones) == 21
    assert body.layout.bones == smplx.JOINTS[1:]


def test_reprojection_error_falls(result):
    """Measured: 28 and 17 px at the start, 0.4 and 0.2 px at the end."""
    _, out = result
    assert (out.start_reprojection_px > 15).all()
    assert (out.reprojection_px < 2).all()


def test_the_person_comes_closer_to_the_truth(result, case):
    """The rest of the depth error is the size-depth ambiguity of one camera."""
    start, out = result
    truth = case[2].transl.T
    assert np.linalg.norm(out.variables.transl - truth) < 0.5 * np.linalg.norm(start.transl - truth)


def test_every_number_is_finite_and_hands_stay(result, body):
    start, out = result
    for array in jax.tree.leaves((out.variables, out.losses)):
        assert np.isfinite(array).all()
    frozen = np.setdiff1d(np.arange(54), body.layout.free_bones)
    np.testing.assert_array_equal(out.variables.pose[:, frozen], start.pose[:, frozen])
    assert (np.asarray(out.variables.pose) != np.asarray(start.pose))[:, list(body.layout.free_bones)].any(0).all()


def test_words_say_nothing_about_betas(result):
    assert not np.asarray(result[1].losses[1]["words"]).any()


def test_padding_changes_nothing(result, body, case, x64):
    """All 160 steps, in float64: rounding grows along the way, measured 1e-13."""
    padded = fit_cases.fit(CONFIG, body, [case[:2]], Capacity(people=5, pairs=4, scenes=3))[2]
    for got, want in zip(padded.variables, result[1].variables):
        assert max_abs(np.asarray(got)[..., :PEOPLE], want) < 1e-8
    np.testing.assert_allclose(padded.reprojection_px[:PEOPLE], result[1].reprojection_px, rtol=1e-6)


def test_the_exact_mesh_regulariser_is_refused():
    with pytest.raises(ValueError, match="mesh='exact' is for Anny"):
        smplx_body(None, dataclasses.replace(CONFIG, mesh="exact"))  # type: ignore[arg-type]
