"""Intrinsics without a model of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from annyfit_jax.inputs.photos import focal_35mm
from annyfit_jax.people.camera import intrinsics_from_35mm, intrinsics_from_fov
from annyfit_jax.people.scene import DEFAULT_FOV_DEGREES
from experts.interfaces import Card, Loaded, Photo


@dataclass(frozen=True)
class FieldOfView(Loaded):
    """The same field of view for every photo."""

    fov_degrees: float = DEFAULT_FOV_DEGREES
    """Over the longest side."""

    needs_pixels = False

    @property
    def card(self) -> Card:
        """No weights, no licence to heed."""
        return Card("fov", commercial=True)

    def intrinsics(
        self, photos: Sequence[Photo], depths: Sequence[Float[np.ndarray, "3 3"] | None]
    ) -> list[Float[np.ndarray, "3 3"]]:
        """(3, 3) per photo in pixels, the principal point at its centre."""
        del depths
        return [intrinsics_from_fov(photo.size, self.fov_degrees) for photo in photos]


@dataclass(frozen=True)
class ExifFocal(FieldOfView):
    """The focal length that the camera wrote into the file, as a 35 mm equivalent; else the field of view.

    A photo that was cropped later has the wrong one: nothing in the file tells.
    """

    @property
    def card(self) -> Card:
        """No weights, no licence to heed."""
        return Card("exif", commercial=True)

    def intrinsics(
        self, photos: Sequence[Photo], depths: Sequence[Float[np.ndarray, "3 3"] | None]
    ) -> list[Float[np.ndarray, "3 3"]]:
        """(3, 3) per photo in pixels, the principal point at its centre."""
        plain = super().intrinsics(photos, depths)
        told = [focal_35mm(photo.path) for photo in photos]
        return [
            k if focal is None else intrinsics_from_35mm(photo.size, focal)
            for photo, k, focal in zip(photos, plain, told, strict=True)
        ]


@dataclass(frozen=True)
class FromDepth(FieldOfView):
    """The camera that the depth expert estimated (Depth Pro, UniDepth); else the field of view."""

    @property
    def card(self) -> Card:
        """No weights of its own: those of the depth expert have a card of theirs."""
        return Card("depth", commercial=True)

    def intrinsics(
        self, photos: Sequence[Photo], depths: Sequence[Float[np.ndarray, "3 3"] | None]
    ) -> list[Float[np.ndarray, "3 3"]]:
        """(3, 3) per photo in pixels."""
        plain = super().intrinsics(photos, depths)
        return [
            k if estimate is None else np.asarray(estimate, np.float64)
            for k, estimate in zip(plain, depths, strict=True)
        ]
