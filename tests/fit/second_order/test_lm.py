"""Levenberg-Marquardt on quadratic and other small energies: the step by a dense solve, bounds, damping, what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs

from annyfit_jax.fit.config import LevenbergMarquardt
from annyfit_jax.fit.second_order import lm
from annyfit_jax.fit.second_order.lm import Evaluation, State, System

pytestmark = pytest.mark.usefixtures("x64")
D, SCENE = 4, np.array([0, 0, 1])
N, G, Q = len(SCENE), 2, 2


def system(seed: int = 0, unknowns: int = Q) -> System:
    """People 0 and 1 in a scene, person 2 in another; the whole matrix is positive definite."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(N, D, D))
    scene_roots = rng.normal(size=(G, unknowns, unknowns))
    return System(
        energy=jnp.asarray(rng.normal(size=N)),
        gradient=jnp.asarray(rng.normal(size=(D, N))),
        matrix=jnp.asarray(roots @ roots.transpose(0, 2, 1) + 2 * np.eye(D)),
        cross=jnp.asarray(0.3 * rng.normal(size=(D, unknowns, N))),
        scene_gradient=jnp.asarray(rng.normal(size=(G, unknowns))),
        scene_matrix=jnp.asarray(scene_roots @ scene_roots.transpose(0, 2, 1) + 9 * np.eye(unknowns)),
    )


def dense_step(s: System, free: np.ndarray, damping: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One linear system of all people and scenes; a frozen variable has neither row nor column."""
    unknowns = s.scene_gradient.shape[1]
    size = N * D + G * unknowns
    matrix, right = np.zeros((size, size)), np.zeros(size)
    for n in range(N):
        mine = slice(n * D, (n + 1) * D)
        own = np.asarray(s.matrix[n])
        matrix[mine, mine] = own + damping[n] * np.diag(np.diag(own))
        right[mine] = -np.asarray(s.gradient[:, n])
        theirs = slice(N * D + SCENE[n] * unknowns, N * D + (SCENE[n] + 1) * unknowns)
        matrix[mine, theirs] = s.cross[..., n]
        matrix[theirs, mine] = np.asarray(s.cross[..., n]).T
    for g in range(G):
        theirs = slice(N * D + g * unknowns, N * D + (g + 1) * unknowns)
        matrix[theirs, theirs], right[theirs] = s.scene_matrix[g], -np.asarray(s.scene_gradient[g])
    kept = np.concatenate([free.T.ravel() > 0, np.ones(G * unknowns, bool)])
    solved = np.zeros(size)
    solved[kept] = np.linalg.solve(matrix[np.ix_(kept, kept)], right[kept])
    return solved[: N * D].reshape(N, D).T, solved[N * D :].reshape(G, unknowns)


def step(s: System, free: np.ndarray | None = None, damping: np.ndarray | float = 0.1):
    """Change of people, change of scenes, who has a step."""
    free = np.ones((D, N)) if free is None else free
    factor, scale = lm.factorize(s, jnp.asarray(free), jnp.broadcast_to(jnp.asarray(damping), N))
    return lm.step(s, SCENE, factor, scale)


@pytest.mark.parametrize("unknowns", [0, Q])
def test_the_step_solves_the_whole_system(unknowns):
    s = system(unknowns=unknowns)
    free, damping = np.ones((D, N)), np.array([1e-3, 0.5, 20.0])
    free[1, 0] = free[3, 2] = 0.0
    change, scene_change, good = step(s, free, damping)
    expected, expected_scene = dense_step(s, free, damping)
    assert max_abs(change, expected) < 1e-12
    np.testing.assert_allclose(scene_change, expected_scene, rtol=0, atol=1e-12)
    assert np.asarray(good).all()
    assert not np.asarray(change)[free == 0].any()


def test_only_the_lower_triangle_is_read():
    s = system()
    garbled = s._replace(matrix=s.matrix + jnp.asarray(np.triu(np.ones((D, D)), 1)))
    assert max_abs(step(garbled)[0], step(s)[0]) == 0


def test_a_matrix_that_cannot_be_factored_gives_no_step():
    """And leaves the others, also those of its scene, as if it had not been there."""
    s = system()
    broken = s._replace(matrix=s.matrix.at[0].set(-jnp.eye(D)))
    change, scene_change, good = step(broken)
    assert np.asarray(good).tolist() == [False, True, True]
    assert not np.asarray(change[:, 0]).any()
    alone = s._replace(cross=s.cross.at[..., 0].set(0.0))
    expected, expected_scene, _ = step(alone)
    assert max_abs(change[:, 1:], expected[:, 1:]) < 1e-12
    assert max_abs(scene_change, expected_scene) < 1e-12


def test_bounds_hold_what_is_pushed_against_them():
    x = jnp.asarray([[0.0, 0.0, 0.5, 1.0, 1.0]])
    gradient = jnp.asarray([[1.0, -1.0, 1.0, 1.0, -1.0]])
    active = lm.active_bounds(x, gradient, jnp.zeros((1, 1)), jnp.ones((1, 1)))
    assert np.asarray(active).tolist() == [[True, False, False, False, True]]


# ------------------------------------------------------------------------------------------------ iterations


def minimise(energy_of, start, iterations=20, low=-np.inf, high=np.inf, curvature=None, **settings):
    """Fits every column of `start` to `energy_of(x (D, N)) -> (N)`, by its Hessian or a given curvature (N, D, D)."""
    dimensions, people = start.shape
    one = lambda x: energy_of(x[:, None])[0]  # noqa: E731

    def evaluate(x, scene_x, memory, index):
        matrix = jax.vmap(jax.hessian(one), 1)(x) if curvature is None else curvature
        return Evaluation(
            System(
                energy_of(x), jax.vmap(jax.grad(one), 1, 1)(x), matrix, jnp.zeros((dimensions, 0, people)),
                jnp.zeros((1, 0)), jnp.zeros((1, 0, 0)),
            ),
            memory + 1, lambda scene_x: energy_of(x), x,
        )  # fmt: skip

    state = State(jnp.asarray(start), jnp.zeros((1, 0)), jnp.full(people, 1e-3), jnp.zeros(people))
    bounds = jnp.full((dimensions, 1), low), jnp.full((dimensions, 1), high)
    return lm.minimise(
        evaluate, lambda x, scene_x, memory: energy_of(x), lambda here, factor, scale: here.extra, state, jnp.int32(0),
        np.zeros(people, int), bounds, LevenbergMarquardt(**settings), iterations,
    )  # fmt: skip


def bowl(x):
    """Lowest at (1, -2), with 3 nats there."""
    a, b = x[0] - 1.0, x[1] + 2.0
    return 3.0 + 2.0 * a**2 + a * b + b**2


def rosenbrock(x):
    return (1.0 - x[0]) ** 2 + 100.0 * (x[1] - x[0] ** 2) ** 2


START = np.array([[5.0, -3.0, 0.0], [4.0, 0.5, 0.0]])


def test_a_quadratic_energy_is_at_its_minimum():
    end = minimise(bowl, START)
    state, energies = end.state, np.asarray(end.energies)
    assert max_abs(state.x, np.tile([[1.0], [-2.0]], 3)) < 1e-9
    assert energies.shape == (21, 3)
    assert max_abs(energies[-1], np.full(3, 3.0)) < 1e-12
    assert max_abs(end.report, state.x) == 0  # of the end, not of the last step's beginning
    assert np.asarray(state.promised).max() < 1e-9


def test_bounds_are_kept_and_the_rest_is_minimised():
    state = minimise(bowl, np.clip(START, -1.0, 0.5), low=-1.0, high=0.5).state
    # With b at its lower bound, 2 a^2 + a + 1 is lowest below the upper bound of a only where a = -1/4: x_0 = 0.5 is not free.
    assert max_abs(state.x, np.tile([[0.5], [-1.0]], 3)) < 1e-9


def test_no_iteration_raises_an_energy():
    """On a curved valley from far away, where undamped steps go wrong."""
    start = np.array([[-1.2, 3.0, -4.0], [1.0, -3.0, 10.0]])
    end = minimise(rosenbrock, start, 60)
    state, energies = end.state, np.asarray(end.energies, np.float64)
    assert (energies[1:] <= energies[:-1]).all()
    assert max_abs(state.x, np.ones((2, 3))) < 1e-6


def test_refused_steps_raise_the_damping_and_move_nobody():
    """A curvature a hundred times too small: every step is far too long until the damping has grown."""
    small = jnp.tile(0.01 * jnp.eye(2), (1, 1, 1))
    state = minimise(bowl, START[:, :1], 1, curvature=small).state
    assert max_abs(state.x, START[:, :1]) == 0
    assert float(state.damping[0]) == pytest.approx(8e-3)
    end = minimise(bowl, START[:, :1], 40, curvature=small)
    assert float(end.energies[-1, 0]) == pytest.approx(3.0, abs=1e-3)


def test_promised_savings_that_arrive_lower_the_damping():
    """The model of a quadratic energy is exact."""
    state = minimise(bowl, START, 2).state
    assert np.allclose(state.damping, 1e-3 * 0.2**2)
