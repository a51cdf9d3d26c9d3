"""From a picture to the network's square input, and pixels there and back. On the host, in numpy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from annyfit_jax.regressors.aios.picture_preprocess import normalise


class Placement(NamedTuple):
    """Where a picture lies in the square: pixel there = pixel of the picture x scale + shift."""

    scale: float
    shift: Float[np.ndarray, "2"]

    def there(self, pixels: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch 2"]:
        """Pixels of the square."""
        return np.asarray(pixels) * self.scale + self.shift

    def back(self, pixels: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch 2"]:
        """Pixels of the picture."""
        return (np.asarray(pixels) - self.shift) / self.scale

    def intrinsics(self, K: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
        """The camera of the square."""
        moved = np.array(K, np.float64)
        moved[:2] *= self.scale
        moved[:2, 2] += self.shift
        return moved

    def intrinsics_back(self, K: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
        """The camera of the picture."""
        moved = np.array(K, np.float64)
        moved[:2, 2] -= self.shift
        moved[:2] /= self.scale
        return moved


def place(width: int, height: int, size: int) -> Placement:
    """The long side fills the square; the picture is centred."""
    scale = size / max(width, height)
    inside = np.array([round(width * scale), round(height * scale)])
    return Placement(scale, ((size - inside) // 2).astype(np.float64))


def square(pixels: UInt8[np.ndarray, "H W 3"], size: int) -> tuple[Float[np.ndarray, "size size 3"], Placement]:
    """The normalised square picture (black where padded, before normalisation) and where the picture lies in it."""
    canvas, placement = square_pixels(pixels, size)
    return normalise(canvas.astype(np.float32)), placement


def square_pixels(pixels: UInt8[np.ndarray, "H W 3"], size: int) -> tuple[UInt8[np.ndarray, "size size 3"], Placement]:
    """`square` before normalisation."""
    from PIL import Image

    height, width = pixels.shape[:2]
    placement = place(width, height, size)
    inside = (max(round(width * placement.scale), 1), max(round(height * placement.scale), 1))
    canvas = np.zeros((size, size, 3), np.uint8)
    x, y = (int(v) for v in placement.shift)
    resized = Image.fromarray(pixels).resize(inside, Image.Resampling.BILINEAR)
    canvas[y : y + inside[1], x : x + inside[0]] = np.asarray(resized)
    return canvas, placement
