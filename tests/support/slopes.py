"""Gradients that a module writes out, beside those that JAX derives from a plain form of the same function."""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np


def assert_same_function(ours: Callable, plain: Callable, *arguments: jax.Array, atol: float = 1e-12) -> None:
    """Values and, for a random weighting of the results, gradients by all arguments. `plain` has no gradients of its own."""
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), jax.eval_shape(ours, *arguments))

    def values_and_gradients(function: Callable) -> tuple:
        values, back = jax.vjp(function, *arguments)
        return values, back(weights)

    found, expected = (jax.jit(values_and_gradients, static_argnums=0)(function) for function in (ours, plain))
    chex.assert_trees_all_close(found, expected, rtol=0, atol=atol)
