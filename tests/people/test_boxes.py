"""What boxes share, against shapely-like counting of pixels; numpy and JAX agree."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from annyfit_jax.people import boxes


def covered(box: np.ndarray) -> np.ndarray:
    grid = np.zeros((12, 12), bool)
    x0, y0, x1, y1 = box.astype(int)
    grid[y0:y1, x0:x1] = True
    return grid


def test_iou_of_whole_boxes_counts_their_pixels():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 12, (2, 20, 2, 2)), axis=2).reshape(2, 20, 4).astype(float)
    made = boxes.pairwise_iou(corners[0], corners[1])
    for i, a in enumerate(corners[0]):
        for j, b in enumerate(corners[1]):
            union = (covered(a) | covered(b)).sum()
            assert made[i, j] == ((covered(a) & covered(b)).sum() / union if union else 0)
            low, high = np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])
            assert boxes.hull(a, b) == np.prod(high - low)


def test_pixels_nan_and_nothing():
    box = np.array([[0.0, 0, 3, 3]])
    assert boxes.pairwise_iou(box, np.array([[2.0, 2, 5, 5]]), pixel=1.0)[0, 0] == 4 / 28
    assert boxes.pairwise_iou(box, np.full((1, 4), np.nan))[0, 0] == 0
    assert boxes.pairwise_iou(np.zeros((0, 4)), box).shape == (0, 1)


def test_jax_gives_the_same_and_a_gradient():
    a, b = np.array([0.1, 0.2, 0.6, 0.8]), np.array([0.3, 0.1, 0.9, 0.7])
    shared, union = boxes.shared_and_union(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose([shared, union], boxes.shared_and_union(a, b), rtol=1e-6)
    slope = jax.grad(lambda x: boxes.shared_and_union(x, jnp.asarray(b))[0])(jnp.asarray(a))
    np.testing.assert_allclose(slope, [0, -0.3, 0.5, 0], atol=1e-6)  # its lower and right side border what is shared
