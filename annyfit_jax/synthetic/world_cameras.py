"""The camera: varied lens, height and aim, far enough that the group fills the wanted share of the picture (numpy)."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

from annyfit_jax.people.camera import intrinsics_from_fov, project
from annyfit_jax.synthetic.world_config import CameraConfig

_STEEPEST = 0.85
"""Largest sine of the angle at which the camera looks down or up at the group's centre."""
_LOWEST_M = 0.1
_SEEN_SHARE = 0.2
"""Of somebody's vertices, at least, in every picture."""
_TRIES = 6


@dataclass(frozen=True)
class Camera:
    """A pinhole camera over the ground z = 0."""

    image_size: tuple[int, int]
    """(width, height) in pixels."""
    intrinsics: Float[np.ndarray, "3 3"]
    rotvec: Float[np.ndarray, "3"]
    """Rotation of world into camera axes; a level camera has (pi / 2, 0, 0)."""
    position: Float[np.ndarray, "3"]
    """In the world, metres."""

    @functools.cached_property
    def rotation(self) -> Float[np.ndarray, "3 3"]:
        """World to camera."""
        return Rotation.from_rotvec(self.rotvec).as_matrix()

    def place(self, points: Float[np.ndarray, "*k 3"]) -> Float[np.ndarray, "*k 3"]:
        """World points in camera axes."""
        return (points - self.position) @ self.rotation.T

    @property
    def ground(self) -> Float[np.ndarray, "4"]:
        """The ground in camera axes: unit normal n (up) and d with n . x + d = 0; d is the camera's height."""
        return np.append(self.rotation[:, 2], self.position[2])

    @functools.cached_property
    def rays(self) -> Float[np.ndarray, "H W 3"]:
        """Directions of the pixel centres in camera axes, with z = 1."""
        width, height = self.image_size
        k = self.intrinsics
        x = (np.arange(width) + 0.5 - k[0, 2]) / k[0, 0]
        y = (np.arange(height) + 0.5 - k[1, 2]) / k[1, 1]
        return np.stack([*np.meshgrid(x, y), np.ones((height, width))], axis=-1)

    @functools.cached_property
    def world_rays(self) -> Float[np.ndarray, "3 H W"]:
        """`rays` in world axes, float32, one plane per axis.

        Written as sums of products: threaded BLAS spends far more on a product with a 3 x 3 matrix than the product costs.
        """
        x, y = self.rays[0, :, 0], self.rays[:, 0, 1]
        planes = [axis[0] * x + (axis[1] * y + axis[2])[:, None] for axis in self.rotation.T]
        return np.stack(planes).astype(np.float32)


def draw_camera(rng: np.random.Generator, bodies: Float[np.ndarray, "n v 3"], config: CameraConfig) -> Camera:
    """A camera that looks along +y at a group of people (world vertices).

    It stands where the group's height or width, whichever is the larger share, takes `config.apparent` of the picture, but
    no nearer than `config.nearest` to anybody. Where nobody is in the picture by `_SEEN_SHARE`, it is drawn again with a
    steadier aim.
    """
    camera = _draw(rng, bodies.reshape(-1, 3), config, config.aim)
    for attempt in range(1, _TRIES):
        if _inside(camera, bodies).mean(1).max() >= _SEEN_SHARE:
            break
        camera = _draw(rng, bodies.reshape(-1, 3), config, config.aim * (1 - attempt / (_TRIES - 1)))
    return camera


def _inside(camera: Camera, points: Float[np.ndarray, "*k 3"]) -> Bool[np.ndarray, "*k"]:
    """Which world points are in front of the camera and project into the picture."""
    placed = camera.place(points)
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = project(placed, camera.intrinsics)
    return (placed[..., 2] > 0) & (pixels >= 0).all(-1) & (pixels < camera.image_size).all(-1)


def _draw(rng: np.random.Generator, points: Float[np.ndarray, "k 3"], config: CameraConfig, spread: float) -> Camera:
    size = config.image_sizes[int(rng.integers(len(config.image_sizes)))]
    k = intrinsics_from_fov(size, rng.uniform(*config.fov_degrees))
    focal, height = k[0, 0], rng.uniform(*config.height)
    low, high = points.min(0), points.max(0)
    centre = 0.5 * (low + high)
    apparent = max((high[2] - low[2]) / size[1], (high[0] - low[0]) / size[0])
    distance = focal * apparent / rng.uniform(*config.apparent)
    # `distance` is along the line of sight; the camera's height takes its share of it.
    rise = np.clip(height - centre[2], -_STEEPEST * distance, _STEEPEST * distance)
    height = max(centre[2] + rise, _LOWEST_M)
    level = np.sqrt(distance**2 - rise**2)
    aim = rng.normal(0.0, spread, 2) * np.array(size) / focal
    roll = rng.normal(0.0, config.roll)
    tilt = np.arctan2(rise, level) + np.arctan(aim[1])
    turns = [[0.0, 0.0, roll], [tilt, 0.0, 0.0], [np.pi / 2, 0.0, 0.0], [0.0, 0.0, np.arctan(aim[0])]]
    turn = functools.reduce(operator.mul, map(Rotation.from_rotvec, turns))
    rotvec, forward = turn.as_rotvec(), turn.as_matrix()[2]
    position = np.array([centre[0], centre[1] - level, height])
    nearest = ((points - position) @ forward).min()
    if nearest < config.nearest:  # back along the level line of sight
        position[1] -= (config.nearest - nearest) / max(forward[1], 0.2)
    return Camera(size, k, rotvec, position)
