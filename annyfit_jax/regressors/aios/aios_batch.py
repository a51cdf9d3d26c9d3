"""What AiOS is given: pictures of one padded size, in training with their people."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Bool, Float

from annyfit_jax.regressors.aios.targets import Targets


class Batch(NamedTuple):
    """Pictures of one padded size, and in training their people."""

    images: Float[Array, "batch H W 3"]
    """Normalised RGB (`picture_preprocess.normalise`), zero where padded."""
    padding: Bool[Array, "batch H W"]
    image_size: Float[Array, "batch 2"]
    """(width, height) without padding, pixels."""
    resize_factor: Float[Array, "batch 2"]
    """(x, y) resized pixels per pixel of the picture."""
    targets: Targets | None = None
