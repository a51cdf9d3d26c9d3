"""From a picture to the network's input: crop, resize, colour, normalisation, padding. All on the host, in numpy.

Sizes are (width, height), windows and boxes (x, y, w, h), pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

TEST_SHORT_SIDE = 800
TRAIN_SHORT_SIDES = tuple(range(480, 801, 32))
LONG_SIDE_LIMIT = 1333
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
"""Of ImageNet, RGB, 0..255."""

Window = tuple[float, float, float, float]


def output_size(
    size: tuple[float, float], short_side: int = TEST_SHORT_SIDE, limit: int = LONG_SIDE_LIMIT
) -> tuple[int, int]:
    """The size a picture is resized to: its short side becomes `short_side`, or less if the long side would exceed `limit`."""
    width, height = size
    short, long = min(size), max(size)
    if long / short * short_side > limit:
        short_side = round(limit * short / long)
    if short == short_side:
        return int(width), int(height)
    if width < height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


def crop_window(boxes: Float[np.ndarray, "box 4"], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Smallest window of the picture's aspect ratio around boxes (x, y, w, h), moved to lie inside the picture."""
    low, high = boxes[:, :2].min(0), (boxes[:, :2] + boxes[:, 2:]).max(0)
    full = np.asarray(size, np.float64)
    extent = full * ((high - low) / full).max()
    start = np.clip((low + high) / 2 - extent / 2, 0.0, full - extent)
    x, y, w, h = (int(v) for v in (*start, *extent))
    return x, y, w, h


def clip_box(box: Float[np.ndarray, "4"], size: tuple[int, int]) -> Float[np.ndarray, "4"] | None:
    """A box cut at the picture's border, as released: a box that starts outside is moved in first. None if nothing is left."""
    x, y = np.maximum(box[:2], 0.0)
    right, bottom = np.minimum((x + box[2], y + box[3]), size)
    if box[2] <= 0 or box[3] <= 0 or right <= x or bottom <= y:
        return None
    return np.array([x, y, right - x, bottom - y], np.float32)


def enlarged_box(
    box: Float[np.ndarray, "4"], size: tuple[int, int], factor: float = 1.2
) -> Float[np.ndarray, "4"] | None:
    """A clipped box scaled about its centre and clipped again; None if nothing is left."""
    clipped = clip_box(box, size)
    if clipped is None:
        return None
    extent = clipped[2:] * factor
    return clip_box(np.concatenate([clipped[:2] + clipped[2:] / 2 - extent / 2, extent]), size)


def source_positions(start: float, extent: float, count: int) -> Float[np.ndarray, "count"]:
    """Where the pixels of an output row lie in the source: x = start + i extent / count (no half-pixel shift)."""
    return start + np.arange(count) * (extent / count)


def warp(
    image: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"],
    window: Window,
    size: tuple[int, int],
    flip: bool = False,
) -> Float[np.ndarray, "oh ow 3"]:
    """Bilinear resampling of a window, zero outside the picture.

    With `flip` the result is that of the mirrored picture with the window mirrored about column (W - 1) / 2 by its centre.
    """
    source = image[:, ::-1] if flip else image
    x, y, w, h = window
    if flip:
        x = image.shape[1] - 1 - (x + w / 2) - w / 2
    rows = _interpolate(source.astype(np.float32), source_positions(y, h, size[1]), axis=0)
    return _interpolate(rows, source_positions(x, w, size[0]), axis=1)


def _interpolate(values: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation along one axis, zero outside."""
    length = values.shape[axis]
    left = np.floor(positions).astype(np.int64)
    share = (positions - left).astype(np.float32)
    shape = [1] * values.ndim
    shape[axis] = -1

    def part(index: np.ndarray, weight: np.ndarray) -> np.ndarray:
        weight = np.where((index >= 0) & (index < length), weight, np.float32(0)).reshape(shape)
        return np.take(values, np.clip(index, 0, length - 1), axis) * weight

    return part(left, 1 - share) + part(left + 1, share)


def normalise(
    image: Float[np.ndarray, "h w 3"], colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Float[np.ndarray, "h w 3"]:
    """RGB in 0..255, each channel times its colour factor and clipped, in standard deviations of ImageNet."""
    scaled = np.clip(image * np.asarray(colour, np.float32), 0.0, 255.0)
    return ((scaled - MEAN) / STD).astype(np.float32)


def denormalised(image: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture, RGB, that `normalise` was given."""
    return np.clip(np.rint(image * STD + MEAN), 0, 255).astype(np.uint8)


def pad_batch(
    images: Sequence[Float[np.ndarray, "h w 3"]], size: tuple[int, int] | None = None
) -> tuple[Float[np.ndarray, "batch H W 3"], Bool[np.ndarray, "batch H W"]]:
    """Normalised images side by side, zero-padded on the right and at the bottom, and where the padding is.

    Args:
      size: (width, height) to pad to (a bucket, so that few programs are compiled); None: the largest of the batch.

    Raises: ValueError if an image is larger than `size`.
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    if size is not None:
        if width > size[0] or height > size[1]:
            raise ValueError(f"images up to {width} x {height} do not fit the padded size {size[0]} x {size[1]}")
        width, height = size
    batch = np.zeros((len(images), height, width, 3), np.float32)
    padding = np.ones((len(images), height, width), bool)
    for index, image in enumerate(images):
        h, w = image.shape[:2]
        batch[index, :h, :w] = image
        padding[index, :h, :w] = False
    return batch, padding
