"""The DINOv2 vision transformer (Oquab et al., "DINOv2", TMLR 2024): patches of 14 pixels, no registers.

Parameters are those of the published weights: layer scale, one matrix for queries, keys and values, exact GELU, norms with
epsilon 1e-6, a position table of 37 x 37 patches that is interpolated to other sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from annyfit_jax.regressors.layers import NORMAL, HostRandom, call, fan_in_uniform, linear

_EPSILON = 1e-6
_CUBIC = -0.75
"""Coefficient of the bicubic kernel of the interpolation that the weights were trained with."""
_OVERSHOOT = 0.1
"""Added to the number of patches when the scale of the interpolation is formed; part of the pretrained behaviour."""


@dataclass(frozen=True)
class VitConfig:
    """Sizes of the transformer, static under `jit`."""

    width: int
    depth: int
    heads: int
    patch: int = 14
    table: int = 37
    """Side of the position table, patches."""
    dtype: str = "float32"
    """Of the computation; parameters and norms are float32."""
    remat: bool = False
    """Recompute the inside of every block in the backward pass."""
    attention: str = "xla"
    """As `implementation` of `jax.nn.dot_product_attention`: `cudnn` is for half precision on NVIDIA GPUs."""


VIT_S = VitConfig(384, 12, 6)
VIT_B = VitConfig(768, 12, 12)
VIT_L = VitConfig(1024, 24, 16)
SIZES = {"s": VIT_S, "b": VIT_B, "l": VIT_L}


class Attention(nnx.Module):
    """Self-attention of all tokens."""

    def __init__(self, config: VitConfig, *, rngs: HostRandom):
        self.config = config
        self.qkv = linear(config.width, 3 * config.width, rngs=rngs, dtype=config.dtype)
        self.proj = linear(config.width, config.width, rngs=rngs, dtype=config.dtype)

    def __call__(self, x: Float[Array, "batch token width"]) -> Float[Array, "batch token width"]:
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.config.heads, -1)
        mixed = jax.nn.dot_product_attention(
            qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], implementation=_implementation(self.config)
        )
        return self.proj(mixed.reshape(*x.shape[:2], -1))


def _implementation(config: VitConfig):
    if config.attention not in ("xla", "cudnn"):
        raise ValueError(f"attention is {config.attention!r}; expected xla or cudnn")
    return config.attention


class Block(nnx.Module):
    """x += g1 attention(norm x); x += g2 W2 gelu(W1 norm x)."""

    def __init__(self, config: VitConfig, *, rngs: HostRandom):
        width = config.width
        self.norm1, self.norm2 = (_norm(width, rngs) for _ in range(2))
        self.attn = Attention(config, rngs=rngs)
        self.fc1 = linear(width, 4 * width, rngs=rngs, dtype=config.dtype)
        self.fc2 = linear(4 * width, width, rngs=rngs, dtype=config.dtype)
        self.scale1, self.scale2 = (nnx.Param(jnp.ones(width)) for _ in range(2))

    def __call__(self, x: Float[Array, "batch token width"]) -> Float[Array, "batch token width"]:
        x = x + self.scale1[...] * self.attn(self.norm1(x))
        return x + self.scale2[...] * self.fc2(jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False))


def _norm(width: int, rngs: HostRandom) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=_EPSILON, use_fast_variance=False, rngs=cast(nnx.Rngs, rngs), dtype=jnp.float32)


class Vit(nnx.Module):
    """Square pictures to one token each, and one per patch."""

    def __init__(self, config: VitConfig, *, rngs: HostRandom):
        self.config = config
        width, side = config.width, config.patch
        self.patch_embed = nnx.Conv(
            3, width, (side, side), side, padding="VALID", rngs=cast(nnx.Rngs, rngs), dtype=jnp.dtype(config.dtype),
            kernel_init=fan_in_uniform(3 * side * side), bias_init=fan_in_uniform(3 * side * side),
        )  # fmt: skip
        draw = rngs.params()
        self.cls_token = nnx.Param(0.02 * NORMAL(draw, (1, 1, width)))
        self.pos_embed = nnx.Param(0.02 * NORMAL(draw, (1, 1 + config.table**2, width)))
        self.mask_token = nnx.Param(jnp.zeros((1, width)))  # of the pretraining; kept so that weights can be exported
        self.blocks = nnx.List(Block(config, rngs=rngs) for _ in range(config.depth))
        self.norm = _norm(width, rngs)

    def __call__(
        self, images: Float[Array, "batch S S 3"]
    ) -> tuple[Float[Array, "batch width"], Float[Array, "batch n n width"]]:
        """The class token, and the features of the patches (row, column), float32.

        Raises: ValueError if the picture is not a square of whole patches.
        """
        config = self.config
        batch, height, width, _ = images.shape
        if height != width or height % config.patch:
            raise ValueError(f"images have shape {images.shape}, expected squares with a side of n x {config.patch}")
        side = height // config.patch
        x = self.patch_embed(images).reshape(batch, side * side, config.width).astype(jnp.float32)
        first = jnp.broadcast_to(self.cls_token[...], (batch, 1, config.width))
        x = jnp.concatenate([first, x], axis=1) + position_table(self.pos_embed[...], side)
        for block in self.blocks:
            x = call(block, x, remat=config.remat)
        x = self.norm(x)
        return x[:, 0], x[:, 1:].reshape(batch, side, side, config.width)


def position_table(table: Float[Array, "1 rows width"], side: int) -> Float[Array, "1 tokens width"]:
    """The position table for pictures of side x side patches: bicubic, clamped at the edges; the first row is the class's."""
    stored = round((table.shape[1] - 1) ** 0.5)
    if side == stored:
        return table
    weights = jnp.asarray(_cubic_weights(stored, side), table.dtype)
    grid = table[:, 1:].reshape(stored, stored, -1)
    grid = jnp.einsum("ia,jb,abc->ijc", weights, weights, grid, precision=jax.lax.Precision.HIGHEST)
    return jnp.concatenate([table[:, :1], grid.reshape(1, side * side, -1)], axis=1)


def _cubic_weights(stored: int, side: int) -> Float[np.ndarray, "side stored"]:
    """Rows of cubic convolution weights (Keys, 1981) from a table of `stored` entries to one of `side`."""
    source = (np.arange(side) + 0.5) / ((side + _OVERSHOOT) / stored) - 0.5
    first = np.floor(source).astype(int)
    weights = np.zeros((side, stored))
    for k in range(-1, 3):
        distance = np.abs(source - (first + k))
        near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
        far = _CUBIC * (((distance - 5) * distance + 8) * distance - 4)
        np.add.at(weights, (np.arange(side), np.clip(first + k, 0, stored - 1)), np.where(distance <= 1, near, far))
    return weights
