"""The pinhole camera: pixels, camera axes x right, y down, z forward, no distortion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import overload

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from annyfit_jax.people.scene import DEFAULT_FOV_DEGREES

_FILM_SIDE_MM = 36.0


def intrinsics_from_fov(
    image_size: Sequence[float], fov_degrees: float = DEFAULT_FOV_DEGREES
) -> Float[np.ndarray, "3 3"]:
    """Intrinsics of an uncalibrated photo: a field of view over the longest side, principal point at the centre.

    `image_size` is (width, height) in pixels; f = L / (2 tan(fov / 2)) with L the longest side. Raises ValueError on a
    field of view outside (0, 180) degrees or an image without area.
    """
    width, height = (float(side) for side in image_size)
    if not 0.0 < fov_degrees < 180.0:
        raise ValueError(f"field of view: expected degrees in (0, 180), got {fov_degrees}")
    if not (width > 0 and height > 0):
        raise ValueError(f"image size: expected a positive width and height, got {width:g} x {height:g}")
    focal = max(width, height) / (2.0 * math.tan(math.radians(fov_degrees) / 2.0))
    return np.array([[focal, 0.0, width / 2.0], [0.0, focal, height / 2.0], [0.0, 0.0, 1.0]])


def intrinsics_from_35mm(image_size: Sequence[float], focal_mm: float) -> Float[np.ndarray, "3 3"]:
    """Intrinsics of a photo whose camera wrote a 35 mm equivalent of its focal length, principal point at the centre.

    The equivalent is read as over the longer side of a frame of 24 x 36 mm, f = longest side * f35 / 36; for frames that are
    not 3:2 makers mean the diagonal, which differs by up to 4 %. Raises ValueError as `intrinsics_from_fov`.
    """
    return intrinsics_from_fov(image_size, math.degrees(2.0 * math.atan(_FILM_SIDE_MM / 2.0 / focal_mm)))


@overload
def project(points: Float[np.ndarray, "... 3"], intrinsics: Float[np.ndarray, "... 3 3"]) -> np.ndarray: ...
@overload
def project(points: Float[Array, "... 3"], intrinsics: Float[Array, "... 3 3"] | np.ndarray) -> Array: ...
def project(points, intrinsics):
    """Projects camera-space points (..., 3) in metres to pixels (..., 2), pi(q) = (K q / q_z)[:2].

    Leading axes broadcast from the right: for one camera per person and 17 points each, pass `K[:, None]`.

    There is no guard for q_z <= 0: a point behind the camera is mirrored and q_z = 0 gives non-finite pixels. The
    objective is defined that way; whoever needs a guard tests the depth. Written as sums of products rather than as a
    matrix product, which accelerators may round to a shorter mantissa.
    """
    components = [points[..., 0], points[..., 1], points[..., 2]]
    matrix = [[intrinsics[..., row, column] for column in range(3)] for row in range(2)]
    pixels = _project(components, matrix)
    # numpy in, numpy out: host code (evaluation, drawing) projects in float64 without switching jax to x64.
    on_host = isinstance(points, np.ndarray) and isinstance(intrinsics, np.ndarray)
    return np.stack(pixels, axis=-1) if on_host else jnp.stack(pixels, axis=-1)


def project_axes_first(
    points: Float[Array | np.ndarray, "3 *#batch"], intrinsics: Float[Array | np.ndarray, "3 3 *#batch"]
) -> Float[Array, "2 *batch"]:
    """`project` with components first, as solvers hold their points."""
    return jnp.stack(_project(points, intrinsics))


def _project(points, k):
    x, y = points[0] / points[2], points[1] / points[2]
    return [row[0] * x + row[1] * y + row[2] for row in (k[0], k[1])]
