"""The picture of one person that a vision-language model is shown: the prompt variants.

| variant | picture |
|---|---|
| `head` | head and shoulders: a square around them, from the keypoints, else from the top of the box |
| `person` | the box with a margin |
| `masked` | the same with everybody and everything else grey |
| `box` | the whole photo with the box drawn in |
"""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Float, UInt8

from experts.interfaces import People, Photo

VARIANTS = ("head", "person", "masked", "box")
SUBJECTS = {
    "head": "The picture shows the head and shoulders of a person.",
    "person": "The picture is a crop of a photo around one person, who fills most of it.",
    "masked": "The picture shows one person; everything else is grey.",
    "box": "One person in the photo is marked by a red box.",
}
"""Variant -> the sentence that says whom the question is about."""
_MARGIN = 0.1
_GREY = 127
_RED = (255, 0, 0)
_HEAD = slice(0, 5)
_SHOULDERS = slice(5, 7)
_SEEN = 0.3


def person_picture(
    photo: Photo, people: People, person: int, variant: str, max_side: int = 768
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture of person `person`, at most `max_side` pixels on its longer side. Raises ValueError on another variant."""
    if variant not in VARIANTS:
        raise ValueError(f"prompt variant: expected one of {', '.join(VARIANTS)}, got {variant!r}")
    if variant == "box":
        return _shrink(_with_box(photo.pixels, people.boxes[person]), max_side)
    pixels = photo.pixels
    if variant == "masked" and people.masks is not None and people.masks[person].any():
        pixels = np.where(people.masks[person][..., None], pixels, np.uint8(_GREY))
    box = _head_box(people, person) if variant == "head" else _grown(people.boxes[person], _MARGIN)
    x0, y0, x1, y1 = _inside(box, photo.size)
    return _shrink(pixels[y0:y1, x0:x1], max_side)


def png_bytes(picture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Lossless, so that equal pictures have equal bytes on every machine with the same library."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _head_box(people: People, person: int) -> Float[np.ndarray, "4"]:
    x0, y0, x1, y1 = np.asarray(people.boxes[person], np.float64)
    side = max(x1 - x0, y1 - y0) * 0.4
    centre = np.array([(x0 + x1) / 2, y0 + side / 2])
    points = None if people.keypoints is None else people.keypoints[person]
    if points is not None:
        head, shoulders = (part[part[:, 2] >= _SEEN, :2] for part in (points[_HEAD], points[_SHOULDERS]))
        if len(head) and len(shoulders) == 2:
            width = float(np.linalg.norm(shoulders[0] - shoulders[1]))
            drop = float(np.linalg.norm(shoulders.mean(0) - head.mean(0)))
            # Of somebody seen from the side the shoulders are narrow, but not the drop from nose to shoulders.
            side, centre = 2.2 * max(width, drop), (head.mean(0) + shoulders.mean(0)) / 2
        elif len(head) >= 2:
            side, centre = max(4.0 * float(np.ptp(head, axis=0).max()), 0.2 * side), head.mean(0)
    return np.concatenate([centre - side / 2, centre + side / 2])


def _grown(box: np.ndarray, margin: float) -> np.ndarray:
    x0, y0, x1, y1 = np.asarray(box, np.float64)
    dx, dy = margin * (x1 - x0), margin * (y1 - y0)
    return np.array([x0 - dx, y0 - dy, x1 + dx, y1 + dy])


def _inside(box: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Whole pixels inside the photo, at least one."""
    width, height = size
    x0, y0 = (int(np.clip(np.floor(v), 0, limit - 1)) for v, limit in zip(box[:2], (width, height), strict=True))
    x1 = int(np.clip(np.ceil(box[2]), x0 + 1, width))
    y1 = int(np.clip(np.ceil(box[3]), y0 + 1, height))
    return x0, y0, x1, y1


def _with_box(pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = _inside(box, (width, height))
    pen = max(2, round(max(width, height) / 200))
    marked = pixels.copy()
    inner = marked[y0:y1, x0:x1].copy()
    marked[max(y0 - pen, 0) : y1 + pen, max(x0 - pen, 0) : x1 + pen] = _RED
    marked[y0:y1, x0:x1] = inner
    if x0 == 0 and y0 == 0 and x1 == width and y1 == height:  # nothing is left outside: draw inside
        marked[:pen], marked[-pen:], marked[:, :pen], marked[:, -pen:] = _RED, _RED, _RED, _RED
    return marked


def _shrink(picture: np.ndarray, max_side: int) -> np.ndarray:
    from PIL import Image

    height, width = picture.shape[:2]
    factor = max_side / max(width, height)
    if factor >= 1.0:
        return np.ascontiguousarray(picture)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
