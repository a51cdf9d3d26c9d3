"""Body models as the solver sees them: points of a flat list of people, and what the terms must know about the body."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from annyfit_jax.fit.config import FitConfig
from annyfit_jax.fit.objective import Prediction, Shared
from annyfit_jax.fit.problem import ATTRIBUTES, AnyArray, Variables
from annyfit_jax.people import anatomy, dense_points
from annyfit_jax.people.scene import NUM_DENSE
from body_models import anny, linear, smplx

_BETA_LIMIT = 10.0
"""SMPL-X betas are clamped to +- this many standard deviations."""

PointFunction = Callable[..., Float[Array, "3 K N"]]
"""(contracted points, shape (S, N), root_rotvec (3, N), pose (3, B, N), translation (3, N)) -> camera points."""


@dataclass(frozen=True)
class BodyLayout:
    """Static facts of a body for fitting (hashable)."""

    counts: tuple[int, int, int]
    """Body keypoints, dense points, mesh points."""
    bones: tuple[str, ...]
    """Names of the rows of `Variables.pose`."""
    free_bones: tuple[int, ...]
    """Rows of `Variables.pose` that a stage with a free pose moves."""
    shape_labels: tuple[str, ...]
    word_columns: tuple[int, ...]
    """Column of `shape` per attribute of `ATTRIBUTES`, -1 where the body has none."""
    limit_bones: tuple[int, ...]
    points: PointFunction
    """Contracted points of the body model."""
    vertices: PointFunction | None
    """Full mesh, for the exact mesh regulariser only."""
    coefficients: Callable[..., Float[Array, "rank N"]]
    """(contracted points, shape (S, N)) -> coefficients of the linear rest state."""


@struct.dataclass
class FitBody:
    """A body prepared for fitting: a pytree, passed to the compiled fit as an argument."""

    points: Any
    """Contracted regressor of keypoints, dense points and (sampled) mesh points, in this order."""
    model: Any
    """The whole body model where the mesh regulariser is exact, else None."""
    mesh_weights: Float[Array, "M"]
    shape_low: Float[Array, "S"]
    shape_high: Float[Array, "S"]
    pose_limit: Float[Array, ""]
    """Every component of a rotation vector is clamped to +- this before the body, radians."""
    limit_axes: Float[Array, "3 L"]
    limit_low: Float[Array, "L"]
    limit_high: Float[Array, "L"]
    pose_rest: Float[Array, "3 B"]
    pose_precision: Float[Array, "B"]
    up: linear.Field
    """(H,) height above the ground, at rest, of the vertices that can be the highest or the lowest; metres."""
    layout: BodyLayout = struct.field(pytree_node=False)

    @property
    def shared(self) -> Shared:
        """The part that terms read."""
        return Shared(
            mesh_weights=self.mesh_weights,
            word_columns=self.layout.word_columns,
            pose_axes=self.limit_axes,
            pose_bones=self.layout.limit_bones,
            pose_low=self.limit_low,
            pose_high=self.limit_high,
            pose_rest=self.pose_rest,
            pose_precision=self.pose_precision,
        )

    def predict(self, variables: Variables, clamp: Callable, need_mesh: bool = True) -> Prediction:
        """Camera points of all people, with shape and pose clamped to their ranges first."""
        shape = clamp(variables.shape, self.shape_low[:, None], self.shape_high[:, None])
        pose = clamp(variables.pose, -self.pose_limit, self.pose_limit)
        placed = self.layout.points(self.points, shape, variables.root_rotvec, pose, variables.transl)
        keypoints, dense, mesh = self.layout.counts
        k, d, m = jax.lax.split(placed, (keypoints, dense, placed.shape[1] - keypoints - dense), axis=1)
        if self.layout.vertices is not None:
            if need_mesh:
                m = self.layout.vertices(self.model, shape, variables.root_rotvec, pose, variables.transl)
            else:
                m = jnp.zeros((3, mesh, variables.transl.shape[-1]), variables.transl.dtype)
        return Prediction(k, d, m)

    def height(self, shape: Float[AnyArray, "S N"]) -> Float[Array, "N"]:
        """Extent of the resting body along its vertical axis, metres; the shape is clamped to its range first."""
        clamped = jnp.clip(shape, self.shape_low[:, None], self.shape_high[:, None])
        up = linear.evaluate(self.up, self.layout.coefficients(self.points, clamped))
        return up.max(0) - up.min(0)


def anny_body(
    model: anny.AnnyModel,
    config: FitConfig,
    *,
    dense_regressor: np.ndarray | None = None,
    limits: anatomy.JointLimits | None = None,
    pose_rest: np.ndarray | None = None,
) -> FitBody:
    """Anny (six phenotypes) with COCO-17 keypoints and, by default, the 138 dense surface points.

    Args:
      dense_regressor: (138, 13718) other dense points.
      limits: joint limits of the `joint_limits` term; default the anatomical ones.
      pose_rest: (162, 3) relaxed pose of the `relaxed_pose` term; default the anatomical one.
    """
    if model.labels.phenotypes != anny.PHENOTYPE_LABELS:
        raise ValueError("fitting uses the six-phenotype Anny: anny.load(phenotypes='default')")
    if dense_regressor is None:
        dense_regressor = anny.vertex_regressor(model, dense_points.dense_vertex_indices())
    keypoint_regressor = np.asarray(model.keypoint_regressor, np.float64)[:17]
    exact = config.mesh == "exact"
    num_vertices = model.skin.shape[1]
    if exact:
        rows, weights = np.zeros((0, num_vertices)), np.ones(num_vertices)
    else:
        index, weights = anny_mesh_sample(model)
        rows = anny.vertex_regressor(model, index)
    limits = limits or anatomy.joint_limits(model)
    rest = anatomy.relaxed_pose(model) if pose_rest is None else pose_rest
    assert model.rest.corner_map is not None  # of six phenotypes
    corners = np.asarray(model.rest.corner_map.columns, np.float64) @ np.asarray(model.vertices.basis, np.float64)[:, 2]
    tall = extreme_vertices(np.asarray(model.vertices.mean, np.float64)[2] + corners)
    cast = lambda x: linear.on_device(x, model.dtype)  # noqa: E731
    labels = model.labels
    return FitBody(
        points=anny.contract(model, np.concatenate([keypoint_regressor, dense_regressor, rows])),
        model=model if exact else None,
        mesh_weights=cast(weights),
        shape_low=cast(np.zeros(6)),
        shape_high=cast(np.ones(6)),
        pose_limit=cast(np.float32(np.pi)),
        limit_axes=cast(limits.axes.T),
        limit_low=cast(limits.low),
        limit_high=cast(limits.high),
        pose_rest=cast(rest.T),
        pose_precision=cast(1.0 / anatomy.pose_spread(labels.bones[1:]) ** 2),
        up=model.vertices.select((2, tall)),
        layout=BodyLayout(
            counts=(17, len(dense_regressor), len(weights)),
            bones=labels.bones[1:],
            free_bones=free_bones(labels.bones[1:], config.frozen_bones),
            shape_labels=labels.phenotypes,
            word_columns=tuple(labels.phenotypes.index(a) for a in ATTRIBUTES),
            limit_bones=limits.bones,
            points=anny.points_people_last,
            vertices=anny.vertices_people_last if exact else None,
            coefficients=_anny_coefficients,
        ),
    )


def smplx_body(
    model: smplx.SmplxModel,
    config: FitConfig,
    *,
    dense_regressor: np.ndarray | None = None,
    pose_rest: np.ndarray | None = None,
) -> FitBody:
    """SMPL-X with COCO-17 keypoints and 138 dense points (default: spread over the mesh), same objective, same solver.

    SMPL-X has no age or gender parameter: the `words` term is 0. Its mesh regulariser is always sampled.

    Args:
      dense_regressor: (D, 10475) or (D, 10530) other dense points.
      pose_rest: (54, 3) relaxed pose of the `relaxed_pose` term; default zero.
    """
    if config.mesh == "exact":
        raise ValueError("config.mesh='exact' is for Anny; fit SMPL-X with mesh='sampled'")
    template = np.asarray(model.vertices.mean, np.float64).T
    if dense_regressor is None:
        dense_regressor = smplx.vertex_regressor(farthest_points(template, NUM_DENSE))
    width = smplx.NUM_VERTICES + smplx.NUM_JOINTS
    dense_regressor = np.pad(dense_regressor, ((0, 0), (0, width - dense_regressor.shape[1])))
    index, weights = sample_mesh(template, config.mesh_samples)
    cast = lambda x: linear.on_device(x, model.dtype)  # noqa: E731
    num_bones = len(model.labels.bones) - 1
    num_shape = model.labels.num_betas + model.labels.num_expression
    sideways = 3.0 * np.asarray(model.vertices.basis[:num_shape, 1], np.float64)
    tall = extreme_vertices(template[:, 1] + np.concatenate([sideways, -sideways]))
    num_betas = model.labels.num_betas
    blend = model.labels.kid & (np.arange(num_betas) == num_betas - 1)
    regressor = np.concatenate([np.asarray(model.keypoint_regressor), dense_regressor, smplx.vertex_regressor(index)])
    return FitBody(
        points=smplx.contract(model, regressor),
        model=None,
        mesh_weights=cast(weights),
        shape_low=cast(np.where(blend, 0.0, -_BETA_LIMIT)),
        shape_high=cast(np.where(blend, 1.0, _BETA_LIMIT)),
        pose_limit=cast(np.pi),
        limit_axes=cast(np.zeros((3, 0))),
        limit_low=cast(np.zeros(0)),
        limit_high=cast(np.zeros(0)),
        pose_rest=cast(np.zeros((3, num_bones)) if pose_rest is None else pose_rest.T),
        pose_precision=cast(np.ones(num_bones)),
        up=linear.field(template[tall, 1], np.asarray(model.vertices.basis)[:num_shape, 1, tall], model.dtype),
        layout=BodyLayout(
            counts=(17, len(dense_regressor), len(weights)),
            bones=model.labels.bones[1:],
            free_bones=free_bones(model.labels.bones[1:], config.frozen_bones),
            shape_labels=model.labels.shape,
            word_columns=tuple(-1 for _ in ATTRIBUTES),
            limit_bones=(),
            points=smplx.points_people_last,
            vertices=None,
            coefficients=_smplx_coefficients,
        ),
    )


def extreme_vertices(up: Float[np.ndarray, "shape V"], candidates: int = 12) -> np.ndarray:
    """Indices of vertices that are among the highest or the lowest of any of some shapes."""
    order = np.argpartition(up, (candidates - 1, up.shape[1] - candidates), axis=1)
    return np.unique(np.concatenate([order[:, :candidates], order[:, -candidates:]], axis=1))


def _anny_coefficients(points: anny.AnnyPoints, shape: Array) -> Array:
    return anny.coefficients(points.rest, shape, None)


def _smplx_coefficients(points: smplx.SmplxPoints, shape: Array) -> Array:
    return smplx.shape_coefficients(points.labels, shape, None)


def free_bones(bones: Sequence[str], frozen_prefixes: Sequence[str]) -> tuple[int, ...]:
    """Rows of the pose whose bone name starts with none of the prefixes."""
    return tuple(i for i, bone in enumerate(bones) if not bone.startswith(tuple(frozen_prefixes)))


def anny_mesh_sample(model: anny.AnnyModel) -> tuple[np.ndarray, Float[np.ndarray, "count"]]:
    """The shipped sample of Anny's mesh: (vertex indices, weights), made by `experiments.builders.build_mesh_sample`.

    Weights are fitted so that the sampled sum of squares has the Hessian of the whole one in every parameter a fit moves,
    many of the vertices being default dense points, which are formed anyway.
    """
    with (importlib.resources.files("annyfit_jax") / "data" / "anny_mesh_sample.npz").open("rb") as file:
        arrays = dict(np.load(file))
    if str(arrays["asset_version"]) != model.labels.asset_version:
        raise ValueError(
            f"annyfit_jax/data/anny_mesh_sample.npz was made for asset {arrays['asset_version']}, the model is "
            f"{model.labels.asset_version}: run `python -m experiments.builders.build_mesh_sample`"
        )
    return arrays["index"], arrays["weights"]


def sample_mesh(
    vertices: Float[np.ndarray, "V 3"], count: int, iterations: int = 12
) -> tuple[np.ndarray, Float[np.ndarray, "count"]]:
    """Vertices that stand for the whole mesh in a sum of squares: (indices (count,), weights (count,), sum V).

    k-means of the rest mesh from a farthest-point start; each cluster is represented by the vertex nearest its centre and
    weighted by its size. Deterministic.
    """
    points = np.asarray(vertices, np.float64)
    centres = points[farthest_points(points, count)]
    owner = _nearest(points, centres)
    for _ in range(iterations):
        sizes = np.bincount(owner, minlength=count)
        sums = np.stack([np.bincount(owner, points[:, k], minlength=count) for k in range(3)], 1)
        centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
        owner = _nearest(points, centres)
    index = _nearest(centres, points)
    index, inverse = np.unique(index, return_inverse=True)
    weights = np.bincount(inverse[owner], minlength=len(index)).astype(np.float64)
    return index, weights


def farthest_points(points: Float[np.ndarray, "V 3"], count: int) -> np.ndarray:
    """Indices (count,) of points spread evenly: each is the one farthest from those before it, starting at point 0."""
    chosen = [0]
    distance = ((points - points[0]) ** 2).sum(1)
    for _ in range(count - 1):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
    return np.array(chosen)


def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    squared = (centres**2).sum(1)[None] - 2.0 * points @ centres.T
    return squared.argmin(1)
