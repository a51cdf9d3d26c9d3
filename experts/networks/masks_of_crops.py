"""Masks of the people of a photo from the masks of their crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image
from scipy import ndimage

from experts.networks.person_crops import Square, grown

_SAME = 0.85
"""Masks of two crops that overlap by more (IoU) are one mask. Of the pairs of people on the study's 26 photos, two children of
whom one hides the other reach .77, and a woman who was found twice .93."""
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
    person's box. Crops that show one and the same mask (`_SAME`) are not rivals: both people have that of the first.
    """
    width, height = size
    masks = np.zeros((len(squares), height, width), bool)
    least = np.log(threshold / (1 - threshold))
    best = np.full((height, width), least, np.float32)
    owner = np.full((height, width), -1, np.int16)
    views = [_View.of(*person, size) for person in zip(logits, squares, boxes, strict=True)]
    leaders: list[int] = []
    of = np.arange(len(views))
    for person, view in enumerate(views):
        of[person] = next((k for k in leaders if view.overlap(views[k], least) > _SAME), person)
        if of[person] != person:
            continue
        leaders.append(person)
        place = view.place
        better = view.logits > best[place]
        best[place] = np.where(better, view.logits, best[place])
        owner[place] = np.where(better, person, owner[place])
    for person in range(len(squares)):
        masks[person] = owner == of[person]
    return masks


@dataclass(frozen=True)
class _View:
    """A person's pixels of the photo as one crop shows them."""

    low: tuple[int, int]
    """x, y of the first pixel."""
    logits: Float[np.ndarray, "height width"]

    @classmethod
    def of(cls, values: np.ndarray, square: Square, box: np.ndarray, size: tuple[int, int]) -> _View:
        near = grown(box, 0.05)
        x0, y0 = np.maximum(np.floor(near[:2]), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(near[2:]), size).astype(int)
        if x1 <= x0 or y1 <= y0:
            return cls((0, 0), np.zeros((0, 0), np.float32))
        # Photo pixel centres -> crop pixels, as the affine map that Pillow asks for: output to input.
        origin, right, down = square.to_crop(np.array([[x0, y0], [x0 + 1.0, y0], [x0, y0 + 1.0]]), len(values))
        (a, d), (b, e) = right - origin, down - origin
        window = Image.fromarray(np.asarray(values, np.float32)).transform(
            (int(x1 - x0), int(y1 - y0)), Image.Transform.AFFINE, (a, b, origin[0], d, e, origin[1]),
            Image.Resampling.BILINEAR, fillcolor=-1e4,
        )  # fmt: skip
        return cls((int(x0), int(y0)), np.asarray(window))

    @property
    def place(self) -> tuple[slice, slice]:
        (x, y), (height, width) = self.low, self.logits.shape
        return slice(y, y + height), slice(x, x + width)

    def overlap(self, other: _View, least: float) -> float:
        """Intersection over union of what both show above a logit."""
        mine, theirs = self.logits > least, other.logits > least
        ends = [np.add(view.low, view.logits.shape[::-1]) for view in (self, other)]
        low, high = np.maximum(self.low, other.low), np.minimum(*ends)
        if (high <= low).any():
            return 0.0
        parts = []
        for view, shown in ((self, mine), (other, theirs)):
            (x0, y0), (x1, y1) = low - view.low, high - view.low
            parts.append(shown[y0:y1, x0:x1])
        common = float((parts[0] & parts[1]).sum())
        return common / max(float(mine.sum() + theirs.sum()) - common, 1.0)


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
