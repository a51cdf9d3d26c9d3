"""The nearest points of a sphere and of a plane."""

from __future__ import annotations

import numpy as np
import trimesh

from annyfit_jax.conversion.closest_points import closest_points, on_surface


def test_points_above_a_plane_fall_on_their_feet():
    steps = np.linspace(0, 1, 6)
    x, y = np.meshgrid(steps, steps, indexing="ij")
    vertices = np.stack([x.ravel(), y.ravel(), np.zeros(36)], 1)
    corner = (np.arange(5)[:, None] * 6 + np.arange(5)).ravel()
    lower = np.stack([corner, corner + 6, corner + 1], 1)
    upper = np.stack([corner + 6, corner + 7, corner + 1], 1)
    faces = np.concatenate([lower, upper])
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(0, 1, (50, 2)), rng.uniform(-0.1, 0.1, (50, 1))], 1)
    found = closest_points(points, vertices, faces)
    np.testing.assert_allclose(found.distance, np.abs(points[:, 2]), atol=1e-12)
    np.testing.assert_allclose(on_surface(found, vertices), points * [1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(found.normal, np.tile([0.0, 0, 1], (50, 1)), atol=1e-12)
    # The same places on a mesh that was moved.
    np.testing.assert_allclose(on_surface(found, 2 * vertices + 1), 2 * points * [1, 1, 0] + 1, atol=1e-12)


def test_points_inside_a_sphere_look_outwards():
    sphere = trimesh.creation.icosphere(3)
    rng = np.random.default_rng(1)
    away = rng.normal(size=(40, 3))
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    found = closest_points(0.8 * away, np.asarray(sphere.vertices), np.asarray(sphere.faces))
    assert np.abs(found.distance - 0.2).max() < 0.01
    assert ((found.normal * away).sum(1) > 0.98).all()
