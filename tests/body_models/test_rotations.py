"""Rotation vectors to matrices against scipy, and their derivatives where formulas are fragile."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs
from scipy.spatial.transform import Rotation

from body_models import rotations

# ------------------------------------------------------------------------------------------------ rotation vectors


ANGLES = [0.0, 1e-12, 9e-7, 1.1e-6, 1e-4, 0.1, 1.0, np.pi / 2, np.pi - 1e-7, np.pi, np.pi + 1e-7, 5.0, 2 * np.pi, 40.0]


def axes_of(count: int) -> np.ndarray:
    axis = np.concatenate([np.eye(3), -np.eye(3), np.random.default_rng(0).normal(size=(count, 3))])
    return axis / np.linalg.norm(axis, axis=1, keepdims=True)


@pytest.mark.parametrize("angle", ANGLES)
def test_rotvec_to_matrix_against_scipy(dtype, angle):
    vectors = axes_of(20) * angle
    got = rotations.rotvec_to_matrix(jnp.asarray(vectors, dtype))
    # Below 1e-6 rad the map is I + [v]x, half a square of the angle away.
    tolerance = 1e-12 if dtype == jnp.float64 else 1e-6 * max(1.0, angle)
    assert got.dtype == dtype
    assert max_abs(got, Rotation.from_rotvec(vectors).as_matrix()) <= tolerance
    first = rotations.rotvec_to_matrix_axes_first(jnp.asarray(vectors.T, dtype))
    np.testing.assert_array_equal(first, np.asarray(got).transpose(1, 2, 0))


def generators() -> np.ndarray:
    """(i, j, axis): d R_ij / d v_axis at zero."""
    out = np.zeros((3, 3, 3))
    for a in range(3):
        out[:, :, a] = np.cross(np.eye(3)[a], np.eye(3)).T
    return out


derivatives = jax.jit(jax.vmap(jax.jacrev(rotations.rotvec_to_matrix)))


def test_derivative_at_zero_is_the_generator(dtype):
    for jacobian in (jax.jacfwd, jax.jacrev):
        got = jax.jit(jacobian(rotations.rotvec_to_matrix))(jnp.zeros(3, dtype))
        np.testing.assert_array_equal(got, generators())


@pytest.mark.parametrize("angle", [0.0, 1e-12, 9e-7, 1.1e-6, 1e-4, 1.0, np.pi, 2 * np.pi])
def test_derivative_is_finite_and_continuous(dtype, angle):
    vectors = jnp.asarray(axes_of(20) * angle, dtype)
    got = np.asarray(derivatives(vectors))
    assert np.isfinite(got).all()
    if angle <= 1e-4:
        assert np.abs(got - generators()).max() <= 3 * angle + 1e-6 * (dtype == jnp.float32)


@pytest.mark.parametrize("angle", [1e-3, 1.0, 3.0, np.pi])
def test_derivative_against_differences(x64, angle):
    vectors, step = axes_of(6) * angle, 1e-6
    got = np.asarray(derivatives(jnp.asarray(vectors)))
    for a in range(3):
        move = step * np.eye(3)[a]
        ends = [Rotation.from_rotvec(vectors + sign * move).as_matrix() for sign in (1, -1)]
        assert max_abs(got[..., a], (ends[0] - ends[1]) / (2 * step)) <= 1e-8


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1e-3, 1.0, np.pi, 5.0])
def test_composition_against_scipy(dtype, angle):
    first, then = axes_of(20) * angle, axes_of(20)[::-1] * 1.3
    got = np.array(rotations.compose(jnp.asarray(first.T, dtype), jnp.asarray(then.T, dtype)), np.float64).T
    assert np.linalg.norm(got, axis=1).max() <= np.pi + 1e-6
    apart = Rotation.from_rotvec(got).inv() * Rotation.from_rotvec(first) * Rotation.from_rotvec(then)
    assert apart.magnitude().max() < (1e-12 if dtype == jnp.float64 else 2e-6)
