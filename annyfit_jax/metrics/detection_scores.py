"""Average precision: how well scored detections find the people of images, without a threshold on the score (COCO).

| metric | similarity of a detection and a person |
|---|---|
| box AP | intersection over union of boxes |
| OKS AP | object keypoint similarity, exp(-d^2 / (2 area (2 sigma)^2)) over the labelled joints; area: the person's box |

In each image detections, best score first, take the most similar person that is left and similar enough. The precision, made
monotonous, is averaged at 101 recalls (Lin et al., "Microsoft COCO", ECCV 2014, and its evaluation tool).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

THRESHOLDS = tuple(np.round(np.arange(0.5, 0.96, 0.05), 2))
"""Of COCO's AP: the mean over these."""
_RECALLS = np.linspace(0.0, 1.0, 101)


class Detections(NamedTuple):
    """Detections in one image, and how similar each is to each of its people."""

    scores: Float[np.ndarray, "p"]
    similarity: Float[np.ndarray, "p g"]


def average_precision(images: Sequence[Detections], threshold: float) -> float:
    """AP over images at one similarity; NaN where there is nobody to be found."""
    people = sum(image.similarity.shape[1] for image in images)
    if not people:
        return float("nan")
    scores = np.concatenate([image.scores for image in images])
    hits = np.concatenate([_hits(image, threshold) for image in images])
    hits = hits[np.argsort(-scores, kind="stable")]
    true_positives = np.cumsum(hits)
    recall, precision = true_positives / people, true_positives / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(at, len(precision))].mean())


def coco_average_precision(images: Sequence[Detections]) -> float:
    """Mean of `average_precision` over `THRESHOLDS`."""
    return float(np.mean([average_precision(images, threshold) for threshold in THRESHOLDS]))


def keypoint_similarity(
    predicted: Float[np.ndarray, "p J 2"],
    truth: Float[np.ndarray, "g J 2"],
    labelled: Bool[np.ndarray, "g J"],
    area: Float[np.ndarray, "g"],
    sigmas: Float[np.ndarray, "J"],
) -> Float[np.ndarray, "p g"]:
    """OKS of every detection and person, pixels; 0 for people without a labelled joint."""
    squared = np.square(predicted[:, None] - truth[None]).sum(-1)
    spread = 2.0 * np.maximum(area, 1e-9)[:, None] * np.square(2.0 * sigmas)
    counted = np.maximum(labelled.sum(1), 1)
    return np.where(labelled, np.exp(-squared / spread), 0.0).sum(-1) / counted


def _hits(image: Detections, threshold: float) -> Bool[np.ndarray, "p"]:
    """Whether each detection of an image finds a person of its own."""
    hits = np.zeros(len(image.scores), bool)
    free = np.ones(image.similarity.shape[1], bool)
    for index in np.argsort(-image.scores, kind="stable"):
        candidates = np.where(free, image.similarity[index], -1.0)
        if candidates.size and candidates.max() >= threshold:
            free[candidates.argmax()] = False
            hits[index] = True
    return hits
