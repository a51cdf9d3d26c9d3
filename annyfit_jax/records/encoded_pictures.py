"""Pictures as the bytes of a file, with one quality for pictures that are looked at and one for photos that are read again."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from jaxtyping import UInt8

PICTURE_QUALITY = 88
"""Of drawn pictures: pages, reports, sheets."""
PHOTO_QUALITY = 95
"""Of photos that networks and people look at again."""


def encoded(
    pixels: UInt8[np.ndarray, "h w 3"] | UInt8[np.ndarray, "h w"],
    kind: Literal["JPEG", "PNG"] = "JPEG",
    quality: int = PICTURE_QUALITY,
) -> bytes:
    """The file of an RGB or grey picture. `quality` counts for JPEG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **({"quality": quality} if kind == "JPEG" else {}))
    return stream.getvalue()
