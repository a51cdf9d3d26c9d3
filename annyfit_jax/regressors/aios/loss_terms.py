"""Single loss terms: small functions that return one number per person, box or query."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

BODY_SIGMAS = np.array(
    [.026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062, .107, .107, .087, .087, .089, .089], np.float32
)  # fmt: skip
"""Spread of the annotations of each COCO joint, as a share of the person's size."""
PART_SIGMAS = np.full(6, 0.025, np.float32)
_OKS_FLOOR = 1e-6
_FOCAL_ALPHA, _FOCAL_GAMMA = 0.25, 2.0


def focal(logits: Float[Array, "*batch"], target: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Sigmoid focal loss with alpha 0.25 and gamma 2 (Lin et al., "Focal Loss for Dense Object Detection", 2017, eq. 5)."""
    p = jax.nn.sigmoid(logits)
    entropy = jnp.maximum(logits, 0.0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    missing = 1.0 - (p * target + (1.0 - p) * (1.0 - target))
    return (_FOCAL_ALPHA * target + (1.0 - _FOCAL_ALPHA) * (1.0 - target)) * missing**_FOCAL_GAMMA * entropy


def object_keypoint_similarity(
    predicted: Float[Array, "*#batch joint 2"],
    true: Float[Array, "*#batch joint 2"],
    visible: Float[Array, "*#batch joint"],
    area: Float[Array, "*#batch"],
    sigmas: Float[np.ndarray, "joint"],
) -> Float[Array, "*batch"]:
    """OKS (COCO): mean over visible joints of exp(-d^2 / (2 area (2 sigma)^2)), at least 1e-6.

    All in shares of the image, so x and y are scaled differently, as released.
    """
    squared = jnp.square(predicted - true).sum(-1)
    # An area of zero makes every distance infinite; the floor keeps the quotient and its gradient finite.
    spread = 2.0 * jnp.maximum(area, 1e-12)[..., None] * jnp.square(2.0 * sigmas)
    similarity = (jnp.exp(-squared / spread) * visible).sum(-1) / (visible.sum(-1) + _OKS_FLOOR)
    return jnp.maximum(similarity, _OKS_FLOOR)


def oks_loss(
    predicted: Float[Array, "*#batch joint 2"],
    true: Float[Array, "*#batch joint 2"],
    visible: Float[Array, "*#batch joint"],
    area: Float[Array, "*#batch"],
    sigmas: Float[np.ndarray, "joint"],
) -> Float[Array, "*batch"]:
    """1 - OKS, or 0 without visible joints."""
    seen = visible.sum(-1)
    return (1.0 - object_keypoint_similarity(predicted, true, visible, area, sigmas)) * seen / (seen + _OKS_FLOOR)


def mean_over(values: Float[Array, "*batch"], counted: Float[Array, "*counted"]) -> Float[Array, ""]:
    """Sum of values over the number counted; 0 if there is none."""
    count = counted.sum()
    return jnp.where(count > 0, values.sum() / jnp.maximum(count, 1.0), 0.0)


def any_of(confidence: Float[Array, "*batch joint"]) -> Float[Array, "*batch"]:
    """1 where at least one joint counts."""
    return (confidence > 0).any(-1).astype(jnp.float32)
