"""The closed-form start: the body that the words name, scaled and moved so that it explains the 2D points."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from annyfit_jax.fit.config import FitConfig
from annyfit_jax.fit.problem import AnyArray, Problem, Variables
from annyfit_jax.fit.second_order import robust
from annyfit_jax.fit.second_order.map_body import MapBody, body_height, population_mean
from annyfit_jax.fit.second_order.map_cues import MapCues
from body_models import anny, rotations

_GENDER, _AGE, _HEIGHT = 0, 1, 4
_ITERATIONS = 6
_WIDTH_MEDIANS = 2.0
"""Width of the robust function, in medians of the current residuals, down to the width of the fit."""
NEAREST_M = 0.3
"""Nobody stands nearer than this to the camera, metres of camera z of the root."""


def closed_form_start(
    config: FitConfig, body: MapBody, problem: Problem, cues: MapCues, variables: Variables
) -> tuple[Variables, Float[Array, "3 17 N"]]:
    """Start of the MAP fit from the prepared one (words inserted): population height, rescaled and refitted translation.

    Returns it and the keypoints of the prepared start in camera axes.
    """
    settings = config.map
    transl, root, shape, pose = (jnp.asarray(v) for v in variables)
    given = jnp.clip(shape, body.fit.shape_low[:, None], body.fit.shape_high[:, None])
    shape = named_shape(config, body, cues, shape)
    placed = transl
    if settings.rescale_start:
        before = jnp.clip(cues.start_shape, body.fit.shape_low[:, None], body.fit.shape_high[:, None])
        transl = transl * (body_height(body, shape) / body_height(body, before))
    pose = jnp.clip(pose, -body.fit.pose_limit, body.fit.pose_limit)
    # The prepared body and the new one in one evaluation: half the program.
    both, roots, poses = (jnp.concatenate(pair, axis=-1) for pair in ((given, shape), (root, root), (pose, pose)))
    about_root = anny.points_people_last(body.points, both, roots, poses, jnp.zeros_like(roots))
    before, about_root = jnp.split(about_root, 2, axis=-1)
    prepared = before[:, :17] + placed[:, None]
    if settings.refit_start:
        observed = jnp.concatenate([problem.cues.keypoints_px, problem.cues.dense_px], axis=1)
        confidence = jnp.concatenate([problem.cues.keypoint_confidence, problem.cues.dense_confidence])
        observed, confidence = observed[:, : about_root.shape[1]], confidence[: about_root.shape[1]]
        confidence = jnp.where(confidence >= settings.min_confidence, confidence, 0.0)
        width = settings.robust_sigmas * settings.noise_share * jnp.asarray(cues.size_px)
        transl = refit_translation(about_root, observed, confidence, problem.cues.intrinsics, transl, width)
    transl = transl.at[2].max(NEAREST_M)
    # At most half a turn: steps of the root need the inverse of a Jacobian that a full turn makes singular.
    return Variables(transl, rotations.compose(jnp.zeros_like(root), root), shape, pose), prepared


def named_shape(config: FitConfig, body: MapBody, cues: MapCues, shape: Float[Array, "S N"]) -> Float[Array, "S N"]:
    """Phenotypes to start from: the middle of the word's age class and the height of the population."""
    shape = jnp.clip(shape, body.fit.shape_low[:, None], body.fit.shape_high[:, None])
    if config.words_set_start:
        told = (jnp.asarray(cues.age_known) > 0) | (jnp.asarray(cues.from_cue) == 0)
        shape = shape.at[_AGE].set(jnp.where(told, cues.age_start, shape[_AGE]))
    if config.map.anthropometry:
        shape = shape.at[_HEIGHT].set(population_mean(body, shape[_AGE], shape[_GENDER])[0])
    return shape


def refit_translation(
    points: Float[Array, "3 K N"],
    observed: Float[Array, "2 K N"],
    confidence: Float[Array, "K N"],
    intrinsics: Float[AnyArray, "3 3 N"],
    start: Float[Array, "3 N"],
    width_px: Float[Array, "N"],
) -> Float[Array, "3 N"]:
    """Translations that bring points onto their pixels: robust least squares on rays, in closed form, re-weighted.

    A pixel's ray (u, v, 1) gives (x + t_x) - u (z + t_z) = 0 and (y + t_y) - v (z + t_z) = 0, linear in t; times f / depth
    they are pixels. Weights are Geman-McClure with a width that shrinks with the median residual to `width_px`. People
    without points keep their start.
    """
    fx, fy, skew = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 1]
    v = (observed[1] - intrinsics[1, 2]) / fy
    u = (observed[0] - intrinsics[0, 2] - skew * v) / fx
    x, y, z = points
    right_u, right_v = u * z - x, v * z - y
    mask = confidence > 0

    def weights(t: Array) -> tuple[Array, Array]:
        per_depth = 1.0 / jnp.maximum(z + t[2], NEAREST_M)
        ru = fx * (t[0] - u * t[2] - right_u) * per_depth
        rv = fy * (t[1] - v * t[2] - right_v) * per_depth
        squared = confidence**2 * (ru * ru + rv * rv)
        width = jnp.maximum(_WIDTH_MEDIANS * jnp.sqrt(robust.masked_median(squared, mask)), width_px)
        weight = robust.geman_mcclure(squared / width**2, 1.0)[1] * (confidence * per_depth) ** 2
        return fx**2 * weight, fy**2 * weight

    def solve(t: Array, wu: Array, wv: Array) -> Array:
        a00, a11 = wu.sum(0), wv.sum(0)
        a02, a12 = -(wu * u).sum(0), -(wv * v).sum(0)
        a22 = (wu * u * u + wv * v * v).sum(0)
        b0, b1 = (wu * right_u).sum(0), (wv * right_v).sum(0)
        b2 = -(wu * u * right_u + wv * v * right_v).sum(0)
        safe0, safe1 = jnp.where(a00 > 0, a00, 1.0), jnp.where(a11 > 0, a11, 1.0)
        pivot = a22 - a02 * a02 / safe0 - a12 * a12 / safe1
        enough = (a00 > 0) & (a11 > 0) & (pivot > 1e-6 * a22)
        depth = (b2 - a02 * b0 / safe0 - a12 * b1 / safe1) / jnp.where(enough, pivot, 1.0)
        depth = jnp.maximum(depth, NEAREST_M)
        moved = jnp.stack([(b0 - a02 * depth) / safe0, (b1 - a12 * depth) / safe1, depth])
        return jnp.where(enough & jnp.isfinite(moved).all(0), moved, t)

    def again(index: Array, t: Array) -> Array:
        # The first round weighs by confidence alone: the start may be metres off.
        plain = (confidence / jnp.maximum(z + t[2], NEAREST_M)) ** 2
        wu, wv = weights(t)
        first = index == 0
        return solve(t, jnp.where(first, fx**2 * plain, wu), jnp.where(first, fy**2 * plain, wv))

    return jax.lax.fori_loop(0, 1 + _ITERATIONS, again, start)
