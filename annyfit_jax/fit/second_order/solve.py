"""The second-order fit of a batch: closed-form start, rounds of Levenberg-Marquardt, uncertainty; one compiled program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import DTypeLike

from annyfit_jax.fit import problem as problems
from annyfit_jax.fit.config import FitConfig
from annyfit_jax.fit.fit_body import FitBody
from annyfit_jax.fit.objective import project
from annyfit_jax.fit.problem import Capacity, Problem, Variables
from annyfit_jax.fit.second_order import lm, map_objective, released, uncertainty
from annyfit_jax.fit.second_order.columns import bounds, pack, unpack
from annyfit_jax.fit.second_order.frozen import Frozen
from annyfit_jax.fit.second_order.map_body import MapBody, map_body
from annyfit_jax.fit.second_order.map_cues import MapCues, assemble_cues
from annyfit_jax.fit.second_order.map_objective import Context
from annyfit_jax.fit.second_order.placement import closed_form_start
from annyfit_jax.fit.second_order.released import ReleasedBody
from annyfit_jax.fit.second_order.uncertainty import Uncertainty
from annyfit_jax.fit.starts import PreparedScene
from body_models.anny import AnnyModel


class MapProblem(NamedTuple):
    """Constants of one batch."""

    problem: Problem
    cues: MapCues


class SecondOrderFit(NamedTuple):
    """Outcome of a batch; the fields up to `height` are those of `adam.BatchFit`."""

    variables: Variables
    losses: tuple[dict[str, Float[Array, "step scene"]], ...]
    """Of the last stage: one term, the energy before every iteration and at the end."""
    reprojection_px: Float[Array, "N"]
    start_reprojection_px: Float[Array, "N"]
    stage_variables: tuple[Variables, ...]
    """After the closed-form start (`released`: after each stage of Adam), then the end."""
    keypoints: Float[Array, "3 17 N"]
    height: Float[Array, "N"]
    energy: Float[Array, "N"]
    """Each person's energy at the end, `map`: nats."""
    converged: Float[Array, "N"]
    """1 where the last step promised to save less than `lm.converged_nats`, else 0."""
    depth_scale: Float[Array, "N"]
    """Estimated factor of the metric depth cues of the person's scene; NaN where there are none."""
    visible_depth: Float[Array, "N"]
    """Median camera z of the visible surface, which the cue is compared with, metres; NaN for `released`."""
    uncertainty: Uncertainty
    """Not calibrated; NaN for `released`, whose energy is no log posterior."""


def prepare_body(model: AnnyModel, body: FitBody, config: FitConfig) -> MapBody | ReleasedBody:
    """The body as `solve` takes it. Raises ValueError for another body than the six-phenotype Anny."""
    if config.lm.objective == "released":
        return released.released_body(model, body)
    return map_body(model, body, config)


def assemble(
    prepared: Sequence[PreparedScene],
    config: FitConfig,
    capacity: Capacity | None = None,
    dtype: DTypeLike = np.float32,
) -> tuple[MapProblem, Variables]:
    """Flatten prepared scenes into one problem (host-side numpy), as `problem.assemble` does, with the cues it leaves out."""
    scenes = [ready.scene for ready in prepared]
    capacity = capacity or problems.capacity_of(scenes)
    problem, variables = problems.assemble(scenes, [ready.start for ready in prepared], config, capacity, dtype)
    return MapProblem(problem, assemble_cues(prepared, config, capacity, dtype)), variables


def solve(config: FitConfig, body: MapBody | ReleasedBody, problem: MapProblem, variables: Variables) -> SecondOrderFit:
    """Fit all people of a batch by `config.lm`; not compiled.

    Args:
      config: static.
      body: from `prepare_body`; its dtype is the dtype of the fit.
      problem, variables: from `assemble`.
    """
    if isinstance(body, ReleasedBody):
        return _solve_released(config, body, problem.problem, variables)
    return _solve_map(config, body, problem.problem, problem.cues, variables)


def _solve_map(
    config: FitConfig, body: MapBody, problem: Problem, cues: MapCues, variables: Variables
) -> SecondOrderFit:
    settings, layout, schedule = config.map, body.plan.layout, config.lm
    start, prepared_keypoints = closed_form_start(config, body, problem, cues, variables)
    reference = map_objective.reference_of(settings, body, cues, start)
    context = Context(body, problem, cues, reference, start)
    people, dtype = start.transl.shape[-1], start.transl.dtype
    iterations = schedule.rounds * schedule.iterations

    def evaluate(x: Array, scene_x: Array, frozen: Frozen, index: Array) -> lm.Evaluation:
        refresh = (index % schedule.iterations == 0) & (index < iterations)
        progress = index / iterations
        model = map_objective.evaluate(settings, context, frozen, x, scene_x, refresh, progress)
        return lm.Evaluation(
            system=model.system,
            memory=model.frozen,
            energy_at=lambda other: map_objective.energy(settings, context, model.frozen, x, other, model.lin.points),
            extra=(model.lin, x),
        )

    def finish(end: lm.Evaluation) -> tuple[Uncertainty, Array, Array]:
        lin, x = end.extra
        spread = uncertainty.estimate(body, problem.scene, end.system, lin, x)
        return spread, lin.points[0], x[2] + end.memory.visible_offset

    state = lm.State(
        x=pack(layout, start),
        scene_x=map_objective.scene_start(settings, problem.num_scenes, dtype),
        damping=jnp.full((people,), schedule.damping, dtype),
        promised=jnp.zeros((people,), dtype),
    )
    empty = Frozen(
        *(jnp.ones((*lead, people), dtype) for lead in ((), (), (), (), (3,), (len(body.layout.radii),), ()))
    )
    state, (spread, keypoints, visible), energies = lm.minimise(
        evaluate,
        lambda x, scene_x, frozen: map_objective.energy(settings, context, frozen, x, scene_x),
        finish,
        state,
        empty,
        problem.scene,
        bounds(layout, body.fit),
        schedule,
        iterations,
    )
    end = unpack(layout, state.x, start)
    scale = jnp.exp(state.scene_x[:, 0])[problem.scene]
    known = jax.ops.segment_max(cues.depth_known, problem.scene, num_segments=problem.num_scenes)[problem.scene]
    return SecondOrderFit(
        variables=end,
        losses=({"map": _by_scene(problem, energies)},),
        reprojection_px=_reprojection_error(config, problem, keypoints),
        start_reprojection_px=_reprojection_error(config, problem, prepared_keypoints),
        stage_variables=(start, end),
        keypoints=keypoints,
        height=body.fit.height(end.shape),
        energy=energies[-1],
        converged=(state.promised < schedule.converged_nats).astype(dtype),
        depth_scale=jnp.where(known > 0, scale, jnp.nan),
        visible_depth=visible,
        uncertainty=spread,
    )


def _solve_released(config: FitConfig, body: ReleasedBody, problem: Problem, variables: Variables) -> SecondOrderFit:
    before, outcome = released.solve(config, body, problem, variables)
    unknown = jnp.full_like(outcome.energies[-1], jnp.nan)
    return SecondOrderFit(
        variables=outcome.variables,
        losses=(*before.losses, {"released": _by_scene(problem, outcome.energies)}),
        reprojection_px=_reprojection_error(config, problem, outcome.keypoints),
        start_reprojection_px=before.start_reprojection_px,
        stage_variables=(*before.stage_variables, outcome.variables),
        keypoints=outcome.keypoints,
        height=body.fit.height(outcome.variables.shape),
        energy=outcome.energies[-1],
        converged=(outcome.promised < config.lm.converged_nats * outcome.energies[-1]).astype(unknown.dtype),
        depth_scale=unknown,
        visible_depth=unknown,
        uncertainty=Uncertainty(unknown, unknown, jnp.broadcast_to(unknown, outcome.keypoints.shape[1:])),
    )


def _by_scene(problem: Problem, energies: Float[Array, "step N"]) -> Float[Array, "step scene"]:
    sums = jax.ops.segment_sum(energies.T, problem.scene, num_segments=problem.num_scenes)
    return sums.T


def _reprojection_error(config: FitConfig, problem: Problem, keypoints: Float[Array, "3 17 N"]) -> Float[Array, "N"]:
    """Mean pixel distance of confident COCO-17 keypoints to their projections; NaN where there is none."""
    projected = jax.vmap(project, in_axes=-1, out_axes=-1)(keypoints, problem.cues.intrinsics)
    distance = jnp.sqrt(((projected - problem.cues.keypoints_px) ** 2).sum(0))
    seen = problem.cues.keypoint_confidence >= config.keypoint_confidence
    return jnp.where(seen, distance, 0.0).sum(0) / jnp.where(seen.any(0), seen.sum(0), jnp.nan)
