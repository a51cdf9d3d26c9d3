"""The solver: stages of Adam over a flat list of people, one compiled program per capacity."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from annyfit_jax.fit import objective
from annyfit_jax.fit.config import GROUPS, FitConfig, Stage
from annyfit_jax.fit.fit_body import FitBody
from annyfit_jax.fit.objective import Prediction
from annyfit_jax.fit.problem import Problem, Variables
from body_models import kinematics


class BatchFit(NamedTuple):
    """Outcome of a whole schedule."""

    variables: Variables
    losses: tuple[dict[str, Float[Array, "step scene"]], ...]
    """Per stage, per term: its weighted value BEFORE each step."""
    reprojection_px: Float[Array, "N"]
    """Mean distance of the confident body keypoints to their projections at the end; NaN without such a keypoint."""
    start_reprojection_px: Float[Array, "N"]
    """The same before the first step."""
    stage_variables: tuple[Variables, ...]
    """Variables after each stage."""
    keypoints: Float[Array, "3 17 N"]
    """Body keypoints at the end, metres."""
    height: Float[Array, "N"]
    """Of the resting body at the end, metres."""


@functools.partial(jax.jit, static_argnames=("config",))
def fit_batch(config: FitConfig, body: FitBody, problem: Problem, variables: Variables) -> BatchFit:
    """Fit all people of a batch: every stage of the config, one program.

    Args:
      config: static.
      body: see `annyfit_jax.fit.fit_body`; its dtype is the dtype of the fit.
      problem, variables: from `annyfit_jax.fit.problem.assemble`.
    """
    return solve(config, body, problem, variables)


def solve(config: FitConfig, body: FitBody, problem: Problem, variables: Variables) -> BatchFit:
    """`fit_batch`, not compiled: for use inside other transformations.

    The stages share one program text. Each is a shift of the rigid body (where only `transl` is free) or a loop over the body
    model, with its steps, step sizes and weights in tables; a group that a stage freezes has step size 0 and keeps its bits,
    a term that it does not weigh is multiplied by 0. So compile time does not grow with the number of stages.
    """
    dtype = variables.transl.dtype
    kinds = [_kind(stage) for stage in config.stages]
    rigid = _Loop(config, body, problem, [s for s, kind in zip(config.stages, kinds) if kind == "rigid"])
    full = _Loop(config, body, problem, [s for s, kind in zip(config.stages, kinds) if kind == "full"])
    need_mesh = rigid.need_mesh or full.need_mesh

    def phase(carry, row):
        variables, rigid_values, full_values = carry
        at_start = body.predict(variables, objective.clamp, need_mesh)
        before = _mean_distance(config, problem, at_start)
        start = variables
        if rigid.stages:
            variables, rigid_values = rigid.run(variables, at_start, start, row["rigid"], rigid_values)
        if full.stages:
            variables, full_values = full.run(variables, at_start, start, row["full"], full_values)
        return (variables, rigid_values, full_values), (variables, before, at_start.keypoints)

    # One more phase without a step: its prediction judges the end.
    rows = {
        name: loop.table([i if kind == name else None for i, kind in enumerate(kinds)] + [None], config.stages, dtype)
        for name, loop in (("rigid", rigid), ("full", full))
    }
    carry = (variables, rigid.empty(dtype), full.empty(dtype))
    (end, *values), (after, errors, keypoints) = jax.lax.scan(phase, carry, rows)
    curves = {"rigid": rigid.curves(values[0]), "full": full.curves(values[1])}
    losses = tuple(
        curves[kind].pop(0) if kind in curves else _no_curve(s, problem, dtype) for s, kind in zip(config.stages, kinds)
    )
    stages = tuple(jax.tree.map(lambda x, k=k: x[k], after) for k in range(len(config.stages)))
    return BatchFit(end, losses, errors[-1], errors[0], stages, keypoints[-1], body.height(end.shape))


def _kind(stage: Stage) -> str:
    if not stage.lr or not stage.steps:
        return "idle"
    return "rigid" if set(stage.lr) == {"transl"} else "full"


def _no_curve(stage: Stage, problem: Problem, dtype: Any) -> dict[str, Array]:
    return {name: jnp.zeros((0, problem.num_scenes), dtype) for name in objective.active_terms(stage)}


class _Loop:
    """Adam on the groups that any of some stages frees, with the tables that tell the stages apart."""

    def __init__(self, config: FitConfig, body: FitBody, problem: Problem, stages: Sequence[Stage]) -> None:
        self.config, self.body, self.problem, self.stages = config, body, problem, tuple(stages)
        self.groups = tuple(name for name in GROUPS if any(name in stage.lr for stage in stages))
        self.weights = [objective.active_terms(stage) for stage in stages]
        self.terms = tuple(name for name in objective.TERMS if any(name in weights for weights in self.weights))
        self.need_mesh = any("mesh" in objective.TERMS[name].reads for name in self.terms)
        self.ends = np.cumsum([0, *(stage.steps for stage in stages)])

    def table(self, phases: Sequence[int | None], stages: Sequence[Stage], dtype: Any) -> dict[str, Array]:
        """One row per phase: steps, step sizes, weights, and where the values of the terms are kept."""
        mine = {i: k for k, i in enumerate(i for i in phases if i is not None)}
        at = [None if i is None else mine[i] for i in phases]
        lr = [[0.0 if i is None else stages[i].lr.get(g, 0.0) for g in self.groups] for i in phases]
        weights = [[0.0 if k is None else self.weights[k].get(t, 0.0) for t in self.terms] for k in at]
        return {
            "steps": jnp.asarray([0 if i is None else stages[i].steps for i in phases], jnp.int32),
            "first": jnp.asarray([0 if k is None else self.ends[k] for k in at], jnp.int32),
            "lr": jnp.asarray(np.asarray(lr, dtype).reshape(len(phases), -1)),
            "weights": jnp.asarray(np.asarray(weights, dtype).reshape(len(phases), -1)),
        }

    def empty(self, dtype: Any) -> Float[Array, "step term scene"]:
        """Room for the value of every term before every step of every stage."""
        return jnp.zeros((int(self.ends[-1]), len(self.terms), self.problem.num_scenes), dtype)

    def curves(self, values: Float[Array, "step term scene"]) -> list[dict[str, Float[Array, "_ scene"]]]:
        """Per stage, per term that the stage weighs."""
        return [
            {name: values[a:b, self.terms.index(name)] for name in weights}
            for weights, a, b in zip(self.weights, self.ends, self.ends[1:])
        ]

    def run(
        self,
        variables: Variables,
        at_start: Prediction,
        start: Variables,
        row: dict[str, Array],
        values: Float[Array, "step term scene"],
    ) -> tuple[Variables, Float[Array, "step term scene"]]:
        """The steps of one phase: a fresh state of Adam, references taken at `start`."""
        body, problem = self.body, self.problem
        free, frozen_pose, order = _split(self.groups, body, variables)

        def join(free: dict[str, Array]) -> Variables:
            groups = dict(free)
            if "pose" in groups:
                groups["pose"] = kinematics.gather(jnp.concatenate([groups["pose"], frozen_pose], axis=1), order, 1)
            return variables._replace(**groups)

        def predict(now: Variables) -> Prediction:
            if self.groups != ("transl",):
                return body.predict(now, objective.clamp, self.need_mesh)
            # A body that only moves as a whole is its start, shifted: no body model inside the loop.
            shift = (now.transl - start.transl)[:, None]
            return Prediction(*(p + w[None, :, None] * shift for p, w in zip(at_start, _point_weights(body, at_start))))

        weights = {name: row["weights"][k] for k, name in enumerate(self.terms)}

        def loss(free: dict[str, Array]) -> tuple[Array, Float[Array, "term scene"]]:
            now = join(free)
            each = objective.energy(
                weights, now, predict(now), start, at_start.mesh, problem, body.shared, self.config
            )  # fmt: skip
            table = jnp.stack([each[name] for name in self.terms]) if each else jnp.zeros((0, problem.num_scenes))
            return sum((each[name].sum() for name in self.terms), jnp.zeros((), start.transl.dtype)), table

        adam = optax.scale_by_adam()
        rates = {name: row["lr"][k] for k, name in enumerate(self.groups)}

        def move(value: Array, lr: Array, change: Array) -> Array:
            return jnp.where(lr > 0, value - lr * change, value)

        def step(k, carry):
            free, state, values = carry
            gradient, table = jax.grad(loss, has_aux=True)(free)
            update, state = adam.update(gradient, state)
            values = jax.lax.dynamic_update_index_in_dim(values, table.astype(values.dtype), row["first"] + k, 0)
            return jax.tree.map(move, free, rates, update), state, values

        free, _, values = jax.lax.fori_loop(0, row["steps"], step, (free, adam.init(free), values))
        return join(free), values


def _split(groups: Sequence[str], body: FitBody, start: Variables) -> tuple[dict[str, Any], Any, tuple[int, ...]]:
    """Free groups; the frozen bones; and the order that puts [free bones, frozen bones] back into rows of the pose."""
    free = {name: getattr(start, name) for name in groups}
    moving = np.asarray(body.layout.free_bones, np.int32)
    still = np.setdiff1d(np.arange(start.pose.shape[1], dtype=np.int32), moving)
    if "pose" in free:
        free["pose"] = start.pose[:, moving]
    order = tuple(int(i) for i in np.argsort(np.concatenate([moving, still])))
    return free, start.pose[:, still], order


def _point_weights(body: FitBody, prediction: Prediction) -> list[Array]:
    """How far each point moves when the translation moves by one: the sum of its regressor weights (1 up to rounding)."""
    keypoints, dense, _ = body.layout.counts
    total = body.points.contraction.weight_sum
    mesh = total[keypoints + dense :] if body.layout.vertices is None else jnp.ones_like(prediction.mesh[0, :, 0])
    return [total[:keypoints], total[keypoints : keypoints + dense], mesh]


def _mean_distance(config: FitConfig, problem: Problem, prediction: Prediction) -> Float[Array, "N"]:
    """Mean pixel distance of confident COCO-17 keypoints to their projections, per person; NaN where there is none."""
    cues = problem.cues
    projected = jax.vmap(objective.project, in_axes=-1, out_axes=-1)(prediction.keypoints, cues.intrinsics)
    distance = jnp.sqrt(((projected - cues.keypoints_px) ** 2).sum(0))
    seen = cues.keypoint_confidence >= config.keypoint_confidence
    return jnp.where(seen, distance, 0.0).sum(0) / jnp.where(seen.any(0), seen.sum(0), jnp.nan)
