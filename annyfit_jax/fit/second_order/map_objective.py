"""The MAP objective: every cue with its own noise scale, so that the energy is a negative log posterior.

    E(x, s) = sum_people [ sum_points 1/2 GM(|pi(q) - u|^2 c^2 / sigma^2 ; 4)                 keypoints and dense points
                         + 1/2 sum (x - mu)^2 / sd^2  - log sum_class P(class | word) N(age; class)   pose, shape, words
                         + 1/2 GM((log z_visible - log D - s)^2 / sd^2 ; 4)                   metric depth
                         + limits, contacts, order, ground ]
            + 1/2 s^2 / sd_scale^2                                                            one log scale per image

Scene unknowns: s, then (with `ground_plane`) the plane y = a x + b z + h of the feet. The column order of x is that of
`linear_plan.Layout`. What is estimated from the data between rounds of the solver stands in `Frozen`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from annyfit_jax.fit.config import MapObjective
from annyfit_jax.fit.objective import project
from annyfit_jax.fit.problem import Problem, Variables
from annyfit_jax.fit.second_order import contacts, jacobian, robust, small_terms
from annyfit_jax.fit.second_order.columns import pack, unpack
from annyfit_jax.fit.second_order.frozen import Frozen, freeze
from annyfit_jax.fit.second_order.jacobian import Linearization
from annyfit_jax.fit.second_order.linear_plan import NUM_RIGID
from annyfit_jax.fit.second_order.lm import System
from annyfit_jax.fit.second_order.map_body import MapBody
from annyfit_jax.fit.second_order.map_cues import MapCues
from annyfit_jax.fit.second_order.small_terms import Reference
from body_models import anny

_GROUND_SD = (0.1, 0.4, 1.5)
"""Prior of the ground plane y = a x + b z + h: sd of a and b (slopes) and of h (metres)."""
_GROUND_HEIGHT_M = 1.4


class Context(NamedTuple):
    """All that an evaluation reads besides the unknowns."""

    body: MapBody
    problem: Problem
    cues: MapCues
    reference: Reference
    base: Variables
    """Variables of the start: bones that are not free keep them."""


class Model(NamedTuple):
    """What is known at a point of the search."""

    system: System
    lin: Linearization
    frozen: Frozen


def scene_unknowns(settings: MapObjective) -> int:
    """Unknowns per scene: the log scale of its depths, then the plane."""
    return 1 + 3 * settings.ground_plane


# ------------------------------------------------------------------------------------------------ priors


def reference_of(settings: MapObjective, body: MapBody, cues: MapCues, start: Variables) -> Reference:
    """Priors about the start (a feed-forward estimate) or, where the start comes from 2D keypoints, a relaxed pose."""
    layout = body.plan.layout
    mean = pack(layout, start)
    people = mean.shape[-1]
    known = cues.from_cue > 0
    first = NUM_RIGID + layout.num_shape
    relaxed = jnp.swapaxes(body.relaxed_pose, 0, 1).reshape(-1, 1)
    pose_mean = jnp.where(known, mean[first:], relaxed)
    pose_sd = jnp.where(known, jnp.repeat(body.pose_sd, 3)[:, None], jnp.repeat(body.relaxed_sd, 3)[:, None])
    root_sd = jnp.where(known, settings.root_sd, settings.unknown_root_sd)
    shape_sd = jnp.full((layout.num_shape, people), settings.build_sd, mean.dtype)
    gender_sd = jnp.where(cues.gender_known > 0, settings.gender_sd, settings.unknown_gender_sd)
    shape_sd = shape_sd.at[small_terms.GENDER].set(gender_sd)
    shape_precision = 1.0 / shape_sd**2
    shape_mean = mean[NUM_RIGID:first].at[np.asarray(small_terms.BUILD)].set(0.5)
    if settings.anthropometry:
        shape_precision = shape_precision.at[small_terms.HEIGHT].set(0.0)
    else:
        shape_mean = shape_mean.at[small_terms.HEIGHT].set(0.5)
    age_sd = jnp.where(
        cues.age_known > 0, _word_sd(settings, mean[NUM_RIGID + small_terms.AGE]), settings.unknown_age_sd
    )
    if settings.class_words:
        age_precision = jnp.where(cues.age_known > 0, 0.0, 1.0 / age_sd**2)
    else:
        age_precision = 1.0 / age_sd**2
    shape_precision = shape_precision.at[small_terms.AGE].set(age_precision)
    zero = jnp.zeros((3, people), mean.dtype)
    return Reference(
        mean=jnp.concatenate([mean[:NUM_RIGID], shape_mean, pose_mean]),
        precision=jnp.concatenate(
            [zero, jnp.broadcast_to(1.0 / root_sd**2, (3, people)), shape_precision, 1.0 / pose_sd**2]
        ),
    )


def _word_sd(settings: MapObjective, anchor: Array) -> Array:
    anchors, sd = small_terms.age_classes(settings)
    return jnp.asarray(sd, anchor.dtype)[jnp.abs(anchor[None] - jnp.asarray(anchors, anchor.dtype)[:, None]).argmin(0)]


# ------------------------------------------------------------------------------------------------ the energy


def _pixels(
    settings: MapObjective, problem: Problem, frozen: Frozen, points: Sequence[Float[Array, "3 K N"]]
) -> list[tuple[Array, Array, Array]]:
    """Per kind of point: energy (N,), residual (2, K, N) and its weight's root (K, N), in noise scales."""
    cues = problem.cues
    observed = (
        (cues.keypoints_px, cues.keypoint_confidence, frozen.keypoint_noise, 1.0),
        (cues.dense_px, cues.dense_confidence, frozen.dense_noise, frozen.dense_weight),
    )
    out = []
    for p, (px, confidence, noise, count) in zip(points, observed):
        c = jnp.where(confidence >= settings.min_confidence, confidence, 0.0) / noise
        error = c * (jax.vmap(project, in_axes=-1, out_axes=-1)(p, cues.intrinsics) - px)
        squared = jnp.where(c > 0, (error**2).sum(0), 0.0)
        # A point behind the camera mirrors: no fit may go there.
        ahead = (p[2] > small_terms.MIN_DEPTH_M) | (c == 0)
        value, weight = robust.geman_mcclure(squared, settings.robust_sigmas)
        value = jnp.where(ahead, value, 0.5 * settings.robust_sigmas**2)
        root = jnp.sqrt(jnp.where(ahead, weight * count, 0.0))
        out.append(((value * count).sum(0), jnp.where(c > 0, error, 0.0) * root, c * root))
    return out


def _small(
    settings: MapObjective, context: Context, frozen: Frozen, x: Float[Array, "D N"], scene_x: Float[Array, "G q"]
) -> small_terms.Small:
    return small_terms.small_terms(
        settings, context.body, context.problem, context.cues, context.reference, frozen, x, scene_x
    )


def energy(
    settings: MapObjective,
    context: Context,
    frozen: Frozen,
    x: Float[Array, "D N"],
    scene_x: Float[Array, "G q"],
    points: Sequence[Float[Array, "3 K N"]] | None = None,
) -> Float[Array, "N"]:
    """Energy of each person in nats, up to a constant; padding has none. `points`: those of the body at x, if known."""
    if points is None:
        transl, root, shape, pose = (jnp.asarray(v) for v in unpack(context.body.plan.layout, x, context.base))
        placed = anny.points_people_last(context.body.points, shape, root, pose, transl)
        points = jnp.split(placed, np.cumsum(context.body.plan.layout.kinds)[:-1], axis=1)
    total = _small(settings, context, frozen, x, scene_x).energy
    total = total + sum(value for value, _, _ in _pixels(settings, context.problem, frozen, points))
    if settings.interpenetration:
        total = total + contacts.energy(settings, context.body, context.cues, frozen.radii, points[0])
    return jnp.where(context.cues.real > 0, total, 0.0)


def evaluate(
    settings: MapObjective,
    context: Context,
    frozen: Frozen | None,
    x: Float[Array, "D N"],
    scene_x: Float[Array, "G q"],
    refresh: Bool[Array, ""] | bool = True,
    progress: Float[Array, ""] | float = 1.0,
) -> Model:
    """Energy, gradient and curvature (Gauss-Newton of the re-weighted problem) of all people and scenes.

    Args:
      frozen: estimates of the round; taken anew where `refresh` says so, or where there are none.
      progress: share of the rounds that lie behind, see `frozen.freeze`.
    """
    body, problem, cues = context.body, context.problem, context.cues
    plan = body.plan
    variables = unpack(plan.layout, x, context.base)
    lin = jacobian.linearize(plan, body.points, variables)
    anew = freeze(settings, body, problem, cues, variables, lin, progress)
    if frozen is not None:
        anew = Frozen(*(jnp.where(refresh, new, old) for new, old in zip(anew, frozen)))
    frozen = anew
    small = _small(settings, context, frozen, x, scene_x)
    total = small.energy
    rows, values = [], []
    for p, (value, error, root) in zip(lin.points, _pixels(settings, problem, frozen, lin.points)):
        total = total + value
        rows.append(jacobian.projection_rows(p, problem.cues.intrinsics) * root[None, None])
        values.append(error)
    if settings.interpenetration:
        value, extra_rows, extra_values = contacts.rows(settings, body, cues, frozen.radii, lin.points[0])
        total = total + value
        rows[0] = jnp.concatenate([rows[0], extra_rows])
        values[0] = jnp.concatenate([values[0], extra_values])
    matrix, gradient = jacobian.normal_equations(plan, lin, rows, values)
    matrix = jacobian.add_blocks(matrix, small.diagonal, small.rigid, small.bones)
    gradient = gradient + small.gradient
    real = cues.real > 0

    def by_scene(value: Array) -> Array:
        kept = jnp.where(real.reshape(-1, *(1,) * (value.ndim - 1)), value, 0.0)
        return jax.ops.segment_sum(kept, problem.scene, num_segments=len(scene_x))

    mean, precision = _scene_prior(settings, x.dtype)
    system = System(
        energy=jnp.where(real, total, 0.0),
        gradient=jnp.where(real, gradient, 0.0),
        matrix=matrix,
        cross=jnp.where(real, small.cross, 0.0),
        scene_gradient=by_scene(small.scene_gradient) + precision * (scene_x - mean),
        scene_matrix=by_scene(small.scene) + jnp.diag(precision),
    )
    return Model(system, lin, frozen)


def scene_start(settings: MapObjective, scenes: int, dtype) -> Float[Array, "G q"]:
    """Scene unknowns to begin with: their prior means."""
    mean, _ = _scene_prior(settings, dtype)
    return jnp.broadcast_to(mean, (scenes, len(mean)))


def _scene_prior(settings: MapObjective, dtype) -> tuple[Array, Array]:
    mean, sd = [0.0], [settings.depth_scale_sd]
    if settings.ground_plane:
        mean += [0.0, 0.0, _GROUND_HEIGHT_M]
        sd += list(_GROUND_SD)
    return jnp.asarray(mean, dtype), 1.0 / jnp.asarray(sd, dtype) ** 2
