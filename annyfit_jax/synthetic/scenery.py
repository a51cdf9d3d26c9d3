"""What is behind and under the people: ground, walls, sky, the sun and the shadows it throws (numpy)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from annyfit_jax.synthetic import textures
from annyfit_jax.synthetic.world_cameras import Camera

GROUNDS = ("grass", "sand", "asphalt", "tiles", "planks", "carpet")
WALLS = ("plain", "panels", "bricks")
_SHADOW_CELL_M = 0.05
_SHADOW_SIDE = 192
_CONTACT_M = 0.10


@dataclass(frozen=True)
class Scenery:
    """One place."""

    ground: str
    ground_colour: Float[np.ndarray, "3"]
    wall: str
    """Of `WALLS`; empty = outdoors."""
    wall_colour: Float[np.ndarray, "3"]
    wall_y: float
    """World y of the wall behind the group."""
    sky: Float[np.ndarray, "2 3"]
    """Zenith and horizon."""
    clouds: float
    skyline: Float[np.ndarray, "3"]
    skyline_height: float
    """Tangent of the elevation of what stands at the horizon."""
    sun: Float[np.ndarray, "3"]
    """Unit vector towards the light, world axes."""
    sun_colour: Float[np.ndarray, "3"]
    ambient: Float[np.ndarray, "2 3"]
    """Light from above and from below."""
    offset: Float[np.ndarray, "2"]
    """Where in the noise the place lies."""


def draw_scenery(rng: np.random.Generator, farthest: float) -> Scenery:
    """A place; `farthest` is the largest world y of a person, behind which a wall may stand."""
    indoors = rng.random() < 0.45
    ground = str(rng.choice(["tiles", "planks", "carpet"] if indoors else ["grass", "sand", "asphalt", "tiles"]))
    base = {
        "grass": [0.28, 0.42, 0.16], "sand": [0.76, 0.66, 0.48], "asphalt": [0.42, 0.42, 0.43], "tiles": [0.68, 0.64, 0.60],
        "planks": [0.55, 0.38, 0.24], "carpet": [0.5, 0.42, 0.4],
    }[ground]  # fmt: skip
    tint = 1 + 0.15 * rng.normal(size=3)
    if ground in ("carpet", "tiles"):
        tint = rng.uniform(0.5, 1.25) * (1 + 0.13 * rng.normal(size=3))
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.3)
    level = np.cos(elevation)
    sun = np.array([level * np.cos(azimuth), level * np.sin(azimuth) - 0.3, np.sin(elevation)])
    overcast = rng.random() < 0.3 or indoors
    strength = rng.uniform(0.25, 0.5) if overcast else rng.uniform(0.55, 0.8)
    warmth = rng.uniform(-0.06, 0.1)
    above = rng.uniform(0.65, 0.85) if overcast else rng.uniform(0.45, 0.62)
    return Scenery(
        ground=ground,
        ground_colour=(np.array(base) * tint).clip(0.05, 0.95),
        wall=str(rng.choice(WALLS)) if indoors or rng.random() < 0.2 else "",
        wall_colour=rng.uniform(0.45, 1.0) * (1 + 0.2 * rng.normal(size=3)).clip(0.4, 1.4),
        wall_y=farthest + rng.uniform(0.25, 3.0 if indoors else 6.0),
        sky=np.array([[0.30, 0.50, 0.82], [0.78, 0.86, 0.94]]) * (1 + 0.08 * rng.normal(size=(2, 1))),
        clouds=rng.uniform(0.0, 1.0),
        skyline=np.array([0.20, 0.30, 0.16]) * rng.uniform(0.5, 1.4) + rng.uniform(0, 0.15),
        skyline_height=rng.uniform(0.0, 0.25),
        sun=sun / np.linalg.norm(sun),
        sun_colour=strength * np.array([1 + warmth, 1.0, 1 - warmth]),
        ambient=np.array([[1 - 0.5 * warmth, 1.0, 1 + 0.5 * warmth], [0.9, 0.85, 0.8]]) * above * [[1.0], [0.62]],
        offset=rng.uniform(0, 256, 2),
    )


def shade(scenery: Scenery, normals: Float[np.ndarray, "p 3"], lit: Float[np.ndarray, "p"] | float = 1.0) -> np.ndarray:
    """Light on surfaces with world normals: from above and below by the normal's height, and the sun (0 <= lit <= 1)."""
    up = (0.5 + 0.5 * normals[:, 2:]).astype(np.float32)
    sun = ((normals @ scenery.sun).clip(0) * lit).astype(np.float32)[:, None]
    above, below = scenery.ambient.astype(np.float32)
    return up * above + (1 - up) * below + sun * scenery.sun_colour.astype(np.float32)


@dataclass(frozen=True)
class GroundShadow:
    """Light on the ground on a grid of cells of _SHADOW_CELL_M around the group."""

    origin: Float[np.ndarray, "2"]
    sun: Float[np.ndarray, "i j"]
    """Share of the sun that arrives."""
    sky: Float[np.ndarray, "i j"]
    """Share of the sky that arrives: darker under what touches the ground."""

    def __call__(self, points: Float[np.ndarray, "p 2"]) -> tuple[np.ndarray, np.ndarray]:
        """Sun and sky shares at ground points, bilinear between cells; 1 outside the grid."""
        place = (points - self.origin) / _SHADOW_CELL_M - 0.5
        low = np.floor(place)
        s, t = (place - low).T.astype(np.float32)
        cell = low.astype(np.int64)
        inside = ((cell >= 0) & (cell < _SHADOW_SIDE - 1)).all(1)
        flat = np.where(inside, cell[:, 0] * _SHADOW_SIDE + cell[:, 1], 0)
        out = []
        for grid in (self.sun.ravel(), self.sky.ravel()):
            first = (1 - t) * grid[flat] + t * grid[flat + 1]
            second = (1 - t) * grid[flat + _SHADOW_SIDE] + t * grid[flat + _SHADOW_SIDE + 1]
            out.append(np.where(inside, (1 - s) * first + s * second, 1.0))
        return out[0], out[1]


def cast_shadow(scenery: Scenery, points: Float[np.ndarray, "k 3"]) -> GroundShadow:
    """Shadows of surface points (world): where rays from the sun through them meet the ground, blurred."""
    slope = scenery.sun[:2] / max(scenery.sun[2], 0.2)
    thrown = points[:, :2] - slope * points[:, 2:]
    origin = np.floor(points[:, :2].mean(0) / _SHADOW_CELL_M) * _SHADOW_CELL_M - 0.5 * _SHADOW_SIDE * _SHADOW_CELL_M

    def covered(where: np.ndarray) -> np.ndarray:
        cell = np.floor((where - origin) / _SHADOW_CELL_M).astype(np.int64)
        cell = cell[((cell >= 0) & (cell < _SHADOW_SIDE)).all(1)]
        grid = np.zeros((_SHADOW_SIDE, _SHADOW_SIDE), np.float32)
        grid[cell[:, 0], cell[:, 1]] = 1.0
        return grid

    sun = blur(covered(thrown), 3)
    near = blur(covered(points[points[:, 2] < 3 * _CONTACT_M, :2]), 5)
    touch = blur(covered(points[points[:, 2] < _CONTACT_M, :2]), 3)
    return GroundShadow(origin, 1 - (1.7 * sun).clip(0, 1), 1 - (0.45 * near + 0.6 * touch).clip(0, 0.85))


def blur(grid: Float[np.ndarray, "i j"], width: int) -> Float[np.ndarray, "i j"]:
    """Two box filters of an odd width along each axis; the border repeats."""
    half = width // 2
    for axis in (0, 1, 0, 1):
        padded = np.pad(grid, [(half, half) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        size = grid.shape[axis]
        parts = [padded[s : s + size] if axis == 0 else padded[:, s : s + size] for s in range(width)]
        grid = sum(parts[1:], parts[0]) * np.float32(1.0 / width)
    return grid


def draw_background(
    scenery: Scenery, camera: Camera, empty: Bool[np.ndarray, "H W"], shadow: GroundShadow
) -> tuple[Float[np.ndarray, "p 3"], Float[np.ndarray, "p"]]:
    """Colour and camera depth (metres; inf = sky) at the p pixels that are marked, float32."""
    x, y, z = (plane[empty] for plane in camera.world_rays)
    height, infinite = np.float32(camera.position[2]), np.float32(np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        to_ground = np.where(z < -1e-4, -height / z, infinite)
        to_wall = np.where(y > 1e-4, np.float32(scenery.wall_y - camera.position[1]) / y, infinite)
    if not scenery.wall:
        to_wall[:] = infinite
    colour = np.empty((len(x), 3), np.float32)
    ground, wall = to_ground < to_wall, (to_wall <= to_ground) & np.isfinite(to_wall)
    sky = ~ground & ~wall
    depth = np.minimum(to_ground, to_wall)
    east, north, _ = camera.position.astype(np.float32)
    far = depth[ground]
    u, v = east + x[ground] * far, north + y[ground] * far
    sun, open_sky = shadow(np.stack([u, v], axis=1))
    up = np.array([[0.0, 0.0, 1.0]], np.float32)
    dark = shade(scenery, up, 0.0)
    light = dark * open_sky[:, None] + (shade(scenery, up) - dark) * sun[:, None]
    lit = _ground_colour(scenery, u, v, far) * light
    # Haze takes distant ground to the colour of the horizon.
    haze = 1 - np.exp(far * np.float32(-1 / 400.0))[:, None]
    colour[ground] = lit + haze * (scenery.sky[1].astype(np.float32) - lit)
    far = depth[wall]
    facing = shade(scenery, np.array([[0.0, -1.0, 0.0]], np.float32))
    colour[wall] = _wall_colour(scenery, east + x[wall] * far, height + z[wall] * far) * facing
    colour[sky] = _sky_colour(scenery, x[sky], y[sky], z[sky])
    return colour, depth


def _ground_colour(scenery: Scenery, u: np.ndarray, v: np.ndarray, depth: np.ndarray) -> np.ndarray:
    u, v = u + np.float32(100.0), v + np.float32(100.0)
    a, b = scenery.offset.astype(np.float32)
    near = 1.0 / (1.0 + depth / 12.0)  # fine texture averages out with distance
    coarse = textures.noise(textures.PLASTER, 20 * u + a, 20 * v + b, smooth=True)
    fine = textures.noise(textures.SOIL, 110 * u + b, 110 * v + a) * near
    if scenery.ground == "grass":
        value = 1 + 0.16 * coarse + 0.22 * fine
    elif scenery.ground in ("tiles", "planks"):
        size = np.array([0.45, 0.45]) if scenery.ground == "tiles" else np.array([0.14, 1.6])
        i, j = np.floor(u / size[0]).astype(np.int64), np.floor(v / size[1]).astype(np.int64)
        width = np.maximum(0.012, 0.0015 * depth)
        joint = (np.abs(u - np.round(u / size[0]) * size[0]) < width / 2) | (
            np.abs(v - np.round(v / size[1]) * size[1]) < width / 2
        )
        value = (1 + 0.07 * textures.hashed(textures.GRAIN, i, j) + 0.04 * fine) * np.where(
            joint & (depth < 15), 0.7, 1.0
        )
    else:
        value = 1 + 0.07 * coarse + {"sand": 0.10, "asphalt": 0.16, "carpet": 0.08}[scenery.ground] * fine
    return scenery.ground_colour.astype(np.float32) * value.clip(0.3, 1.7).astype(np.float32)[:, None]


def _wall_colour(scenery: Scenery, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    x = x + np.float32(100.0)
    a, b = scenery.offset.astype(np.float32)
    value = 1 + 0.04 * textures.noise(textures.CLOUDS, 12 * x + a, 12 * z + b, smooth=True)
    if scenery.wall == "bricks":
        row = np.floor(z / 0.08).astype(np.int64)
        column = np.floor(x / 0.24 + 0.5 * (row % 2)).astype(np.int64)
        mortar = ((z / 0.08) % 1 < 0.13) | ((x / 0.24 + 0.5 * (row % 2)) % 1 < 0.05)
        value = np.where(mortar, 1.15, value + 0.10 * textures.hashed(textures.GRAIN, row, column))
    elif scenery.wall == "panels":
        value = value * np.where(((x + a) % 1.1) < 0.02, 0.75, 1.0) * np.where(z < 0.9, 0.85, 1.0)
    value = np.where(z < 0.09, 0.6 * value, value)  # skirting board
    return scenery.wall_colour.clip(0, 1).astype(np.float32) * value.astype(np.float32)[:, None]


def _sky_colour(scenery: Scenery, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    tangent = z / np.maximum(np.hypot(x, y), np.float32(1e-6))
    azimuth = np.arctan2(x, y)
    a, b = scenery.offset.astype(np.float32)
    share = (tangent / 0.8).clip(0, 1)[:, None] ** 0.6
    zenith, horizon = scenery.sky
    colour = share * zenith + (1 - share) * horizon
    cover = (
        textures.noise(textures.CLOUDS, 90 * azimuth + a, 60 * tangent + b, smooth=True) * 0.6 + scenery.clouds - 0.3
    ).clip(0, 1)
    colour = colour + 0.7 * cover[:, None] * (0.93 - colour)
    line = scenery.skyline_height * (
        0.55 + 0.25 * textures.noise(textures.PLASTER, 120 * azimuth + b, np.full_like(azimuth, a), smooth=True)
    )
    behind: Bool[np.ndarray, "p"] = tangent < line
    leaves = textures.noise(textures.SOIL, 160 * azimuth, 160 * tangent, smooth=True)
    colour[behind] = scenery.skyline * (1 + 0.2 * leaves[behind])[:, None]
    return colour.astype(np.float32)
