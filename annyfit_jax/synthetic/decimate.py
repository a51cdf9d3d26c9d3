"""Fewer triangles for pictures: a subset of the body's own vertices, chosen once by edge collapses.

Garland and Heckbert, "Surface simplification using quadric error metrics" (1997), restricted to half-edge collapses (a vertex
merges into a neighbour), so that every vertex that is left is a vertex of the body model and moves with it. The error is
summed over several bodies, because one mesh has to serve a baby and an adult.
"""

from __future__ import annotations

import heapq

import numpy as np
from jaxtyping import Float, Int

_MIN_COSINE = 0.3
"""A collapse may turn no triangle's normal by more than this cosine."""
_MIN_QUALITY = 0.03
"""... and leave none thinner: 2 sqrt(3) area / sum of squared sides x 2, 1 for an equilateral triangle."""


def decimate(
    shapes: Float[np.ndarray, "shape V 3"], faces: Int[np.ndarray, "F 3"], count: int, weight: Float[np.ndarray, "V"]
) -> tuple[Int[np.ndarray, "v"], Int[np.ndarray, "f 3"]]:
    """A closed triangle mesh reduced to about `count` vertices.

    Args:
      shapes: the same mesh in several shapes, metres; the error of a collapse is the sum over them.
      faces: triangles of a closed manifold (every edge has two).
      count: vertices to keep.
      weight: importance of each vertex: a quadric is multiplied by the mean of its triangle's.

    Returns:
      Indices of the vertices kept, ascending, and the triangles among them (indices into the first).
    """
    num = shapes.shape[1]
    triangles = {i: [int(v) for v in face] for i, face in enumerate(faces)}
    at: list[set[int]] = [set() for _ in range(num)]
    for i, face in triangles.items():
        for v in face:
            at[v].add(i)
    quadrics = _quadrics(shapes, faces, weight)
    homogeneous = np.concatenate([shapes, np.ones((*shapes.shape[:2], 1))], axis=-1).transpose(1, 0, 2)  # (V, shape, 4)
    alive = np.zeros(num, bool)
    alive[np.unique(faces)] = True
    version = np.zeros(num, int)
    heap: list[tuple[float, int, int, int, int]] = []

    def neighbours(v: int) -> set[int]:
        return {u for i in at[v] for u in triangles[i]} - {v}

    def push(a: int, b: int) -> None:
        q = quadrics[a] + quadrics[b]
        for gone, kept in ((a, b), (b, a)):
            p = homogeneous[kept]
            cost = float(np.einsum("si,sij,sj->", p, q, p))
            heapq.heappush(heap, (cost, gone, kept, int(version[gone]), int(version[kept])))

    for a, b in {tuple(sorted((int(f[i]), int(f[i - 1])))) for f in faces for i in range(3)}:
        push(a, b)
    left = int(alive.sum())
    while left > count and heap:
        _, gone, kept, at_gone, at_kept = heapq.heappop(heap)
        if not (alive[gone] and alive[kept]) or version[gone] != at_gone or version[kept] != at_kept:
            continue
        shared = at[gone] & at[kept]
        # The link condition: exactly the two triangles of the edge, and no third common neighbour.
        if len(shared) != 2 or len(neighbours(gone) & neighbours(kept)) != 2:
            continue
        moved = [triangles[i] for i in at[gone] - shared]
        if not _keeps_shape(shapes, np.array(moved), gone, kept):
            continue
        for i in shared:
            for v in triangles.pop(i):
                at[v].discard(i)
        for i in list(at[gone]):
            triangles[i][triangles[i].index(gone)] = kept
            at[kept].add(i)
        at[gone].clear()
        alive[gone] = False
        quadrics[kept] += quadrics[gone]
        left -= 1
        version[kept] += 1
        for u in neighbours(kept):
            push(kept, u)
    kept_vertices = np.flatnonzero(alive)
    slot = np.full(num, -1)
    slot[kept_vertices] = np.arange(len(kept_vertices))
    return kept_vertices, slot[np.array([triangles[i] for i in sorted(triangles)])]


def _quadrics(shapes: np.ndarray, faces: np.ndarray, weight: np.ndarray) -> Float[np.ndarray, "V shape 4 4"]:
    """Sum over the triangles around a vertex of area x weight x squared distance to the triangle's plane, as 4 x 4 forms."""
    a, b, c = (shapes[:, faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    unit = normal / np.maximum(length, 1e-18)
    plane = np.concatenate([unit, -(unit * a).sum(-1, keepdims=True)], axis=-1)
    scale = length * weight[faces].mean(1)[:, None]
    forms = np.einsum("sfi,sfj,sfk->fsij", plane, plane, scale)
    out = np.zeros((shapes.shape[1], *forms.shape[1:]))
    for k in range(3):
        np.add.at(out, faces[:, k], forms)
    return out


def _keeps_shape(shapes: np.ndarray, triangles: np.ndarray, gone: int, kept: int) -> bool:
    """Whether no triangle flips or degenerates in any shape when `gone` moves onto `kept`."""
    before = shapes[:, triangles]
    after = shapes[:, np.where(triangles == gone, kept, triangles)]
    normals = []
    for corners in (before, after):
        normals.append(np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]))
    old, new = normals
    area = np.linalg.norm(new, axis=-1)
    cosine = (old * new).sum(-1) / np.maximum(np.linalg.norm(old, axis=-1) * area, 1e-18)
    sides = ((after - np.roll(after, 1, axis=2)) ** 2).sum((-1, -2))
    quality = 2 * np.sqrt(3) * area / np.maximum(sides, 1e-18)
    return bool((cosine > _MIN_COSINE).all() and (quality > _MIN_QUALITY).all())
