"""Rotations of six numbers and rotation vectors, with recorded values and at their singular points."""

from __future__ import annotations

import aios_golden as golden
import jax
import jax.numpy as jnp
import numpy as np
from aios_parts import TOLERANCE
from helpers import max_abs

from annyfit_jax.regressors import rotation_layers
from body_models.rotations import rotvec_to_matrix


def test_rotation_from_six_numbers():
    found = golden.arrays("ops")
    assert max_abs(rotation_layers.matrix_from_6d(jnp.asarray(found["rot6d_in"]))[:, 0], found["rot6d_out"]) < TOLERANCE


def test_rotation_vectors():
    """The recorded vectors may be longer than pi: compared as rotations, and ours for length."""
    found = golden.arrays("ops")
    got = rotation_layers.rotvec_from_matrix(jnp.asarray(found["rot6d_out"]))
    assert max_abs(rotvec_to_matrix(got), rotvec_to_matrix(jnp.asarray(found["aa_out"]))) < TOLERANCE
    assert max_abs(rotvec_to_matrix(jnp.asarray(found["rodrigues_in"])), found["rodrigues_out"]) < TOLERANCE


def test_rotation_vectors_of_every_size():
    rng = np.random.default_rng(0)
    axis = rng.normal(size=(200, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.concatenate(
        [np.linspace(0, np.pi, 180), np.pi - np.geomspace(1e-6, 1e-2, 10), np.geomspace(1e-8, 1e-3, 10)]
    )
    with jax.enable_x64(True):
        rotvec = jnp.asarray(axis * angle[:, None])
        back = rotation_layers.rotvec_from_matrix(rotvec_to_matrix(rotvec))
        same = np.minimum(np.abs(back - rotvec).max(1), np.where(angle > 3.1, np.abs(back + rotvec).max(1), np.inf))
        assert same.max() < 1e-6
        slope = jax.jit(jax.vmap(jax.jacobian(lambda r: rotation_layers.rotvec_from_matrix(rotvec_to_matrix(r)))))(
            rotvec
        )
        assert np.isfinite(slope).all()


def test_rotation_at_zero_has_a_finite_gradient():
    value, slope = jax.value_and_grad(lambda x: rotation_layers.matrix_from_6d(x).sum())(jnp.zeros(6))
    assert value == 0
    assert np.isfinite(slope).all()
