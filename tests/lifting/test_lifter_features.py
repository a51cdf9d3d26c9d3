"""What the lifter sees does not depend on where in the picture a person stands, nor on what is not seen."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs

from annyfit_jax.lifting import lifter_features
from annyfit_jax.lifting.lifter_features import NUM_FEATURES, nothing_told, see


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """Keypoints of four people, camera axes, metres."""
    rng = np.random.default_rng(3)
    return rng.normal(size=(4, 17, 3)) * [0.3, 0.8, 0.2] + [0.0, 0.0, 4.0]


def rays(points: np.ndarray) -> jnp.ndarray:
    return jnp.asarray(points[..., :2] / points[..., 2:], jnp.float32)


def test_lines_of_sight_are_rotations_that_take_rays_to_the_axis():
    centre = np.array([[0.0, 0.0], [0.7, -0.4], [-1.2, 1.5]])
    view = np.asarray(lifter_features.line_of_sight(jnp.asarray(centre)))
    ray = np.concatenate([centre, np.ones((3, 1))], 1)
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    assert max_abs(np.einsum("nij,nj->ni", view, ray), np.tile([0.0, 0.0, 1.0], (3, 1))) < 1e-6
    assert max_abs(view @ np.swapaxes(view, 1, 2), np.tile(np.eye(3), (3, 1, 1))) < 1e-6
    assert max_abs(np.linalg.det(view), np.ones(3)) < 1e-6


def test_a_larger_person_has_the_same_keypoints_and_another_size(points):
    confidence = jnp.ones((4, 17))
    far = see(rays(points), confidence, nothing_told(4)).features
    near = see(1.02 * rays(points), confidence, nothing_told(4)).features
    assert far.shape == (4, NUM_FEATURES)
    assert max_abs(far[:, :34], near[:, :34]) < 2e-3
    assert (near[:, 70] > far[:, 70] + 0.015).all()


def test_what_is_not_seen_does_not_matter(points):
    confidence = np.ones((4, 17))
    confidence[:, [3, 9]] = lifter_features.SEEN - 0.01
    told = nothing_told(4)
    elsewhere = np.array(rays(points))
    elsewhere[:, [3, 9]] = 77.0
    one, other = (see(jnp.asarray(r), jnp.asarray(confidence), told) for r in (rays(points), elsewhere))
    assert max_abs(one.features, other.features) == 0.0
    every = see(rays(points), jnp.ones((4, 17)), told)
    assert max_abs(one.features, every.features) > 0.5


def test_nobody_is_a_number_too():
    seen = see(jnp.full((1, 17, 2), 5.0), jnp.zeros((1, 17)), nothing_told(1))
    assert np.isfinite(seen.features).all()
    assert max_abs(seen.view[0], np.eye(3)) == 0.0


def test_gravity_is_told_in_the_axes_of_the_line_of_sight(points):
    up = jnp.tile(jnp.asarray([0.0, -1.0, 0.0]), (4, 1))
    told = nothing_told(4)._replace(up=up, up_known=jnp.asarray([1.0, 1.0, 1.0, 0.0]))
    seen = see(rays(points), jnp.ones((4, 17)), told)
    assert max_abs(seen.features[:3, -4:-1], np.einsum("nij,nj->ni", seen.view, up)[:3]) < 1e-6
    assert max_abs(seen.features[3, -4:], np.zeros(4)) == 0.0
