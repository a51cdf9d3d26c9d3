"""Boxes (cx, cy, w, h) in shares of the unpadded image, and the logit-space refinement of references."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from annyfit_jax.people import boxes

_LOGIT_FLOOR = 1e-3
_GIOU_FLOOR = 1e-6


def inverse_sigmoid(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(x / (1 - x)) of x clipped to [0, 1], numerator and denominator floored at 1e-3: |result| <= 6.91."""
    x = jnp.clip(x, 0.0, 1.0)
    return jnp.log(jnp.maximum(x, _LOGIT_FLOOR) / jnp.maximum(1.0 - x, _LOGIT_FLOOR))


def refine(reference: Float[Array, "*shape"], delta: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Moves references by `delta` in logit space."""
    return jax.nn.sigmoid(inverse_sigmoid(reference) + delta)


def to_corners(centred: Float[Array, "*batch 4"]) -> Float[Array, "*batch 4"]:
    """(cx, cy, w, h) to (x1, y1, x2, y2)."""
    centre, size = centred[..., :2], centred[..., 2:]
    return jnp.concatenate([centre - 0.5 * size, centre + 0.5 * size], axis=-1)


def from_corners(corners: Float[Array, "*batch 4"]) -> Float[Array, "*batch 4"]:
    """(x1, y1, x2, y2) to (cx, cy, w, h)."""
    low, high = corners[..., :2], corners[..., 2:]
    return jnp.concatenate([0.5 * (low + high), high - low], axis=-1)


def generalised_iou(a: Float[Array, "*#batch 4"], b: Float[Array, "*#batch 4"]) -> Float[Array, "*batch"]:
    """GIoU of boxes (cx, cy, w, h), broadcasting; both denominators plus 1e-6 as released.

    Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, eq. 2.
    """
    a, b = to_corners(a), to_corners(b)
    shared, union = boxes.shared_and_union(a, b)
    hull = boxes.hull(a, b)
    return shared / (union + _GIOU_FLOOR) - (hull - union) / (hull + _GIOU_FLOOR)
