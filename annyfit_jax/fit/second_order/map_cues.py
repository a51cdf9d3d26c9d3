"""Cues that the MAP objective reads beside `Problem`: metric depth, word probabilities, sizes; people last, padded alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import DTypeLike

from annyfit_jax.fit.config import FitConfig
from annyfit_jax.fit.problem import AnyArray, Capacity, depth_reference
from annyfit_jax.fit.starts import PreparedScene
from annyfit_jax.people.words import AGE_CLASSES, GENDER_CLASSES

_ANCHORS = np.array(list(AGE_CLASSES.values()))
_NEIGHBOUR_SHARE = 0.8
"""Share of the wrong age words that are off by one class."""
_EDGE = 0.02
"""The extent of a person leaves out this share of the points on either side: wild points."""
_MIN_SPREAD_POINTS = 3


class MapCues(NamedTuple):
    """Cues of N people."""

    real: Float[AnyArray, "N"]
    """1, or 0 for padding."""
    log_depth: Float[AnyArray, "N"]
    """Log of the metric median depth, metres; 0 where unknown."""
    depth_known: Float[AnyArray, "N"]
    age_log_prob: Float[AnyArray, "C N"]
    """Log probability of each age class given the word."""
    age_known: Float[AnyArray, "N"]
    gender_known: Float[AnyArray, "N"]
    """1 where the word is male or female (neutral says little)."""
    extent_px: Float[AnyArray, "N"]
    """Larger side of the box around the person's points."""
    image_size: Float[AnyArray, "2 N"]
    from_cue: Float[AnyArray, "N"]
    """1 where the start knows the pose (a feed-forward estimate), 0 for starts from 2D keypoints."""
    start_shape: Float[AnyArray, "S N"]
    """The start's shape before words were inserted."""
    ranked: Float[AnyArray, "P"]
    """Per pair of `Problem.pairs`: 1 where the ranking counts."""
    first: Int[AnyArray, "P"]
    """All pairs of people of one scene."""
    second: Int[AnyArray, "P"]
    together: Float[AnyArray, "P"]
    """1, or 0 for padding."""


def assemble_cues(
    prepared: Sequence[PreparedScene], config: FitConfig, capacity: Capacity, dtype: DTypeLike = np.float32
) -> MapCues:
    """Flatten the cues of prepared scenes like `problem.assemble` does, to the same capacity."""
    scenes = [p.scene for p in prepared]
    counts = [len(s) for s in scenes]
    pad = capacity.people - sum(counts)

    def people_last(arrays: Sequence[np.ndarray]) -> np.ndarray:
        flat = np.moveaxis(np.concatenate(arrays).astype(dtype), 0, -1)
        return np.ascontiguousarray(np.pad(flat, [(0, 0)] * (flat.ndim - 1) + [(0, pad)], mode="edge"))

    depth = [np.asarray(s.median_depth, np.float64) for s in scenes]
    known = [np.isfinite(d) & (d > 0) for d in depth]
    metric = [bool(k.any()) and config.map.metric_depth for k in known]
    ranked, first, second, offset = [], [], [], 0
    for scene, has_metric, n in zip(scenes, metric, counts):
        i, j = np.triu_indices(n, 1)
        first.append(i + offset)
        second.append(j + offset)
        usable = np.isfinite(depth_reference(scene, config))
        order = config.map.depth_order
        on = order == "always" or (order == "auto" and not has_metric)
        ranked.append(np.full(int((usable[i] & usable[j]).sum()), float(on)))
        offset += n
    pairs = sum(len(f) for f in first)

    def pad_pairs(arrays: Sequence[np.ndarray], kind: DTypeLike) -> np.ndarray:
        flat = np.concatenate([np.zeros(0), *arrays])
        return np.pad(flat, (0, capacity.pairs - len(flat))).astype(kind)

    real = people_last([np.ones(n) for n in counts])
    real[sum(counts) :] = 0.0
    return MapCues(
        real=real,
        log_depth=people_last([np.log(np.where(k, d, 1.0)) for d, k in zip(depth, known)]),
        depth_known=people_last([k.astype(float) * on for k, on in zip(known, metric)]),
        age_log_prob=people_last([age_log_probabilities(s.age, config.map.word_right) for s in scenes]),
        age_known=people_last([(np.asarray(s.age) >= 0).astype(float) for s in scenes]),
        gender_known=people_last([_gender_known(s.gender).astype(float) for s in scenes]),
        extent_px=people_last([_extent(s.keypoints, s.dense_keypoints, config.map.min_confidence) for s in scenes]),
        image_size=people_last([np.tile(np.asarray(s.image_size, float), (len(s), 1)) for s in scenes]),
        from_cue=people_last([np.full(len(p.scene), float(p.origin == "cue")) for p in prepared]),
        start_shape=people_last(
            [p.start.shape if p.origin != "cue" or p.scene.start is None else p.scene.start.shape for p in prepared]
        ),
        ranked=pad_pairs(ranked, dtype),
        first=pad_pairs(first, np.int32),
        second=pad_pairs(second, np.int32),
        together=pad_pairs([np.ones(pairs)], dtype),
    )


def age_log_probabilities(age: Float[np.ndarray, "n"], right: float) -> Float[np.ndarray, "n C"]:
    """Log probability of each age class (`AGE_CLASSES`) given a word's anchor: right with `right`, else mostly a neighbour.

    Unusable words (negative) give equal probabilities.
    """
    age = np.asarray(age, np.float64)
    classes = len(_ANCHORS)
    word = np.abs(age[:, None] - _ANCHORS).argmin(1)
    steps = np.abs(np.arange(classes) - word[:, None])
    near, far = steps == 1, steps > 1
    probability = (
        right * (steps == 0)
        + (1 - right) * _NEIGHBOUR_SHARE * near / near.sum(1, keepdims=True)
        + (1 - right) * (1 - _NEIGHBOUR_SHARE) * far / far.sum(1, keepdims=True)
    )
    return np.log(np.where(age[:, None] >= 0, probability, 1.0 / classes))


def _gender_known(gender: np.ndarray) -> np.ndarray:
    return np.isin(np.abs(np.asarray(gender)[:, None] - list(GENDER_CLASSES.values())).argmin(1), (0, 2)) & (
        gender >= 0
    )


def _extent(keypoints: np.ndarray, dense: np.ndarray, min_confidence: float) -> Float[np.ndarray, "n"]:
    out = []
    for points in np.concatenate([keypoints, dense], axis=1):
        seen = points[points[:, 2] >= min_confidence, :2]
        if len(seen) < _MIN_SPREAD_POINTS:
            out.append(100.0)
            continue
        low, high = np.quantile(seen, [_EDGE, 1.0 - _EDGE], axis=0)
        out.append(float((high - low).max()))
    return np.array(out)
