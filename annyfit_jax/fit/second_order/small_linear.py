"""Cholesky factors of many small matrices at once, in plain operations.

The batched LAPACK calls of jaxlib on CPUs stand still where one process has several CPU devices, and other platforms lower the
same calls to programs of their own. Diagonal blocks are factored for all people together, people last; what is between blocks
are batched matrix products.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_BLOCK = 25


class Factor(NamedTuple):
    """A = L L^T in blocks: per block column the inverse of the diagonal block of L and the panel below it."""

    inverses: tuple[Float[Array, "N b b"], ...]
    panels: tuple[Float[Array, "N rest b"], ...]


def cholesky(matrix: Float[Array, "N D D"], block: int = _BLOCK) -> Factor:
    """Factor of positive definite matrices; only the lower triangle is read. Not finite where there is none."""
    rest = matrix
    inverses, panels = [], []
    while rest.shape[1] > 0:
        size = min(block, rest.shape[1])
        inverse = _inverse_of_factor(rest[:, :size, :size])
        panel = jnp.einsum("nrb,ncb->nrc", rest[:, size:, :size], inverse)
        inverses.append(inverse)
        panels.append(panel)
        rest = rest[:, size:, size:] - jnp.einsum("nrb,ncb->nrc", panel, panel)
    return Factor(tuple(inverses), tuple(panels))


def forward(factor: Factor, right: Float[Array, "N D k"]) -> Float[Array, "N D k"]:
    """L^-1 right."""
    done = []
    for inverse, panel in zip(factor.inverses, factor.panels, strict=True):
        size = inverse.shape[1]
        solved = jnp.einsum("nab,nbk->nak", inverse, right[:, :size])
        done.append(solved)
        right = right[:, size:] - jnp.einsum("nrb,nbk->nrk", panel, solved)
    return jnp.concatenate(done, axis=1)


def backward(factor: Factor, right: Float[Array, "N D k"]) -> Float[Array, "N D k"]:
    """L^-T right."""
    below = right[:, :0]
    end = right.shape[1]
    for inverse, panel in zip(reversed(factor.inverses), reversed(factor.panels), strict=True):
        size = inverse.shape[1]
        mine = right[:, end - size : end] - jnp.einsum("nrb,nrk->nbk", panel, below)
        below = jnp.concatenate([jnp.einsum("nba,nbk->nak", inverse, mine), below], axis=1)
        end -= size
    return below


def solve(matrix: Float[Array, "N D D"], right: Float[Array, "N D k"]) -> Float[Array, "N D k"]:
    """matrix^-1 right for positive definite matrices."""
    factor = cholesky(matrix)
    return backward(factor, forward(factor, right))


def _inverse_of_factor(matrix: Float[Array, "N b b"]) -> Float[Array, "N b b"]:
    """L^-1 of one block, column by column for all people together."""
    size = matrix.shape[1]
    a = jnp.moveaxis(matrix, 0, -1)  # (b, b, N)
    rows = jnp.arange(size)[:, None]

    def column(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        a, inverse = carry
        scale = jax.lax.rsqrt(jax.lax.dynamic_index_in_dim(a[:, :, :], i, 0, keepdims=False)[i])
        mine = jnp.where(rows > i, jax.lax.dynamic_index_in_dim(a, i, 1, keepdims=False) * scale, 0.0)
        row = jax.lax.dynamic_index_in_dim(inverse, i, 0, keepdims=False) * scale
        inverse = jax.lax.dynamic_update_index_in_dim(inverse, row, i, 0) - mine[:, None] * row[None]
        return a - mine[:, None] * mine[None], inverse

    eye = jnp.broadcast_to(jnp.eye(size, dtype=a.dtype)[..., None], a.shape)
    return jnp.moveaxis(jax.lax.fori_loop(0, size, column, (a, eye))[1], -1, 0)
