"""Shares of right 2D keypoints. Pure numpy; pixels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

PCKH_SHARE = 0.143
"""A seventh: one head of a body of seven heads. No 0.6 occurs in `mPCKh 0.6`; the name is the papers'."""


def pckh(
    predicted: Float[np.ndarray, "n J 2"], truth: Float[np.ndarray, "n J 2"], labelled: Bool[np.ndarray, "n J"]
) -> Float[np.ndarray, "n"]:
    """PCKh per person as Relative Human's evaluator has it, in float32.

    d = diagonal of the box around the labelled joints; a joint is right if |error| / d < 0.143. -1 with fewer than two labelled
    joints (published means **include** the -1).
    """
    predicted, truth = np.asarray(predicted, np.float32), np.asarray(truth, np.float32)
    labelled = np.asarray(labelled, bool)
    if predicted.shape != truth.shape or labelled.shape != truth.shape[:2]:
        raise ValueError(
            f"pckh: expected (n, J, 2), (n, J, 2) and (n, J), got {predicted.shape}, {truth.shape}, {labelled.shape}"
        )
    out = np.full(len(truth), -1.0, np.float32)
    for i, use in enumerate(labelled):
        if use.sum() >= 2:
            diagonal = np.sqrt((np.ptp(truth[i, use], axis=0) ** 2).sum(dtype=np.float32))
            error = np.sqrt(((truth[i, use] - predicted[i, use]) ** 2).sum(-1))
            # A person whose joints coincide: 0 / 0 compares as wrong, like the evaluator's NaN.
            right = error < np.float32(PCKH_SHARE) * diagonal if diagonal > 0 else np.zeros(int(use.sum()), bool)
            out[i] = np.float32(right.sum()) / np.float32(use.sum())
    return out
