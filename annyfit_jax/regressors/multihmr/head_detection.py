"""Which patches hold a head."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Patches(NamedTuple):
    """A patch per person, padded to a fixed number of people."""

    row: Int[Array, "batch person"]
    column: Int[Array, "batch person"]
    valid: Bool[Array, "batch person"]
    score: Float[Array, "batch person"]


def suppress(scores: Float[Array, "batch n n"]) -> Float[Array, "batch n n"]:
    """Scores that are the largest of their 3 x 3 neighbourhood; 0 elsewhere."""
    peak = jax.lax.reduce_window(scores, -jnp.inf, jax.lax.max, (1, 3, 3), (1, 1, 1), "SAME")
    return jnp.where(peak == scores, scores, 0.0)


def detect(scores: Float[Array, "batch n n"], threshold: float, people: int) -> Patches:
    """The highest local maxima from `threshold` on, at most `people` of them, best first."""
    side = scores.shape[-1]
    best, index = jax.lax.top_k(suppress(scores).reshape(len(scores), -1), min(people, side * side))
    return Patches(index // side, index % side, best >= threshold, best)


def pinned(
    scores: Float[Array, "batch n n"],
    heads: Float[Array, "batch person 2"],
    valid: Bool[Array, "batch person"],
    patch: int,
) -> Patches:
    """The patches of given heads (pixels of the square picture), in their order; scores are read where they are."""
    side = scores.shape[-1]
    at = jnp.clip(jnp.floor(heads / patch).astype(int), 0, side - 1)
    column, row = at[..., 0], at[..., 1]
    return Patches(row, column, valid, scores[jnp.arange(len(scores))[:, None], row, column])
