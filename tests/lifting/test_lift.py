"""The shipped lifter as a function: mirrored people get mirrored bodies; means of hypotheses that are alike."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from annyfit_jax.lifting import lift, lifter_features
from annyfit_jax.lifting.lift import Hypotheses
from annyfit_jax.lifting.lifter_rig import BONES, MIRRORED_BONES, MIRRORED_KEYPOINTS, rest_keypoints, span
from annyfit_jax.lifting.lifter_weights import load_lifter
from annyfit_jax.people.scene import COCO17
from body_models import anny
from body_models.rotations import rotvec_to_matrix

MIRROR = np.array([-1.0, 1.0, 1.0])
read = jax.jit(lift.read, static_argnames="mirror")
bodies = jax.jit(lift.bodies)


@pytest.fixture(scope="module")
def lifter():
    return load_lifter(anny.load())


@pytest.fixture(scope="module")
def shape():
    return jnp.array([[0.0, 0.67, 0.5, 0.5, 0.55, 0.5], [1.0, 0.4, 0.5, 0.5, 0.5, 0.5]])


@pytest.fixture(scope="module")
def people(lifter, shape):
    """Rays of two resting bodies, turned, off the middle of the picture, one with hidden keypoints; and what is told."""
    random = np.random.default_rng(3)
    turn = rotvec_to_matrix(jnp.array([[1.4, 0.3, 0.2], [-0.2, 1.5, 1.5]]))
    at = jnp.einsum("nij,nkj->nki", turn, rest_keypoints(lifter.rig, shape)) + jnp.array(
        [[[0.7, -0.2, 4.0]], [[-1.0, 0.3, 3.0]]]
    )
    rays = at[..., :2] / at[..., 2:] + 0.01 * random.normal(size=(2, 17, 2))
    confidence = jnp.asarray(random.uniform(0.4, 1.0, (2, 17))).at[1, [3, 8, 15]].set(0.0)
    told = lifter_features.nothing_told(2)._replace(
        up=jnp.array([[0.1, -0.95, 0.2], [0.0, -1.0, 0.0]]), up_known=jnp.array([1.0, 0.0])
    )
    return rays.astype(jnp.float32), confidence.astype(jnp.float32), told


def test_sides_have_other_sides():
    assert [COCO17[i] for i in MIRRORED_KEYPOINTS[:3]] == ["nose", "right_eye", "left_eye"]
    assert {BONES[i]: BONES[j] for i, j in enumerate(MIRRORED_BONES)}["upperarm01.L"] == "upperarm01.R"
    for rows in (MIRRORED_KEYPOINTS, MIRRORED_BONES):
        np.testing.assert_array_equal(rows[rows], np.arange(len(rows)))


def test_mirrored_people_get_mirrored_bodies(lifter, shape, people):
    """All hypotheses, in the same order, and all that is said of the person."""
    here = read(lifter, *people, mirror=True)
    there = read(lifter, *lifter_features.mirrored(*people), mirror=True)
    assert here.lifted.root.shape[1] == 2 * lifter.config.hypotheses
    np.testing.assert_allclose(jnp.exp(here.lifted.log_probability).sum(1), 1.0, atol=1e-5)
    for name in ("log_probability", "log_spread", "age_logits", "gender_logit", "build"):
        np.testing.assert_allclose(getattr(there.lifted, name), getattr(here.lifted, name), atol=2e-4)
    a, b = (bodies(lifter, reading, shape) for reading in (here, there))
    np.testing.assert_allclose(b.root, a.root * MIRROR * MIRROR[:, None], atol=2e-4)
    # The resting body is not quite symmetric.
    np.testing.assert_allclose(b.keypoints, a.keypoints[:, :, MIRRORED_KEYPOINTS] * MIRROR, atol=0.02)
    assert jnp.abs(a.keypoints - a.keypoints[:, :, MIRRORED_KEYPOINTS] * MIRROR).max() > 0.2


def test_the_likeliest_comes_first(lifter, people):
    log_probability = read(lifter, *people).lifted.log_probability
    assert (jnp.diff(log_probability, axis=1) <= 0).all()


def test_both_sides_of_the_mirror_are_asked(lifter, people):
    """Half of the hypotheses, and half of the probability, are those of the people as they are."""
    alone, both = (read(lifter, *people, mirror=mirror).lifted for mirror in (False, True))
    for person in range(2):
        places = [int(jnp.abs(both.root[person] - root).max((1, 2)).argmin()) for root in alone.root[person]]
        np.testing.assert_allclose(both.root[person, np.array(places)], alone.root[person], atol=1e-4)
        expected = alone.log_probability[person] - np.log(2.0)
        np.testing.assert_allclose(both.log_probability[person, np.array(places)], expected, atol=1e-4)


def turned(angles: list[float], offsets: list[float]) -> Hypotheses:
    """One person; hypothesis k is turned by an angle about x, and its keypoints are all moved by an offset."""
    rotation = rotvec_to_matrix(jnp.asarray(angles)[:, None] * jnp.array([1.0, 0.0, 0.0]))[None]
    keypoints = jnp.zeros((1, len(angles), 17, 3)).at[..., 0].add(jnp.asarray(offsets)[None, :, None])
    nothing = jnp.zeros((1, len(angles)))
    return Hypotheses(rotation, jnp.repeat(rotation[:, :, None], len(BONES), 2), keypoints, nothing, nothing)


def angles_of(rotation: jax.Array) -> np.ndarray:
    return np.asarray(jnp.arctan2(rotation[..., 2, 1], rotation[..., 1, 1]))


def test_hypotheses_that_are_alike_meet_in_their_middle():
    given = turned([0.2, 0.4, 2.0], [0.0, 0.0, 5.0])
    found = lift.averaged(given, jnp.zeros((1, 3)), jnp.array([1.5]), np.ones((3, 3), bool))
    np.testing.assert_allclose(angles_of(found.root), [[0.3, 0.3, 2.0]], atol=1e-5)
    np.testing.assert_allclose(angles_of(found.pose[:, :, 4]), [[0.3, 0.3, 2.0]], atol=1e-5)
    np.testing.assert_array_equal(found.keypoints, given.keypoints)


def test_what_costs_more_counts_less():
    cost = jnp.array([[0.0, np.log(3.0)]])
    root = lift.averaged(turned([0.0, 0.2], [0.0, 0.0]), cost, jnp.array([1.5]), np.ones((2, 2), bool)).root
    np.testing.assert_allclose(angles_of(root), 0.05, atol=1e-3)


def test_likeness_is_counted_in_heights():
    """A distance of ALIKE heights leaves e^-1 of the weight."""
    given = turned([0.0, 0.2], [0.0, 2.0 * lift.ALIKE])
    root = lift.averaged(given, jnp.zeros((1, 2)), jnp.array([2.0]), np.ones((2, 2), bool)).root
    share = np.exp(-1.0) / (1.0 + np.exp(-1.0))
    np.testing.assert_allclose(angles_of(root)[0], [0.2 * share, 0.2 * (1.0 - share)], atol=1e-3)


def test_only_those_that_belong_together_are_averaged():
    root = lift.averaged(
        turned([0.0, 0.2], [0.0, 0.0]), jnp.zeros((1, 2)), jnp.array([1.5]), np.eye(2, dtype=bool)
    ).root
    np.testing.assert_allclose(angles_of(root), [[0.0, 0.2]], atol=1e-5)


def test_the_span_is_that_of_the_resting_body(lifter, shape):
    rest = np.asarray(rest_keypoints(lifter.rig, shape))
    up = rest[:, 0, 2] - rest[:, 15:, 2].mean(1)
    np.testing.assert_allclose(span(jnp.asarray(rest)), up, rtol=0.01)  # the nose is in front of the ankles
