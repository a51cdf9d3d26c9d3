"""Self-attention among people's tokens, computed in the blocks that the pattern leaves.

A mask over all tokens of 100 people would be 3900 x 3900, almost all of it forbidden. A token that sees only its own
person needs as many scores as a person has tokens; a token that sees others needs, besides, the keys they share. With
the published pattern that is 1/50 of the matrix in the last stage, and the same numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from annyfit_jax.regressors.aios.tokens import Visibility
from annyfit_jax.regressors.layers import XAVIER, ZEROS, HostRandom, linear


class PeopleAttention(nnx.Module):
    """Multi-head attention over [denoising queries, tokens of person 0, tokens of person 1, ...].

    Ordinary tokens never see denoising queries; a denoising query sees its own group and all ordinary tokens.
    """

    def __init__(self, width: int, heads: int, *, rngs: HostRandom, dtype: str = "float32"):
        self.input = linear(width, 3 * width, rngs=rngs, dtype=dtype, kernel_init=XAVIER, bias_init=ZEROS)
        self.output = linear(width, width, rngs=rngs, dtype=dtype, kernel_init=XAVIER, bias_init=ZEROS)
        self.heads = heads

    def __call__(
        self,
        x: Float[Array, "batch token width"],
        positions: Float[Array, "batch token width"],
        denoising_groups: Int[Array, "batch denoising"] | None,
        *,
        tokens_per_person: int,
        visibility: Visibility,
    ) -> Float[Array, "batch token width"]:
        """`positions` are added to queries and keys, not to values. Denoising queries of one group share a number."""
        width = x.shape[-1]
        assert self.input.bias is not None
        kernel, bias = self.input.kernel[...], self.input.bias[...]
        dtype = self.input.dtype or x.dtype
        moved = (x + positions).astype(dtype) @ kernel[:, : 2 * width].astype(dtype) + bias[: 2 * width].astype(dtype)
        value = x.astype(dtype) @ kernel[:, 2 * width :].astype(dtype) + bias[2 * width :].astype(dtype)
        q, k, v = (
            part.reshape(*part.shape[:2], self.heads, -1) for part in (moved[..., :width], moved[..., width:], value)
        )
        first = 0 if denoising_groups is None else denoising_groups.shape[1]

        def by_person(part: Array) -> Array:
            return part[:, first:].reshape(part.shape[0], -1, tokens_per_person, *part.shape[2:])

        people = _attend_people(by_person(q), by_person(k), by_person(v), visibility)
        result = people.reshape(x.shape[0], -1, *people.shape[3:])
        if denoising_groups is not None:
            same = denoising_groups[:, :, None] == denoising_groups[:, None, :]
            everybody = jnp.ones((*same.shape[:2], x.shape[1] - first), bool)
            allowed = jnp.concatenate([same, everybody], axis=-1)
            result = jnp.concatenate([_attend(q[:, :first], k, v, allowed), result], axis=1)
        return self.output(result.reshape(x.shape).astype(dtype))


def _softmax(scores: Sequence[Array], channels: int) -> list[Array]:
    """One softmax over the last axes of all score arrays together."""
    joined = jax.nn.softmax(jnp.concatenate(scores, axis=-1) / math.sqrt(channels), axis=-1)
    return jnp.split(joined, np.cumsum([part.shape[-1] for part in scores])[:-1], axis=-1)


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _attend(
    q: Float[Array, "batch query head channel"],
    k: Float[Array, "batch key head channel"],
    v: Float[Array, "batch key head channel"],
    allowed: Bool[Array, "batch query key"],
) -> Float[Array, "batch query head channel"]:
    scores = jnp.where(allowed[:, None], _product("bqhc,bkhc->bhqk", q, k), -jnp.inf)
    (weights,) = _softmax([scores], q.shape[-1])
    return _product("bhqk,bkhc->bqhc", weights.astype(v.dtype), v)


def _attend_people(
    q: Float[Array, "batch person token head channel"],
    k: Float[Array, "batch person token head channel"],
    v: Float[Array, "batch person token head channel"],
    visibility: Visibility,
) -> Float[Array, "batch person token head channel"]:
    batch, people, tokens, heads, channels = q.shape
    wide = np.array(visibility.queries)  # tokens that see other people
    shared = np.array(visibility.keys)  # tokens that other people see
    narrow = np.setdiff1d(np.arange(tokens), wide)
    private = np.setdiff1d(np.arange(tokens), shared)
    rows = people * wide.size

    wide_q = q[:, :, wide]
    shared_k, shared_v = (x[:, :, shared].reshape(batch, people * shared.size, heads, channels) for x in (k, v))
    private_k, private_v = k[:, :, private], v[:, :, private]
    across = _product("bqhc,bkhc->bhqk", wide_q.reshape(batch, rows, heads, channels), shared_k)
    within = _product("bgqhc,bgkhc->bhgqk", wide_q, private_k).reshape(batch, heads, rows, private.size)
    across, within = (part.astype(v.dtype) for part in _softmax([across, within], channels))
    within = within.reshape(batch, heads, people, wide.size, private.size)
    of_wide = _product("bhqk,bkhc->bqhc", across, shared_v).reshape(wide_q.shape)
    of_wide += _product("bhgqk,bgkhc->bgqhc", within, private_v)
    if not narrow.size:
        return of_wide

    (weights,) = _softmax([_product("bgqhc,bgkhc->bghqk", q[:, :, narrow], k)], channels)
    of_narrow = _product("bghqk,bgkhc->bgqhc", weights.astype(v.dtype), v)
    order = np.argsort(np.concatenate([wide, narrow]))
    return jnp.concatenate([of_wide, of_narrow], axis=2)[:, :, order]
