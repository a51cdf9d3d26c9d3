"""The nearest points of a surface, and whether it looks the same way there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

_CANDIDATES = 12
"""Triangles whose centres are nearest to a point, among which the nearest point of the surface is looked for."""


class Closest(NamedTuple):
    """For each of K points the nearest one of a mesh."""

    corners: Int[np.ndarray, "K 3"]
    """Vertices of its triangle."""
    shares: Float[np.ndarray, "K 3"]
    """Barycentric coordinates in it."""
    distance: Float[np.ndarray, "K"]
    """Metres."""
    normal: Float[np.ndarray, "K 3"]
    """Of its triangle, unit length; zero for a triangle without area."""


def closest_points(
    points: Float[np.ndarray, "K 3"], vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]
) -> Closest:
    """The nearest points of a triangle mesh, among the triangles with the nearest centres (exact for even meshes)."""
    import trimesh

    triangles = np.asarray(vertices, np.float64)[faces]
    count = min(_CANDIDATES, len(faces))
    _, near = KDTree(triangles.mean(1)).query(points, count)
    near = near.reshape(len(points), count)
    repeated = np.repeat(np.asarray(points, np.float64), count, axis=0)
    found = trimesh.triangles.closest_point(triangles[near.ravel()], repeated).reshape(len(points), count, 3)
    distance = np.linalg.norm(found - np.asarray(points)[:, None], axis=-1)
    best = distance.argmin(1)
    rows = np.arange(len(points))
    chosen = near[rows, best]
    shares = trimesh.triangles.points_to_barycentric(triangles[chosen], found[rows, best])
    shares = np.where(np.isfinite(shares).all(1, keepdims=True), shares, 1.0 / 3.0).clip(0.0, 1.0)
    normal = np.cross(triangles[chosen, 1] - triangles[chosen, 0], triangles[chosen, 2] - triangles[chosen, 0])
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    return Closest(faces[chosen], shares / shares.sum(1, keepdims=True), distance[rows, best], normal)


def on_surface(closest: Closest, vertices: Float[np.ndarray, "*n V 3"]) -> Float[np.ndarray, "*n K 3"]:
    """The same places of the surface on meshes of the same topology."""
    return np.einsum("...kci,kc->...ki", vertices[..., closest.corners, :], closest.shares)
