"""The dense surface points: which points of the body they are, and the way from a detector's crop to the image.

The default set is free of licences: 138 points of Anny's outer skin, chosen by farthest-point sampling on the average adult
(the data file says so in its `how` entry), each given by a triangle of vertices and barycentric weights. The official set
lives on licensed meshes; `annyfit_jax.inputs.licensed_regressors` reads it from the user's own files.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class SurfacePoints:
    """Points of a mesh surface: point k is the sum of `weights[k, i]` times vertex `vertices[k, i]`."""

    vertices: Int[np.ndarray, "k 3"]
    """Corners of each point's triangle; a point on a vertex names it first."""
    weights: Float[np.ndarray, "k 3"]
    """Barycentric: not negative, rows sum to 1."""

    def __post_init__(self) -> None:
        if self.vertices.shape != self.weights.shape or self.vertices.ndim != 2 or self.vertices.shape[1] != 3:
            raise ValueError(
                f"expected (k, 3) vertices and weights, got {self.vertices.shape} and {self.weights.shape}"
            )
        if (self.weights < 0).any() or not np.allclose(self.weights.sum(1), 1.0, atol=1e-6):
            raise ValueError("weights: expected barycentric coordinates, not negative, with rows that sum to 1")

    def regressor(self, num_vertices: int) -> Float[np.ndarray, "k v"]:
        """The matrix that takes the vertices of a mesh to the points. Raises ValueError on a vertex the mesh lacks."""
        if self.vertices.min() < 0 or self.vertices.max() >= num_vertices:
            raise ValueError(f"a point names vertex {self.vertices.max()}, the mesh has {num_vertices}")
        matrix = np.zeros((len(self.vertices), num_vertices))
        np.add.at(matrix, (np.arange(len(self.vertices))[:, None], self.vertices), self.weights)
        return matrix


@functools.cache
def _table() -> dict:
    return json.loads(resources.files("annyfit_jax").joinpath("data/dense138_vertices.json").read_text())


def dense_vertex_indices() -> Int[np.ndarray, "138"]:
    """Indices of the dense points in Anny's mesh of 13718 vertices, in the order of the dense keypoints."""
    return np.asarray(_table()["vertex_indices"], np.int64)


def anny_dense_points() -> SurfacePoints:
    """The default set. All of its points are vertices, so that the body model can place them without a mesh."""
    indices = dense_vertex_indices()
    return SurfacePoints(np.repeat(indices[:, None], 3, axis=1), np.tile([1.0, 0.0, 0.0], (len(indices), 1)))


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
