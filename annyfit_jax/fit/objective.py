"""The Anny-Fit objective: every term one short pure function, collected in `TERMS`.

Per-person terms see ONE person (components first) and run under `vmap`; scene terms see the flat list of people and return
one value per scene. A new term is one function and one line in `TERMS`; its weight per stage is data in the config.

Source of the formulas: the Anny-Fit optimiser (CVPR 2026) as released; where paper and release differ, the release.
The energy of a scene, whose sum over scenes is minimised:

    mean_n sum_terms w P_n  +  sum_scene_terms w E
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from annyfit_jax.fit.config import FitConfig, Stage
from annyfit_jax.fit.problem import AnyArray, Pairs, PersonCues, Problem, Variables
from annyfit_jax.people.camera import project_axes_first as project


class Prediction(NamedTuple):
    """Points of N bodies in camera space, metres."""

    keypoints: Float[Array, "3 17 N"]
    dense: Float[Array, "3 138 N"]
    mesh: Float[Array, "3 M N"]
    """The vertices of the mesh regulariser: all of them, or a weighted sample."""


class Person(NamedTuple):
    """What a per-person term may read (one person: no trailing axis)."""

    variables: Variables
    reference: Variables
    """The variables at the start of the stage."""
    prediction: Prediction
    reference_mesh: Float[Array, "3 M"]
    """`prediction.mesh` at the start of the stage."""
    cues: PersonCues


class Shared(NamedTuple):
    """Constants of the body that terms may read."""

    mesh_weights: Float[Array, "M"]
    """Vertices that each sampled vertex stands for; ones for the exact regulariser."""
    word_columns: tuple[int, ...]
    """Column of `shape` that each word attribute anchors; -1 where the body has no such parameter."""
    pose_axes: Float[Array, "3 L"]
    """Joint limits: unit axes in bone frames, see `annyfit_jax.people.anatomy.JointLimits`."""
    pose_bones: tuple[int, ...]
    """Joint limits: bone (row of `pose`) of each limited axis."""
    pose_low: Float[Array, "L"]
    pose_high: Float[Array, "L"]
    pose_rest: Float[Array, "3 B"]
    """Relaxed pose that `relaxed_pose` pulls to, radians."""
    pose_precision: Float[Array, "B"]
    """1 / variance of each bone's rotation over everyday poses, 1/rad^2."""


# ------------------------------------------------------------------------------------------------ building blocks


def geman_mcclure(squared: Float[Array, "*batch"], sigma: float | Float[Array, "*#batch"]) -> Float[Array, "*batch"]:
    """rho(s) = sigma^2 s / (sigma^2 + s) of a SQUARED length s. Written so, no norm is differentiated at zero."""
    scale = sigma * sigma
    return scale * squared / (scale + squared)


@jax.custom_vjp
def clamp(x: Array, low: Array, high: Array) -> Array:
    """Clip with a pass-through gradient: g is kept except where it would push x further out (boundaries included)."""
    return jnp.clip(x, low, high)


def _clamp_forward(x, low, high):
    return jnp.clip(x, low, high), (x, low, high)


def _clamp_backward(residual, g):
    x, low, high = residual
    blocked = ((x <= low) & (g > 0)) | ((x >= high) & (g < 0))
    return jnp.where(blocked, jnp.zeros_like(g), g), jnp.zeros_like(low), jnp.zeros_like(high)


clamp.defvjp(_clamp_forward, _clamp_backward)


def reprojection(
    projected: Float[AnyArray, "2 K"],
    observed: Float[AnyArray, "2 K"],
    confidence: Float[AnyArray, "K"],
    sigma: float,
    min_confidence: float,
) -> Float[Array, ""]:
    """1/K sum_k [c_k >= min] rho(c_k^2 |pi(q_k) - u_k|^2); c clipped below at 0; the denominator is always K."""
    c = jnp.maximum(confidence, 0.0)
    difference = projected - observed
    squared = c * c * (difference[0] ** 2 + difference[1] ** 2)
    return jnp.where(confidence >= min_confidence, geman_mcclure(squared, sigma), 0.0).mean()


# ------------------------------------------------------------------------------------------------ per-person terms


def keypoints(person: Person, shared: Shared, config: FitConfig) -> Float[Array, ""]:
    """E_2D: COCO-17 reprojection with a confidence threshold."""
    cues = person.cues
    projected = project(person.prediction.keypoints, cues.intrinsics)
    return reprojection(
        projected, cues.keypoints_px, cues.keypoint_confidence, config.sigma_px, config.keypoint_confidence
    )


def dense(person: Person, shared: Shared, config: FitConfig) -> Float[Array, ""]:
    """E_dense: reprojection of the dense surface points, without a threshold."""
    cues = person.cues
    projected = project(person.prediction.dense, cues.intrinsics)
    return reprojection(projected, cues.dense_px, cues.dense_confidence, config.sigma_px, -np.inf)


def pose_prior(person: Person, shared: Shared, config: FitConfig) -> Float[Array, ""]:
    """E_pose: squared distance of all rotation vectors to the start of the stage, rad^2."""
    return ((person.variables.pose - person.reference.pose) ** 2).sum()


def shape_prior(person: Person, shared: Shared, config: FitConfig) -> Float[Array, ""]:
    """E_shape: squared distance of the (unclamped) shape to the start of the stage."""
    return ((person.variables.shape - person.reference.shape) ** 2).sum()


def mesh_prior(person: Person, shared: Shared, config: FitConfig) -> Float[Array, ""]:
    """E_vert: squared distance of the mesh to the start of the stage, summed over vertices in CAMERA space, m^2."""
    moved = ((person.prediction.mesh - person.reference_mesh) ** 2).sum(0)
    return (shared.mesh_weights * moved).sum()


def joint_limits(person: Person, shared: Shared, config: FitConfig) -> Float[Array, ""]:
    """Squared excess of anatomical angles over their limits, rad^2 (ours; not in Anny-Fit).

    The angle is the component of a bone's rotation vector along an anatomical axis, e.g. flexion of the knee.
    """
    if not shared.pose_bones:
        return jnp.zeros((), person.variables.pose.dtype)
    angle = (person.variables.pose[:, np.asarray(shared.pose_bones, np.int32)] * shared.pose_axes).sum(0)
    excess = jnp.maximum(shared.pose_low - angle, 0.0) + jnp.maximum(angle - shared.pose_high, 0.0)
    return (excess**2).sum()


def relaxed_pose(person: Person, shared: Shared, config: FitConfig) -> Float[Array, ""]:
    """Mahalanobis distance of all rotation vectors to a relaxed pose (ours; for starts that know no pose)."""
    return (shared.pose_precision * (person.variables.pose - shared.pose_rest) ** 2).sum()


# ------------------------------------------------------------------------------------------------ scene terms


def words(variables: Variables, problem: Problem, shared: Shared, config: FitConfig) -> Float[Array, "scene"]:
    """E_attr: mean over the scene's usable answers of (shape - anchor)^2; 0 where there is none."""
    total = jnp.zeros((problem.num_scenes,), variables.shape.dtype)
    for row, column in enumerate(shared.word_columns):
        if column >= 0:
            squared = (variables.shape[column] - problem.word_target[row]) ** 2
            total = total + scene_sum(problem.word_weight[row] * squared, problem.scene, problem.num_scenes)
    return total


def depth_order(variables: Variables, problem: Problem, shared: Shared, config: FitConfig) -> Float[Array, "scene"]:
    """E_rank of root depths against the depth cues."""
    return ranking(variables.transl[2], problem.pairs, problem.num_scenes, config.equal_depth_m, config.depth_margin)


def ranking(
    depth: Float[Array, "N"], pairs: Pairs, num_scenes: int, equal_depth_m: float, margin: float
) -> Float[Array, "scene"]:
    """Depth ranking of every scene, p = z_i - z_j against the cue's gap g:

      equal    |g| <= band               -> p^2
      closer   g < -band, p - margin g > 0 -> softplus(p)
      further  g >  band, p - margin g < 0 -> softplus(-p)
      otherwise the pair is dropped; mean over the pairs that are left, 0 if none.

    The selections are hard masks of current values: no gradient through them.
    """
    p = depth[pairs.first] - depth[pairs.second]
    gap = pairs.gap
    excess = jax.lax.stop_gradient(p) - margin * gap
    equal = jnp.abs(gap) <= equal_depth_m
    closer = (gap < -equal_depth_m) & (excess > 0)
    further = (gap > equal_depth_m) & (excess < 0)
    signed = jnp.where(further, -p, p)
    value = jnp.where(equal, p * p, jnp.where(signed > 20.0, signed, jnp.log1p(jnp.exp(jnp.minimum(signed, 20.0)))))
    active = jnp.where(equal | closer | further, pairs.weight, 0.0)
    count = scene_sum(active, pairs.scene, num_scenes)
    return scene_sum(jnp.where(active > 0, active * value, 0.0), pairs.scene, num_scenes) / jnp.maximum(count, 1.0)


def scene_sum(values: Float[AnyArray, "items"], scene: AnyArray, num_scenes: int) -> Float[Array, "scene"]:
    """Sum of per-item values within each scene."""
    if values.shape[0] == 0:
        return jnp.zeros((num_scenes,), values.dtype)
    return jax.ops.segment_sum(values, scene, num_segments=num_scenes)


# ------------------------------------------------------------------------------------------------ the energy


@dataclass(frozen=True)
class Term:
    """A term of the objective and what the solver must know to compute no more than it needs."""

    function: Callable
    """Per-person: (Person, Shared, FitConfig) -> scalar. Scene: (Variables, Problem, Shared, FitConfig) -> (scene,)."""
    per_person: bool = True
    reads: tuple[str, ...] = ()
    """Fields of `Prediction` that it touches."""
    zero_if_frozen: str = ""
    """A distance to the start of the stage in this parameter group: exactly zero, so skipped, where the group is frozen."""


TERMS: dict[str, Term] = {
    "keypoints": Term(keypoints, reads=("keypoints",)),
    "dense": Term(dense, reads=("dense",)),
    "pose_prior": Term(pose_prior, zero_if_frozen="pose"),
    "shape_prior": Term(shape_prior, zero_if_frozen="shape"),
    "mesh_prior": Term(mesh_prior, reads=("mesh",)),
    "joint_limits": Term(joint_limits),
    "relaxed_pose": Term(relaxed_pose),
    "words": Term(words, per_person=False),
    "depth_order": Term(depth_order, per_person=False),
}


def check_terms(stages: Iterable[Stage]) -> None:
    """Raises ValueError for a weight of an unknown term, with the names that exist."""
    for stage in stages:
        for name in sorted(set(stage.weights) - set(TERMS)):
            near = difflib.get_close_matches(name, TERMS, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"stage {stage.name!r} weighs unknown terms {[name]}; {hint}there are {', '.join(sorted(TERMS))}"
            )


def active_terms(stage: Stage) -> dict[str, Any]:
    """Name -> weight of the terms that a stage computes. Raises ValueError for a weight of an unknown term."""
    check_terms([stage])
    weights = dict(stage.weights)
    return {
        name: weights[name]
        for name, term in TERMS.items()
        if weights.get(name, 0.0) != 0.0 and (not term.zero_if_frozen or term.zero_if_frozen in stage.lr)
    }


def energy(
    terms: Mapping[str, float | Array],
    variables: Variables,
    prediction: Prediction,
    reference: Variables,
    reference_mesh: Float[Array, "3 M N"],
    problem: Problem,
    shared: Shared,
    config: FitConfig,
) -> dict[str, Float[Array, "scene"]]:
    """Weighted value of every term per scene; the objective is the sum of them all."""
    people = Person(variables, reference, prediction, reference_mesh, problem.cues)
    values = {}
    for name, weight in terms.items():
        term = TERMS[name]
        if term.per_person:
            each = jax.vmap(lambda person, f=term.function: f(person, shared, config), in_axes=-1)(people)
            # A padded person may be anything: its value is replaced, not only multiplied, by zero.
            each = jnp.where(problem.person_weight > 0, each * problem.person_weight, 0.0)
            value = scene_sum(each, problem.scene, problem.num_scenes)
        else:
            value = term.function(variables, problem, shared, config)
        values[name] = weight * value
    return values
