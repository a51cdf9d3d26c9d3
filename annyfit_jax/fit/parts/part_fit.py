"""The fit of hands, head and feet to their points, the rest of the body being as it was found; one compiled program.

Every part is a small Levenberg-Marquardt problem: robust pixel errors of its points, and a Gaussian prior within ranges. A hand
is tried with every named grasp and a few turns of the forearm, all of them side by side; the lowest energy is kept, which makes
the grasps the modes of the prior. A part that is not seen, or whose points fit no pose of it, stays as it was.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from annyfit_jax.fit.config import LevenbergMarquardt, PartFit
from annyfit_jax.fit.fit_body import FitBody
from annyfit_jax.fit.objective import project
from annyfit_jax.fit.parts import part_points
from annyfit_jax.fit.parts.part_body import PartBody, PartPlace, PartsBody
from annyfit_jax.fit.problem import AnyArray, Variables
from annyfit_jax.fit.second_order import jacobian, lm, robust, small_linear
from body_models import kinematics, linear, rotations

_SHARE_OF_HEIGHT = {"hand": 0.108, "head": 0.13, "foot": 0.152}
"""Size of a part as a share of body height: hand and foot by Drillis and Contini, head and neck to the chin."""
_FEWEST = {"hand": 5, "head": 10, "foot": 2}
"""Points that must be seen for a part to move."""
_COUNT = {"hand": 1.0, "head": 0.3, "foot": 1.0}
"""What a point counts for: errors of a face's points go together, as its shape is not that of the person."""
_TWISTS = (0.0, -1.0, 1.0)
"""Turns of the forearm that a hand is started from, radians from the body's fit."""
_RAYLEIGH_MEDIAN = 1.1774
_LEAST_NOISE = 0.25
_MIN_DEPTH_M = 0.1


class PartCues(NamedTuple):
    """Points of N people, all parts one after the other (`part_cues.POINTS`)."""

    points: Float[AnyArray, "3 K N"]
    """x, y in pixels and confidence, 0 = missing."""
    intrinsics: Float[AnyArray, "3 3 N"]


class PartsFit(NamedTuple):
    """Outcome for N people and the P parts of `part_motion.PARTS`."""

    pose: Float[Array, "3 162 N"]
    keypoints: Float[Array, "3 17 N"]
    """COCO keypoints of the whole pose."""
    moved: Float[Array, "P N"]
    """1 where the part was fitted, 0 where it was not seen or rejected."""
    error_px: Float[Array, "P N"]
    """Mean distance of the seen points to their projections; NaN where none is seen."""
    start_error_px: Float[Array, "P N"]
    """The same with the body alone."""
    sd_m: Float[Array, "P N"]
    """Root mean square standard deviation of the part's points about the body; NaN where it was not fitted."""
    expression: Float[Array, "E N"]
    """Coefficients of the face, of bodies that have them; zero where it was not fitted."""


def solve(
    settings: PartFit,
    fit_body: FitBody,
    body: PartsBody,
    cues: PartCues,
    variables: Variables,
    keypoints: Float[AnyArray, "3 17 N"],
    log_focal: Float[AnyArray, "N"],
) -> PartsFit:
    """Fit the parts of all people of a batch; not compiled.

    Args:
      settings: static.
      fit_body: ranges of shape and pose.
      body: from `parts_body`.
      variables, keypoints: of the body's fit.
      log_focal: of the body's fit, by how much it changed the focal length.
    """
    transl, root_rotvec, shape, pose = (jnp.asarray(v) for v in variables)
    shape = jnp.clip(shape, fit_body.shape_low[:, None], fit_body.shape_high[:, None])
    pose = jnp.clip(pose, -fit_body.pose_limit, fit_body.pose_limit)
    intrinsics = _with_focal(jnp.asarray(cues.intrinsics), jnp.asarray(log_focal))
    height = fit_body.height(shape)
    z, frames, root_head = body.motion.posed(body.joints, shape, pose)
    root = rotations.rotvec_to_matrix_axes_first(root_rotvec)
    # x_camera = R (x - h_root) + t
    place = jnp.concatenate([root, (transl - kinematics.matvec(root, root_head))[:, None]], axis=1)
    whole = None
    if body.whole is not None:
        whole = body.motion.place(body.whole, shape, root_rotvec, pose, transl, jnp.zeros((0, *height.shape)))
    found: dict[tuple[int, int], tuple[PartPlace, _Found]] = {}
    for alike, places, shown in zip(body.kinds, body.places, body.shown[: len(body.kinds)], strict=True):
        if not shown:
            nobody = _nobody(height)
            found |= {own.points: (own, nobody) for own in places}
            continue
        outer = jnp.stack([kinematics.compose(place, frames[:, :, own.outer]) for own in places])
        seen = jnp.stack([jnp.asarray(cues.points)[:, slice(*own.points)] for own in places])
        bones = jnp.stack([kinematics.gather(pose, own.rows, 1) for own in places])
        given = None if whole is None else jnp.stack([whole[:, slice(*own.points)] for own in places])

        def one(given: tuple) -> _Found:
            part, points, outer, bones, whole = given
            return _fit_part(settings, _Own(part, points, intrinsics, height, whole), z, outer, bones)

        # Left and right one after the other: one program serves both.
        both = jax.lax.map(one, (alike, seen, outer, bones, given))
        for k, own in enumerate(places):
            found[own.points] = own, jax.tree.map(lambda leaf, k=k: leaf[k], both)
    new, parts = pose, [part for _, part in sorted(found.items())]
    for own, part in parts:
        if part.vectors.shape[1] == 0:
            continue
        rows = np.asarray(own.rows)
        new = new.at[:, rows].set(jnp.where(part.moved, part.vectors, new[:, rows]))
    moved = [part.moved.astype(pose.dtype) for _, part in parts]
    anybody = jnp.stack(moved).any(0)
    face = max((part.expression for _, part in parts), key=len)
    placed = body.motion.place(body.joints, shape, root_rotvec, new, transl, face)
    return PartsFit(
        pose=jnp.where(anybody, new, jnp.asarray(variables.pose)),
        keypoints=jnp.where(anybody, placed, jnp.asarray(keypoints)),
        moved=jnp.stack(moved),
        error_px=jnp.stack([part.error for _, part in parts]),
        start_error_px=jnp.stack([part.start_error for _, part in parts]),
        sd_m=jnp.stack([part.sd for _, part in parts]),
        expression=face,
    )


class _Own(NamedTuple):
    """One part's model and cues."""

    body: PartBody
    points: Float[Array, "3 K N"]
    intrinsics: Float[Array, "3 3 N"]
    height: Float[Array, "N"]
    whole: Float[Array, "3 K N"] | None
    """The points as the whole body has them (`PartsBody.whole`)."""


class _Found(NamedTuple):
    vectors: Float[Array, "3 B N"]
    moved: Bool[Array, "N"]
    error: Float[Array, "N"]
    start_error: Float[Array, "N"]
    sd: Float[Array, "N"]
    expression: Float[Array, "E N"]


def _nobody(like: Float[Array, "N"]) -> _Found:
    """Of a part that nobody shows."""
    unknown = jnp.full_like(like, jnp.nan)
    nothing, no_face = jnp.zeros((3, 0, *like.shape), like.dtype), jnp.zeros((0, *like.shape), like.dtype)
    return _Found(nothing, jnp.zeros(like.shape, bool), unknown, unknown, unknown, no_face)


def _fit_part(settings: PartFit, own: _Own, z: Array, outer: Array, bones: Float[Array, "3 B N"]) -> _Found:
    body, layout = own.body, own.body.layout
    part = layout.kind
    rest = part_points.rest_of(body, z, outer, bones)
    read = part_points.read_motions(body, bones)
    people, motions = read.shape[1], len(body.sd)
    seen = own.points[2] >= settings.min_confidence
    before = of_pose(body, rest, bones)
    if own.whole is not None:
        rest, before = rest._replace(outside=own.whole - before), own.whole
    confidence = jnp.where(seen, jnp.minimum(own.points[2], 1.0), 0.0)
    depth = jnp.maximum(before[2].mean(0), _MIN_DEPTH_M)
    focal = 0.5 * (own.intrinsics[0, 0] + own.intrinsics[1, 1])
    size_px = _SHARE_OF_HEIGHT[part] * own.height * focal / depth
    prior_noise = jnp.sqrt((settings.noise_share * size_px) ** 2 + settings.noise_floor_px**2)

    # Starts side by side in the axis of people: S of each.
    known = body.known[:, None] > 0
    if body.fixed is None:
        grasps = body.means.shape[0]
        twists = _TWISTS if part == "hand" else (0.0,)
        starts = grasps * len(twists)
        which = np.tile(np.arange(starts), people)
        mean = jnp.where(known, jnp.repeat(read, starts, axis=-1), body.means.T[:, which % grasps])
        twist = layout.twist
        begin = mean if twist < 0 else mean.at[twist].add(jnp.asarray(twists, mean.dtype)[which // grasps])
    else:
        # Somebody has fitted the part before: from there, with the grasp that is nearest.
        starts = 1
        begin = jnp.einsum("dv,vn->dn", body.fixed.motions, bones.reshape(-1, people), precision=linear.PRECISION)
        off = begin[:, None] - body.means.T[..., None]
        nearest = (off * jnp.einsum("de,egn->dgn", body.precision, off)).sum(0).argmin(0)
        mean = jnp.where(known, read, body.means.T[:, nearest])
    spread = lambda x: jnp.repeat(x, starts, axis=-1)  # noqa: E731
    begin = jnp.clip(begin, body.low, body.high)
    observed, weight = spread(own.points[:2]), spread(confidence)
    wide = jax.tree.map(spread, rest)
    intrinsics, noise0 = spread(own.intrinsics), spread(prior_noise)
    count = _COUNT[part]
    iterations = settings.iterations

    def pixel_errors(points: Array) -> Array:
        return jax.vmap(project, in_axes=-1, out_axes=-1)(points, intrinsics) - observed

    def energy_of(error: Array, ahead: Array, motions: Array, memory: _Memory) -> tuple[Array, Array]:
        c = weight / memory.noise
        squared = jnp.where(c > 0, (c * error) ** 2, 0.0).sum(0)
        value, factor = robust.geman_mcclure(squared, memory.width)
        value = jnp.where(ahead | (c == 0), value, 0.5 * memory.width**2)
        off = motions - mean
        prior = 0.5 * (off * (body.precision @ off)).sum(0)
        # Less noise is paid for, or every estimate of it would lower the energy.
        scale = 2.0 * count * (weight > 0).sum(0) * jnp.log(memory.noise / noise0)
        return count * value.sum(0) + prior + scale, count * factor * c**2 * ahead

    def evaluate(x: Array, scene_x: Array, memory: _Memory, index: Array) -> lm.Evaluation:
        points, slopes = part_points.points_and_slopes(body, wide, x)
        error, ahead = pixel_errors(points), points[2] > _MIN_DEPTH_M
        refresh = (index % settings.every == 0) & (index < iterations)
        progress = index / iterations
        memory = _Memory(
            jnp.where(refresh, _noise(settings, error, weight, noise0), memory.noise),
            settings.robust_sigmas * settings.robust_widening ** jnp.maximum(1.0 - 2.0 * progress, 0.0),
        )
        value, factor = energy_of(error, ahead, x, memory)
        rows = jacobian.projection_rows(points, intrinsics)
        by = jnp.einsum("rikn,idkn->rdkn", rows, slopes)
        gradient = jnp.einsum("rdkn,rkn->dn", by, factor * error) + body.precision @ (x - mean)
        # A batched product along rows: people first.
        root = jnp.moveaxis(by * jnp.sqrt(factor), (3, 1, 0, 2), (0, 1, 2, 3)).reshape(x.shape[1], motions, -1)
        matrix = jnp.einsum("ndk,nek->nde", root, root) + body.precision
        system = lm.System(
            value, gradient, matrix, jnp.zeros((motions, 0, x.shape[1]), x.dtype), jnp.zeros((1, 0), x.dtype),
            jnp.zeros((1, 0, 0), x.dtype),
        )  # fmt: skip
        return lm.Evaluation(system, memory, lambda _: value, extra=(points, slopes, error))

    def energy(x: Array, scene_x: Array, memory: _Memory) -> Array:
        points = part_points.points(body, wide, x)
        return energy_of(pixel_errors(points), points[2] > _MIN_DEPTH_M, x, memory)[0]

    def finish(end: lm.Evaluation, factor: small_linear.Factor, scale: Array) -> tuple[Array, ...]:
        points, slopes, error = end.extra
        # Standard deviations of points: rows of the slopes through the factor, sd^2 = |L^-1 s|^2.
        rows = jnp.moveaxis(slopes * scale[:, None], (3, 1, 0, 2), (0, 1, 2, 3)).reshape(scale.shape[1], motions, -1)
        variance = (small_linear.forward(factor, rows) ** 2).sum((1, 2)) / points.shape[1]
        return end.system.energy, jnp.sqrt(variance), jnp.sqrt((error**2).sum(0)), end.memory.noise

    state = lm.State(
        x=begin,
        scene_x=jnp.zeros((1, 0), begin.dtype),
        damping=jnp.full(begin.shape[1:], settings.damping, begin.dtype),
        promised=jnp.zeros(begin.shape[1:], begin.dtype),
    )
    memory = _Memory(noise0, jnp.asarray(settings.robust_sigmas, begin.dtype))
    end = lm.minimise(
        evaluate, energy, finish, state, memory, np.zeros(begin.shape[1], np.int32), (body.low, body.high),
        LevenbergMarquardt(damping=settings.damping), iterations,
    )  # fmt: skip
    value, sd, error, _ = end.report
    best = jnp.nan_to_num(value, nan=jnp.inf).reshape(people, starts).argmin(1)
    index = jnp.arange(people) * starts + best
    error, sd, chosen = error[:, index], sd[index], end.state.x[:, index]
    many = seen.sum(0)
    inlier = (seen & (error < settings.outlier_sigmas * prior_noise)).sum(0)
    start_error = jnp.sqrt(
        ((jax.vmap(project, in_axes=-1, out_axes=-1)(before, own.intrinsics) - own.points[:2]) ** 2).sum(0)
    )
    moved = (many >= _FEWEST[part]) & (inlier >= settings.inlier_share * many) & jnp.isfinite(chosen).all(0)
    mean_of = lambda e: jnp.where(seen, e, 0.0).sum(0) / jnp.where(many > 0, many, jnp.nan)  # noqa: E731
    start_error = mean_of(start_error)
    return _Found(
        vectors=part_points.rotvecs(body, rest, jnp.nan_to_num(chosen)),
        moved=moved,
        error=jnp.where(moved, mean_of(error), start_error),
        start_error=start_error,
        sd=jnp.where(moved, sd, jnp.nan),
        expression=jnp.where(moved, chosen[np.asarray(layout.expression, np.int32)], 0.0),
    )


class _Memory(NamedTuple):
    """What one evaluation hands to the next."""

    noise: Float[Array, "N"]
    """Of a point of confidence 1, pixels."""
    width: Float[Array, ""]


def _noise(settings: PartFit, error: Array, weight: Array, prior: Array) -> Float[Array, "N"]:
    """Noise from the size of the part and, by the number of points, from their median error."""
    seen = weight > 0
    found = robust.masked_median(jnp.sqrt((error**2).sum(0)) * weight, seen) / _RAYLEIGH_MEDIAN
    count = seen.sum(0)
    share = count / (count + settings.noise_prior_points)
    floor = _LEAST_NOISE * prior
    return jnp.exp((1.0 - share) * jnp.log(prior) + share * jnp.log(jnp.clip(found, floor, 2.0 * prior)))


def of_pose(body: PartBody, rest: part_points.PartRest, bones: Float[Array, "3 B N"]) -> Float[Array, "3 K N"]:
    """Camera points of a pose of the part's bones as it is, also where no motion says how a bone turns."""
    none = jnp.zeros((len(body.sd), bones.shape[-1]), bones.dtype)
    return part_points.points(body, rest._replace(still=bones), none)


def _with_focal(k: Float[Array, "3 3 N"], log_focal: Float[Array, "N"]) -> Float[Array, "3 3 N"]:
    scaled = jnp.concatenate([k[:2, :2] * jnp.exp(log_focal), k[:2, 2:]], axis=1)
    return jnp.concatenate([scaled, k[2:]])
