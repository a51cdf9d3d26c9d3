"""Intrinsics without a model of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from annyfit_jax.inputs.calibration import Calibration, read_calibration
from annyfit_jax.inputs.photos import focal_35mm
from annyfit_jax.people.camera import intrinsics_from_35mm, intrinsics_from_fov
from annyfit_jax.people.lens import Lens
from annyfit_jax.people.scene import DEFAULT_FOV_DEGREES, SceneError
from annyfit_jax.store.mirrors import local
from experts.adapters.folders import file_fingerprint
from experts.interfaces import Card, ExpertError, Loaded, Photo


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


@dataclass
class CalibrationFile:
    """The camera of a calibration file, for each photo the one whose name its path holds (`annyfit_jax.inputs.calibration`)."""

    path: str = field(default="", metadata={"decides": False})
    """OpenCV or ROS YAML, JSON, Pose2Sim TOML, Qualisys."""
    _calibration: Calibration | None = field(default=None, init=False, repr=False)

    needs_pixels = False

    @property
    def card(self) -> Card:
        """No weights, no licence to heed."""
        return Card("calibration", Path(self.path).name, commercial=True)

    @property
    def calibration(self) -> Calibration:
        """The file's content, which is read when it is first needed. Raises ExpertError."""
        if self._calibration is None:
            self.load()
        assert self._calibration is not None
        return self._calibration

    def load(self) -> None:
        """Reads the file. Raises ExpertError."""
        if not self.path:
            raise ExpertError("expert calibration: no file; give --set=camera.path=FILE")
        try:
            self._calibration = read_calibration(local(self.path))
        except (SceneError, FileNotFoundError) as error:
            raise ExpertError(str(error)) from None

    def close(self) -> None:
        """Lets go of the file's content."""
        self._calibration = None

    def fingerprint(self) -> str:
        """Checksum of the file, which may move but not change between runs."""
        return file_fingerprint(self.path)

    def intrinsics(
        self, photos: Sequence[Photo], depths: Sequence[Float[np.ndarray, "3 3"] | None]
    ) -> list[Float[np.ndarray, "3 3"]]:
        """(3, 3) per photo in pixels. Raises SceneError for a photo of no camera, or of other proportions."""
        del depths
        cameras = [self.calibration.camera_of(photo.relative) for photo in photos]
        return [camera.intrinsics_for(photo.size, photo.path) for camera, photo in zip(cameras, photos, strict=True)]

    def lens_of(self, relative: str) -> Lens | None:
        """The lens of a photo by its path below the folder of photos. Raises SceneError."""
        return self.calibration.camera_of(relative).lens
