"""How far a fit may be off: the Gauss-Newton covariance at the solution, the scene's unknowns marginalised.

With A_n the person's curvature, B_n the coupling to the scene's unknowns and S = C - sum_m B_m^T A_m^-1 B_m,

    cov(x_n) = A_n^-1 + (A_n^-1 B_n) S^-1 (A_n^-1 B_n)^T

(Laplace's approximation; Bishop 2006, 4.4). Bounds are ignored, so nobody is certain because a bound was hit. Standard
deviations are multiplied by factors fitted on synthetic scenes (`annyfit_jax/data/uncertainty.json`): the model's priors,
its independent noise and its local view are all a little optimistic. They are more so for people of whom keypoints are all
that is known, without an age word or with few of them: such people have factors of their own (`hardship`).
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from annyfit_jax.fit.problem import AnyArray
from annyfit_jax.fit.second_order import lm, small_linear
from annyfit_jax.fit.second_order.linear_plan import NUM_RIGID
from annyfit_jax.fit.second_order.map_body import MapBody
from annyfit_jax.people.scene import Scene

QUANTITIES = ("depth", "height", "joints")


class Uncertainty(NamedTuple):
    """Standard deviations per person."""

    sd_depth: Float[Array, "N"]
    """Camera z of the root, metres."""
    sd_height: Float[Array, "N"]
    """Height of the resting body, metres."""
    sd_joints: Float[Array, "17 N"]
    """COCO-17 in camera space: root mean square distance, metres."""


ALWAYS, WITHOUT_WORD, FEW_KEYPOINTS = "factors", "without_word", "few_keypoints"
"""Groups of factors: of everybody; of people from keypoints alone without an age word, and with few keypoints, on top of it."""
HARDER = ("depth", "joints")
"""Those that have factors of such people: the trust of a fit was calibrated on the deviation of its height as it is."""
MANY_KEYPOINTS = 14
"""Of COCO's 17; fewer are few."""


@functools.cache
def calibration() -> dict[str, dict[str, float]]:
    """Group -> factor of each of `QUANTITIES`, of hard people of `HARDER`, from `experiments.studies.calibrate_uncertainty`."""
    content = json.loads((importlib.resources.files("annyfit_jax") / "data" / "uncertainty.json").read_text())
    names = {ALWAYS: QUANTITIES, WITHOUT_WORD: HARDER, FEW_KEYPOINTS: HARDER}
    return {group: {name: float(content[group][name]) for name in names[group]} for group in names}


def hardship(
    scene: Scene, knows_pose: Bool[np.ndarray, "n"], min_confidence: float
) -> dict[str, Float[np.ndarray, "n"]]:
    """What deviations of a scene's people are multiplied by beyond what everybody's are, for each of `HARDER`.

    1 for people of whom a start knows the pose, and for those with dense points or a metric depth; else the larger of the
    factors of `WITHOUT_WORD` and `FEW_KEYPOINTS` that apply.
    """
    told = np.isfinite(scene.median_depth) | (scene.dense_keypoints[..., 2] > 0).any(1)
    alone = ~told & ~np.asarray(knows_pose, bool)
    few = (scene.keypoints[..., 2] >= min_confidence).sum(1) < MANY_KEYPOINTS
    groups = calibration()
    return {
        name: np.maximum(
            np.where(alone & (scene.age < 0), groups[WITHOUT_WORD][name], 1.0),
            np.where(alone & few, groups[FEW_KEYPOINTS][name], 1.0),
        )
        for name in HARDER
    }


def calibrated(raw: Uncertainty) -> Uncertainty:
    """What `estimate` gives, times the factors of everybody."""
    factor = calibration()[ALWAYS]
    return Uncertainty(*(factor[name] * sd for name, sd in zip(QUANTITIES, raw, strict=True)))


def estimate(
    body: MapBody,
    scene: Int[AnyArray, "N"],
    system: lm.System,
    factor: small_linear.Factor,
    scale: Float[Array, "D N"],
    of_joints: Float[Array, "3 17 D N"],
    by_shape: Float[Array, "S N"],
    x: Float[Array, "D N"],
) -> Uncertainty:
    """Standard deviations, not calibrated, at a solution `x`.

    Args:
      factor, scale: of its curvature, from `lm.factorize`.
      of_joints: derivatives of the keypoints.
      by_shape: of the body height by the phenotypes.
    """
    columns, people = x.shape
    first = NUM_RIGID + body.plan.layout.num_shape
    of_height = jnp.zeros_like(x).at[NUM_RIGID:first].set(by_shape)
    of_depth = jnp.zeros_like(x).at[2].set(1.0)
    wanted = jnp.concatenate(
        [of_depth[:, None], of_height[:, None], jnp.moveaxis(of_joints, 2, 0).reshape(columns, -1, people)], axis=1
    )
    variance = _variance(system, scene, factor, scale, wanted)
    sd = jnp.sqrt(variance)
    joints = jnp.sqrt(variance[2:].reshape(3, 17, people).sum(0))
    return Uncertainty(sd[0], sd[1], joints)


def _variance(
    system: lm.System,
    scene: AnyArray,
    factor: small_linear.Factor,
    scale: Float[Array, "D N"],
    wanted: Float[Array, "D k N"],
) -> Float[Array, "k N"]:
    """Variance of the linear functions w^T x of each person."""
    lower = small_linear.forward(factor, jnp.transpose(wanted * scale[:, None], (2, 0, 1)))
    own = (lower**2).sum(1)  # (N, k)
    response = lm.solve_factored(factor, scale, system.cross)
    schur = system.scene_matrix - jax.ops.segment_sum(
        jnp.einsum("dqn,drn->nqr", system.cross, response), scene, num_segments=len(system.scene_matrix)
    )
    shared = jnp.einsum("dkn,dqn->nqk", wanted, response)
    size = jax.lax.rsqrt(jnp.diagonal(schur, axis1=1, axis2=2))
    scaled = (schur * size[:, :, None] * size[:, None, :])[scene]
    solved = small_linear.solve(scaled, shared * size[scene][..., None]) * size[scene][..., None]
    return (own + (shared * solved).sum(1)).T
