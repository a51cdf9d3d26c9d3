"""The MAP objective: the negative log posterior of people and scenes, a list of costs (`costs.COSTS`).

    E(x, s) = sum_people sum_costs cost(x, s of the scene)  +  1/2 sum (s - mean)^2 / sd^2

x are a person's variables in the column order of `linear_plan.Layout`, s the unknowns of its scene (`columns`: scale of depth
cues, focal length, pitch and roll of the camera, height above the ground). Every cost has its own noise scale, so that none has
a weight. What is estimated from the data between rounds of the solver stands in `Frozen`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from annyfit_jax.fit.config import MapObjective
from annyfit_jax.fit.problem import Problem, Variables
from annyfit_jax.fit.second_order import jacobian
from annyfit_jax.fit.second_order.columns import NUM_SCENE, pack, unpack
from annyfit_jax.fit.second_order.costs import COSTS, Cost
from annyfit_jax.fit.second_order.costs.base import Model, Reference, Tangents, View
from annyfit_jax.fit.second_order.costs.shape import AGE, BUILD, GENDER, HEIGHT
from annyfit_jax.fit.second_order.frozen import Frozen, freeze
from annyfit_jax.fit.second_order.linear_plan import NUM_RIGID
from annyfit_jax.fit.second_order.lm import System
from annyfit_jax.fit.second_order.map_body import MapBody
from annyfit_jax.fit.second_order.map_cues import MapCues


class Context(NamedTuple):
    """All that an evaluation reads besides the unknowns."""

    body: MapBody
    problem: Problem
    cues: MapCues
    reference: Reference
    base: Variables
    """Variables of the start: bones that are not free keep them."""


class Evaluated(NamedTuple):
    """What is known at a point of the search."""

    system: System
    tangents: Tangents
    frozen: Frozen


def active_costs(settings: MapObjective) -> tuple[Cost, ...]:
    """The costs that the config switches on, in the order of the list."""
    return tuple(cost for cost in COSTS if cost.on(settings))


def reference_of(settings: MapObjective, body: MapBody, cues: MapCues, start: Variables) -> Reference:
    """Gaussian priors: about the start where it is a feed-forward estimate; the pose of others has the mixture of poses, or,
    without it, a relaxed pose."""
    layout = body.plan.layout
    mean = pack(layout, start)
    people = mean.shape[-1]
    known = jnp.asarray(cues.from_cue) > 0
    first = NUM_RIGID + layout.num_shape
    relaxed = jnp.swapaxes(body.relaxed_pose, 0, 1).reshape(-1, 1)
    pose_mean = jnp.where(known, mean[first:], relaxed)
    unknown = jnp.where(settings.pose_prior, 0.0, 1.0 / jnp.repeat(body.relaxed_sd, 3)[:, None] ** 2)
    pose_precision = jnp.where(known, 1.0 / jnp.repeat(body.pose_sd, 3)[:, None] ** 2, unknown)
    root_sd = jnp.where(known, settings.root_sd, settings.unknown_root_sd)
    shape_sd = jnp.full((layout.num_shape, people), settings.build_sd, mean.dtype)
    gender_sd = jnp.where(jnp.asarray(cues.gender_known) > 0, settings.gender_sd, settings.unknown_gender_sd)
    shape_precision = 1.0 / shape_sd.at[GENDER].set(gender_sd) ** 2
    shape_mean = mean[NUM_RIGID:first].at[np.asarray(BUILD)].set(0.5)
    if settings.anthropometry:
        shape_precision = shape_precision.at[HEIGHT].set(0.0)
    else:
        shape_mean = shape_mean.at[HEIGHT].set(0.5)
    age_precision = 0.0 if settings.class_words else 1.0 / settings.unknown_age_sd**2
    shape_precision = shape_precision.at[AGE].set(age_precision)
    return Reference(
        mean=jnp.concatenate([mean[:NUM_RIGID], shape_mean, pose_mean]),
        precision=jnp.concatenate(
            [
                jnp.zeros((3, people), mean.dtype),
                jnp.broadcast_to(1.0 / root_sd**2, (3, people)),
                shape_precision,
                jnp.broadcast_to(pose_precision, pose_mean.shape),
            ]
        ),
    )


# ------------------------------------------------------------------------------------------------ the energy


def _view(
    settings: MapObjective,
    context: Context,
    frozen: Frozen,
    x: Float[Array, "D N"],
    scene_x: Float[Array, "G q"],
    points: Sequence[Float[Array, "3 _ N"]],
) -> View:
    dense = points[1] if len(points) > 1 else points[0][:, :0]
    scene = scene_x[context.problem.scene].T
    return View(
        settings, context.body, context.problem, context.cues, context.reference, frozen, x, scene, points[0], dense
    )


def energy(
    settings: MapObjective,
    context: Context,
    frozen: Frozen,
    x: Float[Array, "D N"],
    scene_x: Float[Array, "G q"],
    points: Sequence[Float[Array, "3 _ N"]] | None = None,
) -> Float[Array, "N"]:
    """Energy of each person in nats, up to a constant; padding has none. `points`: those of the body at x, if known."""
    if points is None:
        transl, root, shape, pose = (jnp.asarray(v) for v in unpack(context.body.plan.layout, x, context.base))
        placed = context.body.layout.place(context.body.points, shape, root, pose, transl)
        points = jnp.split(placed, np.cumsum(context.body.plan.layout.kinds)[:-1], axis=1)
    view = _view(settings, context, frozen, x, scene_x, points)
    total = sum((cost.energy(view) for cost in active_costs(settings)), jnp.zeros_like(x[0]))
    return jnp.where(jnp.asarray(context.cues.real) > 0, total, 0.0)


def evaluate(
    settings: MapObjective,
    context: Context,
    frozen: Frozen,
    x: Float[Array, "D N"],
    scene_x: Float[Array, "G q"],
    refresh: Bool[Array, ""] | bool = True,
    progress: Float[Array, ""] | float = 1.0,
) -> Evaluated:
    """Energy, gradient and curvature (Gauss-Newton of the re-weighted problem) of all people and scenes.

    Args:
      frozen: estimates of the round; taken anew where `refresh` says so.
      progress: share of the rounds that lie behind, see `frozen.freeze`.
    """
    body, problem = context.body, context.problem
    plan = body.plan
    variables = unpack(plan.layout, x, context.base)
    lin = body.layout.linearize(plan, body.points, variables)
    scene = scene_x[problem.scene].T
    anew = freeze(settings, body, problem, context.cues, variables, lin, scene, frozen.roll_mode, progress)
    frozen = Frozen(*(jnp.where(refresh, new, old) for new, old in zip(anew, frozen, strict=True)))
    view = _view(settings, context, frozen, x, scene_x, lin.points)
    tangents = Tangents(lin, jacobian.dense_jacobian(plan, lin, 0))
    models = [cost.model(view, tangents) for cost in active_costs(settings)]
    return Evaluated(_system(settings, context, x, scene_x, models), tangents, frozen)


def _system(
    settings: MapObjective, context: Context, x: Float[Array, "D N"], scene_x: Float[Array, "G q"], models: list[Model]
) -> System:
    """The sum of the models of all costs. Rows of all costs are multiplied in one product per person."""
    columns, people = x.shape
    rows = [model.rows for model in models if model.rows is not None]
    stacked = jnp.concatenate(
        [jnp.concatenate([part, jnp.concatenate([row.value[:, None], row.by_scene], axis=1)], axis=1)
         for row in rows for part in (row.by_x,)]
    )  # fmt: skip
    stacked = jax.lax.optimization_barrier(jnp.transpose(stacked, (2, 1, 0)))  # (N, D + 1 + q, R)
    product = jax.lax.optimization_barrier(jnp.einsum("nar,nbr->nab", stacked, stacked))
    matrix, rest = product[:, :columns, :columns], product[:, columns:]  # (N, 1 + q, D + 1 + q)
    gradient, cross = rest[:, 0, :columns].T, jnp.transpose(rest[:, 1:, :columns], (2, 1, 0))
    scene_gradient, scene_matrix = rest[:, 1:, columns], rest[:, 1:, columns + 1 :]
    energies, diagonal = jnp.zeros((people,), x.dtype), jnp.zeros_like(x)
    bones = None
    for model in models:
        energies = energies + model.energy
        gradient = gradient if model.gradient is None else gradient + model.gradient
        diagonal = diagonal if model.diagonal is None else diagonal + model.diagonal
        matrix = matrix if model.matrix is None else matrix + model.matrix
        cross = cross if model.cross is None else cross + model.cross
        if model.bones is not None:
            bones = model.bones if bones is None else bones + model.bones
        if model.scene_gradient is not None and model.scene_matrix is not None:
            scene_gradient = scene_gradient + model.scene_gradient.T
            scene_matrix = scene_matrix + jnp.moveaxis(model.scene_matrix, -1, 0)
    first = columns - 3 * len(context.body.plan.layout.bones)
    if bones is None:
        bones = jnp.zeros((len(context.body.plan.layout.bones), 3, 3, people), x.dtype)
    matrix = jacobian.add_blocks(matrix, diagonal, jnp.zeros((first, first, people), x.dtype), bones)
    real = jnp.asarray(context.cues.real) > 0

    def by_scene(value: Array) -> Array:
        kept = jnp.where(real.reshape(-1, *(1,) * (value.ndim - 1)), value, 0.0)
        return jax.ops.segment_sum(kept, context.problem.scene, num_segments=len(scene_x))

    mean, precision = context.cues.scene_mean, context.cues.scene_precision
    return System(
        energy=jnp.where(real, energies, 0.0),
        gradient=jnp.where(real, gradient, 0.0),
        matrix=matrix,
        cross=jnp.where(real, cross, 0.0),
        scene_gradient=by_scene(scene_gradient) + precision * (scene_x - mean),
        scene_matrix=by_scene(scene_matrix) + jnp.eye(NUM_SCENE, dtype=x.dtype) * precision[:, None],
    )
