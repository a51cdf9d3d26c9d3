"""A software rasteriser with a true z-buffer, in numpy: no OpenGL, no display.

Conventions
-----------
* Camera axes x right, y down, z forward, metres. Image coordinates in pixels with the origin at the top-left corner of
  the image: pixel (column i, row j) covers [i, i+1) x [j, j+1) and is sampled at its centre (i + 0.5, j + 0.5).
* A pixel belongs to a triangle when its centre lies inside or on the border. Edge functions are evaluated so that the
  two triangles of a shared edge get exactly opposite values; a closed mesh therefore has no cracks.
* The nearest surface wins; at exactly equal depth the lower person, then the lower face. The result does not depend on
  the order of people or faces. Both sides of a triangle are drawn.
* Triangles that cross the near plane are clipped against it, triangles behind it are dropped.
* A person with a non-finite vertex is left out.

Depth is perspective correct because 1/z is affine in screen space: for a plane n.X = c and the pixel ray X = z K^-1 p,
1/z = (n.K^-1 p) / c.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from annyfit_jax.people.camera import project

_BLOCK = 1 << 19  # candidate pixels handled at once: bounds the memory at about 100 MB
_NOBODY = np.iinfo(np.int64).max
_AXES = {sign + name: float(sign + "1") * np.eye(3)["xyz".index(name)] for name in "xyz" for sign in ("", "+", "-")}


@dataclass(frozen=True)
class Raster:
    """What is seen at each pixel. `H, W` is the size of the picture."""

    depth: Float[np.ndarray, "H W"]
    """float32, distance along the viewing direction in metres (perspective: camera-space z); inf = nothing."""
    person: Int[np.ndarray, "H W"]
    """int32 index of the person; -1 = nothing."""
    face: Int[np.ndarray, "H W"]
    """int32 index into the faces; -1 = nothing."""
    barycentric: Float[np.ndarray, "H W 3"]
    """float32 weights of the face's three vertices at the visible surface point (they sum to 1); 0 = nothing."""


def as_bodies(vertices: np.ndarray | Sequence[np.ndarray]) -> list[Float[np.ndarray, "V 3"]]:
    """The people of (M, V, 3) vertices, or of a sequence of (V, 3), as float64 arrays.

    Raises:
      ValueError: a body is not of shape (V, 3).
    """
    bodies = [np.asarray(body, dtype=np.float64) for body in vertices]
    for index, body in enumerate(bodies):
        if body.ndim != 2 or body.shape[1] != 3:
            raise ValueError(f"vertices[{index}]: expected shape (V, 3), got {body.shape}")
    return bodies


def is_drawable(body: Float[np.ndarray, "V 3"]) -> bool:
    """Whether a body has vertices and all of them are finite (a failed or skipped fit is NaN)."""
    return body.size > 0 and bool(np.isfinite(body).all())


def rasterise(
    vertices: Float[np.ndarray, "M V 3"] | Sequence[Float[np.ndarray, "V 3"]],
    faces: Int[np.ndarray, "F 3"],
    intrinsics: Float[np.ndarray, "3 3"],
    size: tuple[int, int],
    near: float = 0.05,
) -> Raster:
    """Draws bodies through a pinhole camera.

    Args:
      vertices: camera-space vertices in metres, one body per person.
      faces: triangles, shared by all people.
      intrinsics: K in pixels, last row (0, 0, 1); skew allowed.
      size: (width, height) in pixels.
      near: distance of the near plane in metres, > 0; what is nearer is cut off.

    Returns:
      The raster; `depth` is camera-space z.

    Raises:
      ValueError: a wrong shape, a face index out of range, or a singular K.
    """
    bodies, faces, width, height = _check(vertices, faces, size)
    intrinsics = np.asarray(intrinsics, dtype=np.float64)
    if intrinsics.shape != (3, 3) or not np.isfinite(intrinsics).all() or abs(np.linalg.det(intrinsics)) < 1e-12:
        raise ValueError(f"intrinsics: expected an invertible matrix of shape (3, 3), got {intrinsics.tolist()}")
    if near <= 0:
        raise ValueError(f"near: expected a positive distance in metres, got {near}")
    buffer = _ZBuffer(width, height)
    all_faces = np.arange(len(faces))
    for person, body in enumerate(bodies):
        if is_drawable(body):
            if body[:, 2].min() >= near:  # the usual case: project vertices, not corners
                pixels, nearness, source = project(body, intrinsics)[faces], (1.0 / body[:, 2])[faces], all_faces
            else:
                corners, source = _clip_near(body[faces], near)
                pixels, nearness = project(corners, intrinsics), 1.0 / corners[..., 2]
            buffer.add(pixels, nearness, person * len(faces) + source)
    person, face, seen, pixels = buffer.resolve(len(faces))
    rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(intrinsics).T
    # The ray meets the plane of (a, b, c) where s * ray = [a b c] w; Cramer's rule gives w up to the common factor.
    a, b, c = _corners_at(bodies, faces, person[seen], face[seen])
    weights = np.stack([_dot(rays, np.cross(b, c)), _dot(rays, np.cross(c, a)), _dot(rays, np.cross(a, b))], axis=1)
    depth = np.full(height * width, np.inf)
    depth[seen] = 1.0 / buffer.nearness[seen]
    return _finish(depth, person, face, seen, weights, (height, width))


def rasterise_orthographic(
    vertices: Float[np.ndarray, "M V 3"] | Sequence[Float[np.ndarray, "V 3"]],
    faces: Int[np.ndarray, "F 3"],
    axes: tuple[str, str],
    bounds: tuple[float, float, float, float],
    size: tuple[int, int],
) -> Raster:
    """Draws bodies by parallel projection along a camera axis.

    Args:
      vertices, faces, size: as in `rasterise`.
      axes: camera axes that point right and up in the picture, e.g. ("x", "z") to look down, ("z", "-y") to look from
        the right. The viewing direction is right x down.
      bounds: (right_min, right_max, up_min, up_max) in metres along those axes, the borders of the picture.

    Returns:
      The raster; `depth` is the coordinate along the viewing direction (it may be negative).

    Raises:
      ValueError: a wrong shape, an unknown or repeated axis, or empty bounds.
    """
    bodies, faces, width, height = _check(vertices, faces, size)
    right, up, forward = view_axes(axes)
    right_min, right_max, up_min, up_max = bounds
    if not (right_max > right_min and up_max > up_min):
        raise ValueError(f"bounds: expected (right_min, right_max, up_min, up_max) of positive size, got {bounds}")
    scale = np.array([width / (right_max - right_min), -height / (up_max - up_min)])
    origin = np.array([right_min, up_max])

    def to_pixels(points: np.ndarray) -> np.ndarray:
        return (np.stack([points @ right, points @ up], axis=-1) - origin) * scale

    buffer = _ZBuffer(width, height)
    for person, body in enumerate(bodies):
        if is_drawable(body):
            corners = body[faces]
            buffer.add(to_pixels(corners), -(corners @ forward), person * len(faces) + np.arange(len(faces)))
    person, face, seen, pixels = buffer.resolve(len(faces))
    a, b, c = (to_pixels(corner) - pixels for corner in _corners_at(bodies, faces, person[seen], face[seen]))
    weights = np.stack([_cross2(b, c), _cross2(c, a), _cross2(a, b)], axis=1)
    depth = np.full(height * width, np.inf)
    depth[seen] = -buffer.nearness[seen]
    return _finish(depth, person, face, seen, weights, (height, width))


def view_axes(axes: tuple[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors (right, up, viewing direction) of an orthographic view named by its right and up axes.

    Raises:
      ValueError: not two different ones of x, y, z, each with an optional sign.
    """
    if len(axes) != 2 or any(axis not in _AXES for axis in axes) or axes[0][-1] == axes[1][-1]:
        raise ValueError(f"axes: expected two different ones of x, y, z with an optional sign, got {axes}")
    right, up = _AXES[axes[0]], _AXES[axes[1]]
    # Right x down = forward in a right-handed frame such as the camera's (x right, y down, z forward).
    return right, up, np.cross(right, -up)


class _ZBuffer:
    """Nearest surface per pixel. `nearness` is larger when nearer and affine in screen space: 1/z or -depth."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.nearness = np.full(width * height, -np.inf)
        self.owner = np.full(width * height, _NOBODY, dtype=np.int64)

    def add(self, corners: np.ndarray, nearness: np.ndarray, owner: np.ndarray) -> None:
        """Draws triangles: corners (T, 3, 2) in pixels, nearness (T, 3) at the corners, owner (T,) identity >= 0."""
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        area = _cross2(b - a, c - a)
        low = np.ceil(_extreme(np.minimum, a, b, c) - 0.5).clip(0, [self.width, self.height]).astype(np.int64)
        high = (
            np.floor(_extreme(np.maximum, a, b, c) - 0.5).clip(-1, [self.width - 1, self.height - 1]).astype(np.int64)
        )
        # Most triangles of a distant body are smaller than a pixel and hold no pixel centre: they end here.
        keep = np.flatnonzero((area != 0) & (high[:, 0] >= low[:, 0]) & (high[:, 1] >= low[:, 1]))
        owner, low, high = owner[keep], low[keep], high[keep]
        # One orientation for all, so that inside means that all three edge functions are >= 0.
        turned = area[keep] < 0
        order = np.where(turned[:, None], [0, 2, 1], [0, 1, 2])
        rows = np.arange(len(keep))[:, None]
        corners, nearness = corners[keep][rows, order], nearness[keep][rows, order]
        for block in _blocks(high[:, 1] - low[:, 1] + 1):
            self._add_rows(corners[block], nearness[block], owner[block], low[block], high[block])

    def _add_rows(self, corners, nearness, owner, low, high) -> None:
        """Cuts triangles into pixel rows, then rows into pixels; a row is narrowed to the triangle's span on it."""
        triangle, offset = _ragged(high[:, 1] - low[:, 1] + 1)
        row = low[triangle, 1] + offset
        first, last = low[triangle, 0].astype(np.float64), high[triangle, 0].astype(np.float64)
        for i, j in ((0, 1), (1, 2), (2, 0)):
            start, along = corners[triangle, i], corners[triangle, j] - corners[triangle, i]
            steep = np.abs(along[:, 1]) > 1e-3  # a nearly horizontal edge says nothing reliable about x
            slope = np.divide(along[:, 0], along[:, 1], out=np.zeros(len(row)), where=steep)
            x = start[:, 0] + slope * (row + 0.5 - start[:, 1]) - 0.5
            # One pixel of slack: the exact test below decides, this only saves work on large triangles.
            first = np.where(steep & (along[:, 1] < 0), np.maximum(first, np.floor(x) - 1), first)
            last = np.where(steep & (along[:, 1] > 0), np.minimum(last, np.ceil(x) + 1), last)
        first, last = first.astype(np.int64), last.astype(np.int64)
        keep = np.flatnonzero(last >= first)
        triangle, row, first, last = triangle[keep], row[keep], first[keep], last[keep]
        for block in _blocks(last - first + 1):
            span, offset = _ragged(last[block] - first[block] + 1)
            which = triangle[block][span]
            self._add_pixels(corners, nearness, owner, which, first[block][span] + offset, row[block][span])

    def _add_pixels(self, corners, nearness, owner, which, column, row) -> None:
        """Tests candidate pixels (column, row) against triangle `which` and keeps the nearest."""
        ax, bx, cx = (corners[:, k, 0][which] - (column + 0.5) for k in range(3))
        ay, by, cy = (corners[:, k, 1][which] - (row + 0.5) for k in range(3))
        # Each is p x q of the two corners seen from the pixel: swapping the corners negates it to the last bit.
        opposite_a, opposite_b, opposite_c = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
        total = opposite_a + opposite_b + opposite_c
        inside = np.flatnonzero((opposite_a >= 0) & (opposite_b >= 0) & (opposite_c >= 0) & (total > 0))
        which = which[inside]
        near = (
            opposite_a[inside] * nearness[which, 0]
            + opposite_b[inside] * nearness[which, 1]
            + opposite_c[inside] * nearness[which, 2]
        ) / total[inside]
        pixel = row[inside] * self.width + column[inside]
        before = self.nearness[pixel]
        np.maximum.at(self.nearness, pixel, near)
        after = self.nearness[pixel]
        self.owner[pixel[after > before]] = _NOBODY
        winner = near == after
        np.minimum.at(self.owner, pixel[winner], owner[which[winner]])

    def resolve(self, num_faces: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Flat person and face per pixel, indices of the covered pixels, and their centres (P, 2)."""
        seen = np.flatnonzero(self.owner != _NOBODY)
        person, face = np.full((2, self.owner.size), -1, dtype=np.int32)
        if seen.size:
            person[seen], face[seen] = np.divmod(self.owner[seen], num_faces)
        pixels = np.stack([seen % self.width, seen // self.width], axis=1) + 0.5
        return person, face, seen, pixels


def _check(vertices, faces, size) -> tuple[list[np.ndarray], np.ndarray, int, int]:
    bodies = as_bodies(vertices)
    faces = np.asarray(faces)
    if faces.ndim != 2 or faces.shape[1] != 3 or not np.issubdtype(faces.dtype, np.integer):
        raise ValueError(f"faces: expected integers of shape (F, 3), got {faces.dtype} {faces.shape}")
    for index, body in enumerate(bodies):
        if faces.size and (faces.min() < 0 or faces.max() >= len(body)):
            raise ValueError(f"faces: index {faces.max()} out of range for vertices[{index}] of shape {body.shape}")
    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"size: expected a positive (width, height), got {size}")
    return bodies, faces.astype(np.int64), int(width), int(height)


def _clip_near(triangles: np.ndarray, near: float) -> tuple[np.ndarray, np.ndarray]:
    """Cuts triangles (T, 3, 3) at z = near. Returns the pieces in front and the index of each piece's triangle.

    A triangle with one corner in front leaves a triangle, one with two leaves a quadrilateral, that is two triangles.
    """
    front = triangles[..., 2] >= near
    count = front.sum(axis=1)

    def rolled(index: np.ndarray, lone: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The corners of triangles `index`, turned so that the lone corner comes first (orientation kept)."""
        order = (lone[:, None] + np.arange(3)) % 3
        turned = np.take_along_axis(triangles[index], order[..., None], axis=1)
        return turned[:, 0], turned[:, 1], turned[:, 2]

    def cut(inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
        # Always from the inner corner: the neighbour across the edge then finds the very same point.
        t = (near - inner[:, 2:]) / (outer[:, 2:] - inner[:, 2:])
        point = inner + t * (outer - inner)
        point[:, 2] = near
        return point

    whole, one, two = (np.flatnonzero(count == k) for k in (3, 1, 2))
    a, b, c = rolled(one, np.argmax(front[one], axis=1))
    tip = np.stack([a, cut(a, b), cut(a, c)], axis=1)
    a, b, c = rolled(two, np.argmin(front[two], axis=1))
    from_b, from_c = cut(b, a), cut(c, a)
    halves = [np.stack([from_b, b, c], axis=1), np.stack([from_b, c, from_c], axis=1)]
    return np.concatenate([triangles[whole], tip, *halves]), np.concatenate([whole, one, two, two])


def _blocks(counts: np.ndarray) -> Iterator[slice]:
    """Consecutive slices whose counts add up to at most _BLOCK (a single larger count is a slice of its own)."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + _BLOCK, side="right")), start + 1)
        yield slice(start, stop)
        start = stop


def _ragged(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For counts (2, 3): the owner of each item (0, 0, 1, 1, 1) and its position within the owner (0, 1, 0, 1, 2)."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _corners_at(bodies, faces, person, face) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three camera-space corners (P, 3) of the triangle seen at each covered pixel."""
    corners = np.zeros((len(person), 3, 3))
    for index in np.unique(person):
        mine = person == index
        corners[mine] = bodies[index][faces[face[mine]]]
    return corners[:, 0], corners[:, 1], corners[:, 2]


def _finish(depth, person, face, seen, weights, shape) -> Raster:
    total = weights.sum(axis=1, keepdims=True)
    weights = np.divide(weights, total, out=np.full_like(weights, 1 / 3), where=np.abs(total) > 1e-300)
    weights = weights.clip(0, 1)  # rounding on the border
    barycentric = np.zeros((depth.size, 3), dtype=np.float32)
    barycentric[seen] = weights / weights.sum(axis=1, keepdims=True)
    depth, person, face = depth.astype(np.float32).reshape(shape), person.reshape(shape), face.reshape(shape)
    return Raster(depth, person, face, barycentric.reshape(*shape, 3))


def _extreme(choose: np.ufunc, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Elementwise minimum or maximum of three arrays: many times faster than a reduction over an axis of length 3."""
    return choose(choose(a, b), c)


def _cross2(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("pi,pi->p", a, b)
