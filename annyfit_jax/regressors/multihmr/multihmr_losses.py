"""The training loss of Multi-HMR: every term, and their weighted sum.

Terms and weights are those of the released SMPL-X training code. The loss of the Anny variant is not published: `fov`,
and that rotations count only where they are predicted, are inferred.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from annyfit_jax.regressors.multihmr.multihmr_config import LossConfig

_LOG_FLOOR = 1e-7


class Body(NamedTuple):
    """What is compared of people, predicted or true; P people per picture, padded."""

    offset: Float[Array, "batch P 2"]
    matrices: Float[Array, "batch P rotation 3 3"]
    shape: Float[Array, "batch P shape"]
    """May have more numbers than the other side: the common ones are compared."""
    raw_distance: Float[Array, "batch P 1"]
    transl: Float[Array, "batch P 3"]
    """Head, metres, camera axes."""
    pelvis: Float[Array, "batch P 3"]
    j3d: Float[Array, "batch P joint 3"]
    v3d: Float[Array, "batch P vertex 3"]
    j2d: Float[Array, "batch P joint 2"]
    """Pixels of the square picture."""
    v2d: Float[Array, "batch P vertex 2"]


def detection(scores: Float[Array, "*grid"], positive: Float[Array, "*grid"]) -> Float[Array, ""]:
    """Focal loss over all patches (Law and Deng, "CornerNet", ECCV 2018, eq. 1, one positive per person, no Gaussian)."""
    hits = jnp.log(scores + _LOG_FLOOR) * (1.0 - scores) ** 2 * positive
    missed = jnp.log(1.0 - scores + _LOG_FLOOR) * scores**2 * (1.0 - positive)
    return -(hits.sum() + missed.sum()) / jnp.maximum(positive.sum(), 1.0)


def terms(
    scores: Float[Array, "batch n n"],
    positive: Float[Array, "batch n n"],
    predicted: Body,
    true: Body,
    valid: Bool[Array, "batch P"],
    size: int,
    weight: Float[Array, "batch P"] | None = None,
) -> dict[str, Float[Array, ""]]:
    """Every term, unweighted: means over valid people.

    Args:
      scores: probability of a head per patch.
      positive: 1 on the patches of true heads.
      valid: which people exist.
      size: side of the picture; points whose target is outside it do not count in pixels.
      weight: of each person, mean about 1 (uncertain pseudo labels count less); None: 1.
    """
    count = valid.astype(scores.dtype)
    total = jnp.maximum(count.sum(), 1.0)
    weight = count if weight is None else count * weight

    def mean(per_person: Array) -> Array:
        return jnp.where(valid, per_person * weight, 0.0).sum() / total

    def l1(a: Array, b: Array, axes: tuple[int, ...]) -> Array:
        return jnp.abs(a - b).sum(axes)

    def pixels(a: Array, b: Array) -> Array:
        inside = ((b >= 0) & (b < size)).all(-1) & valid[..., None]
        each = jnp.where(inside, l1(a, b, (-1,)) * weight[..., None], 0.0)
        return each.sum() / jnp.maximum(inside.sum(), 1)

    common = min(predicted.shape.shape[-1], true.shape.shape[-1])
    centred = [
        (p - a.pelvis[..., None, :])
        for a, points in ((predicted, ("j3d", "v3d")), (true, ("j3d", "v3d")))
        for p in (getattr(a, name) for name in points)
    ]
    return {
        "bce": detection(scores, positive),
        "offset": mean(l1(predicted.offset, true.offset, (-1,))),
        "rotmat": mean(l1(predicted.matrices, true.matrices, (-3, -2, -1))),
        "shape": mean(l1(predicted.shape[..., :common], true.shape[..., :common], (-1,))),
        "dist": mean(l1(predicted.raw_distance, true.raw_distance, (-1,))),
        "transl": mean(l1(predicted.transl, true.transl, (-1,))),
        "j3d": mean(l1(centred[0], centred[2], (-1,)).mean(-1)),
        "v3d": mean(l1(centred[1], centred[3], (-1,)).mean(-1)),
        "j2d": pixels(predicted.j2d, true.j2d),
        "v2d": pixels(predicted.v2d, true.v2d),
    }


def total(
    values: Mapping[str, Float[Array, ""]], config: LossConfig, pixels: Bool[Array, ""] | bool = True
) -> Float[Array, ""]:
    """The weighted sum; `pixels`: whether the terms in pixels count yet. A term that is not finite counts as 0."""
    weights = dataclasses.asdict(config)
    parts = []
    for name, value in values.items():
        on = jnp.where(pixels, 1.0, 0.0) if name in ("j2d", "v2d") else 1.0
        parts.append(weights[name] * on * jnp.where(jnp.isfinite(value), value, 0.0))
    return sum(parts, jnp.zeros(()))
