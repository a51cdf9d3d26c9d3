"""The lifter's network: features of a person in, hypotheses of the body about the line of sight out."""

from __future__ import annotations

import functools
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from annyfit_jax.lifting.lifter_config import LifterConfig
from annyfit_jax.lifting.lifter_features import NUM_AGES, NUM_FEATURES
from annyfit_jax.lifting.lifter_rig import NUM_BONES

NUM_BUILD = 4
"""Phenotypes muscle, weight, height, proportions."""
_TINY = 1e-6


class Lifted(NamedTuple):
    """What the network says of n people, K hypotheses each."""

    root: Float[Array, "n K 3 3"]
    """From the body's axes to those of the line of sight."""
    turns: Float[Array, "n K B 3 3"]
    """Turn of each of `lifter_rig.BONES` from rest, in the body's axes."""
    log_probability: Float[Array, "n K"]
    """Of each hypothesis; a person's sum to 1."""
    log_spread: Float[Array, "n K"]
    """Log of how far off each hypothesis is where it is the right one: mean distance of the keypoints, as a share of height."""
    age_logits: Float[Array, "n C"]
    """Log odds of the age classes."""
    gender_logit: Float[Array, "n"]
    """Log odds of female."""
    build: Float[Array, "n 4"]
    """Muscle, weight, height, proportions in [0, 1]."""


class LifterNetwork(nnx.Module):
    """Residual blocks of two dense layers behind a norm; the last layer of each starts small."""

    def __init__(self, config: LifterConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        width, outputs = config.width, 6 * (1 + NUM_BONES)
        self.expand = nnx.Linear(NUM_FEATURES, width, rngs=rngs)
        self.norms = nnx.List(nnx.LayerNorm(width, rngs=rngs) for _ in range(config.blocks + 1))
        self.first = nnx.List(nnx.Linear(width, width, rngs=rngs) for _ in range(config.blocks))
        self.second = nnx.List(
            nnx.Linear(width, width, kernel_init=_small(0.1), rngs=rngs) for _ in range(config.blocks)
        )
        self.rotations = nnx.Linear(width, config.hypotheses * outputs, kernel_init=_small(0.3), rngs=rngs)
        self.score = nnx.Linear(width, 2 * config.hypotheses, kernel_init=_small(0.3), rngs=rngs)
        self.person = nnx.Linear(width, NUM_AGES + 1 + NUM_BUILD, kernel_init=_small(0.3), rngs=rngs)

    def __call__(self, features: Float[Array, "n F"]) -> Lifted:
        count = self.config.hypotheses
        hidden = self.expand(features)
        for norm, first, second in zip(self.norms, self.first, self.second, strict=False):
            hidden = hidden + second(jax.nn.gelu(first(norm(hidden))))
        hidden = self.norms[-1](hidden)
        six = self.rotations(hidden).reshape(-1, count, 1 + NUM_BONES, 6) + jnp.asarray(_resting(count), hidden.dtype)
        # The barrier keeps XLA from computing the rotations anew wherever one is read.
        matrices = jax.lax.optimization_barrier(from_six(six))
        score, person = self.score(hidden), self.person(hidden)
        return Lifted(
            root=matrices[:, :, 0],
            turns=matrices[:, :, 1:],
            log_probability=jax.nn.log_softmax(score[:, :count]),
            log_spread=jnp.log(0.06) + 2.0 * jnp.tanh(0.5 * score[:, count:]),
            age_logits=person[:, :NUM_AGES],
            gender_logit=person[:, NUM_AGES],
            build=jax.nn.sigmoid(person[:, NUM_AGES + 1 :]),
        )


def from_six(six: Float[Array, "*n 6"]) -> Float[Array, "*n 3 3"]:
    """Gram-Schmidt: rotation matrices whose first two columns follow two vectors of three numbers each."""
    a, b = six[..., :3], six[..., 3:]
    a = a / (jnp.sqrt((a**2).sum(-1, keepdims=True)) + _TINY)
    b = b - (a * b).sum(-1, keepdims=True) * a
    b = b / (jnp.sqrt((b**2).sum(-1, keepdims=True)) + _TINY)
    return jnp.stack([a, b, jnp.cross(a, b)], -1)


def to_six(rotation: Float[Array, "*n 3 3"]) -> Float[Array, "*n 6"]:
    """The first two columns: `from_six` gives the rotation again, and of a mean of them the rotation between."""
    return jnp.concatenate([rotation[..., :, 0], rotation[..., :, 1]], -1)


def _small(scale: float) -> nnx.Initializer:
    return nnx.initializers.variance_scaling(scale, "fan_in", "truncated_normal")


@functools.cache
def _resting(count: int) -> np.ndarray:
    """(K, 1 + B, 6): bones at rest, and upright roots that look into as many directions as there are hypotheses."""
    out = np.tile(np.array([1.0, 0, 0, 0, 1.0, 0]), (count, 1 + NUM_BONES, 1))
    upright = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    for k, angle in enumerate(2.0 * np.pi * np.arange(count) / count + 0.4):
        c, s = np.cos(angle), np.sin(angle)
        root = upright @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
        out[k, 0] = root[:, :2].T.ravel()
    return out


@functools.cache
def _graph(config: LifterConfig) -> nnx.GraphDef:
    return nnx.split(nnx.eval_shape(lambda: LifterNetwork(config, rngs=nnx.Rngs(0))))[0]


def init(config: LifterConfig, key: jax.Array) -> nnx.State:
    """Variables to train from scratch."""
    return jax.jit(lambda key: nnx.split(LifterNetwork(config, rngs=nnx.Rngs(key)))[1])(key)


def bind(config: LifterConfig, variables: nnx.State) -> LifterNetwork:
    """The network with its variables."""
    return cast(LifterNetwork, nnx.merge(_graph(config), variables))
