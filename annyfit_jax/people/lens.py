"""Distortion of a real lens, and how it is taken away: all of the project computes with a pinhole.

Two models, both of OpenCV, on coordinates (x, y) = ((u - cx) / fx, (v - cy) / fy), r = |(x, y)|:

    brown    x (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2)
             y (the same)                                                      + p1 (r^2 + 2 y^2) + 2 p2 x y
             coefficients k1 k2 p1 p2 [k3 [k4 k5 k6]]
    fisheye  (x, y) theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8) / r with theta = atan r
             coefficients k1 k2 k3 k4

Points are undistorted when an input is read (`undistort`), to where a pinhole with the same `K` sees them. Pictures are
undistorted when they are drawn (`undistort_picture`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from annyfit_jax.people.scene import SceneError

_LENGTHS = {"brown": (4, 5, 8), "fisheye": (4,)}
_STEPS = 30
_TOLERANCE = 1e-7
_MAX_TAN = 20.0
"""A pinhole cannot see beyond 90 degrees; points further out than 87 degrees are not undistorted."""


@dataclass(frozen=True)
class Lens:
    """A distortion; see the module for the formulas."""

    model: Literal["brown", "fisheye"]
    coefficients: tuple[float, ...]

    def __str__(self) -> str:
        """One line that `lens_of_text` reads: `brown -0.046 0.14 0.0006 0.0007`."""
        return " ".join([self.model, *(repr(float(value)) for value in self.coefficients)])

    @property
    def straight(self) -> bool:
        """Whether it distorts nothing."""
        return self.model == "brown" and not any(self.coefficients)


def checked_lens(model: str, coefficients: Sequence[float], where: str) -> Lens | None:
    """A lens from what a file says; None where it distorts nothing. Raises SceneError (file and what was expected)."""
    values = tuple(float(value) for value in coefficients)
    if model not in _LENGTHS:
        raise SceneError(f"{where}: unknown model of distortion {model!r:.40}; there are {', '.join(_LENGTHS)}")
    if model == "brown":
        while len(values) > max(_LENGTHS[model]) and values[-1] == 0.0:  # thin prism and tilt, which are not there
            values = values[:-1]
        values = values if len(values) >= 4 else values + (0.0,) * (4 - len(values))
        values = values + (0.0,) * (8 - len(values)) if 5 < len(values) < 8 else values
    if len(values) not in _LENGTHS[model] or not all(map(math.isfinite, values)):
        raise SceneError(
            f"{where}: expected {' or '.join(map(str, _LENGTHS[model]))} finite coefficients ({model}), got {values}"
        )
    lens = Lens(model, values)  # pyright: ignore[reportArgumentType]
    return None if lens.straight else lens


def lens_of_text(text: str, where: str = "lens") -> Lens | None:
    """What `str(lens)` wrote; None of an empty text. Raises SceneError."""
    model, *words = text.split() or [""]
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise SceneError(f"{where}: expected a model and numbers, got {text!r:.80}") from error
    return checked_lens(model, values, where) if model else None


def distort(lens: Lens, points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
    """Where the lens images what a pinhole of focal length 1 sees at `points`; both in units of the focal length."""
    x, y = points[..., 0], points[..., 1]
    square = x * x + y * y
    if lens.model == "fisheye":
        radius = np.sqrt(square)
        theta = np.arctan(radius)
        k1, k2, k3, k4 = lens.coefficients
        t = theta * theta
        bent = theta * (1 + t * (k1 + t * (k2 + t * (k3 + t * k4))))
        factor = np.divide(bent, radius, out=np.ones_like(radius), where=radius > 1e-12)
        return np.stack([x * factor, y * factor], axis=-1)
    k1, k2, p1, p2, k3, k4, k5, k6 = (*lens.coefficients, *(0.0,) * 4)[:8]
    factor = (1 + square * (k1 + square * (k2 + square * k3))) / (1 + square * (k4 + square * (k5 + square * k6)))
    dx, dy = 2 * p1 * x * y + p2 * (square + 2 * x * x), p1 * (square + 2 * y * y) + 2 * p2 * x * y
    return np.stack([x * factor + dx, y * factor + dy], axis=-1)


def undistort(
    lens: Lens, pixels: Float[np.ndarray, "*n 2"], intrinsics: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "*n 2"]:
    """Where a pinhole with the same K sees the points of a picture; pixels in, pixels out.

    NaN for points that no direction in front of the camera is imaged to, as far outside a picture whose lens folds over.
    Newton's method with the derivative by differences; the result distorts back to the point within 1e-7 focal lengths.
    """
    k = np.asarray(intrinsics, np.float64)
    wanted = _normalised(np.asarray(pixels, np.float64), k)
    flat = wanted.reshape(-1, 2)
    with np.errstate(all="ignore"):
        found = _start(lens, flat)
        for _ in range(_STEPS):
            off = distort(lens, found) - flat
            jacobian = _jacobian(lens, found)
            determinant = jacobian[:, 0, 0] * jacobian[:, 1, 1] - jacobian[:, 0, 1] * jacobian[:, 1, 0]
            step = np.stack(
                [
                    jacobian[:, 1, 1] * off[:, 0] - jacobian[:, 0, 1] * off[:, 1],
                    jacobian[:, 0, 0] * off[:, 1] - jacobian[:, 1, 0] * off[:, 0],
                ],
                axis=-1,
            ) / determinant[:, None]  # fmt: skip
            found = found - step
            if np.nanmax(np.abs(step), initial=0.0) < 1e-12:
                break
        off = np.abs(distort(lens, found) - flat).max(axis=-1)
        good = (off < _TOLERANCE) & (np.linalg.norm(found, axis=-1) < _MAX_TAN) & _unfolded(lens, found)
    found[~good] = np.nan
    return found.reshape(wanted.shape) @ k[:2, :2].T + k[:2, 2]


def undistort_picture(lens: Lens, picture: np.ndarray, intrinsics: Float[np.ndarray, "3 3"]) -> np.ndarray:
    """The picture (h, w) or (h, w, c) that a pinhole with the same K would take, of the same size and type.

    Colours are interpolated; masks (bool) and depths take the nearest pixel. What the lens did not see is 0, False or NaN.
    """
    from scipy.ndimage import map_coordinates

    height, width = picture.shape[:2]
    k = np.asarray(intrinsics, np.float64)
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    bent = distort(lens, _normalised(np.stack([u, v], axis=-1), k)) @ k[:2, :2].T + k[:2, 2]
    places = [bent[..., 1] - 0.5, bent[..., 0] - 0.5]
    smooth = picture.dtype == np.uint8
    outside = 0.0 if picture.dtype.kind in "biu" else np.nan

    def drawn(layer: np.ndarray) -> np.ndarray:
        source = layer.astype(np.float32)
        result = map_coordinates(source, places, order=1 if smooth else 0, mode="constant", cval=outside)
        return np.round(result).astype(picture.dtype) if smooth else result.astype(picture.dtype)

    layers = picture.reshape(height, width, -1)
    result = np.stack([drawn(layers[..., i]) for i in range(layers.shape[-1])], axis=-1)
    return result.reshape(picture.shape)


def straightened(
    photo: UInt8[np.ndarray, "h w 3"], lens: str, intrinsics: Float[np.ndarray, "3 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """A photo as the pinhole of its scene or fit sees it, so that points lie where they are drawn.

    Args:
      lens: as scenes and fits hold it; empty for a photo that is taken as it is.
    """
    known = lens_of_text(lens)
    return photo if known is None else undistort_picture(known, photo, intrinsics)


def _normalised(pixels: np.ndarray, k: np.ndarray) -> np.ndarray:
    return (pixels - k[:2, 2]) @ np.linalg.inv(k[:2, :2]).T


def _start(lens: Lens, wanted: np.ndarray) -> np.ndarray:
    """A first guess: itself; of a fisheye the point at the angle that its distance from the centre is without coefficients."""
    if lens.model == "brown":
        return wanted.copy()
    radius = np.linalg.norm(wanted, axis=-1, keepdims=True)
    return wanted * np.where(radius > 1e-12, np.tan(np.minimum(radius, 1.5)) / np.maximum(radius, 1e-12), 1.0)


def _jacobian(lens: Lens, points: np.ndarray) -> np.ndarray:
    step = 1e-6 * np.maximum(1.0, np.abs(points).max(axis=-1, keepdims=True))
    columns = []
    for axis in range(2):
        shift = np.zeros(2)
        shift[axis] = 1.0
        columns.append((distort(lens, points + step * shift) - distort(lens, points - step * shift)) / (2 * step))
    return np.stack(columns, axis=-1)


def _unfolded(lens: Lens, points: np.ndarray) -> np.ndarray:
    """Whether the lens still images farther points farther out, all the way from the centre to each point."""
    shares = np.linspace(0.0, 1.0, 33)[:, None, None]
    radii = np.linalg.norm(distort(lens, shares * points), axis=-1)
    return (np.diff(radii, axis=0) >= 0).all(axis=0)
