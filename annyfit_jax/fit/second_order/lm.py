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
from annyfit_jax.fit.second_order import small_linear

_DAMPING_RANGE = (1e-6, 1e6)
_TINY = 1e-12
_LEAST_DAMPING = 10.0
"""Damping of the curvature that the report sees, in rounding errors."""
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
) -> tuple[small_linear.Factor, Float[Array, "D N"]]:
    """Cholesky factor of the scaled damped matrix and the scale of each variable, D_i = 1 / sqrt(A_ii).

    The factor is of `scale A scale + damping`, with frozen variables (free 0) replaced by the identity.
    """
    diagonal = jnp.diagonal(system.matrix, axis1=1, axis2=2)
    scale = jax.lax.rsqrt(jnp.maximum(diagonal, _TINY))
    masked = scale * free.T
    eye = jnp.eye(diagonal.shape[1], dtype=diagonal.dtype)
    scaled = system.matrix * masked[:, :, None] * masked[:, None, :]
    scaled = scaled + eye * (damping[:, None] * free.T + 1.0 - free.T)[:, :, None]
    return small_linear.cholesky(scaled), masked.T


def solve_factored(factor: small_linear.Factor, scale: Float[Array, "D N"], right: Float[Array, "D k N"]) -> Array:
    """A^-1 right for the matrix that `factorize` factored, (D, k, N)."""
    rhs = jnp.transpose(right * scale[:, None], (2, 0, 1))
    solved = small_linear.backward(factor, small_linear.forward(factor, rhs))
    return jnp.transpose(solved, (1, 2, 0)) * scale[:, None]


def step(
    system: System,
    scene: Int[AnyArray, "N"],
    factor: small_linear.Factor,
    scale: Float[Array, "D N"],
) -> tuple[Float[Array, "D N"], Float[Array, "G q"], Bool[Array, "N"]]:
    """Damped Newton step of all people and scenes, and who has one: a matrix that cannot be factored gives no step.

    Args:
      factor, scale: from `factorize`.
    """
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
    # Precisions of scene unknowns differ by ten orders of magnitude: a fixed focal length beside a free pitch.
    size = jax.lax.rsqrt(jnp.maximum(jnp.diagonal(schur, axis1=1, axis2=2), _TINY))
    scaled = schur * size[:, :, None] * size[:, None, :]
    scene_step = size * small_linear.solve(scaled, (size * right)[..., None])[..., 0]
    scene_step = jnp.where(jnp.isfinite(scene_step), scene_step, 0.0)
    return newton - jnp.einsum("dqn,nq->dn", response, scene_step[scene]), scene_step, good


class Minimum(NamedTuple):
    """Where a search ended."""

    state: State
    memory: Any
    report: Any
    """What `finish` made of the end; zeros where the search stopped before its last iteration."""
    energies: Float[Array, "iterations+1 N"]
    """Each person's energy before every iteration and at the end; zero for iterations that were not made."""


def minimise(
    evaluate: Callable[[Array, Array, Any, Array], Evaluation],
    energy: Callable[[Array, Array, Any], Float[Array, "N"]],
    finish: Callable[[Evaluation, small_linear.Factor, Array], Any],
    state: State,
    memory: Any,
    scene: Int[AnyArray, "N"],
    bounds: tuple[Float[Array, "D 1"], Float[Array, "D 1"]],
    settings: LevenbergMarquardt,
    iterations: int,
    span: tuple[Array | int, Array | int] | None = None,
    local: Callable[[System, Array], System] = lambda system, x: system,
    moved: Callable[[Array, Array], Array] = jnp.add,
    report: Any = None,
) -> Minimum:
    """A fixed number of iterations, and a last look at where they ended.

    Args:
      evaluate: quadratic model at (x, scene unknowns, memory, number of the iteration).
      energy: energy of each person at (x, scene unknowns, memory), equal to that of `evaluate`.
      finish: what to report about the end, from its evaluation and the factor of its undamped curvature without bounds.
      memory: what evaluations hand on.
      bounds: lowest and highest value of each variable, infinite where there is none.
      iterations: of a whole search.
      span: only the evaluations from the first number up to before the second; number `iterations` is the last look.
      local, moved: the model at x in the variables of a step, and x after a step; they are x and its sum by default.
      report: zeros of the shapes that `finish` returns; without it `evaluate` is traced once more to find them.
    """
    low, high = bounds
    eps = float(jnp.finfo(state.x.dtype).eps)

    def iterate(index: Array, carry: Minimum) -> Minimum:
        state, memory, report, energies = carry
        here = evaluate(state.x, state.scene_x, memory, index)
        last = index == iterations
        # `finish` is told the curvature by x itself.
        system = jax.lax.cond(last, lambda: here.system, lambda: local(here.system, state.x))
        # The step and the report of the end both need the evaluation and a factor: one loop body, compiled once, serves both.
        free = 1.0 - active_bounds(state.x, system.gradient, low, high).astype(state.x.dtype)
        factor, scale = factorize(
            system, jnp.where(last, 1.0, free), jnp.where(last, _LEAST_DAMPING * eps, state.damping)
        )
        report = jax.lax.cond(last, lambda: finish(here, factor, scale), lambda: report)
        change, scene_change, solved = step(system, scene, factor, scale)
        trial = jnp.clip(moved(state.x, change), low, high)
        scene_trial = state.scene_x + scene_change
        # Both sides with the scene's new unknowns: the person's own step decides.
        saved = here.energy_at(scene_trial) - energy(trial, scene_trial, here.memory)
        promised = -0.5 * (system.gradient * change).sum(0)
        better = solved & (saved >= 0)
        # Less damping makes the next step longer. It is lowered only after a step that saved enough of what its model promised.
        lower = jnp.where(saved >= _KEPT * promised, settings.lower_damping, 1.0)
        damping = state.damping * jnp.where(better, lower, settings.raise_damping)
        new = State(
            x=jnp.where(better, trial, state.x),
            scene_x=scene_trial,
            damping=jnp.clip(damping, *_DAMPING_RANGE),
            promised=promised,
        )
        state = jax.tree.map(lambda new, old: jnp.where(last, old, new), new, state._replace(promised=new.promised))
        energies = jax.lax.dynamic_update_index_in_dim(energies, system.energy, index, 0)
        return Minimum(state, here.memory, report, energies)

    def look() -> Any:
        here = evaluate(state.x, state.scene_x, memory, jnp.int32(0))
        return finish(here, *factorize(here.system, jnp.ones_like(state.x), state.damping))

    if report is None:
        report = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(look))
    energies = jnp.zeros((iterations + 1, state.x.shape[1]), state.x.dtype)
    first, after = span or (0, iterations + 1)
    carry = Minimum(state, memory, report, energies)
    return jax.lax.fori_loop(jnp.int32(first), jnp.int32(after), iterate, carry)
