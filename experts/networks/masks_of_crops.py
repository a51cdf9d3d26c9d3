"""Masks of the people of a photo from the masks of their crops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image
from scipy import ndimage

from experts.networks.person_crops import Square, grown

_SMALLEST_PART = 0.1
"""A part of a mask that is smaller than so much of its largest part is an island; larger ones are a person behind something."""


def photo_masks(
    logits: Float[np.ndarray, "n size size"],
    squares: Sequence[Square],
    boxes: Float[np.ndarray, "n 4"],
    size: tuple[int, int],
    threshold: float,
) -> Bool[np.ndarray, "n height width"]:
    """A pixel belongs to the person who is likeliest there, if at least as likely as `threshold`, in or near that
    person's box.
    """
    width, height = size
    masks = np.zeros((len(squares), height, width), bool)
    best = np.full((height, width), np.log(threshold / (1 - threshold)), np.float32)
    owner = np.full((height, width), -1, np.int16)
    for person, (values, square, box) in enumerate(zip(logits, squares, boxes, strict=True)):
        near = grown(box, 0.05)
        x0, y0 = np.maximum(np.floor(near[:2]), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(near[2:]), size).astype(int)
        if x1 <= x0 or y1 <= y0:
            continue
        # Photo pixel centres -> crop pixels, as the affine map that Pillow asks for: output to input.
        origin, right, down = square.to_crop(np.array([[x0, y0], [x0 + 1.0, y0], [x0, y0 + 1.0]]), len(values))
        (a, d), (b, e) = right - origin, down - origin
        window = np.asarray(
            Image.fromarray(np.asarray(values, np.float32)).transform(
                (int(x1 - x0), int(y1 - y0)), Image.Transform.AFFINE, (a, b, origin[0], d, e, origin[1]),
                Image.Resampling.BILINEAR, fillcolor=-1e4,
            )
        )  # fmt: skip
        place = (slice(y0, y1), slice(x0, x1))
        better = window > best[place]
        best[place] = np.where(better, window, best[place])
        owner[place] = np.where(better, person, owner[place])
    for person in range(len(squares)):
        masks[person] = owner == person
    return masks


def cleaned(masks: Bool[np.ndarray, "n height width"]) -> Bool[np.ndarray, "n height width"]:
    """Without islands, and with holes of a pixel or two closed."""
    result = np.zeros_like(masks)
    for out, mask in zip(result, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            continue
        window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        parts, count = ndimage.label(mask[window])  # pyright: ignore[reportGeneralTypeIssues]
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        sizes[0] = 0
        out[window] = (sizes >= _SMALLEST_PART * sizes.max())[parts] & (parts > 0)
    return result
