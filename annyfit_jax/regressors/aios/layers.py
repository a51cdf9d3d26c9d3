"""Linear layers, perceptrons and norms with the conventions of PyTorch, on which the published weights rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

EPSILON = 1e-5
"""Of all norms (Flax has 1e-6)."""

Initializer = Callable[..., Array]
XAVIER = nnx.initializers.xavier_uniform()
ZEROS = nnx.initializers.zeros


class _Keys:
    """Hands out random keys by counting in Python.

    `nnx.Rngs` counts in an array: under a trace each key then costs a search through the trace, minutes for a whole network.
    """

    def __init__(self, key: Array):
        self._key = key
        self._count = 0

    def params(self) -> Array:
        self._count += 1
        return jax.random.fold_in(self._key, self._count)


def random_keys(key: Array) -> nnx.Rngs:
    """What constructors of modules take as `rngs`."""
    return cast(nnx.Rngs, _Keys(key))


def fan_in_uniform(fan_in: int) -> Initializer:
    """U(-1/sqrt(n), 1/sqrt(n)), PyTorch's start of weights and biases of a linear layer with n inputs."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32, **_: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def linear(
    inputs: int,
    outputs: int,
    *,
    rngs: nnx.Rngs,
    dtype: str = "float32",
    kernel_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> nnx.Linear:
    """A linear layer with bias; parameters float32, computed in `dtype`."""
    default = fan_in_uniform(inputs)
    return nnx.Linear(
        inputs, outputs, rngs=rngs, dtype=jnp.dtype(dtype), kernel_init=kernel_init or default,
        bias_init=bias_init or default,
    )  # fmt: skip


def layer_norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm over the last axis, in float32."""
    return nnx.LayerNorm(width, epsilon=EPSILON, use_fast_variance=False, rngs=rngs, dtype=jnp.float32)


class Mlp(nnx.Module):
    """Linear layers with ReLU between them and none after the last."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        *,
        rngs: nnx.Rngs,
        dtype: str = "float32",
        kernel_init: Initializer | None = None,
        last_kernel_init: Initializer | None = None,
        last_bias_init: Initializer | None = None,
    ):
        """`sizes`: inputs, hidden units, outputs. The last layer's start may be given apart."""
        last = len(sizes) - 2
        self.layers = nnx.List(
            linear(
                sizes[i], sizes[i + 1], rngs=rngs, dtype=dtype,
                kernel_init=(last_kernel_init or kernel_init) if i == last else kernel_init,
                bias_init=last_bias_init if i == last else None,
            )
            for i in range(last + 1)
        )  # fmt: skip

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x).astype(jnp.float32)


class FeedForward(nnx.Module):
    """W2 relu(W1 x)."""

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs, dtype: str = "float32"):
        self.expand = linear(width, hidden, rngs=rngs, dtype=dtype, kernel_init=XAVIER)
        self.contract = linear(hidden, width, rngs=rngs, dtype=dtype, kernel_init=XAVIER)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return self.contract(jax.nn.relu(self.expand(x)))


def call(module: nnx.Module, *args: Any, remat: bool, **static: Any) -> Any:
    """`module(*args, **static)`; with `remat` its inside is recomputed in the backward pass."""
    if not remat:
        return module(*args, **static)
    graph, state = nnx.split(module)
    return jax.checkpoint(lambda state, *args: nnx.merge(graph, state)(*args, **static))(state, *args)
