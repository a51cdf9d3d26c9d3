"""Position embeddings, masks of the feature levels, and references that depend on the image's size only."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

IMAGE_TEMPERATURE = 20.0
QUERY_TEMPERATURE = 10000.0

Sizes = Sequence[tuple[int, int]]
"""(height, width) of each feature level."""


def sine_embedding(angle: Float[Array, "*batch"], features: int, temperature: float) -> Float[Array, "*batch features"]:
    """Interleaved sines and cosines: [sin(v/d0), cos(v/d0), sin(v/d1), ...], d_j = temperature^(2j / features)."""
    scale = temperature ** (2.0 * np.arange(features // 2) / features)
    value = angle[..., None] / jnp.asarray(scale, angle.dtype)
    return jnp.stack([jnp.sin(value), jnp.cos(value)], axis=-1).reshape(*angle.shape, features)


def image_embedding(padding: Bool[Array, "batch h w"], width: int) -> Float[Array, "batch h w width"]:
    """Embedding of each cell's row, then column, as its share of the unpadded rows and columns (Carion et al. 2020)."""
    inside = (~padding).astype(jnp.float32)

    def embed(axis: int) -> Array:
        count = jnp.cumsum(inside, axis)
        last = jnp.take(count, jnp.array([-1]), axis)
        return sine_embedding(count / (last + 1e-6) * (2.0 * np.pi), width // 2, IMAGE_TEMPERATURE)

    return jnp.concatenate([embed(1), embed(2)], axis=-1)


def box_embedding(boxes: Float[Array, "*batch numbers"], width: int) -> Float[Array, "*batch features"]:
    """Embedding of references: (cx, cy, w, h) -> `2 * width` numbers in the order cy, cx, w, h; points (cx, cy) -> `width`."""
    order = jnp.array([1, 0, 2, 3][: boxes.shape[-1]])
    embedded = sine_embedding(boxes[..., order] * (2.0 * np.pi), width // 2, QUERY_TEMPERATURE)
    return embedded.reshape(*boxes.shape[:-1], -1)


def level_mask(padding: Bool[Array, "batch H W"], size: tuple[int, int]) -> Bool[Array, "batch h w"]:
    """Nearest neighbour: cell (i, j) of h x w takes pixel (floor(i H / h), floor(j W / w))."""
    rows, columns = (np.arange(n) * full // n for n, full in zip(size, padding.shape[1:]))
    return padding[:, rows][:, :, columns]


def valid_counts(padding: Bool[Array, "batch h w"]) -> Float[Array, "batch 2"]:
    """(columns, rows) that are not padding, as seen in the first row and column."""
    inside = (~padding).astype(jnp.float32)
    return jnp.stack([inside[:, 0, :].sum(-1), inside[:, :, 0].sum(-1)], axis=-1)


def cell_centres(size: tuple[int, int]) -> Float[np.ndarray, "cell 2"]:
    """(x, y) of each cell's centre in cells, row by row."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.stack([columns + 0.5, rows + 0.5], axis=-1).reshape(-1, 2).astype(np.float32)


def encoder_references(valid: Float[Array, "batch level 2"], sizes: Sizes) -> Float[Array, "batch token level 2"]:
    """Each token's own position, in every level's padded coordinates.

    `valid` are the unpadded (columns, rows) of each level.
    """
    full = jnp.asarray([[w, h] for h, w in sizes], valid.dtype)
    ratio = valid / full
    own = jnp.concatenate(
        [cell_centres(size) / (ratio[:, level, None] * full[level]) for level, size in enumerate(sizes)], axis=1
    )
    return own[:, :, None] * ratio[:, None]


def proposals(
    valid: Float[Array, "batch level 2"], padding: Bool[Array, "batch token"], sizes: Sizes
) -> tuple[Float[Array, "batch token 4"], Bool[Array, "batch token"]]:
    """A box in logit space at each token, 5 % of the image at level 0 and twice that at each further level.

    Returns: boxes, and whether each may be selected: not padding, and all four numbers within (0.01, 0.99). The box of the
    others is +inf (so that its logistic function is 1).
    """
    boxes = []
    for level, size in enumerate(sizes):
        centre = cell_centres(size) / valid[:, level, None]
        boxes.append(jnp.concatenate([centre, jnp.full_like(centre, 0.05 * 2.0**level)], axis=-1))
    box = jnp.concatenate(boxes, axis=1)
    usable = ((box > 0.01) & (box < 0.99)).all(-1) & ~padding
    safe = jnp.where(usable[..., None], box, 0.5)
    return jnp.where(usable[..., None], jnp.log(safe / (1.0 - safe)), jnp.inf), usable
