"""What the MAP fit estimates from its current state between rounds: noise scales, the visible surface, sizes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from annyfit_jax.fit.config import MapObjective
from annyfit_jax.fit.objective import project
from annyfit_jax.fit.problem import AnyArray, Problem, Variables
from annyfit_jax.fit.second_order import robust
from annyfit_jax.fit.second_order.columns import DEPTH_SCALE, PITCH, ROLL, up
from annyfit_jax.fit.second_order.jacobian import Linearization
from annyfit_jax.fit.second_order.map_body import MapBody, body_height
from annyfit_jax.fit.second_order.map_cues import MapCues

_RAYLEIGH_MEDIAN = 1.17741
"""Median length of a 2D Gaussian vector of unit standard deviation."""
_FREEDOM = 25.0
"""Points' worth of freedom that the body spends on fitting dense points."""
_LEAST_NOISE = 0.15
"""Least estimate of the noise, as a share of the prior one."""
_LEAST_WEIGHT = 0.05
_LARGEST_CORRELATION = 0.9
_WIDEST_DEPTH = 6.0
"""Factor of the width of the robust function of depth at the beginning."""
_SIZE_SPREADS = 5.0
"""Disagreement of a depth cue with a person's size that says nothing about the cue, in `depth_sd`."""
_DEPTH_PRIOR_CUES = 4.0
"""What `depth_sd` counts for against a scene's own cues."""


class Frozen(NamedTuple):
    """What is estimated from the current fit and then held fixed for a round."""

    keypoint_noise: Float[Array, "N"]
    """Pixels, of a keypoint of confidence 1."""
    dense_noise: Float[Array, "N"]
    dense_weight: Float[Array, "N"]
    """What a dense point counts for, at most 1: less where the errors of neighbours agree."""
    visible_offset: Float[Array, "N"]
    """Median depth of the visible surface minus the root's, metres."""
    foot_offset: Float[Array, "3 N"]
    """Lowest point of the body minus the root, metres."""
    radii: Float[Array, "S N"]
    """Radii of the contact spheres, metres; zero in the first half of the rounds."""
    depth_width: Float[Array, "N"]
    """Width of the robust function of metric depth, in its noise scales; wide in the first half of the rounds."""
    point_width: Float[Array, "N"]
    """The same of keypoints and dense points."""
    depth_sd: Float[Array, "N"]
    """Relative error of the depth cues of the person's scene."""
    keypoint_shift: Float[Array, "3 17 N"]
    """Where the detector's convention puts its keypoints, less where the body's regressors do; camera axes, metres."""
    height: Float[Array, "N"]
    """Body height at the phenotypes `height_at`, and its slope by them; metres."""
    height_slope: Float[Array, "S N"]
    height_at: Float[Array, "S N"]
    roll_mode: Float[Array, "N"]
    """Roll of the camera about which its scene's roll is counted: 0, 90, 180 or 270 degrees, in radians."""


def nothing_frozen(body: MapBody, roll_mode: Float[Array, "N"]) -> Frozen:
    """Values of the right shapes, to be estimated at once."""
    one = jnp.ones_like(roll_mode)
    wide = lambda *lead: jnp.broadcast_to(one, (*lead, *one.shape))  # noqa: E731
    shape = body.plan.layout.num_shape
    return Frozen(
        keypoint_noise=one,
        dense_noise=one,
        dense_weight=one,
        visible_offset=one,
        foot_offset=wide(3),
        radii=wide(len(body.layout.radii)),
        depth_width=one,
        point_width=one,
        depth_sd=one,
        keypoint_shift=wide(3, 17),
        height=one,
        height_slope=wide(shape),
        height_at=wide(shape),
        roll_mode=roll_mode,
    )


def freeze(
    settings: MapObjective,
    body: MapBody,
    problem: Problem,
    cues: MapCues,
    variables: Variables,
    lin: Linearization,
    scene: Float[Array, "q N"],
    roll_mode: Float[Array, "N"],
    progress: Float[Array, ""] | float = 1.0,
) -> Frozen:
    """Noise scales, visibility and sizes at the current fit.

    Args:
      scene: unknowns of each person's scene.
      progress: share of the rounds that lie behind. In the first half nobody blocks another's way, and points and depth cues
        that disagree by much still pull (graduated non-convexity, Blake and Zisserman 1987): a limb that starts on the wrong
        side, or a person with a wrong age, would else stay out of reach of what contradicts them.
    """
    keypoints, *others = lin.points
    dense = others[0] if others else keypoints[:, :0]
    keypoint_noise, dense_noise, dense_weight = _noise(settings, body, problem, cues, keypoints, dense)
    depth = variables.transl[2]
    offset = jnp.zeros_like(depth)
    if settings.visible_depth and dense.shape[1]:
        weight = _visible_weight(settings, body, problem, cues, lin)
        offset = robust.weighted_median(dense[2] - depth, weight)
    points = jnp.concatenate([keypoints, dense], axis=1)
    g = up(scene[PITCH], scene[ROLL] + roll_mode)
    lowest = jnp.argmin((g[:, None] * points).sum(0), axis=0)
    foot = jnp.take_along_axis(points, lowest[None, None], axis=1)[:, 0] - variables.transl
    height, pull = jax.vjp(lambda shape: body_height(body, shape), jnp.asarray(variables.shape))
    (slope,) = pull(jnp.ones_like(height))
    progress = jnp.asarray(progress, height.dtype)
    radii = jnp.asarray(body.layout.radii, height.dtype)[:, None] * height * (progress >= 0.5)
    early = jnp.maximum(1.0 - 2.0 * progress, 0.0) * jnp.ones_like(height)
    turn = jnp.einsum("ijn,jkpn->ikpn", lin.root, lin.bone_rotations[:, :, jnp.asarray(body.layout.keypoint_slots)])
    shift = jnp.einsum("ikpn,pkn->ipn", turn, cues.keypoint_shift) * height
    return Frozen(
        keypoint_noise=keypoint_noise,
        dense_noise=dense_noise,
        dense_weight=dense_weight,
        visible_offset=offset,
        foot_offset=foot,
        radii=radii,
        depth_width=settings.depth_robust_sigmas * _WIDEST_DEPTH**early,
        point_width=settings.robust_sigmas * settings.robust_widening**early,
        depth_sd=_depth_sd(settings, problem, cues, depth + offset, scene, early),
        keypoint_shift=shift,
        height=height,
        height_slope=slope,
        height_at=jnp.asarray(variables.shape),
        roll_mode=roll_mode,
    )


def _depth_sd(
    settings: MapObjective, problem: Problem, cues: MapCues, depth: Array, scene: Array, early: Array
) -> Float[Array, "N"]:
    """Relative error of a scene's depth cues: `depth_sd`, or more where they disagree with the sizes of its people.

    A scene's own spread counts by the number of its cues, beyond what sizes alone may be off by.
    """
    if not settings.estimate_depth_noise:
        return jnp.full_like(depth, settings.depth_sd)
    # Padding repeats a person, who would else count as often as the list has room.
    known = jnp.asarray(cues.depth_known) * jnp.asarray(cues.real)
    off = jnp.log(jnp.maximum(depth, 0.1)) - cues.log_depth - scene[DEPTH_SCALE]
    excess = jnp.maximum(jnp.minimum(off**2, 1.0) - (_SIZE_SPREADS * settings.depth_sd) ** 2, 0.0)
    total = jax.ops.segment_sum(known * excess, problem.scene, num_segments=problem.num_scenes)
    count = jax.ops.segment_sum(known, problem.scene, num_segments=problem.num_scenes)
    variance = settings.depth_sd**2 + total / (count + _DEPTH_PRIOR_CUES)
    return jnp.sqrt(variance)[problem.scene]


def _noise(
    settings: MapObjective, body: MapBody, problem: Problem, cues: MapCues, keypoints: Array, dense: Array
) -> tuple[Array, Array, Array]:
    """Noise of keypoints and dense points in pixels (of confidence 1), and what a dense point counts for.

    The prior is a share of the person's size; residuals count by the number of points beyond the body's own freedom. Where
    errors of neighbouring dense points agree, their number counts less: with correlation rho between neighbours on a
    surface, by ((1 - rho) / (1 + rho))^2, the share of a first-order autoregressive field in two directions.
    """
    prior = settings.noise_share * jnp.asarray(cues.size_px)
    one = jnp.ones_like(prior)
    if not dense.shape[1] or not (settings.estimate_noise or settings.correlated_noise):
        return prior, prior, one

    def estimate(points: Array, px: AnyArray, confidence: AnyArray, prior_points: float, freedom: float) -> tuple:
        seen = jnp.asarray(confidence) >= settings.min_confidence
        error = jax.vmap(project, in_axes=-1, out_axes=-1)(points, problem.cues.intrinsics) - px
        error = jnp.where(seen, confidence * error, 0.0)
        size = jnp.sqrt((error**2).sum(0))
        found = robust.masked_median(size, seen) / _RAYLEIGH_MEDIAN
        count = jnp.maximum(seen.sum(0) - freedom, 0.0)
        share = count / (count + prior_points)
        floor = _LEAST_NOISE * prior
        log_noise = (1.0 - share) * jnp.log(prior) + share * jnp.log(jnp.maximum(found, floor))
        return (jnp.exp(log_noise) if settings.estimate_noise else prior), error, seen

    cues2d = problem.cues
    few = settings.noise_prior_points
    # Few keypoints say little about their noise; the dense points of the same picture say more.
    dense_noise, error, seen = estimate(dense, cues2d.dense_px, cues2d.dense_confidence, few, _FREEDOM)
    keypoint_noise = jnp.where(seen.any(0), jnp.sqrt(prior * dense_noise), prior)
    if not settings.correlated_noise:
        return keypoint_noise, dense_noise, one
    inlier = seen & ((error**2).sum(0) < (3.0 * dense_noise) ** 2)
    error = jnp.where(inlier, error, 0.0)
    near = np.asarray(body.layout.neighbours, np.int32)
    agree = jnp.zeros_like(one)
    power = jnp.zeros_like(one)
    for slot in range(near.shape[1]):
        both = inlier & inlier[near[:, slot]]
        agree = agree + jnp.where(both, (error * error[:, near[:, slot]]).sum(0), 0.0).sum(0)
        power = power + jnp.where(both, 0.5 * (error**2 + error[:, near[:, slot]] ** 2).sum(0), 0.0).sum(0)
    correlation = jnp.clip(agree / jnp.where(power > 0, power, 1.0), 0.0, _LARGEST_CORRELATION)
    weight = ((1.0 - correlation) / (1.0 + correlation)) ** 2
    return keypoint_noise, dense_noise, jnp.maximum(weight, _LEAST_WEIGHT)


def _visible_weight(
    settings: MapObjective, body: MapBody, problem: Problem, cues: MapCues, lin: Linearization
) -> Float[Array, "138 N"]:
    """How much of the visible surface each dense point stands for: facing the camera, inside the image, confident.

    A point's normal turns with its skinning weights, from the mean body at rest. A dense point that the detector is unsure
    of is likely hidden behind somebody; without dense detections all points that face the camera count.
    """
    dense = lin.points[1]
    people = dense.shape[-1]
    turn = jnp.moveaxis(lin.bone_rotations, 2, 0)  # (B, 3, 3, N)
    blended = (body.normal_skin @ turn.reshape(len(turn), -1)).reshape(-1, 3, 3, people)
    in_root = (blended * body.normals.T[:, None, :, None]).sum(2)  # (138, 3, N)
    normal = jnp.stack([(lin.root[i] * in_root).sum(1) for i in range(3)])
    facing = -(normal * dense).sum(0) / jnp.sqrt((dense**2).sum(0))
    px = jax.vmap(project, in_axes=-1, out_axes=-1)(dense, problem.cues.intrinsics)
    inside = ((px >= 0) & (px < cues.image_size[:, None])).all(0)
    weight = jnp.where(inside & (facing > 0), facing, 0.0)
    detected = problem.cues.dense_confidence >= settings.min_confidence
    confident = jnp.where(detected.any(0), problem.cues.dense_confidence, 1.0)
    chosen = weight * jnp.maximum(confident, 0.0) ** 2
    # Where nothing is seen, all points that face the camera; where nothing faces it, all points.
    fallback = jnp.maximum(facing, 0.0) + 1e-3
    return jnp.where(chosen.sum(0) > 0, chosen, fallback)
