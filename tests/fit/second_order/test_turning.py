"""Steps that turn the root: the inverse Jacobian, the model in their variables, and independence of the camera's roll."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs
from scipy.spatial.transform import Rotation

from annyfit_jax.fit.second_order import jacobian, turning
from annyfit_jax.fit.second_order.lm import System

D, N = 9, 5


def vectors(*angles: float) -> np.ndarray:
    axes = np.random.default_rng(1).normal(size=(3, len(angles)))
    return axes / np.linalg.norm(axes, axis=0) * np.array(angles)


@pytest.mark.parametrize("angle", [0.0, 1e-4, 0.19, 0.21, 2.0, np.pi])
def test_the_inverse_of_the_left_jacobian(angle):
    with jax.enable_x64(True):
        v = jnp.asarray(vectors(angle, -angle))
        product = jnp.einsum("ijn,jkn->ikn", jacobian.inverse_left_jacobian(v), jacobian.left_jacobian(v))
    assert max_abs(product, np.repeat(np.eye(3)[..., None], 2, -1)) < 1e-11


def quadratic(rng: np.random.Generator) -> System:
    root = rng.normal(size=(N, D, D))
    return System(
        energy=jnp.zeros(N),
        gradient=jnp.asarray(rng.normal(size=(D, N))),
        matrix=jnp.asarray(np.tril(root @ root.transpose(0, 2, 1))),
        cross=jnp.asarray(rng.normal(size=(D, 2, N))),
        scene_gradient=jnp.zeros((1, 2)),
        scene_matrix=jnp.zeros((1, 2, 2)),
    )


def test_the_model_is_the_same_function_of_the_step():
    """Energy of a step in turns equals that of the same step added to the rotation vector, to first order in the turn."""
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        system = quadratic(rng)
        x = jnp.asarray(rng.normal(size=(D, N)))
        local = turning.in_turns(system, x)
        step = jnp.asarray(rng.normal(size=(D, N)))
        inverse = jacobian.inverse_left_jacobian(x[turning.ROOT])
        added = step.at[turning.ROOT].set(jnp.einsum("ijn,jn->in", inverse, step[turning.ROOT]))

    def parts(s: System, step: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        lower = np.tril(np.asarray(s.matrix))
        whole = lower + np.tril(lower, -1).transpose(0, 2, 1)
        return (
            np.einsum("dn,dn->n", np.asarray(s.gradient), step),
            np.einsum("dn,nde,en->n", step, whole, step),
            np.einsum("dn,dqn->qn", step, np.asarray(s.cross)),
        )

    for ours, expected in zip(parts(local, np.asarray(step)), parts(system, np.asarray(added)), strict=True):
        assert max_abs(ours, expected) < 1e-11


def test_a_step_turns_the_root_and_adds_to_the_rest():
    rng = np.random.default_rng(5)
    x, step = rng.normal(size=(2, D, N))
    got = np.asarray(turning.turned(jnp.asarray(x, jnp.float32), jnp.asarray(step, jnp.float32)), np.float64)
    others = np.r_[0:3, 6:D]
    assert max_abs(got[others], (x + step)[others]) < 1e-6
    expected = Rotation.from_rotvec(step[3:6].T) * Rotation.from_rotvec(x[3:6].T)
    assert (Rotation.from_rotvec(got[3:6].T).inv() * expected).magnitude().max() < 1e-5
