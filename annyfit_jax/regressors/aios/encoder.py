"""The deformable encoder, and the choice of the tokens that enter the decoder."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from annyfit_jax.regressors import layers
from annyfit_jax.regressors.aios.aios_config import AiosConfig
from annyfit_jax.regressors.aios.deformable import DeformableAttention
from annyfit_jax.regressors.aios.positions import Sizes, encoder_references, image_embedding, proposals, valid_counts
from annyfit_jax.regressors.layers import XAVIER, ZEROS, FeedForward, HostRandom, Mlp, layer_norm, linear

CLASSES = 2
"""Columns of the class logits. People are column 1; column 0 is never a target."""
PERSON = 1
CLASS_PRIOR_LOGIT = -4.59511985013459
"""-log 99: every query starts at a score of 1 %."""


def class_layer(width: int, rngs: HostRandom) -> nnx.Linear:
    """Class logits of a query."""
    return linear(width, CLASSES, rngs=rngs, bias_init=nnx.initializers.constant(CLASS_PRIOR_LOGIT))


class Levels(NamedTuple):
    """Input of the encoder: the tokens of all levels, row by row, one level after the other."""

    tokens: Float[Array, "batch token width"]
    positions: Float[Array, "batch token width"]
    padding: Bool[Array, "batch token"]
    valid: Float[Array, "batch level 2"]
    """Unpadded (columns, rows) of each level."""
    sizes: Sizes
    """Static (height, width) of each level."""

    @property
    def valid_ratios(self) -> Float[Array, "batch level 2"]:
        """Unpadded share of each level's (width, height)."""
        return self.valid / jnp.asarray([[w, h] for h, w in self.sizes], jnp.float32)


def flatten_levels(
    maps: list[Float[Array, "batch _ _ width"]],
    paddings: list[Bool[Array, "batch h w"]],
    level_embedding: Float[Array, "level width"],
) -> Levels:
    """Feature maps and their masks as one list of tokens with positions."""
    width = maps[0].shape[-1]
    flat = [x.reshape(x.shape[0], -1, width) for x in maps]
    positions = [
        (image_embedding(padding, width) + row).reshape(padding.shape[0], -1, width)
        for padding, row in zip(paddings, level_embedding)
    ]
    return Levels(
        tokens=jnp.concatenate(flat, axis=1),
        positions=jnp.concatenate(positions, axis=1),
        padding=jnp.concatenate([padding.reshape(padding.shape[0], -1) for padding in paddings], axis=1),
        valid=jnp.stack([valid_counts(padding) for padding in paddings], axis=1),
        sizes=tuple((x.shape[1], x.shape[2]) for x in maps),
    )


class EncoderLayer(nnx.Module):
    """Deformable self-attention, then feed-forward, each followed by its norm. Positions enter the query only."""

    def __init__(self, config: AiosConfig, *, rngs: HostRandom):
        dtype = config.compute_dtype
        self.attention = DeformableAttention(
            config.width, config.heads, config.levels, config.points, rngs=rngs, dtype=dtype,
            step_bytes=config.sampling_bytes,
        )  # fmt: skip
        self.norm1 = layer_norm(config.width, rngs)
        self.feedforward = FeedForward(config.width, config.feedforward, rngs=rngs, dtype=dtype)
        self.norm2 = layer_norm(config.width, rngs)

    def __call__(
        self,
        x: Float[Array, "batch token width"],
        positions: Float[Array, "batch token width"],
        references: Float[Array, "batch token level 2"],
        padding: Bool[Array, "batch token"],
        sizes: Sizes,
    ) -> Float[Array, "batch token width"]:
        x = self.norm1(x + self.attention(x + positions, references, x, padding, sizes))
        return self.norm2(x + self.feedforward(x))


class Encoder(nnx.Module):
    """The layers; no norm after the last."""

    def __init__(self, config: AiosConfig, *, rngs: HostRandom):
        self.layers = nnx.List(EncoderLayer(config, rngs=rngs) for _ in range(config.encoder_layers))
        self.remat = config.remat

    def __call__(self, levels: Levels) -> Float[Array, "batch token width"]:
        references = encoder_references(levels.valid, levels.sizes)

        # The layers as one scanned step: a sixth of the program to compile.
        graph, _ = nnx.split(self.layers[0])
        stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *(nnx.state(layer) for layer in self.layers))

        def step(x: Array, state: nnx.State) -> tuple[Array, None]:
            layer = nnx.merge(graph, state)
            rest = (levels.positions, references, levels.padding)
            return layers.call(layer, x, *rest, remat=self.remat, sizes=levels.sizes), None

        return jax.lax.scan(step, levels.tokens, stacked)[0]


class Selection(NamedTuple):
    """The tokens that enter the decoder, best first."""

    index: Int[Array, "batch query"]
    """Token of the encoder."""
    content: Float[Array, "batch query width"]
    """Detached."""
    reference: Float[Array, "batch query 4"]
    """Box logits, detached; +inf where the token has no proposal."""
    logits: Float[Array, "batch query 2"]
    """Class logits, for the loss."""
    boxes: Float[Array, "batch query 4"]
    """Boxes, for the loss."""


class TwoStage(nnx.Module):
    """Scores a box at every encoder token and keeps the best (two-stage Deformable DETR)."""

    def __init__(self, config: AiosConfig, *, rngs: HostRandom):
        width = config.width
        self.project = linear(width, width, rngs=rngs, kernel_init=XAVIER)
        self.norm = layer_norm(width, rngs)
        self.classes = class_layer(width, rngs)
        self.box = Mlp((width, width, width, 4), rngs=rngs, last_kernel_init=ZEROS, last_bias_init=ZEROS)
        self.count = config.queries

    def __call__(self, memory: Float[Array, "batch token width"], levels: Levels) -> Selection:
        """Raises ValueError if the image has fewer tokens than queries are wanted."""
        if memory.shape[1] < self.count:
            raise ValueError(
                f"images with {memory.shape[1]} encoder tokens are too small for {self.count} queries: "
                f"use larger images or fewer queries"
            )
        proposal, usable = proposals(levels.valid, levels.padding, levels.sizes)
        memory = self.norm(self.project(jnp.where(usable[..., None], memory, 0.0)))
        logits = self.classes(memory)
        _, index = jax.lax.top_k(logits.max(-1), self.count)

        def pick(x: Array) -> Array:
            return jnp.take_along_axis(x, index[..., None], axis=1)

        # Only the chosen tokens need a box: the released program computes all and picks, with the same result.
        content = pick(memory)
        reference = self.box(content) + pick(proposal)
        return Selection(
            index,
            jax.lax.stop_gradient(content),
            jax.lax.stop_gradient(reference),
            pick(logits),
            jax.nn.sigmoid(reference),
        )
