"""The last stage of the released objective (`annyfit_jax.fit.objective`) by Levenberg-Marquardt; stages before it by Adam.

Without the ranking, which the released schedule drops in its last stage, the energy is a sum over people. A person's part is

    E_n = w_n sum_terms W P_n(x_n) + W_words sum_attributes v_na (shape_a - anchor_na)^2,

w_n = 1 / people of the scene, v_na = 1 / usable words of the scene. Reprojection is re-weighted (IRLS), everything else is
quadratic in points or variables. Shape and pose stay inside the body's ranges, where the release clamps them.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from annyfit_jax.fit import adam, objective
from annyfit_jax.fit.config import GROUPS, FitConfig, Stage
from annyfit_jax.fit.fit_body import FitBody
from annyfit_jax.fit.problem import Problem, Variables
from annyfit_jax.fit.second_order import jacobian, lm, robust
from annyfit_jax.fit.second_order.columns import bounds, pack, unpack
from annyfit_jax.fit.second_order.linear_plan import NUM_RIGID, Plan, make_plan
from body_models import anny
from body_models.anny import AnnyModel

TERMS = ("keypoints", "dense", "pose_prior", "shape_prior", "mesh_prior", "words")
"""Terms that the second-order solver knows."""


@struct.dataclass
class ReleasedBody:
    """A body prepared for the released objective: a pytree, passed to the compiled fit as an argument."""

    fit: FitBody
    plan: Plan
    """Of the contracted points of `fit`: first those seen in the image, then the sampled mesh."""


class Outcome(NamedTuple):
    """Result of the last stage."""

    variables: Variables
    keypoints: Float[Array, "3 17 N"]
    energies: Float[Array, "step N"]
    """Each person's energy before every iteration and at the end."""
    promised: Float[Array, "N"]
    """Energy that the last step promised to save."""


def released_body(model: AnnyModel, body: FitBody) -> ReleasedBody:
    """Prepare Anny. Raises ValueError for the exact mesh regulariser."""
    if body.layout.vertices is not None:
        raise ValueError("config.lm.objective='released' needs the sampled mesh regulariser: set mesh='sampled'")
    keypoints, dense, mesh = body.layout.counts
    plan = make_plan(body.points, model.labels.parents, body.layout.free_bones, (keypoints + dense, mesh), 6)
    return ReleasedBody(body, plan)


def solve(
    config: FitConfig, body: ReleasedBody, problem: Problem, variables: Variables
) -> tuple[adam.BatchFit, Outcome]:
    """All stages but the last by Adam, the last one by `config.lm`. Raises ValueError for a stage that LM cannot solve."""
    if not config.stages:
        raise ValueError("config.lm.objective='released' needs config.stages, the last of which it solves")
    before = adam.solve(dataclasses.replace(config, stages=config.stages[:-1]), body.fit, problem, variables)
    return before, last_stage(config, config.stages[-1], body, problem, before.variables)


def last_stage(config: FitConfig, stage: Stage, body: ReleasedBody, problem: Problem, start: Variables) -> Outcome:
    """Minimise one stage from `start`, which its priors refer to. Raises ValueError for a stage that LM cannot solve."""
    layout = body.plan.layout
    energy = _energy(config, stage, body, problem, start)
    reference = energy.reference
    low, high = bounds(layout, body.fit)
    people, dtype = reference.shape[1], reference.dtype

    def evaluate(x: Array, scene_x: Array, memory: None, index: Array) -> lm.Evaluation:
        system, keypoints = energy.model(x)
        return lm.Evaluation(system, None, lambda other: system.energy, keypoints)

    state = lm.State(
        x=jnp.clip(reference, low, high),
        scene_x=jnp.zeros((problem.num_scenes, 0), dtype),
        damping=jnp.full((people,), config.lm.damping, dtype),
        promised=jnp.zeros((people,), dtype),
    )
    end = lm.minimise(
        evaluate, lambda x, scene_x, memory: energy.value(x), lambda end, factor, scale: end.extra, state, None, problem.scene,
        (low, high), config.lm, config.lm.rounds * config.lm.iterations,
    )  # fmt: skip
    return Outcome(unpack(layout, end.state.x, start), end.report, end.energies, end.state.promised)


def energy_of(
    config: FitConfig, stage: Stage, body: ReleasedBody, problem: Problem, start: Variables, variables: Variables
) -> Float[Array, "N"]:
    """Each person's energy of a stage that began at `start`. Shapes outside the body's range are taken as they are."""
    return _energy(config, stage, body, problem, start).value(pack(body.plan.layout, variables))


def check(stage: Stage) -> None:
    """Raises ValueError for a stage that LM cannot solve."""
    _weights(stage)


def _energy(config: FitConfig, stage: Stage, body: ReleasedBody, problem: Problem, start: Variables) -> _Energy:
    mesh = _points(body, start)[:, body.plan.layout.kinds[0] :]
    return _Energy(config, _weights(stage), body, problem, pack(body.plan.layout, start), mesh, start)


def _weights(stage: Stage) -> dict[str, float]:
    if set(stage.lr) != set(GROUPS):
        raise ValueError(
            f"stage {stage.name!r}: lm.objective='released' moves {GROUPS}, the stage only {set(stage.lr)}"
        )
    weights = objective.active_terms(stage)
    unknown = set(weights) - set(TERMS)
    if unknown:
        raise ValueError(
            f"stage {stage.name!r} weighs {sorted(unknown)}; lm.objective='released' solves stages of {TERMS} alone"
        )
    return {name: float(weights.get(name, 0.0)) for name in TERMS}


def _points(body: ReleasedBody, variables: Variables) -> Float[Array, "3 K N"]:
    transl, root, shape, pose = (jnp.asarray(v) for v in variables)
    shape = jnp.clip(shape, body.fit.shape_low[:, None], body.fit.shape_high[:, None])
    pose = jnp.clip(pose, -body.fit.pose_limit, body.fit.pose_limit)
    return anny.points_people_last(body.fit.points, shape, root, pose, transl)


class _Energy(NamedTuple):
    """The stage's energy of every person."""

    config: FitConfig
    weights: dict[str, float]
    body: ReleasedBody
    problem: Problem
    reference: Float[Array, "D N"]
    reference_mesh: Float[Array, "3 M N"]
    base: Variables

    def value(self, x: Float[Array, "D N"]) -> Float[Array, "N"]:
        """(N,) at columns x."""
        points = _points(self.body, unpack(self.body.plan.layout, x, self.base))
        seen, mesh = jnp.split(points, [self.body.plan.layout.kinds[0]], axis=1)
        priors, _, _ = self._priors(x)
        return self._masked(priors + self._pixels(seen)[0] + 0.5 * (self._mesh(mesh)[0] ** 2).sum((0, 1)))

    def model(self, x: Float[Array, "D N"]) -> tuple[lm.System, Float[Array, "3 17 N"]]:
        """Quadratic model at x, and the keypoints."""
        plan, people = self.body.plan, x.shape[1]
        lin = jacobian.linearize(plan, self.body.fit.points, unpack(plan.layout, x, self.base))
        seen, mesh = lin.points
        pixels, error, root = self._pixels(seen)
        moved, mesh_root = self._mesh(mesh)
        axes = jnp.eye(3, dtype=x.dtype)[:, :, None, None]
        rows = [
            jacobian.projection_rows(seen, self.problem.cues.intrinsics) * root,
            jnp.broadcast_to(axes * mesh_root, (3, 3, *mesh.shape[1:])),
        ]
        matrix, vectors = jacobian.normal_equations(plan, lin, rows, [error[None], moved[None]])
        gradient = vectors[:, 0]
        priors, slope, curvature = self._priors(x)
        matrix = matrix + jnp.eye(matrix.shape[1], dtype=x.dtype) * curvature.T[:, :, None]
        scenes = self.problem.num_scenes
        system = lm.System(
            energy=self._masked(priors + pixels + 0.5 * (moved**2).sum((0, 1))),
            gradient=self._masked(gradient + slope),
            matrix=matrix,
            cross=jnp.zeros((x.shape[0], 0, people), x.dtype),
            scene_gradient=jnp.zeros((scenes, 0), x.dtype),
            scene_matrix=jnp.zeros((scenes, 0, 0), x.dtype),
        )
        return system, seen[:, :17]

    def _masked(self, value: Array) -> Array:
        return jnp.where(jnp.asarray(self.problem.person_weight) > 0, value, 0.0)

    def _pixels(self, points: Float[Array, "3 155 N"]) -> tuple[Array, Array, Array]:
        """Energy (N,); residuals (2, 155, N) whose halved squares model it; the factor of each pixel error (155, N)."""
        cues = self.problem.cues
        px = jnp.concatenate([cues.keypoints_px, cues.dense_px], axis=1)
        body, dense = jnp.asarray(cues.keypoint_confidence), jnp.asarray(cues.dense_confidence)
        body = jnp.where(body >= self.config.keypoint_confidence, jnp.maximum(body, 0.0), 0.0)
        confidence = jnp.concatenate([body, jnp.maximum(dense, 0.0)])
        share = [self.weights[name] / len(kind) for name, kind in (("keypoints", body), ("dense", dense))]
        each = np.repeat(np.asarray(share), [len(body), len(dense)])[:, None].astype(np.dtype(points.dtype))
        weight = 2.0 * each * self.problem.person_weight
        error = jax.vmap(objective.project, in_axes=-1, out_axes=-1)(points, cues.intrinsics) - px
        squared = jnp.where(confidence > 0, confidence**2 * (error**2).sum(0), 0.0)
        value, share_left = robust.geman_mcclure(squared, self.config.sigma_px)
        root = jnp.sqrt(weight * share_left) * confidence
        return (weight * value).sum(0), jnp.where(confidence > 0, error, 0.0) * root, root

    def _mesh(self, points: Float[Array, "3 M N"]) -> tuple[Array, Array]:
        """Residuals of the mesh regulariser and their factor (M, N)."""
        weight = 2.0 * self.weights["mesh_prior"] * self.problem.person_weight
        root = jnp.sqrt(self.body.fit.mesh_weights[:, None] * weight)
        return (points - self.reference_mesh) * root, root

    def _priors(self, x: Float[Array, "D N"]) -> tuple[Array, Array, Array]:
        """Energy (N,), gradient and curvature (D, N) of what is quadratic in the variables."""
        first = NUM_RIGID + self.body.plan.layout.num_shape
        by_column = np.zeros((x.shape[0], 1))
        by_column[NUM_RIGID:first] = 2.0 * self.weights["shape_prior"]
        by_column[first:] = 2.0 * self.weights["pose_prior"]
        curvature = jnp.asarray(by_column, x.dtype) * self.problem.person_weight
        off = x - self.reference
        energy, gradient = 0.5 * (curvature * off**2).sum(0), curvature * off
        for row, column in enumerate(self.body.fit.layout.word_columns):
            weight = 2.0 * self.weights["words"] * self.problem.word_weight[row]
            away = x[NUM_RIGID + column] - self.problem.word_target[row]
            energy = energy + 0.5 * weight * away**2
            gradient = gradient.at[NUM_RIGID + column].add(weight * away)
            curvature = curvature.at[NUM_RIGID + column].add(weight)
        return energy, gradient, curvature
