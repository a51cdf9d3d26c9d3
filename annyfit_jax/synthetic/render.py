"""From placed bodies to a picture, who is seen at each pixel, and metric depth (numpy, z-buffer rasteriser)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from annyfit_jax.synthetic import scenery as places
from annyfit_jax.synthetic.layout import BOX_FACES
from annyfit_jax.synthetic.looks import Looks, albedo
from annyfit_jax.synthetic.render_mesh import RenderMesh
from annyfit_jax.synthetic.scenery import Scenery
from annyfit_jax.synthetic.world_cameras import Camera
from annyfit_jax.synthetic.world_config import LookConfig
from annyfit_jax.viz.raster import rasterise

NOBODY, THING = -1, -2
_NEAR_M = 0.05
_BOX_POINTS = 9


@dataclass(frozen=True)
class View:
    """What is seen at each pixel centre. H, W is the size of the picture."""

    owner: Int[np.ndarray, "H W"]
    """Index of the person, NOBODY or THING."""
    depth: Float[np.ndarray, "H W"]
    """Camera z of people and things in metres; inf elsewhere."""
    face: Int[np.ndarray, "H W"]
    """Triangle of the person's mesh (or of the box); -1 = nothing."""
    weights: Float[np.ndarray, "H W 3"]
    """Of the triangle's corners at the visible point."""
    thing: Int[np.ndarray, "H W"]
    """Index of the box; -1 elsewhere."""


def view(
    camera: Camera, bodies: Float[np.ndarray, "n v 3"], faces: Int[np.ndarray, "f 3"], boxes: Float[np.ndarray, "b 8 3"]
) -> View:
    """Draws closed meshes of n people and boxes, all in camera axes.

    Triangles that face away are left out: a closed body hides them itself.
    """
    n, v = bodies.shape[:2]
    vertices = np.concatenate([bodies.reshape(-1, 3), boxes.reshape(-1, 3)])
    everything = np.concatenate(
        [
            (faces + v * np.arange(n)[:, None, None]).reshape(-1, 3),
            (BOX_FACES + n * v + 8 * np.arange(len(boxes))[:, None, None]).reshape(-1, 3),
        ]
    )
    kept = np.flatnonzero(_faces_camera(vertices, everything))
    raster = rasterise([vertices], everything[kept], camera.intrinsics, camera.image_size, near=_NEAR_M)
    seen = raster.face >= 0
    face = np.where(seen, kept[raster.face], -1)
    number, within = np.divmod(face, len(faces))
    person = np.where(seen & (number < n), number, NOBODY)
    on_box = seen & (number >= n)
    thing = np.where(on_box, (face - n * len(faces)) // len(BOX_FACES), -1)
    return View(
        owner=np.where(on_box, THING, person).astype(np.int32),
        depth=raster.depth,
        face=np.where(on_box, (face - n * len(faces)) % len(BOX_FACES), np.where(seen, within, -1)).astype(np.int32),
        weights=raster.barycentric,
        thing=thing.astype(np.int32),
    )


def _faces_camera(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Whether the camera at the origin is on the outer side of each triangle."""
    x, y, z = np.ascontiguousarray(vertices.T)
    a, b, c = np.ascontiguousarray(faces.T)
    # The sign of det [a b c]; exact enough in any depth order, and right for triangles that cross the image plane.
    ax, ay, az = x[a], y[a], z[a]
    bx, by, bz = x[b], y[b], z[b]
    cx, cy, cz = x[c], y[c], z[c]
    return ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx) < 0


def vertex_normals(bodies: Float[np.ndarray, "n v 3"], faces: Int[np.ndarray, "f 3"]) -> Float[np.ndarray, "n v 3"]:
    """Area-weighted outward normals, not of unit length."""
    n, v = bodies.shape[:2]
    a, b, c = (bodies[:, faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    index = (faces.T.reshape(3, 1, -1) + v * np.arange(n)[None, :, None]).ravel()
    sums = [np.bincount(index, np.tile(normal[..., k].ravel(), 3), n * v) for k in range(3)]
    return np.stack(sums, axis=1).reshape(n, v, 3)


def paint(
    rng: np.random.Generator,
    camera: Camera,
    seen: View,
    bodies: Float[np.ndarray, "n v 3"],
    normals: Float[np.ndarray, "n v 3"],
    boxes: Float[np.ndarray, "b 8 3"],
    mesh: RenderMesh,
    looks: Looks,
    scenery: Scenery,
    config: LookConfig,
) -> tuple[UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "H W"]]:
    """The picture, and the depth of everything in it, ground and walls too (metres; inf = sky).

    Bodies, their normals (of any length) and boxes are in camera axes; `rng` draws boxes' colours, exposure and noise.
    """
    height, width = seen.owner.shape
    to_world = lambda points: points @ camera.rotation + camera.position  # noqa: E731
    shadow = places.cast_shadow(
        scenery, np.concatenate([to_world(bodies).reshape(-1, 3), _inside_boxes(to_world(boxes))])
    )
    picture = np.empty((height, width, 3), np.float32)
    depth = seen.depth.astype(np.float32).copy()
    empty = seen.owner == NOBODY
    picture[empty], depth[empty] = places.draw_background(scenery, camera, empty, shadow)
    on = seen.owner >= 0
    if on.any():
        person, weights = seen.owner[on], seen.weights[on]
        corners = mesh.faces[seen.face[on]]
        fields = _mix(mesh.fields.astype(np.float32)[corners], weights)
        to_light = _unit(normals @ camera.rotation).astype(np.float32)
        normal = _unit(_mix(to_light[person[:, None], corners], weights))
        above = camera.world_rays[2][on] * seen.depth[on] + np.float32(camera.position[2])
        # Less light close to the ground, and where the body turns its underside to it.
        open_sky = 1 - 0.35 * np.exp(-above.clip(0) / 0.15)
        picture[on] = albedo(looks, person, fields) * places.shade(scenery, normal) * open_sky[:, None]
    on = seen.owner == THING
    colours = rng.uniform(0.15, 0.8, (len(boxes), 3)).astype(np.float32)
    if on.any():
        thing, corners = seen.thing[on], BOX_FACES[seen.face[on]]
        a, b, c = (boxes[thing, corners[:, k]] for k in range(3))
        normal = _unit((np.cross(b - a, c - a) @ camera.rotation).astype(np.float32))
        picture[on] = colours[thing] * places.shade(scenery, normal)
    picture = _soften(picture, seen.owner)
    exposure = np.exp(rng.normal(0.0, config.exposure)) * 1.05
    balance = 1 + 0.03 * rng.normal(size=3)
    x, y = (np.arange(width) - width / 2) / width, (np.arange(height) - height / 2) / height
    vignette = 1 - rng.uniform(0.0, 0.35) * (x**2 + y[:, None] ** 2)
    picture *= (exposure * balance).astype(np.float32) * vignette[..., None].astype(np.float32)
    picture = picture / (1 + 0.25 * picture**2) * 1.15  # a shoulder instead of clipped highlights
    picture += np.float32(rng.uniform(*config.sensor_noise)) * rng.standard_normal(picture.shape, np.float32)
    return (picture.clip(0, 1) * 255 + 0.5).astype(np.uint8), depth


def _soften(picture: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Smooths the steps of outlines: pixels beside another owner become the mean of their 3 x 3 neighbours."""
    edge = np.zeros(owner.shape, bool)
    across, down = owner[:, 1:] != owner[:, :-1], owner[1:] != owner[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    rows, columns = np.nonzero(edge)
    total = np.zeros((len(rows), 3), np.float32)
    for i, j, weight in (
        (0, 0, 4),
        (0, 1, 2),
        (0, -1, 2),
        (1, 0, 2),
        (-1, 0, 2),
        (1, 1, 1),
        (1, -1, 1),
        (-1, 1, 1),
        (-1, -1, 1),
    ):
        r, c = (rows + i).clip(0, owner.shape[0] - 1), (columns + j).clip(0, owner.shape[1] - 1)
        total += weight * picture[r, c]
    picture[rows, columns] = total / 16.0
    return picture


def _mix(corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.einsum("pkf,pk->pf", corners, weights.astype(np.float32))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _inside_boxes(boxes: np.ndarray) -> np.ndarray:
    """Points through the volume of boxes (b, 8, 3), for their shadows."""
    s = np.linspace(0, 1, _BOX_POINTS)
    grid = np.stack(np.meshgrid(s, s, s, indexing="ij"), -1).reshape(-1, 3)
    origin = boxes[:, :1]
    sides = boxes[:, [1, 3, 4]] - origin
    return (origin + grid @ sides).reshape(-1, 3)
