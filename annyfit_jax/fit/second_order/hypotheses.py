"""Several starts of every person, from 2D keypoints, words and the mixture of poses: a search over orientations and postures.

A candidate is a posture, a direction that it is seen from, and a reading of the keypoints (as they are, or with left and right
exchanged). Its roll about the line of sight, its distance and its place have a closed form: with the projections a_k of its
keypoints and the rays b_k as complex numbers, the best c in b ~ c a + t is a weighted least-squares fit, roll is the angle of c
and distance 1 / |c|; wild keypoints are weighed down in a second and third round. Every candidate of a posture is one batched
product over people, in float32, over the keypoints that are seen. Candidates cost what their keypoints, their posture and
gravity say in nats; the best one and the best ones that are turned away from all before are the starts.

The roll of the camera (as it is, or turned by a quarter or half turn) is decided per scene by the same costs.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.spatial.transform import Rotation

from annyfit_jax.fit.config import FitConfig, MapObjective
from annyfit_jax.fit.problem import AnyArray, Problem, Variables
from annyfit_jax.fit.second_order.columns import FOCAL, PITCH, ROLL, up
from annyfit_jax.fit.second_order.costs.gravity import AXES, face_nats
from annyfit_jax.fit.second_order.map_body import MapBody, pose_prior_arrays
from annyfit_jax.fit.second_order.map_cues import FIXED, MapCues, middle_ages
from annyfit_jax.fit.second_order.placement import refit_translation
from annyfit_jax.lifting import lift, lifter_rig
from annyfit_jax.lifting.lift import Hypotheses, Reading
from annyfit_jax.lifting.lifter_features import Told
from annyfit_jax.people.scene import COCO17
from body_models import anny, rotations

_J = {name: i for i, name in enumerate(COCO17)}
_YAWS_DEGREES = np.arange(0.0, 360.0, 22.5)
_PITCHES_DEGREES = np.array([-60.0, -30.0, 0.0, 30.0, 60.0])
_FACING = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""From the body's axes (x left, y back, z up) to those of a camera that it faces."""
_PART_WEIGHT = {
    "nose": 0.8, "eye": 0.8, "ear": 0.8, "shoulder": 1.0, "hip": 1.0, "knee": 0.7, "ankle": 0.5, "elbow": 0.4, "wrist": 0.25,
}  # fmt: skip
"""How much a keypoint says before the limbs are known."""
_WEIGHTS = np.array([_PART_WEIGHT[name.split("_")[-1]] for name in COCO17])
_ROUNDS = 2
_SPREAD = 0.06
"""How far the keypoints of a coarse posture are off, as a share of the person's size in the picture."""
_APART_DEGREES = 50.0
"""Starts differ by at least so much in orientation, or by another reading of the keypoints."""
_MODES = np.deg2rad([0.0, 90.0, 180.0, 270.0])
_MODE_NATS = np.array([0.0, 6.5, 0.0, 6.5])
"""Cost of a picture that is turned. People on their heads are as rare as pictures on theirs: half a turn costs nothing. A
person who lies on the side is more likely than a picture turned by a quarter."""
_NEAREST_M = 0.3
_ANYWHERE_M = 3.0
_LIFTED_SPREAD = 0.04
"""How far the keypoints of a right hypothesis of the lifter are off, as a share of the person's size in the picture."""
_ALIKE = 0.1
"""Hypotheses whose keypoints differ by less than this share of their spread are one."""
_MUCH = 1e3
"""Nats: a twin is taken only where nothing else is left."""


def _exchange(*parts: str) -> np.ndarray:
    index = np.arange(len(COCO17))
    for part in parts:
        left, right = _J[f"left_{part}"], _J[f"right_{part}"]
        index[[left, right]] = right, left
    return index


READINGS = np.stack([
    _exchange(),
    _exchange("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"),
    _exchange("hip", "knee", "ankle"),
    _exchange("shoulder", "elbow", "wrist"),
])  # fmt: skip
"""(reading, 17): which detected keypoint each joint is taken for: as they are, sides exchanged, legs, arms."""


class Starts(NamedTuple):
    """K starts of N people."""

    variables: Variables
    """Every array with a leading axis of starts."""
    reading: Int[Array, "K N"]
    """Row of `READINGS`."""
    roll_mode: Float[Array, "G"]
    """Turn of each scene's picture, radians."""


class Lifted(NamedTuple):
    """What the lifter says of N people."""

    variables: Variables
    """Its best hypotheses as starts, every array with a leading axis; they stand somewhere in front of the camera."""
    reading: Int[Array, "K N"]
    """Row of `READINGS`."""
    cost: Float[Array, "K N"]
    """By which they were chosen, nats."""
    log_probability: Float[Array, "K N"]
    said: tuple[Hypotheses, ...]
    """All hypotheses of each reading; people first."""


class _Candidates(NamedTuple):
    """One posture from all directions in all readings, of all people: A = readings x directions."""

    cost: Float[Array, "A N"]
    by_mode: Float[Array, "mode A N"]
    """Cost of gravity for each turn of the picture."""
    turn: Float[Array, "2 A N"]
    """Real and imaginary part of c."""
    place: Float[Array, "2 A N"]
    """t."""


def directions() -> Float[np.ndarray, "V 3 3"]:
    """Rotations from the body's axes to the line of sight: pitch towards the camera x yaw about the body's own axis."""
    pitch = Rotation.from_euler("x", _PITCHES_DEGREES[:, None], degrees=True).as_matrix()
    yaw = Rotation.from_euler("y", -_YAWS_DEGREES[:, None], degrees=True).as_matrix()
    return np.einsum("aij,bjk,kl->abil", pitch, yaw, _FACING).reshape(-1, 3, 3)


def search(
    config: FitConfig, body: MapBody, problem: Problem, cues: MapCues, shape: Float[Array, "S N"], count: int
) -> Starts:
    """The best `count` starts of every person, and the turn of every scene's picture.

    Args:
      shape: phenotypes that the words name.
    """
    settings = config.map
    dtype = shape.dtype
    readings = READINGS if settings.swapped_sides else READINGS[:1]
    poses, log_weight, symmetric = _postures(body, cues)
    templates = _templates(body, shape, poses)  # (P, 3, 17, N)
    sight, rays, weight, spread = _observed(config, problem, cues, readings)
    grid = directions().astype(dtype)
    view = jnp.asarray(grid)
    tilt = settings.pitch_degrees * np.pi / 180.0
    ups = jnp.stack([up(jnp.asarray(tilt, dtype), jnp.asarray(mode, dtype)) for mode in _MODES])
    ups_seen = jnp.einsum("mi,ijn->mjn", ups, sight)  # in the axes of each line of sight

    def one(posture: tuple[Array, ...]) -> _Candidates:
        """A posture in one reading."""
        template, log_prior, which = posture
        return _candidates(
            settings, template, log_prior - settings.swap_nats * (which > 0), view,
            jax.lax.dynamic_index_in_dim(rays, which, 1), jax.lax.dynamic_index_in_dim(weight, which, 0),
            spread, ups_seen, cues,
        )  # fmt: skip

    # Exchanged sides are tried with symmetric postures alone: there are few of them.
    posture = np.concatenate([np.arange(len(poses)), *(np.array(symmetric) for _ in readings[1:])])
    which = np.concatenate(
        [np.zeros(len(poses), int), *(np.full(len(symmetric), k + 1) for k in range(len(readings) - 1))]
    )
    every = jax.lax.map(one, (templates[posture], log_weight[posture], jnp.asarray(which, jnp.int32)))
    # The turn of each picture: what its people cost at their best.
    total = (every.cost[:, None] + every.by_mode).min((0, 2))  # (mode, N)
    total = jnp.where(jnp.asarray(cues.real) > 0, total, 0.0)
    by_scene = jax.ops.segment_sum(total.T, problem.scene, num_segments=problem.num_scenes)
    by_scene = by_scene + jnp.asarray(_MODE_NATS, dtype)
    mode = jnp.where(jnp.asarray(cues.roll_known) > 0, 0, by_scene.argmin(1))
    mine = jnp.take_along_axis(every.by_mode, mode[problem.scene][None, None, None], axis=1)[:, 0]
    cost = every.cost + mine  # (P, A, N)
    # The best posture of each direction and reading.
    groups = [np.flatnonzero(which == k) for k in range(len(readings))]
    winner = jnp.concatenate([jnp.asarray(group)[cost[group].argmin(0)] for group in groups])  # (A, N)
    pick = lambda x: jnp.concatenate(  # noqa: E731
        [jnp.take_along_axis(x, part[None], axis=0)[0] for part in jnp.split(winner, len(groups))]
    )
    lowest = pick(cost)
    turn = jnp.stack([pick(every.turn[:, i]) for i in range(2)])
    place = jnp.stack([pick(every.place[:, i]) for i in range(2)])
    rotation = _rolled(turn, jnp.tile(view, (len(readings), 1, 1)))  # (3, 3, A, N)
    reading = np.repeat(np.arange(len(readings)), len(grid))
    chosen = _apart(lowest, rotation, reading, count)  # (K, N)

    def take(x: Array) -> Array:
        """(..., A, N) -> (..., K, N)."""
        index = jnp.broadcast_to(chosen, (*x.shape[:-2], *chosen.shape))
        return jnp.take_along_axis(x, index, axis=-2)

    root = jnp.einsum("ijn,jkcn->ikcn", sight, take(rotation))
    scale = jnp.sqrt((take(turn) ** 2).sum(0))
    depth = jnp.maximum(1.0 / jnp.maximum(scale, 1e-6), _NEAREST_M)
    offset = take(place)
    centre = jnp.concatenate([offset, jnp.ones_like(offset[:1])]) * depth
    transl = jnp.einsum("ijn,jcn->icn", sight, centre)
    pose = jnp.moveaxis(poses[jnp.asarray(posture)[take(winner)]], 1, -1)  # (K, 3, B, N)
    variables = Variables(
        jnp.moveaxis(transl, 1, 0),
        jnp.moveaxis(_rotvec(root), 1, 0),
        jnp.broadcast_to(shape, (count, *shape.shape)),
        pose,
    )
    return Starts(variables, jnp.asarray(reading)[chosen], jnp.asarray(_MODES, dtype)[mode])


def read_keypoints(
    config: FitConfig, body: MapBody, problem: Problem, cues: MapCues, roll_mode: Float[Array, "G"] | None = None,
    *, mirror: bool = False,
) -> list[Reading]:  # fmt: skip
    """What the lifter says of every person: with the keypoints as they are and, where sides may be exchanged, in every reading.

    Args:
      roll_mode: turn of each scene's picture, radians. The lifter knows upright pictures alone: it sees them turned back, and
        what it says is turned like the picture. None: as they are.
      mirror: as in `lift.read`.

    Raises ValueError for a body that was prepared without the lifter.
    """
    if body.lifter is None:
        raise ValueError("config.map.lifted: the body was prepared without the lifter")
    rays = jnp.moveaxis(_rays(problem), 0, -1).swapaxes(0, 1)[..., :2].astype(jnp.float32)  # (N, 17, 2)
    turn = jnp.zeros((problem.num_scenes,)) if roll_mode is None else roll_mode
    back = -turn[problem.scene, None] * jnp.asarray([0.0, 0.0, 1.0])  # about the optical axis
    upright = rotations.rotvec_to_matrix(back).astype(jnp.float32)  # (N, 3, 3)
    rays = rays @ jnp.swapaxes(upright[:, :2, :2], 1, 2)
    confidence = jnp.asarray(problem.cues.keypoint_confidence, jnp.float32).T
    told = _told(config, problem, cues)
    readings = READINGS if config.map.swapped_sides else READINGS[:1]
    many = len(readings)
    taken = lambda x: jnp.concatenate([x[:, reading] for reading in readings])  # noqa: E731
    repeated = Told(*(jnp.tile(x, (many, *(1,) * (x.ndim - 1))) for x in told))
    every = lift.read(body.lifter, taken(rays), taken(confidence), repeated, mirror=mirror)
    every = every._replace(view=every.view @ jnp.tile(upright, (many, 1, 1)))
    return [jax.tree.map(lambda x, part=part: jnp.split(x, many)[part], every) for part in range(many)]


def with_read_ages(config: FitConfig, cues: MapCues, reading: Reading) -> MapCues:
    """The cues with ages to start from as the lifter reads them, where no word tells."""
    middle = jnp.asarray(middle_ages(config.map), cues.age_start.dtype)[reading.age_class]
    return cues._replace(age_start=jnp.where(jnp.asarray(cues.age_known) > 0, cues.age_start, middle))


def lifted(
    config: FitConfig,
    body: MapBody,
    problem: Problem,
    cues: MapCues,
    readings: list[Reading],
    shape: Float[Array, "S N"],
    *,
    average: bool = False,
) -> Lifted:
    """The lifter's best `config.map.lifted` hypotheses as starts, for bodies of these phenotypes.

    The best are those that cost least by their probability and by the keypoints that they explain, once each stands where it
    explains them best; hypotheses that are nearly the same count as one.

    Args:
      average: each stands at the mean of those like it (`lift.averaged`), for whoever takes the best one as it is.
    """
    assert body.lifter is not None
    dtype, people = shape.dtype, shape.shape[-1]
    said = [lift.bodies(body.lifter, reading, shape.T.astype(jnp.float32)) for reading in readings]
    count, each = max(config.map.lifted, 1), said[0].log_probability.shape[1]
    joined = Hypotheses(*(jnp.concatenate(parts, axis=1) for parts in zip(*said, strict=True)))  # (N, R K, ...)
    which = np.repeat(np.arange(len(readings)), each)
    keypoints = jnp.moveaxis(joined.keypoints, 0, -1).swapaxes(1, 2).astype(dtype)  # (A, 3, 17, N)
    observed, confidence = jnp.asarray(problem.cues.keypoints_px), jnp.asarray(problem.cues.keypoint_confidence)
    confidence = jnp.where(confidence >= config.map.min_confidence, confidence, 0.0)
    mine = READINGS[which]  # (A, 17)
    flat = lambda x: jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)  # noqa: E731 (A, ..., N) -> (..., A N)
    wide = lambda x: jnp.broadcast_to(x, (len(which), *np.shape(x)))  # noqa: E731
    pixels, weight = flat(jnp.moveaxis(observed[:, mine], 1, 0)), flat(confidence[mine])
    size = flat(wide(jnp.asarray(cues.size_px)))
    k = flat(wide(jnp.asarray(problem.cues.intrinsics)))
    nearby = _ANYWHERE_M * flat(wide(_rays(problem).mean(1)))
    transl = refit_translation(flat(keypoints), pixels, weight, k, nearby, _LIFTED_SPREAD * size)
    placed = flat(keypoints) + transl[:, None]
    depth = jnp.maximum(placed[2], _NEAREST_M)
    x, y = placed[:2] / depth
    px = jnp.stack([k[0, 0] * x + k[0, 1] * y + k[0, 2], k[1, 1] * y + k[1, 2]])
    off = ((px - pixels) ** 2).sum(0) / (_LIFTED_SPREAD * size) ** 2
    unexplained = (0.5 * weight * off / (1.0 + 0.25 * off)).sum(0).reshape(len(which), people)
    prior = config.map.swap_nats * (which[:, None] > 0) - joined.log_probability.T
    if config.map.visible_face:
        prior = prior + _face_cost(keypoints, _rays(problem).mean(1), cues)
    chosen = _different(unexplained + prior, keypoints, which, count)  # (K, N)
    if average:
        span = lifter_rig.span(lifter_rig.rest_keypoints(body.lifter.rig, shape.T.astype(jnp.float32)))
        joined = lift.averaged(joined, (unexplained + prior).T, span, which[:, None] == which)
    take = lambda x: jnp.take_along_axis(x, chosen.T.reshape(people, count, *(1,) * (x.ndim - 2)), axis=1)  # noqa: E731
    rotvec = jnp.moveaxis(_rotvec(jnp.moveaxis(take(joined.pose), (-2, -1), (0, 1))), 0, -1)
    # Bones that it does not predict keep the relaxed pose.
    rest = jnp.asarray(body.fit.pose_rest, jnp.float32).T
    pose = lift.whole_pose(rotvec, rest, body.lifter.rig.layout.rows)  # (N, K, B, 3)
    root = _rotvec(jnp.moveaxis(take(joined.root), (-2, -1), (0, 1)))  # (3, N, K)
    # Where they stand is found anew for the skinned body (`placement`); a start must only be in front of the camera.
    middle = _ANYWHERE_M * _rays(problem).mean(1)
    variables = Variables(
        jnp.broadcast_to(middle, (count, *middle.shape)).astype(dtype),
        jnp.moveaxis(root, 2, 0).astype(dtype),
        jnp.broadcast_to(shape, (count, *shape.shape)),
        jnp.transpose(pose, (1, 3, 2, 0)).astype(dtype),
    )
    cost = jnp.take_along_axis(unexplained + prior, chosen, axis=0)
    return Lifted(
        variables,
        jnp.asarray(which)[chosen],
        cost,
        jnp.take_along_axis(joined.log_probability.T, chosen, 0),
        tuple(said),
    )


def _different(
    cost: Float[Array, "A N"], keypoints: Float[Array, "A 3 17 N"], which: np.ndarray, count: int
) -> Int[Array, "K N"]:
    """The candidate of lowest cost, and the next ones that are another body, or another reading, than all before."""
    chosen = []
    size = jnp.sqrt((keypoints**2).sum((1, 2)).mean(0))  # (N,)
    kinds = jnp.asarray(which)[:, None]
    for _ in range(count):
        best = cost.argmin(0)
        chosen.append(best)
        mine = jnp.take_along_axis(keypoints, best[None, None, None], axis=0)
        off = jnp.sqrt(((keypoints - mine) ** 2).sum((1, 2))) / size
        alike = (off < _ALIKE) & (kinds == jnp.asarray(which)[best])
        cost = jnp.where(alike, cost + _MUCH, cost)
    return jnp.stack(chosen)


def _told(config: FitConfig, problem: Problem, cues: MapCues) -> Told:
    """What the lifter is told besides keypoints: words, whether the focal length is a guess, heights, gravity."""
    word = jax.nn.one_hot(jnp.asarray(cues.age_log_prob).argmax(0), len(cues.age_log_prob))
    male = jnp.asarray(cues.start_shape)[0] < 0.5
    gender = jnp.stack([male, ~male], -1)
    precision = jnp.asarray(cues.scene_precision)[problem.scene]  # (N, q)
    mean = jnp.asarray(cues.scene_mean)[problem.scene]
    usual = 1.0 / np.radians(config.map.pitch_sd_degrees) ** 2
    number = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    return Told(
        age=number(word * jnp.asarray(cues.age_known)[:, None]),
        gender=number(gender * jnp.asarray(cues.gender_known)[:, None]),
        focal_guessed=number(precision[:, FOCAL] < 0.5 * FIXED),
        height_m=number(cues.facts.height_m),
        height_known=number(cues.facts.height_precision > 0),
        up=number(up(mean[:, PITCH], mean[:, ROLL]).T),
        up_known=number(precision[:, PITCH] > 2.0 * usual),
    )


def of_lifter(config: FitConfig, problem: Problem, cues: MapCues, later: Lifted, count: int) -> Starts:
    """`count` times the lifter's first start, and how the picture is turned as its likeliest bodies tell."""
    likeliest = jnp.moveaxis(later.said[0].keypoints[:, 0], 0, -1).swapaxes(0, 1)  # (3, 17, N)
    mode = roll_of_bodies(config.map, problem, cues, likeliest.astype(later.variables.transl.dtype))
    variables = Variables(*(jnp.broadcast_to(x[0], (count, *x.shape[1:])) for x in later.variables))
    return Starts(variables, jnp.broadcast_to(later.reading[0], (count, later.reading.shape[1])), mode)


def together(first: Starts, later: Lifted) -> Starts:
    """The given starts, then those of the lifter."""
    variables = Variables(
        *(jnp.concatenate([jnp.asarray(a), b]) for a, b in zip(first.variables, later.variables, strict=True))
    )
    return first._replace(variables=variables, reading=jnp.concatenate([first.reading, later.reading]))


def lifter_cost(
    later: Lifted,
    height: Float[Array, "N"],
    keypoints: Float[Array, "K 3 17 N"],
    heights: Float[Array, "K N"],
    reading: Int[Array, "K N"],
) -> Float[Array, "K N"]:
    """What the lifter says against bodies with these keypoints (camera axes, metres): minus its log density of their poses.

    Args:
      height: of the bodies that its hypotheses were given for; sizes do not count.
      heights: of the bodies.
      reading: row of `READINGS` in which each body was fitted, and in which the lifter is asked.
    """
    hips = np.array([_J["left_hip"], _J["right_hip"]])
    bodies = (keypoints - keypoints[:, :, hips].mean(2, keepdims=True)) / heights[:, None, None]

    def of_reading(said: Hypotheses) -> Float[Array, "K N"]:
        own = jnp.moveaxis(said.keypoints, 0, -1).swapaxes(1, 2).astype(keypoints.dtype) / height  # (H, 3, 17, N)
        distance = jnp.sqrt(((bodies[:, None] - own[None]) ** 2).sum(2) + 1e-8).mean(2)  # (K, H, N)
        density = lift.log_density(jnp.swapaxes(distance, 1, 2), said.log_probability, said.log_spread)
        return -density.astype(keypoints.dtype)

    every = jnp.stack([of_reading(said) for said in later.said])
    if len(later.said) == 1:
        return every[0]
    return jnp.take_along_axis(every, reading[None], axis=0)[0]


def with_landmarks(
    found: Starts, known: Float[AnyArray, "N"], root_rotvec: Float[AnyArray, "3 N"], pose: Float[AnyArray, "3 B N"]
) -> Starts:
    """The last start is that of the landmarks, of people who have them, in the place and size of the best one found."""
    here = jnp.asarray(known) > 0
    v = found.variables
    last = Variables(v.transl[0], jnp.asarray(root_rotvec), v.shape[0], jnp.asarray(pose))
    variables = Variables(
        *(jnp.asarray(x).at[-1].set(jnp.where(here, new, x[-1])) for x, new in zip(v, last, strict=True))
    )
    return found._replace(variables=variables, reading=found.reading.at[-1].set(jnp.where(here, 0, found.reading[-1])))


def _postures(body: MapBody, cues: MapCues) -> tuple[Float[Array, "P 3 B"], Float[Array, "P N"], list[int]]:
    """Postures to try, their log weights for each person, and which of them are symmetric, standing and sitting.

    The relaxed pose, every component of the motion capture, and the mean of each mirrored pair of the other postures.
    """
    kinds = pose_prior_arrays()["kinds"]
    means = body.pose_prior.pose
    log_weight = jnp.asarray(cues.posture_log_weight, means.dtype)
    moving = np.flatnonzero(kinds == "mocap")
    first = np.flatnonzero(kinds != "mocap")[::2]
    poses = jnp.concatenate([
        jnp.broadcast_to(jnp.asarray(body.fit.pose_rest, means.dtype), (1, *means.shape[1:])),
        means[moving],
        0.5 * (means[first] + means[first + 1]),
    ])  # fmt: skip
    weights = jnp.concatenate([
        jax.nn.logsumexp(log_weight[moving], axis=0, keepdims=True) - np.log(2.0),
        log_weight[moving] - np.log(2.0),
        log_weight[first] + np.log(2.0),
    ])  # fmt: skip
    sitting = 1 + len(moving) + int(np.flatnonzero(kinds[first] == "sit")[0])
    return poses, weights, [0, sitting]


def _templates(body: MapBody, shape: Float[Array, "S N"], poses: Float[Array, "P 3 B"]) -> Float[Array, "P 3 17 N"]:
    """Keypoints of every posture about the root, in the body's axes."""
    people = shape.shape[-1]
    zero = jnp.zeros((3, people), shape.dtype)

    def one(pose: Float[Array, "3 B"]) -> Float[Array, "3 17 N"]:
        wide = jnp.broadcast_to(pose[..., None], (*pose.shape, people))
        return anny.points_people_last(body.points, shape, zero, wide, zero)[:, : len(COCO17)]

    return jax.lax.map(one, poses)


def _rays(problem: Problem) -> Float[Array, "3 17 N"]:
    """Keypoints as rays (x / z, y / z, 1) in camera axes."""
    k, px = jnp.asarray(problem.cues.intrinsics), jnp.asarray(problem.cues.keypoints_px)
    y = (px[1] - k[1, 2]) / k[1, 1]
    x = (px[0] - k[0, 2] - k[0, 1] * y) / k[0, 0]
    return jnp.stack([x, y, jnp.ones_like(x)])


def _observed(
    config: FitConfig, problem: Problem, cues: MapCues, readings: np.ndarray
) -> tuple[Float[Array, "3 3 N"], Float[Array, "2 R 17 N"], Float[Array, "R 17 N"], Float[Array, "N"]]:
    """Axes of each person's line of sight (columns), rays in them, their weights, and how far postures are off."""
    k, confidence = jnp.asarray(problem.cues.intrinsics), jnp.asarray(problem.cues.keypoint_confidence)
    seen = jnp.where(confidence >= config.map.min_confidence, confidence, 0.0)
    rays = _rays(problem)
    rays = jnp.where(seen > 0, rays, jnp.asarray([0.0, 0.0, 1.0], rays.dtype)[:, None, None])
    weight = seen * jnp.asarray(_WEIGHTS, rays.dtype)[:, None]
    total = weight.sum(0)
    middle = (weight * rays).sum(1) / jnp.where(total > 0, total, 1.0)
    middle = jnp.where(total > 0, middle, jnp.asarray([0.0, 0.0, 1.0], rays.dtype)[:, None])
    sight = _shortest_arc(middle / jnp.sqrt((middle**2).sum(0)))
    turned = jnp.einsum("ijn,ikn->jkn", sight, rays)
    flat = turned[:2] / jnp.maximum(turned[2], 0.05)
    focal = 0.5 * (k[0, 0] + k[1, 1])
    spread = _SPREAD * jnp.asarray(cues.size_px) / focal
    return sight, flat[:, readings], weight[readings], spread


def _candidates(
    settings: MapObjective,
    template: Float[Array, "3 17 N"],
    log_prior: Float[Array, "N"],
    view: Float[Array, "V 3 3"],
    rays: Float[Array, "2 R 17 N"],
    weight: Float[Array, "R 17 N"],
    spread: Float[Array, "N"],
    ups: Float[Array, "mode 3 N"],
    cues: MapCues,
) -> _Candidates:
    points, people = template.shape[1:]
    turned = (view.reshape(-1, 3) @ template.reshape(3, -1)).reshape(len(view), 3, points, people)
    ax, ay = turned[:, 0][None], turned[:, 1][None]  # (1, V, 17, N)
    bx, by = rays[0][:, None], rays[1][:, None]  # (R, 1, 17, N)
    w = jnp.broadcast_to(weight[:, None], (len(weight), len(view), points, people))
    tiny = 1e-9

    def fit(w: Array) -> tuple[Array, ...]:
        total = w.sum(2) + tiny
        mean = lambda v: (w * v).sum(2) / total  # noqa: E731
        mx, my, ux, uy = mean(ax), mean(ay), mean(bx), mean(by)
        power = mean(ax * ax + ay * ay) - mx * mx - my * my
        real = mean(ax * bx + ay * by) - mx * ux - my * uy
        imag = mean(ax * by - ay * bx) - mx * uy + my * ux
        cx, cy = real / jnp.maximum(power, tiny), imag / jnp.maximum(power, tiny)
        return cx, cy, ux - (cx * mx - cy * my), uy - (cx * my + cy * mx)

    def squared(cx: Array, cy: Array, tx: Array, ty: Array) -> Array:
        cx, cy, tx, ty = (v[:, :, None] for v in (cx, cy, tx, ty))
        ex, ey = bx - (cx * ax - cy * ay) - tx, by - (cx * ay + cy * ax) - ty
        return (ex * ex + ey * ey) / spread**2

    def again(_: Array, last: tuple[tuple, Array]) -> tuple[tuple, Array]:
        solution = fit(w / (1.0 + 0.25 * last[1]) ** 2)
        return solution, squared(*solution)

    nothing = jnp.zeros(w.shape[:2] + w.shape[3:], w.dtype)
    solution, off = jax.lax.fori_loop(0, 1 + _ROUNDS, again, ((nothing,) * 4, jnp.zeros_like(w)))
    cost = 0.5 * (w * off / (1.0 + 0.25 * off)).sum(2) - log_prior  # Geman-McClure of two spreads
    cx, cy, tx, ty = solution
    size = jnp.sqrt(cx * cx + cy * cy) + tiny
    cosine, sine = cx / size, cy / size

    def direction(upper: str, lower: str) -> Array:
        """Unit vector between two pairs of keypoints, rolled, (3, R, V, N)."""
        a, b = ([_J[f"left_{part}"], _J[f"right_{part}"]] for part in (upper, lower))
        d = 0.5 * (turned[:, :, a].sum(2) - turned[:, :, b].sum(2))  # (V, 3, N)
        d = d / (jnp.sqrt((d * d).sum(1, keepdims=True)) + tiny)
        x, y, z = d[:, 0][None], d[:, 1][None], d[:, 2][None]
        return jnp.stack([cosine * x - sine * y, sine * x + cosine * y, z + 0 * cosine])

    logs = [
        jnp.full((len(ups), *cost.shape), np.log((1 - settings.standing_share - settings.trunk_share) / (4 * np.pi)))
    ]
    for lower, share, sd in (
        ("ankle", settings.standing_share, settings.standing_sd),
        ("hip", settings.trunk_share, settings.trunk_sd),
    ):
        # The grid is coarse and the pitch of the camera unknown.
        wide = np.hypot(sd, np.deg2rad(settings.pitch_sd_degrees))
        along = (ups[:, :, None, None] * direction("shoulder", lower)[None]).sum(1)
        logs.append(np.log(share / (2 * np.pi * wide**2)) - (1.0 - along) / wide**2)
    gravity = -jax.nn.logsumexp(jnp.stack(logs), axis=0) if settings.gravity else jnp.zeros_like(logs[0])
    if settings.visible_face:
        cost = cost + _face_cost(turned, jnp.asarray([0.0, 0.0, 1.0], cost.dtype)[:, None], cues)
    flat = lambda x: x.reshape(*x.shape[:-3], -1, people)  # noqa: E731
    return _Candidates(flat(cost), flat(gravity), jnp.stack([flat(cx), flat(cy)]), jnp.stack([flat(tx), flat(ty)]))


def _face_cost(keypoints: Float[Array, "A 3 17 N"], sight: Float[Array, "3 _"], cues: MapCues) -> Float[Array, "A N"]:
    """What it costs candidates that a face that is seen looks away, or one that is not seen at the camera, nats."""
    nose, ears = keypoints[:, :, _J["nose"]], keypoints[:, :, [_J["left_ear"], _J["right_ear"]]].mean(2)
    forward = nose - ears  # (A, 3, N)
    tiny = jnp.asarray(1e-9, keypoints.dtype)
    long = jnp.sqrt((forward**2).sum(1) + tiny) * jnp.sqrt((sight**2).sum(0) + tiny)
    return face_nats((forward * sight).sum(1) / long, cues)


def _apart(
    cost: Float[Array, "A N"], rotation: Float[Array, "3 3 A N"], reading: np.ndarray, count: int
) -> Int[Array, "K N"]:
    """The best candidate, and the best ones turned away from all before; another reading counts as turned away."""
    chosen = []
    kinds = jnp.asarray(reading)[:, None]
    for _ in range(count):
        best = cost.argmin(0)
        chosen.append(best)
        index = jnp.broadcast_to(best, (3, 3, 1, best.shape[-1]))
        mine = jnp.take_along_axis(rotation, index, axis=2)
        trace = (rotation * mine).sum((0, 1))
        near = (0.5 * (trace - 1.0) > np.cos(np.deg2rad(_APART_DEGREES))) & (kinds == jnp.asarray(reading)[best])
        cost = jnp.where(near, jnp.inf, cost)
    return jnp.stack(chosen)


def _rolled(turn: Float[Array, "2 A N"], view: Float[Array, "A 3 3"]) -> Float[Array, "3 3 A N"]:
    """Rotations that the complex factors turn about the line of sight."""
    size = jnp.sqrt((turn**2).sum(0)) + 1e-9
    cosine, sine = turn / size
    v = jnp.moveaxis(view, 0, -1)[..., None]  # (3, 3, A, 1)
    return jnp.stack([cosine * v[0] - sine * v[1], sine * v[0] + cosine * v[1], v[2] + 0 * cosine])


def _shortest_arc(direction: Float[Array, "3 N"]) -> Float[Array, "3 3 N"]:
    """Rotations that take the optical axis to directions in front of the camera."""
    x, y, z = direction
    f = 1.0 / (1.0 + z)
    return jnp.stack([
        jnp.stack([1.0 - x * x * f, -x * y * f, x]),
        jnp.stack([-x * y * f, 1.0 - y * y * f, y]),
        jnp.stack([-x, -y, z]),
    ])  # fmt: skip


def _rotvec(m: Float[Array, "3 3 *batch"]) -> Float[Array, "3 *batch"]:
    """Rotation vectors of matrices, through the largest component of the quaternion (well conditioned at pi)."""
    trace = m[0, 0] + m[1, 1] + m[2, 2]
    d = jnp.stack([trace, m[0, 0], m[1, 1], m[2, 2]])
    rows = [
        jnp.stack([1.0 + trace, m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]]),
        jnp.stack([m[2, 1] - m[1, 2], 1.0 + 2 * m[0, 0] - trace, m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]]),
        jnp.stack([m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], 1.0 + 2 * m[1, 1] - trace, m[1, 2] + m[2, 1]]),
        jnp.stack([m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], 1.0 + 2 * m[2, 2] - trace]),
    ]
    q = jnp.take_along_axis(jnp.stack(rows), d.argmax(0)[None, None], axis=0)[0]
    q = q / jnp.sqrt((q * q).sum(0))
    q = jnp.where(q[0] < 0, -q, q)
    sine = jnp.sqrt((q[1:] ** 2).sum(0))
    angle = 2.0 * jnp.arctan2(sine, q[0])
    return q[1:] * jnp.where(sine > 1e-6, angle / jnp.maximum(sine, 1e-6), 2.0)


def read(problem: Problem, reading: Int[Array, "N"]) -> Problem:
    """The problem with each person's keypoints as a start reads them."""
    seen = problem.cues
    both = jnp.concatenate([jnp.asarray(seen.keypoints_px), jnp.asarray(seen.keypoint_confidence)[None]])
    index = jnp.asarray(READINGS)[reading].T  # (17, N)
    # The barrier keeps XLA from reading anew wherever a keypoint is used.
    taken = jax.lax.optimization_barrier(jnp.take_along_axis(both, index[None], axis=1))
    return dataclasses.replace(problem, cues=seen._replace(keypoints_px=taken[:2], keypoint_confidence=taken[2]))


def best(energy: Float[Array, "K N"], problem: Problem, cues: MapCues) -> tuple[Int[Array, "N"], Int[Array, "G"]]:
    """The start of lowest energy: of every person, and of every scene by the sum over its people."""
    energy = jnp.nan_to_num(energy, nan=1e30, posinf=1e30)
    counted = jnp.where(jnp.asarray(cues.real) > 0, energy, 0.0)
    total = jax.ops.segment_sum(counted.T, problem.scene, num_segments=problem.num_scenes)
    return energy.argmin(0), total.argmin(1)


def roll_mode(
    config: FitConfig,
    problem: Problem,
    cues: MapCues,
    keypoints: Float[Array, "3 17 N"],
    searched: bool,
    found: Float[Array, "G"],
) -> Float[Array, "G"]:
    """Turn of each scene's picture: as the search found it, or as the known bodies say."""
    return found if searched else roll_of_bodies(config.map, problem, cues, keypoints)


def roll_of_bodies(
    settings: MapObjective, problem: Problem, cues: MapCues, keypoints: Float[Array, "3 17 N"]
) -> Float[Array, "G"]:
    """Turn of each scene's picture, radians, from bodies that are known."""
    axes = jnp.einsum("ikn,ak->ain", keypoints, jnp.asarray(AXES, keypoints.dtype))
    unit = axes / (jnp.sqrt((axes**2).sum(1, keepdims=True)) + 1e-6)
    costs = []
    for mode in _MODES:
        g = up(jnp.asarray(np.deg2rad(settings.pitch_degrees), unit.dtype), jnp.asarray(mode, unit.dtype))
        logs = [jnp.full((unit.shape[-1],), np.log((1 - settings.standing_share - settings.trunk_share) / (4 * np.pi)))]
        for direction, share, sd in zip(
            unit, (settings.standing_share, settings.trunk_share), (settings.standing_sd, settings.trunk_sd)
        ):
            wide = np.hypot(sd, np.deg2rad(settings.pitch_sd_degrees))
            logs.append(np.log(share / (2 * np.pi * wide**2)) - (1.0 - (g[:, None] * direction).sum(0)) / wide**2)
        costs.append(-jax.nn.logsumexp(jnp.stack(logs), axis=0))
    total = jnp.where(jnp.asarray(cues.real) > 0, jnp.stack(costs), 0.0)
    by_scene = jax.ops.segment_sum(total.T, problem.scene, num_segments=problem.num_scenes)
    mode = (by_scene + jnp.asarray(_MODE_NATS, unit.dtype)).argmin(1)
    return jnp.asarray(_MODES, unit.dtype)[jnp.where(jnp.asarray(cues.roll_known) > 0, 0, mode)]
