"""Terms of the MAP objective that read the variables themselves: priors, words, limits, metric depth, ranking, ground."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from annyfit_jax.fit.config import MapObjective
from annyfit_jax.fit.problem import Problem
from annyfit_jax.fit.second_order import robust
from annyfit_jax.fit.second_order.frozen import Frozen
from annyfit_jax.fit.second_order.linear_plan import NUM_RIGID
from annyfit_jax.fit.second_order.map_body import MapBody, population_mean
from annyfit_jax.fit.second_order.map_cues import MapCues
from annyfit_jax.people.words import AGE_CLASSES

GENDER, AGE, HEIGHT = 0, 1, 4
BUILD = (2, 3, 5)
"""Muscle, weight, proportions."""
DEPTH = 2
"""Column of the root's camera z."""
MIN_DEPTH_M = 0.1
_EQUAL_M, _MARGIN = 0.1, 0.05
"""As in the release: cues this close are equal; a pair should keep this share of its cue's gap."""
_GROUND_ROBUST = 2.0


class Reference(NamedTuple):
    """Means and spreads of the Gaussian priors, per person."""

    mean: Float[Array, "D N"]
    precision: Float[Array, "D N"]
    """1 / sd^2; zero where something else than a Gaussian speaks (translation, age, height)."""


def age_classes(settings: MapObjective) -> tuple[np.ndarray, np.ndarray]:
    """Anchor and spread of the age phenotype of each class."""
    return np.array(list(AGE_CLASSES.values())), np.array([settings.age_sd[name] for name in AGE_CLASSES])


class Small(NamedTuple):
    """Energy, gradient and curvature of everything that is not a point of the body."""

    energy: Array
    gradient: Array
    """(D, N)."""
    diagonal: Array
    """(D, N)."""
    rigid: Array
    """(12, 12, N) symmetric curvature of the first columns."""
    bones: Array
    """(F, 3, 3, N)."""
    cross: Array
    """(D, q, N)."""
    scene: Array
    """(N, q, q): what each person adds to the scene's curvature."""
    scene_gradient: Array
    """(N, q)."""


def small_terms(
    settings: MapObjective,
    body: MapBody,
    problem: Problem,
    cues: MapCues,
    reference: Reference,
    frozen: Frozen,
    x: Float[Array, "D N"],
    scene_x: Float[Array, "G q"],
) -> Small:
    """Priors, words, limits, metric depth, ranking, ground."""
    layout = body.plan.layout
    people, first = x.shape[-1], NUM_RIGID + layout.num_shape
    unknowns = scene_x.shape[1]
    difference = x - reference.mean
    energy = 0.5 * (reference.precision * difference**2).sum(0)
    gradient = reference.precision * difference
    diagonal = reference.precision
    rigid = jnp.zeros((first, first, people), x.dtype)
    bones = jnp.zeros((len(layout.bones), 3, 3, people), x.dtype)
    cross = jnp.zeros((x.shape[0], unknowns, people), x.dtype)
    scene = jnp.zeros((people, unknowns, unknowns), x.dtype)
    scene_gradient = jnp.zeros((people, unknowns), x.dtype)
    shape = x[NUM_RIGID:first]
    age_row, gender_row, height_row = (NUM_RIGID + i for i in (AGE, GENDER, HEIGHT))

    if settings.class_words:
        anchors, sd = (jnp.asarray(a, x.dtype)[:, None] for a in age_classes(settings))
        away = (shape[AGE] - anchors) / sd
        log_joint = cues.age_log_prob - 0.5 * away**2 - jnp.log(sd)
        energy = energy - cues.age_known * jax.nn.logsumexp(log_joint, axis=0)
        share = jax.nn.softmax(log_joint, axis=0) * cues.age_known
        gradient = gradient.at[age_row].add((share * away / sd).sum(0))
        diagonal = diagonal.at[age_row].add((share / sd**2).sum(0))

    if settings.anthropometry:
        mean, by_age, by_gender = population_mean(body, shape[AGE], shape[GENDER])
        off = (shape[HEIGHT] - mean) / settings.height_sd
        energy = energy + 0.5 * off**2
        rows = (height_row, age_row, gender_row)
        slopes = [jnp.ones_like(off), -by_age, -by_gender]
        slopes = [slope / settings.height_sd for slope in slopes]
        for row, slope in zip(rows, slopes):
            gradient = gradient.at[row].add(slope * off)
            for other, other_slope in zip(rows, slopes):
                rigid = rigid.at[row, other].add(slope * other_slope)

    if settings.joint_limits:
        pose = x[first:].reshape(-1, 3, people)  # (F, 3, N)
        angle = jnp.einsum("caf,fcn->afn", body.limit_axes, pose)
        over = angle - jnp.clip(angle, body.limit_low[..., None], body.limit_high[..., None])
        precision = 1.0 / settings.limit_sd**2
        energy = energy + 0.5 * precision * (over**2).sum((0, 1))
        push = precision * jnp.einsum("caf,afn->fcn", body.limit_axes, over)
        gradient = gradient.at[first:].add(push.reshape(-1, people))
        active = precision * (over != 0).astype(x.dtype)
        bones = bones + jnp.einsum("caf,daf,afn->fcdn", body.limit_axes, body.limit_axes, active)

    depth = jnp.maximum(x[DEPTH] + frozen.visible_offset, MIN_DEPTH_M)
    if settings.metric_depth:
        off = (jnp.log(depth) - cues.log_depth - scene_x[problem.scene, 0]) / settings.depth_sd
        value, weight = robust.geman_mcclure(off**2, frozen.depth_width)
        weight = weight * cues.depth_known
        energy = energy + cues.depth_known * value
        slope = 1.0 / (settings.depth_sd * depth)
        back = -1.0 / settings.depth_sd
        gradient = gradient.at[DEPTH].add(weight * off * slope)
        diagonal = diagonal.at[DEPTH].add(weight * slope**2)
        cross = cross.at[DEPTH, 0].add(weight * slope * back)
        scene = scene.at[:, 0, 0].add(weight * back**2)
        scene_gradient = scene_gradient.at[:, 0].add(weight * off * back)

    if settings.depth_order != "never":
        value, push, curvature = _order(settings, problem, cues, depth)
        energy = energy + value
        gradient = gradient.at[DEPTH].add(push)
        diagonal = diagonal.at[DEPTH].add(curvature)

    if settings.ground_plane:
        foot = x[:3] + frozen.foot_offset
        a, b, h = scene_x[problem.scene, 1:].T
        off = (foot[1] - a * foot[0] - b * foot[2] - h) / settings.ground_sd_m
        value, weight = robust.geman_mcclure(off**2, _GROUND_ROBUST)
        energy = energy + value
        inverse = 1.0 / settings.ground_sd_m
        by_x = jnp.stack([-a, jnp.ones_like(a), -b]) * inverse
        by_scene = jnp.stack([-foot[0], -foot[2], -jnp.ones_like(a)]) * inverse
        gradient = gradient.at[:3].add(weight * off * by_x)
        rigid = rigid.at[:3, :3].add(weight * by_x[:, None] * by_x[None])
        cross = cross.at[:3, 1:].add(weight * by_x[:, None] * by_scene[None])
        scene = scene.at[:, 1:, 1:].add(jnp.moveaxis(weight * by_scene[:, None] * by_scene[None], -1, 0))
        scene_gradient = scene_gradient.at[:, 1:].add((weight * off * by_scene).T)
    return Small(energy, gradient, diagonal, rigid, bones, cross, scene, scene_gradient)


def _order(
    settings: MapObjective, problem: Problem, cues: MapCues, depth: Float[Array, "N"]
) -> tuple[Float[Array, "N"], Float[Array, "N"], Float[Array, "N"]]:
    """Energy, gradient and curvature by the depth of pairs on the wrong side of their cues.

    A pair should keep the sign of its cue's gap, with a margin; a pair whose cues are equal should stay within the band.
    Squared excess, robustly. The curvature is twice the exact one: it bounds the coupling of the two people.
    """
    pairs = problem.pairs
    gap = depth[pairs.first] - depth[pairs.second]
    equal = jnp.abs(pairs.gap) <= _EQUAL_M
    sign = jnp.sign(pairs.gap)
    short = jnp.maximum(_MARGIN * jnp.abs(pairs.gap) - sign * gap, 0.0)
    excess = jnp.where(equal, gap - jnp.clip(gap, -_EQUAL_M, _EQUAL_M), -sign * short) / settings.order_sd_m
    value, weight = robust.geman_mcclure(excess**2, settings.depth_robust_sigmas)
    on = pairs.weight * cues.ranked
    push = on * weight * excess / settings.order_sd_m
    stiff = 2.0 * on * weight * (excess != 0) / settings.order_sd_m**2
    people = len(depth)
    to = lambda v, i: jax.ops.segment_sum(v, i, num_segments=people)  # noqa: E731
    half = 0.5 * on * value
    return (
        to(half, pairs.first) + to(half, pairs.second),
        to(push, pairs.first) - to(push, pairs.second),
        to(stiff, pairs.first) + to(stiff, pairs.second),
    )
