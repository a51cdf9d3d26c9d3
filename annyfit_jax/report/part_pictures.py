"""Zooms on hands, faces and feet: of every part that was fitted, the photo and the fitted body over it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.camera import project
from annyfit_jax.people.fit_meshes import SmplxMeshes
from annyfit_jax.people.fitted import PARTS
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.viz import drawing, rasterise

_SIDE = 220
"""Pixels of a zoom."""
_WIDER = 1.5
_COLUMNS = 4
_MOST = 24
"""Zooms on one sheet; the largest parts come first."""
_BONES = {
    "hand": ("wrist", "finger", "metacarpal"),
    "head": ("head", "jaw", "oris", "levator"),
    "foot": ("foot", "toe"),
}
_JOINTS = {
    "hand": ("wrist", "index", "middle", "ring", "pinky", "thumb"),
    "head": ("head", "jaw", "left_eye", "right_eye"),
    "foot": ("ankle", "foot"),
}
"""The same of SMPL-X, without the side."""
_LEAST_PX = 8.0

Photo = UInt8[np.ndarray, "H W 3"]


def part_sheet(
    fit: SceneFit, photo: Photo, meshes: BodyMeshes | SmplxMeshes, vertices: Float[np.ndarray, "n V 3"] | None = None
) -> Photo | None:
    """All fitted parts of a scene beside each other, photo above body; None where no part was fitted.

    Args:
      photo: of the size of the scene, without distortion.
      meshes: the whole mesh is drawn, for its fingers.
      vertices: of everybody, where they are known already.
    """
    people = np.flatnonzero(fit.ok & (np.nan_to_num(fit.parts_seen) > 0).any(1))
    if not len(people):
        return None
    if vertices is None:
        vertices = meshes.vertices(fit.parameters.select(people))
    else:
        vertices = vertices[people]
    vertices = np.asarray(vertices, np.float64)
    pixels = project(vertices, np.asarray(fit.K, np.float64))
    zooms = []
    for row, person in enumerate(people):
        for k in np.flatnonzero(np.nan_to_num(fit.parts_seen[person]) > 0):
            of_part = pixels[row, _vertices_of(meshes, PARTS[k])]
            low, high = of_part.min(0), of_part.max(0)
            half = 0.5 * _WIDER * float((high - low).max())
            if np.isfinite(half) and half > _LEAST_PX:
                zooms.append((half, 0.5 * (low + high), f"person {person}: {PARTS[k].replace('_', ' ')}"))
    zooms = sorted(zooms, key=lambda zoom: -zoom[0])[:_MOST]
    if not zooms:
        return None
    tiles = [_tile(zoom, photo, vertices, meshes.faces, fit) for zoom in zooms]
    columns = min(_COLUMNS, len(tiles))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    return np.concatenate([np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)])


def _tile(
    zoom: tuple[float, np.ndarray, str], photo: Photo, vertices: np.ndarray, faces: np.ndarray, fit: SceneFit
) -> Photo:
    half, middle, title = zoom
    scale = _SIDE / (2 * half)
    corner = middle - half
    box = (corner[0], corner[1], corner[0] + 2 * half, corner[1] + 2 * half)
    seen = Image.fromarray(photo).transform((_SIDE, _SIDE), Image.Transform.EXTENT, box, Image.Resampling.BICUBIC)
    above = np.asarray(seen)
    move = np.array([[scale, 0.0, -scale * corner[0]], [0.0, scale, -scale * corner[1]], [0.0, 0.0, 1.0]])
    raster = rasterise(vertices, faces, move @ np.asarray(fit.K, np.float64), (_SIDE, _SIDE))
    below = drawing.overlay(above, raster, vertices, faces, alpha=0.75)
    picture = Image.fromarray(np.concatenate([above, below]))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    draw.rectangle((0, 0, draw.textlength(title, font) + 8, 18), fill=(255, 255, 255))
    draw.text((4, 2), title, (20, 20, 20), font)
    return np.asarray(picture)


def _vertices_of(meshes: BodyMeshes | SmplxMeshes, part: str) -> np.ndarray:
    """Which vertices a part has."""
    side, _, kind = part.rpartition("_")
    ending = {"left": ".L", "right": ".R"}.get(side, "")
    bones = meshes.model.labels.bones
    if isinstance(meshes, SmplxMeshes):
        sided = [bone.removeprefix(f"{side}_") if bone.startswith(f"{side}_") else "" for bone in bones]
        names = bones if kind == "head" else sided
        rows = [i for i, name in enumerate(names) if name.startswith(_JOINTS[kind])]
    else:
        rows = [i for i, bone in enumerate(bones) if bone.startswith(_BONES[kind]) and bone.endswith(ending)]
    return np.asarray(meshes.model.skin)[rows].sum(0) > 0.5
