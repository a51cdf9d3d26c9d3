"""Many people of one body fitted to points of a surface, turns and heads of bones: Levenberg-Marquardt, people last.

Residuals are in units of their spread: points of the surface 5 mm (hands and head 2.5 mm), heads of bones 20 mm, turns of
bones 0.1 radians, shape and pose by the priors of the body.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from annyfit_jax.conversion.convertible import Convertible, Posed
from annyfit_jax.fit.config import LevenbergMarquardt
from annyfit_jax.fit.second_order import lm

SURFACE_SD, FINE_SD, HEAD_SD, TURN_SD = 0.005, 0.0025, 0.02, 0.1
BATCH = 8
"""People that one compiled program fits at once."""
ITERATIONS = 5


class Evidence(NamedTuple):
    """What a body is fitted to. K points of the surface, H heads, P bones with a counterpart; a weight 0 = not known."""

    surface: Float[Array, "3 K N"]
    surface_weight: Float[Array, "K N"]
    heads: Float[Array, "3 H N"]
    head_weight: Float[Array, "N"]
    turns: Float[Array, "3 3 P N"]
    turn_weight: Float[Array, "N"]
    pixels: Float[Array, "2 17 N"]
    """COCO-17 in an image."""
    pixel_weight: Float[Array, "17 N"]
    """1 / spread in pixels."""
    camera: Float[Array, "3 4 N"]
    """The frame's points to homogeneous pixels."""


_FAR_AWAY = np.concatenate([np.eye(3), [[0.0], [0.0], [1e3]]], axis=1)
"""A camera that has everything in front of it."""


def blank(body: Convertible, n: int) -> Evidence:
    """No evidence for n people."""
    dtype, facts = body.dtype, body.facts
    count, heads, paired = len(facts.chosen), len(facts.same_place), len(facts.paired)
    zeros = functools.partial(jnp.zeros, dtype=dtype)
    return Evidence(
        zeros((3, count, n)), zeros((count, n)), zeros((3, heads, n)), zeros(n), zeros((3, 3, paired, n)), zeros(n),
        zeros((2, 17, n)), zeros((17, n)), jnp.repeat(jnp.asarray(_FAR_AWAY, dtype)[..., None], n, -1),
    )  # fmt: skip


def surface_sd(body: Convertible) -> np.ndarray:
    """(K,) spread of each chosen point, metres."""
    return np.where(body.facts.fine, FINE_SD, SURFACE_SD)


def _residuals(body: Convertible, evidence: Evidence, x: Array) -> Array:
    """(R, N)."""
    variables = body.unpack(x)
    _, _, shape, pose = variables
    here = body.pose(*variables)
    parts = (
        (here.points - evidence.surface) * evidence.surface_weight,
        (here.heads[:, np.asarray(body.facts.same_place)] - evidence.heads) * evidence.head_weight / HEAD_SD,
        # The norm of the difference of two rotation matrices is the angle between them times the root of two.
        (here.turns[:, :, np.asarray(body.facts.paired)] - evidence.turns) * evidence.turn_weight / (2**0.5 * TURN_SD),
        (projected(body, here, evidence.camera) - evidence.pixels) * evidence.pixel_weight
        if body.facts.seen_heads
        else evidence.pixels,
        (shape - body.shape_mean[:, None]) * jnp.sqrt(body.shape_precision)[:, None],
        pose[:, np.asarray(body.facts.free)] * jnp.sqrt(body.pose_precision)[np.asarray(body.facts.free), None],
    )
    return jnp.concatenate([part.reshape(-1, x.shape[1]) for part in parts])


def projected(body: Convertible, here: Posed, camera: Float[Array, "3 4 N"]) -> Float[Array, "2 17 N"]:
    """COCO-17 of SMPL-X in pixels. What is behind the camera is kept from dividing by nothing."""
    face, others = here.points[:, np.asarray(body.facts.seen_points)], here.heads[:, np.asarray(body.facts.seen_heads)]
    points = jnp.concatenate([face, others], 1)
    seen = (camera[:, :3, None] * points[None]).sum(1) + camera[:, 3, None]
    return seen[:2] / jnp.maximum(seen[2:], 1e-3)


@jax.jit
def projected_of(body: Convertible, x: Float[Array, "D N"], camera: Float[Array, "3 4 N"]) -> Float[Array, "2 17 N"]:
    """`projected` of the variables of people."""
    return projected(body, body.pose(*body.unpack(x)), camera)


@jax.jit
def fitted(
    body: Convertible, evidence: Evidence, x: Float[Array, "D N"]
) -> tuple[Float[Array, "D N"], Float[Array, "N"]]:
    """The variables after `ITERATIONS` from `x`, and the energy of each person at their end.

    Call it with `BATCH` people, and again with its result for more iterations: each number of people is a program of its own.
    """
    variables, n = x.shape

    def energy_of(x: Array) -> Array:
        return 0.5 * (_residuals(body, evidence, x) ** 2).sum(0)

    def evaluate(x: Array, scene_x: Array, memory: None, index: Array) -> lm.Evaluation:
        residuals = _residuals(body, evidence, x)

        def column(direction: Array) -> Array:
            tangent = jnp.broadcast_to(direction[:, None], x.shape)
            return jax.jvp(lambda x: _residuals(body, evidence, x), (x,), (tangent,))[1]

        # People last within the derivative, one matrix product per person after it.
        slopes = jnp.transpose(jax.vmap(column)(jnp.eye(variables, dtype=x.dtype)), (2, 0, 1))
        energy = 0.5 * (residuals**2).sum(0)
        system = lm.System(
            energy=energy,
            gradient=jnp.einsum("ndr,rn->dn", slopes, residuals),
            matrix=jnp.einsum("ndr,ner->nde", slopes, slopes),
            cross=jnp.zeros((variables, 0, n), x.dtype),
            scene_gradient=jnp.zeros((1, 0), x.dtype),
            scene_matrix=jnp.zeros((1, 0, 0), x.dtype),
        )
        return lm.Evaluation(system, None, lambda scene_x: energy)

    settings = LevenbergMarquardt()
    free = jnp.full(6, jnp.inf, x.dtype)
    limbs = jnp.full(variables - 6 - body.shape_low.shape[0], jnp.inf, x.dtype)
    low = jnp.concatenate([-free, body.shape_low, -limbs])[:, None]
    high = jnp.concatenate([free, body.shape_high, limbs])[:, None]
    state = lm.State(
        x, jnp.zeros((1, 0), x.dtype), jnp.full(n, settings.damping, x.dtype), jnp.full(n, jnp.inf, x.dtype)
    )
    end = lm.minimise(
        evaluate,
        lambda x, scene_x, memory: energy_of(x),
        lambda here, factor, scale: here.system.energy,
        state,
        None,
        np.zeros(n, np.int32),
        (low, high),
        settings,
        ITERATIONS,
    )
    return end.state.x, end.report
