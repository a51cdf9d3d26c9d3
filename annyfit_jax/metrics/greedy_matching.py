"""Which prediction is which person: greedy matching by 2D joints, and the detection rates that follow.

`match_2d_greedy` is what Relative Human, BEV's CMU Panoptic, AGORA, 3DPW and Multi-HMR run, quirks included:

- the cost is the largest singular value of the differences over all labelled joints, neither a mean (people with fewer labelled
  joints come first) nor the root of the summed squares;
- boxes span **all** joints, those without a label (at -2, -2 in Relative Human) too, and are one pixel too large;
- a pair with too little overlap uses up one prediction's worth of the budget, so that many far-away pairs can end the
  matching with good pairs unvisited.

`match_people` is the sensible variant: mean distance, boxes over labelled joints, every pair is visited.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from annyfit_jax.people.boxes import pairwise_iou

IOU_THRESHOLD = {"relative_human": 0.05, "panoptic": 0.05, "multihmr": 0.05, "agora": 0.1}


class Matches(NamedTuple):
    """Who is who in one image."""

    pairs: Int[np.ndarray, "m 2"]
    """(prediction, person) in the order found."""
    false_positives: Int[np.ndarray, "f"]
    """Predictions without a person, ascending."""
    misses: Int[np.ndarray, "k"]
    """People without a prediction, ascending; only those that count."""


def pair_costs(
    predicted: Float[np.ndarray, "p J 2"], truth: Float[np.ndarray, "g J 2"], labelled: Bool[np.ndarray, "g J"]
) -> Float[np.ndarray, "p g"]:
    """Spectral norm (largest singular value) of the (labelled joints, 2) differences.

    The public evaluators ask numpy for the 2-norm of a matrix, which is this and not the square root of the summed squares.
    """
    difference = np.where(labelled[None, :, :, None], predicted[:, None] - truth[None], 0.0)
    xx, yy = (difference**2).sum(2)[..., 0], (difference**2).sum(2)[..., 1]
    xy = difference.prod(-1).sum(-1)
    # Larger eigenvalue of the 2 x 2 Gram matrix.
    return np.sqrt((xx + yy + np.hypot(xx - yy, 2 * xy)) / 2)


def boxes_of(
    points: Float[np.ndarray, "n J 2"], use: Bool[np.ndarray, "n J"] | None = None
) -> Float[np.ndarray, "n 4"]:
    """Smallest boxes around the points, or around those in use; NaN where there is none."""
    if points.shape[1] == 0:
        return np.full((len(points), 4), np.nan)
    use = np.ones(points.shape[:2], bool) if use is None else use
    low = np.where(use[..., None], points, np.inf).min(1)
    high = np.where(use[..., None], points, -np.inf).max(1)
    return np.where(np.any(use, axis=1)[:, None], np.concatenate([low, high], 1), np.nan)


def match_2d_greedy(
    predicted: Float[np.ndarray, "p J 2"],
    truth: Float[np.ndarray, "g J 2"],
    labelled: Bool[np.ndarray, "g J"] | None = None,
    iou_threshold: float = 0.05,
    counted: Bool[np.ndarray, "g"] | None = None,
) -> Matches:
    """The published greedy matching (module text has its quirks), float64; equal costs in the order (prediction, person).

    Pairs are visited by rising cost, until every person is taken or taken predictions + pairs of low overlap reach the number
    of predictions. `counted` (AGORA's valid flag): a person that does not count is taken out by the first pair that reaches
    it, and is no miss.
    """
    predicted, truth, labelled = _checked(predicted, truth, labelled, "match_2d_greedy")
    p, g = len(predicted), len(truth)
    overlap = pairwise_iou(boxes_of(predicted), boxes_of(truth), pixel=1.0)
    order = np.argsort(pair_costs(predicted, truth, labelled).ravel(), kind="stable")
    taken_p, taken_g, pairs, low = np.zeros(p, bool), np.zeros(g, bool), [], 0
    for i, j in zip(*np.divmod(order, max(g, 1))):
        if taken_g.all() or taken_p.sum() + low >= p:
            break
        valid = counted is None or counted[j]
        if overlap[i, j] < iou_threshold:
            low += 1
            if not valid:
                taken_g[j] = True
        elif not taken_p[i] and not taken_g[j]:
            taken_g[j] = True
            if valid:
                taken_p[i] = True
                pairs.append((i, j))
    return _matches(pairs, p, g, counted)


def match_people(
    predicted: Float[np.ndarray, "p J 2"],
    truth: Float[np.ndarray, "g J 2"],
    labelled: Bool[np.ndarray, "g J"] | None = None,
    iou_threshold: float = 0.05,
    counted: Bool[np.ndarray, "g"] | None = None,
) -> Matches:
    """Greedy matching without the quirks: mean distance over the labelled joints, boxes around them, all pairs visited.

    People without a labelled joint take part in nothing; predictions that match a person who does not count are no false
    positives.
    """
    predicted, truth, labelled = _checked(predicted, truth, labelled, "match_people")
    p, g = len(predicted), len(truth)
    visible = labelled.sum(1)
    overlap = np.zeros((p, g))
    for j in range(g):  # the prediction's box over the same joints
        use = np.broadcast_to(labelled[j], predicted.shape[:2])
        overlap[:, j] = pairwise_iou(boxes_of(predicted, use), boxes_of(truth[j : j + 1], labelled[j : j + 1]), 1.0)[
            :, 0
        ]
    offsets = np.linalg.norm(predicted[:, None] - truth[None], axis=-1)
    costs = np.where(labelled[None], offsets, 0.0).sum(-1) / np.maximum(visible, 1)
    taken_p, taken_g, pairs, ignored = np.zeros(p, bool), visible == 0, [], []
    for i, j in zip(*np.divmod(np.argsort(costs.ravel(), kind="stable"), max(g, 1))):
        if overlap[i, j] >= iou_threshold and not taken_p[i] and not taken_g[j]:
            taken_p[i] = taken_g[j] = True
            (pairs if counted is None or counted[j] else ignored).append((i, j))
    matches = _matches(pairs, p, g, (visible > 0) if counted is None else counted & (visible > 0))
    spare = np.setdiff1d(matches.false_positives, [i for i, _ in ignored]).astype(np.int64)
    return matches._replace(false_positives=spare)


def precision_recall_f1(count: int, misses: int, false_positives: int) -> tuple[float, float, float]:
    """Published rates, **rounded to 2 decimals**: TP = count - misses, FN = misses; all 0 for a count of 0.

    `count` is the number of people in AGORA and Multi-HMR; Relative Human's evaluator passes the number of predictions.
    """
    return tuple(round(rate, 2) for rate in detection_rates(count, misses, false_positives))  # pyright: ignore[reportReturnType]


def detection_rates(count: int, misses: int, false_positives: int) -> tuple[float, float, float]:
    """Precision, recall and F1 as they are, not rounded; 0 where the denominator is 0 or the count is 0."""
    if count == 0:
        return 0.0, 0.0, 0.0
    hits = count - misses
    share = lambda whole: hits / whole if whole else 0.0  # noqa: E731
    return share(hits + false_positives), share(count), share(hits + 0.5 * (false_positives + misses))


def _checked(
    predicted: np.ndarray, truth: np.ndarray, labelled: np.ndarray | None, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if predicted.ndim != 3 or truth.ndim != 3 or predicted.shape[1:] != truth.shape[1:] or truth.shape[2] != 2:
        raise ValueError(
            f"{name}: expected predictions (p, J, 2) and people (g, J, 2), got {predicted.shape}, {truth.shape}"
        )
    labelled = np.ones(truth.shape[:2], bool) if labelled is None else np.asarray(labelled, bool)
    if labelled.shape != truth.shape[:2]:
        raise ValueError(f"{name}: expected labelled {truth.shape[:2]}, got {labelled.shape}")
    return predicted, truth, labelled


def _matches(pairs: list[tuple[int, int]], p: int, g: int, counted: np.ndarray | None) -> Matches:
    matched_pairs = np.array(pairs, np.int64).reshape(-1, 2)
    people = np.arange(g) if counted is None else np.flatnonzero(counted)
    return Matches(
        matched_pairs, np.setdiff1d(np.arange(p), matched_pairs[:, 0]), np.setdiff1d(people, matched_pairs[:, 1])
    )
