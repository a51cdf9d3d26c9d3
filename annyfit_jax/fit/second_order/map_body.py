"""What the MAP objective must know about the body: contracted cues, surface normals, heights, limits, population."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from annyfit_jax.fit.config import FitConfig
from annyfit_jax.fit.fit_body import FitBody, PointFunction
from annyfit_jax.fit.problem import AnyArray
from annyfit_jax.fit.second_order import jacobian
from annyfit_jax.fit.second_order.jacobian import Linearization
from annyfit_jax.fit.second_order.linear_plan import Plan, make_plan
from annyfit_jax.lifting.lift import Lifter
from annyfit_jax.lifting.lifter_weights import load_lifter
from annyfit_jax.people import dense_points
from annyfit_jax.people.anthropometry import mean_height_phenotypes
from annyfit_jax.people.scene import COCO17
from body_models import anny, linear
from body_models.anny import AnnyModel

_J = {name: i for i, name in enumerate(COCO17)}
_TORSO_SHARE = 0.3
"""Length of the torso as a share of body height, nearly constant over life."""
# Spheres that fill a body: keypoints they lie between and their radius as a share of the torso's length.
_SPHERES: tuple[tuple[dict[str, float], float], ...] = (
    ({"left_ear": 0.5, "right_ear": 0.5}, 0.20),
    ({"left_shoulder": 0.4, "right_shoulder": 0.4, "left_hip": 0.1, "right_hip": 0.1}, 0.26),
    ({"left_shoulder": 0.2, "right_shoulder": 0.2, "left_hip": 0.3, "right_hip": 0.3}, 0.26),
    ({"left_hip": 0.5, "right_hip": 0.5}, 0.28),
    *(({f"{s}_hip": 0.5, f"{s}_knee": 0.5}, 0.14) for s in ("left", "right")),
    *(({f"{s}_knee": 0.5, f"{s}_ankle": 0.5}, 0.10) for s in ("left", "right")),
    *(({f"{s}_shoulder": 0.5, f"{s}_elbow": 0.5}, 0.09) for s in ("left", "right")),
    *(({f"{s}_elbow": 0.5, f"{s}_wrist": 0.5}, 0.07) for s in ("left", "right")),
)
SPHERES = np.array([[weights.get(name, 0.0) for name in COCO17] for weights, _ in _SPHERES])
"""(spheres, 17) weights of the keypoints that a sphere's centre is the mean of."""
RADII = _TORSO_SHARE * np.array([radius for _, radius in _SPHERES])
"""(spheres,) as shares of body height."""
_NEIGHBOURS = 4
_FELT_BY_SURFACE = (
    "breast", "pelvis", "upperarm02", "lowerarm02", "wrist", "upperleg02", "lowerleg02", "foot",
)  # fmt: skip
"""Bones that move keypoints by little or nothing: without dense points they keep the posture of the start."""


@dataclass(frozen=True)
class MapLayout:
    """Static facts (hashable)."""

    neighbours: tuple[tuple[int, ...], ...]
    """Per dense point: the nearest others on the resting body."""
    spheres: tuple[tuple[float, ...], ...]
    """(spheres, 17) weights of the keypoints."""
    radii: tuple[float, ...]
    """Radius of each sphere as a share of body height."""
    keypoint_slots: tuple[int, ...]
    """Slot in the bone tree of the bone that each keypoint's offset turns with."""
    place: PointFunction = anny.points_people_last
    """Keypoints and dense points of the body."""
    linearize: Callable[..., Linearization] = jacobian.linearize
    """(plan, points, variables) -> the same points and their derivatives."""


@struct.dataclass
class PosePrior:
    """Mixture of Gaussians over the rotations of the free bones, in column order (`experiments.builders.build_pose_prior`)."""

    mean: Float[Array, "C P"]
    precision: Float[Array, "C P P"]
    log_scale: Float[Array, "C"]
    """Half the log determinant of each precision, less the largest."""
    pose: Float[Array, "C 3 B"]
    """The mean postures, all bones."""


@struct.dataclass
class MapBody:
    """A body prepared for the MAP objective: a pytree, passed to the compiled fit as an argument."""

    fit: FitBody
    """Ranges of shape and pose; heights."""
    points: Any
    """17 keypoints, then the dense points."""
    plan: Plan
    normals: Float[Array, "3 138"]
    """Outward unit normals of the dense points on the mean body at rest."""
    normal_skin: Float[Array, "138 B"]
    """Skinning weights of the dense points, bones in tree order."""
    pose_sd: Float[Array, "F"]
    """Error of the start's rotations, free bones in column order, radians."""
    relaxed_pose: Float[Array, "3 F"]
    relaxed_sd: Float[Array, "F"]
    limit_axes: Float[Array, "3 3 F"]
    """Joint limits: (component, axis, free bone)."""
    limit_low: Float[Array, "3 F"]
    limit_high: Float[Array, "3 F"]
    population_age: Float[Array, "T"]
    population_height: Float[Array, "2 T"]
    """Mean height phenotype of males and females at each age phenotype (WHO-calibrated)."""
    pose_prior: PosePrior
    lifter: Lifter | None
    """Where the config asks for starts or costs of it."""
    layout: MapLayout = struct.field(pytree_node=False)


def map_body(model: AnnyModel, body: FitBody, config: FitConfig, surface: bool = True) -> MapBody:
    """Prepare Anny for the MAP objective. Raises ValueError for a body without Anny's six phenotypes.

    Args:
      surface: with the dense points; without them a body serves for scenes of keypoints and words alone.
    """
    if model.labels.phenotypes != anny.PHENOTYPE_LABELS:
        raise ValueError("solver='lm' fits the six-phenotype Anny: anny.load(phenotypes='default')")
    if not config.map.starts + config.map.lifted:
        raise ValueError("config.map: no start; starts or lifted must be positive")
    dense = dense_points.dense_vertex_indices()
    regressor = np.asarray(model.keypoint_regressor, np.float64)[: len(COCO17)]
    kinds: tuple[int, ...] = (len(COCO17),)
    if surface:
        regressor = np.concatenate([regressor, anny.vertex_regressor(model, dense)])
        kinds = (len(COCO17), len(dense))
    points = anny.contract(model, regressor)
    bones = body.layout.free_bones
    if not surface:
        bones = tuple(row for row in bones if not body.layout.bones[row].startswith(_FELT_BY_SURFACE))
    plan = make_plan(points, model.labels.parents, bones, kinds, 6)
    free = np.asarray(plan.layout.bones)
    axes, low, high = _limits(body, free)
    order = np.asarray(points.layout.tree.order)
    ages, male, female = mean_height_phenotypes()
    dtype = model.dtype
    array = lambda x: linear.on_device(x, dtype)  # noqa: E731
    template = np.asarray(model.vertices.mean, np.float64)
    return MapBody(
        fit=body,
        points=points,
        plan=plan,
        normals=array(normals(template, np.asarray(model.faces))[:, dense]),
        normal_skin=array(np.asarray(model.skin)[order][:, dense].T),
        pose_sd=array([pose_sd(body.layout.bones[row], config) for row in free]),
        relaxed_pose=array(np.asarray(body.pose_rest)[:, free]),
        relaxed_sd=array(1.0 / np.sqrt(np.asarray(body.pose_precision)[free])),
        limit_axes=array(axes),
        limit_low=array(low),
        limit_high=array(high),
        population_age=array(ages),
        population_height=array(np.stack([male, female])),
        pose_prior=_pose_prior(body, free, array),
        lifter=load_lifter(model) if config.map.lifted or config.map.lifter_nats else None,
        layout=MapLayout(
            neighbours=neighbours(template[:, dense]),
            spheres=tuple(tuple(float(w) for w in row) for row in SPHERES),
            radii=tuple(float(radius) for radius in RADII),
            keypoint_slots=_keypoint_slots(model, [int(bone) for bone in order]),
        ),
    )


def body_height(body: MapBody, shape: Float[AnyArray, "S N"]) -> Float[Array, "N"]:
    """Vertical extent of the resting body, metres: `FitBody.height` without its clamp, which hides slopes at bounds."""
    up = linear.evaluate(body.fit.up, body.fit.layout.coefficients(body.points, jnp.asarray(shape)))
    return up.max(0) - up.min(0)


def population_mean(
    body: MapBody, age: Float[Array, "N"], gender: Float[Array, "N"]
) -> tuple[Float[Array, "N"], Float[Array, "N"], Float[Array, "N"]]:
    """Mean height phenotype for age and gender phenotypes, and its derivatives by age and by gender."""
    # The share of every segment that lies below the age, as hinges: products with small tables compile to less than lookups.
    knots, heights = body.population_age, body.population_height
    width, rise = jnp.diff(knots), jnp.diff(heights, axis=1)
    beyond = (age - knots[:-1, None]) / width[:, None]
    by_sex = heights[:, :1] + rise @ jnp.clip(beyond, 0.0, 1.0)
    last = jnp.arange(len(width)) == len(width) - 1
    first = jnp.arange(len(width)) == 0
    inside = (beyond > 0) & (beyond <= 1) | (first[:, None] & (beyond <= 0)) | (last[:, None] & (beyond > 1))
    slope = (rise / width) @ inside.astype(age.dtype)
    mean = by_sex[0] + gender * (by_sex[1] - by_sex[0])
    return mean, slope[0] + gender * (slope[1] - slope[0]), by_sex[1] - by_sex[0]


@functools.cache
def pose_prior_arrays() -> dict[str, np.ndarray]:
    """The shipped mixture: names of its bones and age classes, kinds, means, covariances, log weights by class."""
    with (importlib.resources.files("annyfit_jax") / "data" / "pose_prior.npz").open("rb") as file:
        return dict(np.load(file))


def _pose_prior(body: FitBody, free: np.ndarray, array: Callable) -> PosePrior:
    """The mixture over the bones that are columns; bones that it does not know keep to the relaxed pose."""
    asset = pose_prior_arrays()
    known = {str(name): i for i, name in enumerate(asset["bones"])}
    missing = [body.layout.bones[row] for row in free if body.layout.bones[row] not in known]
    if missing:
        raise ValueError(f"annyfit_jax/data/pose_prior.npz has no bones {missing}: the config frees more than it knows")
    rows = np.array([known[body.layout.bones[row]] for row in free])
    columns = (3 * rows[:, None] + np.arange(3)).ravel()
    covariance = asset["covariance"].astype(np.float64)[:, columns[:, None], columns]
    precision = np.linalg.inv(covariance)
    half_log = 0.5 * np.linalg.slogdet(precision)[1]
    pose = np.tile(np.asarray(body.pose_rest, np.float64), (len(covariance), 1, 1))
    place = {name: i for i, name in enumerate(body.layout.bones)}
    whole = asset["mean"].reshape(len(pose), -1, 3)
    pose[:, :, [place[str(name)] for name in asset["bones"]]] = np.swapaxes(whole, 1, 2)
    return PosePrior(
        mean=array(asset["mean"][:, columns]),
        precision=array(precision),
        log_scale=array(half_log - half_log.max()),
        pose=array(pose),
    )


_KEYPOINT_BONES = {
    "nose": "head", "eye": "head", "ear": "head", "shoulder": "upperarm01", "elbow": "lowerarm01", "wrist": "lowerarm01",
    "hip": "upperleg01", "knee": "lowerleg01", "ankle": "lowerleg01",
}  # fmt: skip


def keypoint_bones() -> list[str]:
    """Per COCO-17 keypoint the bone of Anny that its offset turns with."""
    bones = []
    for name in COCO17:
        side, _, part = name.rpartition("_")
        bone = _KEYPOINT_BONES[part]
        bones.append(bone if bone == "head" else f"{bone}.{side[0].upper()}")
    return bones


def _keypoint_slots(model: AnnyModel, order: list[int]) -> tuple[int, ...]:
    return tuple(order.index(model.labels.bones.index(bone)) for bone in keypoint_bones())


def pose_sd(bone: str, config: FitConfig) -> float:
    """Error of the rotation of a bone where the start is a feed-forward estimate, radians per axis."""
    table = cast("dict[str, float]", config.map.pose_sd)
    stems = [stem for stem in table if bone.startswith(stem)]
    return table[max(stems, key=len) if stems else "limb"]


def _limits(body: FitBody, free: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    axes = np.zeros((3, 3, len(free)))
    low, high = np.full((3, len(free)), -np.inf), np.full((3, len(free)), np.inf)
    rows = np.asarray(body.layout.limit_bones, int)
    for column, row in enumerate(free):
        for axis, limit in enumerate(np.flatnonzero(rows == row)[:3]):
            axes[:, axis, column] = np.asarray(body.limit_axes)[:, limit]
            low[axis, column] = np.asarray(body.limit_low)[limit]
            high[axis, column] = np.asarray(body.limit_high)[limit]
    return axes, low, high


def normals(vertices: Float[np.ndarray, "3 V"], faces: np.ndarray) -> Float[np.ndarray, "3 V"]:
    """Outward unit normals of a mesh's vertices, weighted by the areas of their triangles."""
    a, b, c = (vertices[:, faces[:, k]] for k in range(3))
    face = np.cross((b - a).T, (c - a).T).T
    total = np.zeros_like(vertices)
    for k in range(3):
        for axis in range(3):
            total[axis] += np.bincount(faces[:, k], face[axis], minlength=vertices.shape[1])
    return total / np.maximum(np.linalg.norm(total, axis=0), 1e-12)


def neighbours(points: Float[np.ndarray, "3 K"]) -> tuple[tuple[int, ...], ...]:
    """For each point the nearest others."""
    distance = np.linalg.norm(points[:, :, None] - points[:, None], axis=0)
    return tuple(tuple(int(i) for i in row[1 : 1 + _NEIGHBOURS]) for row in distance.argsort(1, kind="stable"))
