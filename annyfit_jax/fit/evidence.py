"""How much a scene shows of each person: joints seen, and their extent in the picture.

A person of whom too little is seen (`enough`) gets no body of the priors' invention: `starts.prepare` sets such a person aside
as `too_little_evidence`, unless a feed-forward estimate supports a body. Both numbers are stored with the fit and count in
`annyfit_jax.fit.trust`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

MIN_JOINTS = 3.0
"""Fewer joints fix neither the place nor the orientation of a body."""
MIN_EXTENT_PX = 8.0
"""Detectors err by some pixels: in a smaller person, size and depth are unknown by half."""
_FACE = 5
_FACE_JOINTS = 2.0
"""What nose, eyes and ears count for together at most: they are on one rigid part."""
_DENSE_PER_JOINT = 10.0
_APART_PX = 1.0


def joints_seen(
    keypoints: Float[np.ndarray, "n 17 3"], dense: Float[np.ndarray, "n points 3"], sure: float
) -> Float[np.ndarray, "n"]:
    """How many joints are seen, in joints' worth of evidence; x, y in pixels and confidence, 0 = missing.

    Keypoints of confidence `sure` count 1, those below in proportion, and those within a pixel of an earlier one nothing: they
    are seen once. Nose, eyes and ears count for two joints at most, ten dense points for one.
    """
    weight = np.clip(np.nan_to_num(keypoints[..., 2]) / sure, 0.0, 1.0)
    xy = np.where(weight[..., None] > 0, keypoints[..., :2], np.nan)
    near = np.abs(xy[:, :, None] - xy[:, None]).max(-1) < _APART_PX
    weight = np.where(np.tril(near, -1).any(2), 0.0, weight)
    limbs, face = weight[:, _FACE:].sum(1), np.minimum(weight[:, :_FACE].sum(1), _FACE_JOINTS)
    on_body = (dense[..., 2] > 0).sum(1) / _DENSE_PER_JOINT
    return limbs + face + np.minimum(on_body, extent_px(np.zeros_like(keypoints), dense, sure))


def extent_px(
    keypoints: Float[np.ndarray, "n 17 3"], dense: Float[np.ndarray, "n points 3"], sure: float
) -> Float[np.ndarray, "n"]:
    """Larger side of the box around what is seen of each person, pixels: keypoints of half the confidence `sure` and more,
    and dense points; 0 where nothing is."""
    points = np.concatenate([keypoints[..., :2], dense[..., :2]], 1)
    known = np.concatenate([keypoints[..., 2] >= 0.5 * sure, dense[..., 2] > 0], 1)[..., None]
    low = np.where(known, points, np.inf).min(1)
    high = np.where(known, points, -np.inf).max(1)
    return np.maximum((high - low).max(-1), 0.0)


def enough(joints: Float[np.ndarray, "n"], extent: Float[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Whether a body can be found from this alone."""
    return (joints >= MIN_JOINTS) & (extent >= MIN_EXTENT_PX)
