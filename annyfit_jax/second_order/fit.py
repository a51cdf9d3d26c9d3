"""The second-order fit of a batch: closed-form start, rounds of Levenberg-Marquardt, uncertainty; one compiled program."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from annyfit_jax.config import FitConfig
from annyfit_jax.objective import project
from annyfit_jax.problem import Problem, Variables
from annyfit_jax.second_order import lm, map_objective, uncertainty
from annyfit_jax.second_order.body import MapBody
from annyfit_jax.second_order.cues import MapCues
from annyfit_jax.second_order.frozen import Frozen
from annyfit_jax.second_order.map_objective import Context
from annyfit_jax.second_order.start import closed_form_start


class SecondOrderFit(NamedTuple):
    """Outcome of a batch; the first five fields are those of `solver.BatchFit`."""

    variables: Variables
    losses: tuple[dict[str, Float[Array, "step scene"]], ...]
    """One stage, one term: the energy before every iteration and at the end."""
    reprojection_px: Float[Array, "N"]
    start_reprojection_px: Float[Array, "N"]
    stage_variables: tuple[Variables, ...]
    """The closed-form start, then the end."""
    energy: Float[Array, "N"]
    """Each person's energy at the end, nats."""
    converged: Bool[Array, "N"]
    """Whether the last step promised to save less than `lm.converged_nats`."""
    scene_unknowns: Float[Array, "G q"]
    """Log scale of the depth cues, then the ground plane."""
    trust: uncertainty.Trust


@functools.partial(jax.jit, static_argnames=("config",))
def fit_batch(
    config: FitConfig, body: MapBody, problem: Problem, cues: MapCues, variables: Variables
) -> SecondOrderFit:
    """Fit all people of a batch to the MAP objective (`config.map`) with `config.lm`.

    Args:
      config: static.
      body: from `second_order.body.map_body`; its dtype is the dtype of the fit.
      problem, variables: from `problem.assemble`, words inserted.
      cues: from `second_order.cues.assemble_cues`, same scenes and capacity.
    """
    settings, layout, schedule = config.map, body.plan.layout, config.lm
    start, prepared_keypoints = closed_form_start(config, body, problem, cues, variables)
    reference = map_objective.reference_of(settings, body, cues, start)
    context = Context(body, problem, cues, reference, start)
    people, dtype = variables.transl.shape[-1], variables.transl.dtype

    def evaluate(x: Array, scene_x: Array, frozen: Frozen, index: Array) -> lm.Evaluation:
        iterations = schedule.rounds * schedule.iterations
        refresh = (index % schedule.iterations == 0) & (index < iterations)
        model = map_objective.evaluate(settings, context, frozen, x, scene_x, refresh)
        return lm.Evaluation(
            system=model.system,
            memory=model.frozen,
            energy_at=lambda other: map_objective.energy(settings, context, model.frozen, x, other, model.lin.points),
            extra=(model.lin, x),
        )

    def finish(end: lm.Evaluation) -> tuple[uncertainty.Trust, Array]:
        lin, x = end.extra
        return uncertainty.estimate(body, problem.scene, end.system, lin, x), lin.points[0]

    state = lm.State(
        x=map_objective.pack(layout, start),
        scene_x=map_objective.scene_start(settings, problem.num_scenes, dtype),
        damping=jnp.full((people,), schedule.damping, dtype),
        promised=jnp.zeros((people,), dtype),
    )
    empty = Frozen(*(jnp.ones((*lead, people), dtype) for lead in ((), (), (), (), (3,), (len(body.layout.radii),))))
    state, (trust, keypoints), energies = lm.minimise(
        evaluate,
        lambda x, scene_x, frozen: map_objective.energy(settings, context, frozen, x, scene_x),
        finish,
        state,
        empty,
        problem.scene,
        map_objective.bounds(body),
        schedule,
        schedule.rounds * schedule.iterations,
    )
    end = map_objective.unpack(layout, state.x, start)
    curve = jax.vmap(lambda e: jax.ops.segment_sum(e, problem.scene, num_segments=problem.num_scenes))(energies)
    return SecondOrderFit(
        variables=end,
        losses=({"map": curve},),
        reprojection_px=_reprojection_error(config, problem, keypoints),
        start_reprojection_px=_reprojection_error(config, problem, prepared_keypoints),
        stage_variables=(start, end),
        energy=energies[-1],
        converged=state.promised < schedule.converged_nats,
        scene_unknowns=state.scene_x,
        trust=trust,
    )


def _reprojection_error(config: FitConfig, problem: Problem, keypoints: Float[Array, "3 17 N"]) -> Float[Array, "N"]:
    """Mean pixel distance of confident COCO-17 keypoints to their projections; NaN where there is none."""
    projected = jax.vmap(project, in_axes=-1, out_axes=-1)(keypoints, problem.cues.intrinsics)
    distance = jnp.sqrt(((projected - problem.cues.keypoints_px) ** 2).sum(0))
    seen = problem.cues.keypoint_confidence >= config.keypoint_confidence
    return jnp.where(seen, distance, 0.0).sum(0) / jnp.where(seen.any(0), seen.sum(0), jnp.nan)
