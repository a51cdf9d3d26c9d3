"""Turns of bones: one matrix product gives nearly the skinned keypoints, and rotations about the parents come back."""

from __future__ import annotations

import compiled_bodies
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs
from scipy.spatial.transform import Rotation

from annyfit_jax.lifting import lifter_rig
from annyfit_jax.lifting.lifter_rig import BONES, NUM_BONES
from body_models import anny

pytestmark = pytest.mark.unoptimised

HIPS = list(lifter_rig.HIPS)


@pytest.fixture(scope="module")
def rig() -> lifter_rig.LifterRig:
    return lifter_rig.load_rig(anny.load())


@pytest.fixture(scope="module")
def shape() -> jnp.ndarray:
    return jnp.asarray(
        [[0.0, 0.7, 0.5, 0.5, 0.4, 0.5], [0.9, 0.02, 0.5, 0.4, 0.5, 0.6], [0.5, 0.3, 0.6, 0.5, 0.3, 0.5]]
    )


@pytest.fixture(scope="module")
def posed(rig, shape):
    """(pose, keypoints about the hips, turns) of three people whose arms and legs are bent."""
    rng = np.random.default_rng(0)
    limbs = np.array([name.startswith(("upper", "lower")) for name in BONES])
    pose = jnp.asarray(rng.normal(size=(3, NUM_BONES, 3)) * np.where(limbs, 0.5, 0.05)[:, None], jnp.float32)
    at, turns = jax.jit(lifter_rig.posed)(rig, shape, pose)
    return pose, at - at[:, HIPS].mean(1, keepdims=True), turns


def test_the_resting_body_is_exact(rig, shape):
    eye = jnp.broadcast_to(jnp.eye(3), (3, 1, NUM_BONES, 3, 3))
    found = lifter_rig.keypoints(lifter_rig.segments(rig, shape), eye[:, :, 0], eye)[:, 0]
    rest = lifter_rig.rest_keypoints(rig, shape)
    assert max_abs(found, rest - rest[:, HIPS].mean(1, keepdims=True)) < 1e-6


def test_one_product_is_nearly_the_skinned_body(rig, shape, posed):
    _, at, turns = posed
    root = jnp.asarray(Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix(), jnp.float32)
    roots = jnp.broadcast_to(root, (3, 1, 3, 3))
    found = lifter_rig.keypoints(lifter_rig.segments(rig, shape), roots, turns[:, None])[:, 0]
    off = np.linalg.norm(found - at @ root.T, axis=-1)
    assert off.max() < 0.06
    assert off.mean() < 0.015
    rest = lifter_rig.rest_keypoints(rig, shape)
    moved = np.linalg.norm(at - (rest - rest[:, HIPS].mean(1, keepdims=True)), axis=-1)
    assert moved.max() > 0.2  # the pose moves what is compared


def test_skinned_keypoints_are_those_of_the_body(rig, shape, posed):
    pose, at, _ = posed
    model = anny.load()
    points = anny.contract(model, np.asarray(model.keypoint_regressor)[:17])
    whole = jnp.zeros((3, 162, 3)).at[:, np.array(rig.layout.rows)].set(pose)
    usual = compiled_bodies.anny_points(points, anny.Params(shape, jnp.zeros((3, 3)), whole, jnp.zeros((3, 3))))
    assert max_abs(at, usual - usual[:, HIPS].mean(1, keepdims=True)) < 1e-5


def test_local_rotations_undo_the_turns(rig, shape, posed):
    pose, _, turns = posed
    local = np.asarray(lifter_rig.local_rotations(rig, shape, turns[:, None]))[:, 0]
    expected = Rotation.from_rotvec(np.asarray(pose).reshape(-1, 3)).as_matrix().reshape(local.shape)
    assert max_abs(local, expected) < 1e-5
