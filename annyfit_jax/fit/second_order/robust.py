"""Robust functions and statistics over the points of each person (points first, people last)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from annyfit_jax.fit import objective


def geman_mcclure(
    squared: Float[Array, "*#batch"], width: float | Float[Array, "*#batch"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Half of k^2 s / (k^2 + s) of a squared residual s, and twice its derivative: the weight that IRLS gives s.

    The weighted quadratic through the current value lies above the function everywhere: it is concave in s.
    """
    scale = width * width
    share = scale / (scale + squared)
    return 0.5 * objective.geman_mcclure(squared, width), share * share


def masked_median(values: Float[Array, "K N"], mask: Bool[Array, "K N"]) -> Float[Array, "N"]:
    """Lower median over the chosen points of each person; 0 where none is chosen."""
    return weighted_median(values, mask.astype(values.dtype))


def weighted_median(values: Float[Array, "K N"], weight: Float[Array, "K N"]) -> Float[Array, "N"]:
    """Smallest value up to which half of the weight lies; 0 where all weights are zero."""
    # Every value is compared with every other: for the few points of a person as fast as sorting, and compiled at once.
    values = jnp.where(weight > 0, values, jnp.inf)
    total = weight.sum(0)
    up_to = jnp.where(values[None] <= values[:, None], weight[None], 0.0).sum(1)
    reached = (weight > 0) & (up_to >= 0.5 * total * (1.0 - 1e-6))
    return jnp.where(total > 0, jnp.where(reached, values, jnp.inf).min(0), 0.0)
