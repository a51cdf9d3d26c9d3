"""Heads in the map of scores, against recordings."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from multihmr_golden import arrays, close

from annyfit_jax.regressors.multihmr import head_detection


def test_local_maxima():
    found = arrays("camera_ops")
    scores = jnp.asarray(found["nms_in"][:, 0])
    close(head_detection.suppress(scores), found["nms3"][:, 0])
    image, row, column, _ = found["nms_idx"]
    threshold = float(scores[image, row, column].min())
    patches = head_detection.detect(scores, threshold, 30)
    mine = {
        (b, int(r), int(c))
        for b in range(2)
        for r, c in zip(*(np.asarray(x[b])[patches.valid[b]] for x in patches[:2]))
    }
    assert mine == set(zip(image.tolist(), row.tolist(), column.tolist()))


def test_given_heads_keep_their_order():
    scores = jnp.arange(2 * 64.0).reshape(2, 8, 8) / 128
    heads = jnp.array([[[100.0, 3.0], [15.0, 60.0]], [[-5.0, 500.0], [0.0, 0.0]]])
    patches = head_detection.pinned(scores, heads, jnp.array([[True, True], [True, False]]), 14)
    assert patches.column.tolist() == [[7, 1], [0, 0]]
    assert patches.row.tolist() == [[0, 4], [7, 0]]
    close(patches.score[0], [7 / 128, 33 / 128])
