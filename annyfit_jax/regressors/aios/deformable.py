"""Multi-scale deformable attention (Zhu et al., "Deformable DETR", ICLR 2021, eq. 3) with bounded memory.

Written naively, the encoder of an 800 x 1333 image gathers 22 223 queries x 8 heads x 16 points x 4 corners x 32 floats,
1.4 GiB. Here queries go in steps that gather at most a given number of bytes, and the backward pass gathers
again instead of keeping anything but its inputs.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from annyfit_jax.regressors.aios.positions import Sizes
from annyfit_jax.regressors.layers import XAVIER, ZEROS, HostRandom, linear


def sample(
    value: Float[Array, "batch token head channel"],
    locations: Float[Array, "batch query head level point 2"],
    weights: Float[Array, "batch query head level point"],
    sizes: Sizes,
    step_bytes: int = 128 * 2**20,
) -> Float[Array, "batch query head channel"]:
    """Weighted sum of bilinear samples of `value`, zero outside the image.

    Args:
      value: cells of all levels, row by row, one level after the other.
      locations: (x, y) in shares of each level; the first pixel's centre is at (0.5 / w, 0.5 / h).
      weights: of each sample.
      sizes: (height, width) of each level.
      step_bytes: bound on the samples in memory at a time, forward and backward.
    """
    batch, queries, heads, levels, points, _ = locations.shape
    if levels != len(sizes) or value.shape[1] != sum(h * w for h, w in sizes):
        raise ValueError(f"value of {value.shape[1]} cells and locations on {levels} levels do not fit sizes {sizes}")
    per_query = batch * heads * levels * points * 4 * value.shape[-1] * 4
    step = max(1, min(queries, step_bytes // per_query))
    return _sample(tuple(map(tuple, sizes)), step, value, locations, weights)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sample(sizes, step, value, locations, weights):
    if step >= locations.shape[1]:
        return _sample_step(sizes, value, locations, weights)

    def body(_, queries):
        return None, _sample_step(sizes, value, *queries)

    _, result = jax.lax.scan(body, None, _in_steps(step, locations, weights))
    return _from_steps(result, locations.shape[1])


def _sample_forward(sizes, step, value, locations, weights):
    return _sample(sizes, step, value, locations, weights), (value, locations, weights)


def _sample_backward(sizes, step, residuals, cotangent):
    value, locations, weights = residuals

    def pull(locations, weights, cotangent):
        _, vjp = jax.vjp(functools.partial(_sample_step, sizes), value, locations, weights)
        return vjp(cotangent)

    if step >= locations.shape[1]:
        return pull(locations, weights, cotangent)

    def body(total, queries):
        d_value, d_locations, d_weights = pull(*queries)
        return total + d_value, (d_locations, d_weights)

    start = jnp.zeros_like(value)
    d_value, of_queries = jax.lax.scan(body, start, _in_steps(step, locations, weights, cotangent))
    return d_value, *(_from_steps(part, locations.shape[1]) for part in of_queries)


_sample.defvjp(_sample_forward, _sample_backward)


def _in_steps(step: int, *arrays: Array) -> tuple[Array, ...]:
    """(batch, query, ...) -> (number of steps, batch, step, ...), the last step filled up with zeros."""

    def cut(x: Array) -> Array:
        count = -(-x.shape[1] // step)
        x = jnp.pad(x, [(0, 0), (0, count * step - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], count, step, *x.shape[2:]), 1, 0)

    return tuple(cut(x) for x in arrays)


def _from_steps(x: Array, length: int) -> Array:
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def _sample_step(sizes, value, locations, weights):
    """`sample` in one go."""
    batch, tokens, heads, channels = value.shape
    height, width = (jnp.asarray(n, jnp.int32)[:, None] for n in np.array(sizes).T)  # (level, 1), as points follow
    start = jnp.asarray(np.cumsum([0] + [h * w for h, w in sizes[:-1]]), jnp.int32)[:, None]
    x = locations[..., 0] * width - 0.5
    y = locations[..., 1] * height - 0.5
    left, top = jnp.floor(x), jnp.floor(y)
    right_share, bottom_share = x - left, y - top
    left, top = left.astype(jnp.int32), top.astype(jnp.int32)

    corner_weights, corner_cells = [], []
    for dy, y_share in ((0, 1.0 - bottom_share), (1, bottom_share)):
        for dx, x_share in ((0, 1.0 - right_share), (1, right_share)):
            column, row = left + dx, top + dy
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            corner_weights.append(jnp.where(inside, x_share * y_share * weights, 0.0))
            corner_cells.append(start + jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1))
    weight = jnp.stack(corner_weights, -1).reshape(batch, -1, heads, corner_weights[0][0, 0, 0].size * 4)
    cell = jnp.stack(corner_cells, -1).reshape(weight.shape)

    # The images stay an axis of the gather, so that a batch on several devices is sampled without communication.
    rows = cell * heads + jnp.arange(heads, dtype=jnp.int32)[:, None]
    picked = jax.vmap(lambda cells, row: cells.at[row].get(mode="promise_in_bounds"))(
        value.reshape(batch, tokens * heads, channels), rows
    )
    return jnp.einsum("bqhk,bqhkc->bqhc", weight, picked, preferred_element_type=jnp.float32)


def head_directions(heads: int, levels: int, points: int) -> Float[np.ndarray, "offsets"]:
    """Offset bias at the start: head k looks in direction 2 pi k / heads (the larger coordinate 1), point p at distance p."""
    angle = 2.0 * math.pi * np.arange(heads) / heads
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    direction /= np.abs(direction).max(-1, keepdims=True)
    distance = np.arange(1, points + 1)
    grid = direction[:, None, None, :] * distance[:, None]
    return np.broadcast_to(grid, (heads, levels, points, 2)).reshape(-1).astype(np.float32)


class DeformableAttention(nnx.Module):
    """Each query samples a few points around its reference in every level."""

    def __init__(
        self, width: int, heads: int, levels: int, points: int, *, rngs: HostRandom, dtype: str = "float32",
        step_bytes: int = 128 * 2**20,
    ):  # fmt: skip
        samples = heads * levels * points
        directions = head_directions(heads, levels, points)
        self.offsets = linear(
            width, 2 * samples, rngs=rngs, kernel_init=ZEROS, bias_init=lambda *_, **__: jnp.asarray(directions)
        )
        self.weights = linear(width, samples, rngs=rngs, kernel_init=ZEROS, bias_init=ZEROS)
        self.value = linear(width, width, rngs=rngs, dtype=dtype, kernel_init=XAVIER, bias_init=ZEROS)
        self.output = linear(width, width, rngs=rngs, dtype=dtype, kernel_init=XAVIER, bias_init=ZEROS)
        self.shape = (heads, levels, points)
        self.step_bytes = step_bytes

    def __call__(
        self,
        query: Float[Array, "batch query width"],
        references: Float[Array, "batch query level box"],
        memory: Float[Array, "batch token width"],
        padding: Bool[Array, "batch token"] | None,
        sizes: Sizes,
    ) -> Float[Array, "batch query width"]:
        """References are points (x, y) or boxes (cx, cy, w, h) in shares of each level, padding included."""
        heads, levels, points = self.shape
        value = self.value(memory)
        if padding is not None:
            value = jnp.where(padding[..., None], 0.0, value)
        value = value.reshape(*value.shape[:2], heads, -1)
        offsets = self.offsets(query).reshape(*query.shape[:2], heads, levels, points, 2)
        weights = jax.nn.softmax(self.weights(query).reshape(*query.shape[:2], heads, levels * points), axis=-1)
        weights = weights.reshape(*query.shape[:2], heads, levels, points)
        centre = references[:, :, None, :, None, :2]
        if references.shape[-1] == 2:
            scale = 1.0 / jnp.asarray([[w, h] for h, w in sizes], jnp.float32)[:, None]
        else:
            scale = references[:, :, None, :, None, 2:] * (0.5 / points)
        sampled = sample(value, centre + offsets * scale, weights, sizes, self.step_bytes)
        return self.output(sampled.reshape(*query.shape).astype(query.dtype))
