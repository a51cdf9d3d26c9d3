"""Levenberg-Marquardt for many people at once: one Cholesky per person, scene unknowns by a Schur complement.

The unknowns are x (D per person) and g (q per scene), coupled only through the person they touch:

    [ A_n   B_n ] [dx_n]     [ gradient_n ]
    [ B_n^T  C  ] [dg  ] = - [ gradient_g ]

Everything has a fixed shape; people keep their own damping, and a person whose step does not lower the energy stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from annyfit_jax.fit.config import LevenbergMarquardt
from annyfit_jax.fit.problem import AnyArray

_DAMPING_RANGE = (1e-6, 1e6)
_TINY = 1e-12
_KEPT = 0.5
"""A step that saves less than this share of what its quadratic model promised does not lower the damping."""


class System(NamedTuple):
    """A quadratic model of the energy at the current point. N people, D variables each; G scenes, q unknowns each."""

    energy: Float[Array, "N"]
    gradient: Float[Array, "D N"]
    matrix: Float[Array, "N D D"]
    """Positive semi-definite curvature; only the lower triangle is read."""
    cross: Float[Array, "D q N"]
    scene_gradient: Float[Array, "G q"]
    scene_matrix: Float[Array, "G q q"]


class State(NamedTuple):
    """What an iteration carries."""

    x: Float[Array, "D N"]
    scene_x: Float[Array, "G q"]
    damping: Float[Array, "N"]
    promised: Float[Array, "N"]
    """Energy that the last step promised to save."""


class Evaluation(NamedTuple):
    """A quadratic model and what it leaves behind."""

    system: System
    memory: Any
    """Handed to the next evaluation."""
    energy_at: Callable[[Array], Float[Array, "N"]]
    """Energy of each person at other scene unknowns."""
    extra: Any = None
    """For the report of the end."""


def active_bounds(
    x: Float[Array, "D N"], gradient: Float[Array, "D N"], low: Float[Array, "D 1"], high: Float[Array, "D 1"]
) -> Bool[Array, "D N"]:
    """Variables that stand on a bound which the gradient pushes them against: they stay (Bertsekas 1982)."""
    return ((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0))


def factorize(
    system: System, free: Float[Array, "D N"], damping: Float[Array, "N"]
) -> tuple[Float[Array, "N D D"], Float[Array, "D N"]]:
    """Cholesky factor of the scaled damped matrix and the scale of each variable, D_i = 1 / sqrt(A_ii).

    The factor is of `scale A scale + damping`, with frozen variables (free 0) replaced by the identity.
    """
    diagonal = jnp.diagonal(system.matrix, axis1=1, axis2=2)
    scale = jax.lax.rsqrt(jnp.maximum(diagonal, _TINY))
    masked = scale * free.T
    eye = jnp.eye(diagonal.shape[1], dtype=diagonal.dtype)
    scaled = system.matrix * masked[:, :, None] * masked[:, None, :]
    scaled = scaled + eye * (damping[:, None] * free.T + 1.0 - free.T)[:, :, None]
    return jax.lax.linalg.cholesky(scaled, symmetrize_input=False), masked.T


def solve_factored(factor: Float[Array, "N D D"], scale: Float[Array, "D N"], right: Float[Array, "D k N"]) -> Array:
    """A^-1 right for the matrix that `factorize` factored, (D, k, N)."""
    rhs = jnp.transpose(right * scale[:, None], (2, 0, 1))
    solve = lambda b, t: jax.lax.linalg.triangular_solve(factor, b, left_side=True, lower=True, transpose_a=t)  # noqa: E731
    return jnp.transpose(solve(solve(rhs, False), True), (1, 2, 0)) * scale[:, None]


def step(
    system: System, scene: Int[AnyArray, "N"], free: Float[Array, "D N"], damping: Float[Array, "N"]
) -> tuple[Float[Array, "D N"], Float[Array, "G q"], Bool[Array, "N"]]:
    """Damped Newton step of all people and scenes, and who has one: a matrix that cannot be factored gives no step."""
    factor, scale = factorize(system, free, damping)
    solved = solve_factored(factor, scale, jnp.concatenate([-system.gradient[:, None], system.cross], axis=1))
    good = jnp.isfinite(solved).all((0, 1))
    solved = jnp.where(good, solved, 0.0)
    newton, response = solved[:, 0], solved[:, 1:]
    scenes, unknowns = system.scene_gradient.shape
    if unknowns == 0:
        return newton, system.scene_gradient, good
    schur = system.scene_matrix - jax.ops.segment_sum(
        jnp.einsum("dqn,drn->nqr", system.cross, response), scene, num_segments=scenes
    )
    right = -system.scene_gradient - jax.ops.segment_sum(
        jnp.einsum("dqn,dn->nq", system.cross, newton), scene, num_segments=scenes
    )
    scene_step = jnp.linalg.solve(schur, right[..., None])[..., 0]
    scene_step = jnp.where(jnp.isfinite(scene_step), scene_step, 0.0)
    return newton - jnp.einsum("dqn,nq->dn", response, scene_step[scene]), scene_step, good


def minimise(
    evaluate: Callable[[Array, Array, Any, Array], Evaluation],
    energy: Callable[[Array, Array, Any], Float[Array, "N"]],
    finish: Callable[[Evaluation], Any],
    state: State,
    memory: Any,
    scene: Int[AnyArray, "N"],
    bounds: tuple[Float[Array, "D 1"], Float[Array, "D 1"]],
    settings: LevenbergMarquardt,
    iterations: int,
) -> tuple[State, Any, Float[Array, "iterations+1 N"]]:
    """A fixed number of iterations, and a last look at where they ended.

    Args:
      evaluate: quadratic model at (x, scene unknowns, memory, number of the iteration).
      energy: energy of each person at (x, scene unknowns, memory), equal to that of `evaluate`.
      finish: what to report about the end, computed once from its evaluation.
      memory: what evaluations hand on.
      bounds: lowest and highest value of each variable, infinite where there is none.
    Returns the last state, the report, and each person's energy before every iteration and at the end.
    """
    low, high = bounds

    def iterate(carry: tuple, index: Array) -> tuple[tuple, Array]:
        state, memory, report = carry
        here = evaluate(state.x, state.scene_x, memory, index)
        system = here.system
        # The step and the report of the end both need the evaluation: one loop body, compiled once, serves both.
        last = index == iterations
        report = jax.lax.cond(last, lambda: finish(here), lambda: report)
        free = 1.0 - active_bounds(state.x, system.gradient, low, high).astype(state.x.dtype)
        change, scene_change, solved = step(system, scene, free, state.damping)
        trial = jnp.clip(state.x + change, low, high)
        scene_trial = state.scene_x + scene_change
        # Both sides with the scene's new unknowns: the person's own step decides.
        saved = here.energy_at(scene_trial) - energy(trial, scene_trial, here.memory)
        promised = -0.5 * (system.gradient * change).sum(0)
        better = solved & (saved >= 0)
        # Less damping makes the next step longer. It is lowered only after a step that saved enough of what its model promised.
        lower = jnp.where(saved >= _KEPT * promised, settings.lower_damping, 1.0)
        damping = state.damping * jnp.where(better, lower, settings.raise_damping)
        moved = State(
            x=jnp.where(better, trial, state.x),
            scene_x=scene_trial,
            damping=jnp.clip(damping, *_DAMPING_RANGE),
            promised=promised,
        )
        state = jax.tree.map(lambda new, old: jnp.where(last, old, new), moved, state._replace(promised=moved.promised))
        return (state, here.memory, report), system.energy

    shapes = jax.eval_shape(lambda: finish(evaluate(state.x, state.scene_x, memory, jnp.int32(0))))
    report = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (state, _, report), energies = jax.lax.scan(iterate, (state, memory, report), jnp.arange(iterations + 1))
    return state, report, energies
