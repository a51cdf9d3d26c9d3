"""Pixels of keypoints and dense points: 1/2 GM(|pi(q) - u|^2 c^2 / sigma^2 ; width)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from annyfit_jax.fit.config import MapObjective
from annyfit_jax.fit.objective import project
from annyfit_jax.fit.problem import AnyArray
from annyfit_jax.fit.second_order import jacobian, robust
from annyfit_jax.fit.second_order.columns import FOCAL, NUM_SCENE
from annyfit_jax.fit.second_order.costs.base import Model, Rows, Tangents, View

MIN_DEPTH_M = 0.1


class Pixels(NamedTuple):
    """Weighted pixel errors of one kind of points."""

    energy: Float[Array, "N"]
    error: Float[Array, "2 K N"]
    root: Float[Array, "K N"]
    """Factor of each error."""
    by_focal: Float[Array, "2 K N"]


def intrinsics_of(view: View) -> Float[Array, "3 3 N"]:
    """The given intrinsics with the scene's focal length."""
    k = jnp.asarray(view.problem.cues.intrinsics)
    factor = jnp.exp(view.scene[FOCAL])
    scaled = jnp.concatenate([k[:2, :2] * factor, k[:2, 2:]], axis=1)
    return jnp.concatenate([scaled, k[2:]], axis=0)


def pixels(
    view: View,
    points: Float[Array, "3 K N"],
    observed: Float[AnyArray, "2 K N"],
    confidence: Float[AnyArray, "K N"],
    noise: Float[Array, "K N"] | Float[Array, "N"],
    count: Float[Array, "N"] | float,
) -> Pixels:
    """Errors in noise scales. A point behind the camera mirrors: it costs as much as a robust function can."""
    width, intrinsics = view.frozen.point_width, intrinsics_of(view)
    confidence = jnp.asarray(confidence)
    c = jnp.where(confidence >= view.settings.min_confidence, confidence, 0.0) / noise
    px = jax.vmap(project, in_axes=-1, out_axes=-1)(points, intrinsics)
    error = c * (px - observed)
    squared = jnp.where(c > 0, (error**2).sum(0), 0.0)
    ahead = (points[2] > MIN_DEPTH_M) | (c == 0)
    value, weight = robust.geman_mcclure(squared, width)
    value = jnp.where(ahead, value, 0.5 * width**2)
    root = jnp.sqrt(jnp.where(ahead, weight * count, 0.0))
    by_focal = c * (px - intrinsics[:2, 2][:, None])
    return Pixels(
        (value * count).sum(0),
        jnp.where(c > 0, error, 0.0) * root,
        c * root,
        jnp.where(c > 0, by_focal, 0.0) * root,
    )


class _Keypoints:
    name = "keypoints"

    def on(self, settings: MapObjective) -> bool:
        return True

    def _pixels(self, view: View) -> Pixels:
        cues = view.problem.cues
        moved = view.keypoints + view.frozen.keypoint_shift
        return pixels(view, moved, cues.keypoints_px, cues.keypoint_confidence, view.frozen.keypoint_noise, 1.0)

    def energy(self, view: View) -> Float[Array, "N"]:
        return self._pixels(view).energy

    def model(self, view: View, tangents: Tangents) -> Model:
        seen = self._pixels(view)
        moved = view.keypoints + view.frozen.keypoint_shift
        rows = jacobian.projection_rows(moved, intrinsics_of(view)) * seen.root
        by_x = jnp.einsum("rikn,ikdn->rkdn", rows, tangents.keypoints)
        count, people = by_x.shape[0] * by_x.shape[1], by_x.shape[-1]
        by_scene = jnp.zeros((count, NUM_SCENE, people), by_x.dtype).at[:, FOCAL].set(seen.by_focal.reshape(count, -1))
        return Model(seen.energy, Rows(by_x.reshape(count, -1, people), by_scene, seen.error.reshape(count, people)))


class _Dense:
    name = "dense"

    def on(self, settings: MapObjective) -> bool:
        return True

    def _pixels(self, view: View) -> Pixels:
        cues, frozen = view.problem.cues, view.frozen
        return pixels(view, view.dense, cues.dense_px, cues.dense_confidence, frozen.dense_noise, frozen.dense_weight)

    def energy(self, view: View) -> Float[Array, "N"]:
        if view.dense.shape[1] == 0:
            return jnp.zeros_like(view.x[0])
        return self._pixels(view).energy

    def model(self, view: View, tangents: Tangents) -> Model:
        if view.dense.shape[1] == 0:
            return Model(jnp.zeros_like(view.x[0]))
        seen = self._pixels(view)
        rows = jacobian.projection_rows(view.dense, intrinsics_of(view)) * seen.root
        people = rows.shape[-1]
        values = jnp.stack([seen.error, seen.by_focal])
        no_rows = jnp.zeros(
            (0, 3, view.keypoints.shape[1], people), rows.dtype
        )  # the keypoints have a cost of their own
        no_values = jnp.zeros((2, 0, view.keypoints.shape[1], people), rows.dtype)
        matrix, vectors = jacobian.normal_equations(view.body.plan, tangents.lin, [no_rows, rows], [no_values, values])
        cross = jnp.zeros((vectors.shape[0], NUM_SCENE, people), rows.dtype).at[:, FOCAL].set(vectors[:, 1])
        push = jnp.zeros((NUM_SCENE, people), rows.dtype).at[FOCAL].set((seen.by_focal * seen.error).sum((0, 1)))
        stiff = jnp.zeros((NUM_SCENE, NUM_SCENE, people), rows.dtype)
        stiff = stiff.at[FOCAL, FOCAL].set((seen.by_focal**2).sum((0, 1)))
        return Model(
            seen.energy, gradient=vectors[:, 0], matrix=matrix, cross=cross, scene_gradient=push, scene_matrix=stiff
        )


KEYPOINTS = _Keypoints()
DENSE = _Dense()
