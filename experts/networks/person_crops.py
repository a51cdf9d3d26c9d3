"""Square pictures of one person for networks that look at one person at a time, and the way back to pixels of the photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

GREY = 114
"""What stands outside the photo, and over everything that is not to be looked at."""


@dataclass(frozen=True)
class Square:
    """A square of the photo, perhaps turned."""

    centre: tuple[float, float]
    """x, y in pixels of the photo."""
    side: float
    """Pixels of the photo."""
    angle: float = 0.0
    """Radians from the photo's up to the crop's up, clockwise as seen: at `pi / 2` the crop's top is on the photo's right."""

    def to_photo(self, points: Float[np.ndarray, "... 2"], size: int) -> Float[np.ndarray, "... 2"]:
        """Pixels of a crop of `size` pixels a side to pixels of the photo."""
        return (np.asarray(points) / size - 0.5) * self.side @ self._turn().T + np.asarray(self.centre)

    def to_crop(self, points: Float[np.ndarray, "... 2"], size: int) -> Float[np.ndarray, "... 2"]:
        """The inverse of `to_photo`."""
        return ((np.asarray(points) - np.asarray(self.centre)) @ self._turn() / self.side + 0.5) * size

    def _turn(self) -> Float[np.ndarray, "2 2"]:
        """Crop axes to photo axes."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return np.array([[cos, -sin], [sin, cos]])


def square_of(box: Float[np.ndarray, "4"], scale: float) -> Square:
    """The square around a box, `scale` times its longer side."""
    x0, y0, x1, y1 = (float(v) for v in box)
    return Square(((x0 + x1) / 2, (y0 + y1) / 2), max(x1 - x0, y1 - y0, 1.0) * scale)


def crop(
    pixels: UInt8[np.ndarray, "height width 3"],
    square: Square,
    size: int,
    box: Float[np.ndarray, "4"] | None = None,
    hidden: Bool[np.ndarray, "height width"] | None = None,
) -> UInt8[np.ndarray, "size size 3"]:
    """The square as a picture of `size` pixels a side, averaged where it shrinks.

    Grey where the photo ends, outside `box` where one is given, and where `hidden` is true.
    """
    corners = square.to_photo(np.array([[0.0, 0.0], [1, 0], [0, 1], [1, 1]]) * size, size)
    low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    part = _window(pixels, low, high, box, hidden)
    height, width = part.shape[:2]
    if square.angle == 0.0:
        edges = (*(corners[0] - low), *(corners[3] - low))
        return np.asarray(Image.fromarray(part).resize((size, size), Image.Resampling.BILINEAR, box=tuple(edges)))
    # A turned square: shrunk upright first, so that the samples of the turn do not miss pixels between them.
    shrink = max(square.side / size, 1.0)
    small = Image.fromarray(part).resize(
        (max(round(width / shrink), 1), max(round(height / shrink), 1)), Image.Resampling.BILINEAR
    )
    ratio = np.array([small.width / width, small.height / height])
    origin, right, down = ((corners[i] - low) * ratio for i in (0, 1, 2))
    (a, d), (b, e) = (right - origin) / size, (down - origin) / size
    return np.asarray(
        small.transform(
            (size, size), Image.Transform.AFFINE, (a, b, origin[0], d, e, origin[1]), Image.Resampling.BILINEAR,
            fillcolor=(GREY,) * 3,
        )
    )  # fmt: skip


def _window(pixels, low, high, box, hidden) -> np.ndarray:
    """The pixels from `low` to `high`, grey where there are none or they are not to be seen."""
    height, width = pixels.shape[:2]
    part = np.full((max(high[1] - low[1], 1), max(high[0] - low[0], 1), 3), GREY, np.uint8)
    x0, y0, x1, y1 = max(low[0], 0), max(low[1], 0), min(high[0], width), min(high[1], height)
    if box is not None:
        x0, y0 = max(x0, int(box[0])), max(y0, int(box[1]))
        x1, y1 = min(x1, int(box[2]) + 1), min(y1, int(box[3]) + 1)
    if x1 > x0 and y1 > y0:
        seen = pixels[y0:y1, x0:x1]
        if hidden is not None:
            seen = np.where(hidden[y0:y1, x0:x1, None], np.uint8(GREY), seen)
        part[y0 - low[1] : y1 - low[1], x0 - low[0] : x1 - low[0]] = seen
    return part


def grown(box: Float[np.ndarray, "4"], share: float) -> Float[np.ndarray, "4"]:
    """The box with a margin of `share` of its longer side."""
    x0, y0, x1, y1 = (float(v) for v in box)
    margin = share * max(x1 - x0, y1 - y0)
    return np.array([x0 - margin, y0 - margin, x1 + margin, y1 + margin])
