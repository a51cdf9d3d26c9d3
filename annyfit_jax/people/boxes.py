"""Boxes by their corners x0, y0, x1, y1: areas and what two boxes share. For numpy and JAX arrays, of pixels or shares."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float


def _namespace(*arrays: Any) -> ModuleType:
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def area(boxes: Any, pixel: float = 0.0) -> Any:
    """(*batch) areas of boxes (*batch, 4); `pixel` is added to width and height. An empty box has area 0."""
    sides = _namespace(boxes).maximum(boxes[..., 2:] - boxes[..., :2] + pixel, 0.0)
    return sides[..., 0] * sides[..., 1]


def shared_and_union(a: Any, b: Any, pixel: float = 0.0) -> tuple[Any, Any]:
    """(*batch) areas of the intersection and of the union of boxes (*batch, 4), which broadcast."""
    xp = _namespace(a, b)
    low, high = xp.maximum(a[..., :2], b[..., :2]), xp.minimum(a[..., 2:], b[..., 2:])
    shared = area(xp.concatenate([low, high], axis=-1), pixel)
    return shared, area(a, pixel) + area(b, pixel) - shared


def hull(a: Any, b: Any) -> Any:
    """(*batch) areas of the smallest boxes around both."""
    xp = _namespace(a, b)
    low, high = xp.minimum(a[..., :2], b[..., :2]), xp.maximum(a[..., 2:], b[..., 2:])
    return area(xp.concatenate([low, high], axis=-1))


def pairwise_iou(
    a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"], pixel: float = 0.0
) -> Float[np.ndarray, "n m"]:
    """Intersection over union of each box with each; `pixel` is added to every width and height. NaN and empty boxes give 0."""
    a, b = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (a, b))
    shared, union = shared_and_union(a[:, None], b[None], pixel)
    return np.nan_to_num(shared / np.where(union <= 0, 1.0, union))
