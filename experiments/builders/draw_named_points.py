"""The picture of the named points in docs/parts.md: face, hand and foot of the average adult, seen along an axis.

python -m experiments.builders.draw_named_points --output=docs/images/named_points.jpg
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from absl import app, flags
from PIL import Image, ImageDraw, ImageFont

from annyfit_jax.inputs.point_sets import FACE, FEET, LEFT_HAND
from annyfit_jax.people.named_points import named_points
from annyfit_jax.records import files
from annyfit_jax.records.encoded_pictures import encoded
from annyfit_jax.synthetic.plain_people import ADULT_AVERAGE
from annyfit_jax.viz import raster
from body_models import anny

_OUTPUT = flags.DEFINE_string("output", "docs/images/named_points.jpg", "File to write.")

_SIDE = 560
_MARGIN_M = 0.02
_FACE_BONES = ("head", "jaw", "oris", "levator", "orbicularis", "oculi", "risorius", "eye", "neck")
_VIEWS = (
    (_FACE_BONES, "face", ("x", "z"), (*FACE, "left_pupil", "right_pupil")),
    (("wrist.L", "finger", "metacarpal", "lowerarm02.L"), "left hand", ("-y", "x"), LEFT_HAND),
    (("foot.L", "toe"), "left foot", ("-y", "x"), tuple(name for name in FEET if name.startswith("left"))),
)
"""Bones whose surface is drawn, title, axes to the right and up, points."""


def main(_: list[str]) -> None:
    model = anny.load()
    body = anny.forward(
        model,
        anny.Params(
            jnp.asarray(ADULT_AVERAGE[None], model.dtype), jnp.zeros((1, 3)), jnp.zeros((1, 162, 3)), jnp.zeros((1, 3))
        ),
    )
    vertices, faces = np.asarray(body.vertices[0], np.float64), np.asarray(model.faces)
    points = named_points(model.labels)
    at = points.of(vertices, np.asarray(body.bone_poses[0], np.float64))
    skin, bones = np.asarray(model.skin), model.labels.bones
    sheet = []
    for stems, *view in _VIEWS:
        own = skin[[i for i, bone in enumerate(bones) if bone.startswith(stems)]].sum(0) > 0.5
        sheet.append(_panel(vertices, faces[own[faces].all(1)], points.names, at, *view))
    files.write_bytes(_OUTPUT.value, encoded(np.concatenate(sheet, axis=1)))


def _panel(vertices, faces, names, at, title, axes, shown) -> np.ndarray:
    """One view, with the names shortened to what differs within it."""
    rows = [names.index(name) for name in shown]
    right, up, forward = raster.view_axes(axes)
    flat = np.stack([at[rows] @ right, at[rows] @ up], axis=1)
    middle, half = (flat.max(0) + flat.min(0)) / 2, np.ptp(flat, axis=0).max() / 2 + _MARGIN_M
    bounds = (middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half)
    seen = raster.rasterise_orthographic(vertices[None], faces, axes, bounds, (_SIDE, _SIDE))
    normal = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]])
    shade = -(normal @ forward) / np.maximum(np.linalg.norm(normal, axis=1), 1e-12)
    grey = np.where(seen.face >= 0, 90 + 140 * np.clip(shade[seen.face], 0.0, 1.0), 250)
    picture = Image.fromarray(np.repeat(grey[..., None], 3, axis=2).astype(np.uint8))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for name, (a, b) in zip(shown, flat, strict=True):
        x, y = (a - bounds[0]) / (2 * half) * _SIDE, (bounds[3] - b) / (2 * half) * _SIDE
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(200, 30, 30))
        draw.text((x + 4, y - 14), name.removeprefix("face_").removeprefix("left_"), (10, 40, 120), font)
    draw.text((8, 6), title, (0, 0, 0), ImageFont.load_default(18))
    return np.asarray(picture)


if __name__ == "__main__":
    app.run(main)
