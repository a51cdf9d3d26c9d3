"""Average precision: a literal evaluation beside ours, cases that can be worked out by hand, and what must not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annyfit_jax.metrics.detection_scores import (
    THRESHOLDS,
    Detections,
    average_precision,
    coco_average_precision,
    keypoint_similarity,
)


def literal(images: list[Detections], threshold: float) -> float:
    """Recall level by recall level, with plain loops."""
    ranked = []
    for image in images:
        taken: set[int] = set()
        for p in sorted(range(len(image.scores)), key=lambda p, i=image: -i.scores[p]):
            best = max((g for g in range(image.similarity.shape[1]) if g not in taken),
                       key=lambda g, i=image, p=p: i.similarity[p, g], default=None)  # fmt: skip
            hit = False
            if best is not None and image.similarity[p, best] >= threshold:
                hit = True
                taken.add(best)
            ranked.append((image.scores[p], hit))
    people = sum(image.similarity.shape[1] for image in images)
    ranked.sort(key=lambda pair: -pair[0])
    hits = [hit for _, hit in ranked]
    points = [(sum(hits[: k + 1]) / people, sum(hits[: k + 1]) / (k + 1)) for k in range(len(hits))]
    levels = np.linspace(0, 1, 101)
    return float(np.mean([max([p for r, p in points if r >= level], default=0.0) for level in levels]))


def random_images(seed: int, count: int) -> list[Detections]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 5, (count, 2))
    return [Detections(rng.permutation(100)[:p] / 100 + i * 1e-4, rng.uniform(size=(p, g + (i == 0))))
            for i, (p, g) in enumerate(sizes)]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from(THRESHOLDS))
def test_against_a_literal_evaluation(seed, count, threshold):
    images = random_images(seed, count)
    assert average_precision(images, threshold) == pytest.approx(literal(images, threshold), abs=1e-12)


def test_cases_by_hand():
    both = np.array([[0.9, 0.1], [0.1, 0.7]])
    perfect = Detections(np.array([0.9, 0.8]), both)
    assert average_precision([perfect], 0.5) == 1.0
    assert coco_average_precision([perfect]) == pytest.approx((5 * 1.0 + 4 * 51 / 101 + 0.0) / 10)
    twice = Detections(np.array([0.9, 0.8]), np.array([[0.9], [0.9]]))  # the second finds nobody
    assert average_precision([twice], 0.5) == 1.0
    assert average_precision([twice._replace(similarity=np.array([[0.1], [0.9]]))], 0.5) == 0.5
    nothing = Detections(np.zeros(0), np.zeros((0, 1)))
    assert average_precision([nothing], 0.5) == 0.0
    assert average_precision([perfect, nothing], 0.5) == pytest.approx(67 / 101)
    assert np.isnan(average_precision([Detections(np.ones(1), np.zeros((1, 0)))], 0.5))


def test_similarity_of_keypoints():
    """One at the truth; exp(-1/2) where every joint is off by its spread; joints without a label do not count."""
    truth, sigmas = np.random.default_rng(0).normal(size=(2, 3, 2)), np.array([0.1, 0.2, 0.3])
    area, labelled = np.array([4.0, 9.0]), np.array([[True, True, False], [False] * 3])
    off = truth.copy()
    off[0, :, 0] += 2.0 * sigmas * 2.0
    off[0, 2] += 100.0
    found = keypoint_similarity(np.stack([truth[0], off[0]]), truth, labelled, area, sigmas)
    np.testing.assert_allclose(found[:, 0], [1.0, np.exp(-0.5)], rtol=1e-12)
    np.testing.assert_array_equal(found[:, 1], 0.0)
