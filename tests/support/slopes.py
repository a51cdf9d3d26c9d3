"""Gradients that a module writes out, beside those that JAX derives from a plain form of the same function."""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np


def assert_same_function(ours: Callable, plain: Callable, *arguments: jax.Array, atol: float = 1e-12) -> None:
    """Values and, for a random weighting of the results, gradients by all arguments. `plain` has no gradients of its own."""
    values, ours_back = jax.vjp(ours, *arguments)
    expected, plain_back = jax.vjp(plain, *arguments)
    chex.assert_trees_all_close(values, expected, rtol=0, atol=atol)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), values)
    chex.assert_trees_all_close(ours_back(weights), plain_back(weights), rtol=0, atol=atol)
