"""A photo of noise."""

from __future__ import annotations

import numpy as np

from experts.interfaces import Photo


def photo(width: int = 200, height: int = 100) -> Photo:
    """Dark noise, the same each time."""
    return Photo("p", "p.jpg", np.random.default_rng(0).integers(1, 120, (height, width, 3), np.uint8))
