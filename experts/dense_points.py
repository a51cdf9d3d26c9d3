"""The default dense set: 138 vertices of Anny's outer skin, and the way from a detector's crop to the image.

The set was chosen by farthest-point sampling on the average adult; the data file says so in its `how` entry.
"""

from __future__ import annotations

import functools
import json
from importlib import resources

import numpy as np
from jaxtyping import Float, Int


@functools.cache
def _table() -> dict:
    return json.loads(resources.files("experts").joinpath("data/dense138_vertices.json").read_text())


def dense_vertex_indices() -> Int[np.ndarray, "138"]:
    """Indices of the dense points in Anny's mesh of 13718 vertices, in the order of the dense keypoints."""
    return np.asarray(_table()["vertex_indices"], np.int64)


def crop_to_image(
    dense_keypoints: Float[np.ndarray, "n k 3"], boxes: Float[np.ndarray, "n 4"]
) -> Float[np.ndarray, "n k 3"]:
    """Moves dense detections from crop units to full-image pixels; the third column is left as it is.

    The crop of a person is the square around the centre of the box (x0, y0, x1, y1 in pixels) with the box's longer
    side L; a detection (x, y) in [-0.5, 0.5] lies at `centre + L (x, y)`.
    """
    points = np.asarray(dense_keypoints, np.float64)
    corners = np.asarray(boxes, np.float64)
    if points.ndim != 3 or points.shape[-1] != 3 or corners.shape != (len(points), 4):
        raise ValueError(
            f"dense keypoints and boxes: expected shapes (n, 138, 3) and (n, 4), got {points.shape} and {corners.shape}"
        )
    centre = (corners[:, :2] + corners[:, 2:]) / 2
    side = (corners[:, 2:] - corners[:, :2]).max(axis=-1)
    xy = centre[:, None] + side[:, None, None] * points[..., :2]
    return np.concatenate([xy, points[..., 2:]], axis=-1)
