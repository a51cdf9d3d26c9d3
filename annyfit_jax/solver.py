"""The solver: stages of Adam over a flat list of people, one compiled program per capacity."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from annyfit_jax import objective
from annyfit_jax.bodies import FitBody
from annyfit_jax.config import FitConfig, Stage
from annyfit_jax.objective import Prediction
from annyfit_jax.problem import Problem, Variables
from body_models import kinematics


class StageFit(NamedTuple):
    """Outcome of one stage."""

    variables: Variables
    losses: dict[str, Float[Array, "step scene"]]
    """Weighted value of every computed term BEFORE each step."""


class BatchFit(NamedTuple):
    """Outcome of a whole schedule."""

    variables: Variables
    losses: tuple[dict[str, Float[Array, "step scene"]], ...]
    """Per stage, per term."""
    reprojection_px: Float[Array, "N"]
    """Mean distance of the confident body keypoints to their projections at the end; NaN without such a keypoint."""
    start_reprojection_px: Float[Array, "N"]
    """The same before the first step."""
    stage_variables: tuple[Variables, ...]
    """Variables after each stage."""


@functools.partial(jax.jit, static_argnames=("config",))
def fit_batch(config: FitConfig, body: FitBody, problem: Problem, variables: Variables) -> BatchFit:
    """Fit all people of a batch: every stage of the config, one program.

    Args:
      config: static; its stages are unrolled, each a `lax.scan`.
      body: see `annyfit_jax.bodies`; its dtype is the dtype of the fit.
      problem, variables: from `annyfit_jax.problem.assemble`.
    """
    start_error = reprojection_error(config, body, problem, variables)
    losses, after = [], []
    for stage in config.stages:
        with jax.named_scope(f"stage_{stage.name}"):
            outcome = run_stage(config, stage, body, problem, variables)
        variables = outcome.variables
        losses.append(outcome.losses)
        after.append(variables)
    end_error = reprojection_error(config, body, problem, variables)
    return BatchFit(variables, tuple(losses), end_error, start_error, tuple(after))


def run_stage(config: FitConfig, stage: Stage, body: FitBody, problem: Problem, start: Variables) -> StageFit:
    """One stage: Adam with a fresh state on the free groups, references taken at `start`."""
    terms = objective.active_terms(stage)
    need_mesh = any("mesh" in objective.TERMS[name].reads for name in terms)
    at_start = body.predict(start, objective.clamp, need_mesh)
    free, frozen_pose, order = _split(stage, body, start)
    if not free or not stage.steps:
        return StageFit(start, {name: jnp.zeros((0, problem.num_scenes), start.transl.dtype) for name in terms})

    def join(free: dict[str, Array]) -> Variables:
        groups = dict(free)
        if "pose" in groups:
            groups["pose"] = kinematics.gather(jnp.concatenate([groups["pose"], frozen_pose], axis=1), order, 1)
        return start._replace(**groups)

    # A body that only moves as a whole is its start, shifted: no body model inside the loop.
    rigid_shift = set(free) == {"transl"}

    def predict(variables: Variables) -> Prediction:
        if not rigid_shift:
            return body.predict(variables, objective.clamp, need_mesh)
        shift = (variables.transl - start.transl)[:, None]
        weights = _point_weights(body, at_start)
        return Prediction(*(p + w[None, :, None] * shift for p, w in zip(at_start, weights)))

    def loss(free: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        variables = join(free)
        values = objective.energy(
            terms, variables, predict(variables), start, at_start.mesh, problem, body.shared, config
        )
        return sum((v.sum() for v in values.values()), jnp.zeros((), start.transl.dtype)), values

    adam = optax.scale_by_adam()
    rates = dict(stage.lr)

    def step(carry, _):
        free, state = carry
        gradient, values = jax.grad(loss, has_aux=True)(free)
        update, state = adam.update(gradient, state)
        free = jax.tree.map(lambda value, lr, change: value - lr * change, free, rates, update)
        return (free, state), values

    (free, _), losses = jax.lax.scan(step, (free, adam.init(free)), None, length=stage.steps)
    return StageFit(join(free), losses)


def _split(stage: Stage, body: FitBody, start: Variables) -> tuple[dict[str, Any], Any, tuple[int, ...]]:
    """Free groups; the frozen bones; and the order that puts [free bones, frozen bones] back into rows of the pose."""
    free = {name: getattr(start, name) for name in stage.lr}
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


def reprojection_error(config: FitConfig, body: FitBody, problem: Problem, variables: Variables) -> Float[Array, "N"]:
    """Mean pixel distance of confident COCO-17 keypoints to their projections, per person; NaN where there is none."""
    cues = problem.cues
    points = body.predict(variables, objective.clamp, need_mesh=False).keypoints
    projected = jax.vmap(objective.project, in_axes=-1, out_axes=-1)(points, cues.intrinsics)
    distance = jnp.sqrt(((projected - cues.keypoints_px) ** 2).sum(0))
    seen = cues.keypoint_confidence >= config.keypoint_confidence
    return jnp.where(seen, distance, 0.0).sum(0) / jnp.where(seen.any(0), seen.sum(0), jnp.nan)
