"""The transformer over the people of a picture: they look at each other, then at the picture."""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from annyfit_jax.regressors.layers import HostRandom, fan_in_uniform, layer_norm, linear
from annyfit_jax.regressors.multihmr.multihmr_config import HeadConfig


def _no_bias(inputs: int, outputs: int, rngs: HostRandom) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, use_bias=False, rngs=cast(nnx.Rngs, rngs), kernel_init=fan_in_uniform(inputs))


class PeopleBlock(nnx.Module):
    """Self-attention over people, cross-attention to the picture, perceptron; norms before each, of people only."""

    def __init__(self, config: HeadConfig, context: int, *, rngs: HostRandom):
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.norm1, self.norm2, self.norm3 = (layer_norm(config.width, rngs) for _ in range(3))
        self.self_qkv = _no_bias(config.width, 3 * inner, rngs)
        self.self_out = linear(inner, config.width, rngs=rngs)
        self.cross_q = _no_bias(config.width, inner, rngs)
        self.cross_kv = _no_bias(context, 2 * inner, rngs)
        self.cross_out = linear(inner, config.width, rngs=rngs)
        self.expand = linear(config.width, config.hidden, rngs=rngs)
        self.contract = linear(config.hidden, config.width, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch person width"],
        valid: Bool[Array, "batch person"],
        context: Float[Array, "batch token channels"],
    ) -> Float[Array, "batch person width"]:
        def split(y: Array, parts: int) -> list[Array]:
            return [part.reshape(*y.shape[:2], self.heads, -1) for part in jnp.split(y, parts, axis=-1)]

        def flat(y: Array) -> Array:
            return y.reshape(*y.shape[:2], -1)

        q, k, v = split(self.self_qkv(self.norm1(x)), 3)
        # A picture without people: let its padding see itself, so that no row is without a key.
        seen = valid[:, None, None, :] | ~valid.any(1)[:, None, None, None]
        x = x + self.self_out(flat(jax.nn.dot_product_attention(q, k, v, mask=seen)))
        (q,), (k, v) = split(self.cross_q(self.norm2(x)), 1), split(self.cross_kv(context), 2)
        x = x + self.cross_out(flat(jax.nn.dot_product_attention(q, k, v)))
        return x + self.contract(jax.nn.gelu(self.expand(self.norm3(x)), approximate=False))
