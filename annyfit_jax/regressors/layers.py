"""Linear layers, perceptrons and norms with the conventions of PyTorch, on which the published weights rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

EPSILON = 1e-5
"""Of all norms (Flax has 1e-6)."""

Initializer = Callable[..., Array]
ZEROS = nnx.initializers.zeros


class HostRandom:
    """Random start values drawn on the host; takes the place of `nnx.Rngs` in constructors of modules.

    Flax asks its `rngs` only for `params()`, so that its own modules take one as well, by a cast.

    Hundreds of differently shaped draws cost minutes of compilation, and `nnx.Rngs` counts in an array, which costs as much
    again under a trace. Without a seed all draws are zeros: for shapes only.
    """

    def __init__(self, seed: Sequence[int] | None):
        self.generator = None if seed is None else np.random.default_rng(list(seed))

    def params(self) -> HostRandom:
        """What modules hand to initialisers as their key."""
        return self

    @classmethod
    def of(cls, key: Array | None) -> HostRandom:
        """Draws decided by a JAX key; None: shapes only."""
        return cls(None if key is None else np.asarray(jax.random.key_data(key)).ravel().tolist())


def _drawn(draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]) -> Initializer:
    def init(random: HostRandom, shape: tuple[int, ...], dtype=jnp.float32, **_: Any) -> Array:
        if random.generator is None:
            return jnp.zeros(shape, dtype)
        return jnp.asarray(draw(random.generator, tuple(shape)), dtype)

    return init


def fan_in_uniform(fan_in: int) -> Initializer:
    """U(-1/sqrt(n), 1/sqrt(n)), PyTorch's start of weights and biases of a linear layer with n inputs."""
    bound = 1.0 / math.sqrt(fan_in)
    return _drawn(lambda generator, shape: generator.uniform(-bound, bound, shape))


def _xavier(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    bound = math.sqrt(6.0 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1])))
    return generator.uniform(-bound, bound, shape)


XAVIER = _drawn(_xavier)
"""Xavier-uniform."""
HE = _drawn(lambda generator, shape: generator.normal(0, math.sqrt(2 / math.prod(shape) * shape[-2]), shape))
"""He-normal by the outputs of a convolution."""
NORMAL = _drawn(lambda generator, shape: generator.normal(0, 1, shape))
"""Standard normal."""


def linear(
    inputs: int,
    outputs: int,
    *,
    rngs: HostRandom,
    dtype: str = "float32",
    kernel_init: Initializer | None = None,
    bias_init: Initializer | None = None,
) -> nnx.Linear:
    """A linear layer with bias; parameters float32, computed in `dtype`."""
    default = fan_in_uniform(inputs)
    return nnx.Linear(
        inputs, outputs, rngs=cast(nnx.Rngs, rngs), dtype=jnp.dtype(dtype), kernel_init=kernel_init or default,
        bias_init=bias_init or default,
    )  # fmt: skip


def layer_norm(width: int, rngs: HostRandom) -> nnx.LayerNorm:
    """LayerNorm over the last axis, in float32."""
    return nnx.LayerNorm(width, epsilon=EPSILON, use_fast_variance=False, rngs=cast(nnx.Rngs, rngs), dtype=jnp.float32)


class Mlp(nnx.Module):
    """Linear layers with ReLU between them and none after the last."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        *,
        rngs: HostRandom,
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

    def __init__(self, width: int, hidden: int, *, rngs: HostRandom, dtype: str = "float32"):
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
