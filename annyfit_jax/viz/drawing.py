"""Pictures of a fit: shaded overlays, 2D keypoints, and metric views from above and from the side.

Images are (H, W, 3) uint8 RGB. Camera axes x right, y down, z forward, metres; pixels with the origin at the top-left
corner. People are numbered from 0 in every picture, in the order of the arrays, and keep their colour everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from annyfit_jax.viz.raster import Raster, as_bodies, is_drawable, rasterise_orthographic, view_axes

Picture = UInt8[np.ndarray, "H W 3"]
Bodies = Float[np.ndarray, "n V 3"] | Sequence[Float[np.ndarray, "V 3"]]

# Okabe & Ito's colour-blind-safe set without black, then the members of Tol's "muted" set that differ from it.
_BASE_COLOURS = (
    (0x56, 0xB4, 0xE9), (0xE6, 0x9F, 0x00), (0x00, 0x9E, 0x73), (0xCC, 0x79, 0xA7), (0xF0, 0xE4, 0x42),
    (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x88, 0x22, 0x55), (0xDD, 0xCC, 0x77), (0x33, 0x22, 0x88),
    (0x44, 0xAA, 0x99), (0x99, 0x99, 0x33),
)  # fmt: skip
_LIMBS = (
    (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13),
    (13, 15), (12, 14), (14, 16),
)  # fmt: skip
_PAPER, _GRID, _INK, _CONE = (250, 250, 248), (222, 224, 226), (70, 76, 84), (233, 240, 248)
_SMOOTH = 2  # drawings are made this many times larger and reduced, against jagged lines


def palette(n: int) -> UInt8[np.ndarray, "n 3"]:
    """n distinct RGB colours; the first 12 stay apart under the common colour blindnesses."""
    colours = [np.array(colour) for colour in _BASE_COLOURS[:n]]
    candidates = np.stack(np.meshgrid(*[np.linspace(40, 235, 12)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    candidates = candidates[np.ptp(candidates, axis=1) > 50]  # greys would drown in a photo
    while len(colours) < n:  # farthest-point sampling of the colour cube; beyond its size, colours repeat
        distance = np.linalg.norm(candidates[:, None] - np.stack(colours)[None], axis=2).min(axis=1)
        colours.append(candidates[np.argmax(distance)])
    return np.array(colours).reshape(n, 3).round().astype(np.uint8)


def blank(size: tuple[int, int]) -> Picture:
    """A plain light picture of (width, height), in place of a missing photo."""
    return np.full((size[1], size[0], 3), (236, 238, 240), dtype=np.uint8)


def overlay(
    image: Picture, raster: Raster, vertices: Bodies, faces: Int[np.ndarray, "F 3"], alpha: float = 0.85
) -> Picture:
    """The photo with Lambert-shaded bodies, one colour per person, each pixel showing the nearest body.

    Args:
      image: the photo.
      raster: perspective raster of the same vertices and faces; its size is that of the image, or a whole multiple s
        of it (K[:2] scaled by s), which is then averaged down for smooth outlines.
      vertices: camera-space vertices in metres; people with NaN are not in the raster and hence not drawn.
      faces: triangles.
      alpha: opacity of the bodies.

    Raises:
      ValueError: the raster's size is not a multiple of the image's.
    """
    height, width = image.shape[:2]
    scale = raster.depth.shape[0] // height
    if scale < 1 or raster.depth.shape != (height * scale, width * scale):
        raise ValueError(f"raster: expected size {(height, width)} or a multiple of it, got {raster.depth.shape}")
    colour = _shade(raster, vertices, faces, light=(-0.4, -0.75, -1.0), viewing=None)
    opacity = np.where(raster.person >= 0, alpha, 0.0)[..., None]
    # Outlines between people and against the photo, where the drawing is finer than the pixels.
    if scale > 1:
        colour *= np.where(_outline(raster.person), 0.45, 1.0)[..., None]
    blocks = (height, scale, width, scale, -1)
    opacity_mean = opacity.reshape(blocks).mean(axis=(1, 3))
    colour_mean = (colour * opacity).reshape(blocks).mean(axis=(1, 3))  # colour weighted by opacity
    return _to_uint8(image * (1 - opacity_mean) + colour_mean)


def label_people(image: Picture, raster: Raster, num_people: int) -> Picture:
    """Adds each visible person's number, above the topmost visible pixel of that person."""
    height, width = image.shape[:2]
    scale = raster.depth.shape[0] // height
    labels = Image.fromarray(image)
    chips = _Chips(labels, size=max(11, round(0.024 * max(width, height))))
    colours = palette(num_people)
    for person in range(num_people):
        rows, columns = np.nonzero(raster.person == person)
        if rows.size:
            top = rows.min()
            chips.place(person, (float(np.median(columns[rows == top])) / scale, top / scale), colours[person])
    chips.finish()
    return np.asarray(labels)


def draw_keypoints(
    image: Picture, keypoints: Float[np.ndarray, "n 17 3"], projected: Float[np.ndarray, "n 17 2"] | None
) -> Picture:
    """Adds COCO-17 keypoints: observed ones as dots, the body's projected ones as a skeleton, the residual in white.

    Args:
      image: the picture to draw on.
      keypoints: observed x, y in pixels and confidence; confidence 0 or NaN = missing.
      projected: the fitted body's x, y in pixels, NaN = not available; None draws the observed skeleton instead.
    """
    height, width = image.shape[:2]
    keypoints = np.asarray(keypoints, dtype=np.float64).reshape(-1, 17, 3)
    observed = np.where(keypoints[..., 2:] > 0, keypoints[..., :2], np.nan)
    skeleton = observed if projected is None else np.asarray(projected, dtype=np.float64).reshape(-1, 17, 2)
    layer = Image.new("RGBA", (width * _SMOOTH, height * _SMOOTH))
    draw = ImageDraw.Draw(layer)
    # A body near the camera plane projects arbitrarily far away; beyond this distance a line shows nothing.
    reach = 8 * max(width, height)

    def stroke(points: np.ndarray) -> float:
        """Line width that suits the picture, thinner for small people whose joints would run into each other."""
        points = points[np.isfinite(points).all(axis=1)]
        extent = float(np.ptp(points, axis=0).max()) if len(points) > 1 else math.inf
        return max(0.8, min(max(width, height) / 420, extent / 110)) * _SMOOTH

    def line(start, end, colour, thickness: float) -> None:
        if np.isfinite([*start, *end]).all() and max(np.abs(start).max(), np.abs(end).max()) < reach:
            draw.line([*(start * _SMOOTH), *(end * _SMOOTH)], fill=colour, width=max(1, round(thickness)))

    colours = [tuple(int(channel) for channel in colour) for colour in palette(len(skeleton))]
    for colour, joints in zip(colours, skeleton, strict=True):
        pen = stroke(joints)
        for thickness, shade in ((3.2 * pen, (20, 22, 26, 230)), (1.6 * pen, (*colour, 255))):
            for i, j in _LIMBS:
                line(joints[i], joints[j], shade, thickness)
    for colour, joints, dots in zip(colours, skeleton, observed, strict=True):
        pen = stroke(dots)
        for joint, dot in zip(joints, dots, strict=True):
            for thickness, shade in ((2.0 * pen, (20, 22, 26, 230)), (0.9 * pen, (255, 255, 255, 255))):
                line(joint, dot, shade, thickness)
            if np.isfinite(dot).all() and np.abs(dot).max() < reach:
                for radius, fill in (
                    (3.1 * pen, (20, 22, 26, 230)),
                    (2.6 * pen, (255, 255, 255, 255)),
                    (1.8 * pen, (*colour, 255)),
                ):
                    x, y = dot * _SMOOTH
                    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)
    layer = layer.resize((width, height), Image.Resampling.BOX)
    return np.asarray(Image.alpha_composite(Image.fromarray(image).convert("RGBA"), layer).convert("RGB"))


def top_view(
    vertices: Bodies,
    faces: Int[np.ndarray, "F 3"],
    size: tuple[int, int],
    intrinsics: Float[np.ndarray, "3 3"] | None = None,
    image_size: tuple[int, int] | None = None,
) -> Picture:
    """The scene from above: X to the right, Z (forward) up, metres; the camera sits at (0, 0).

    Args:
      vertices: camera-space vertices in metres; people with NaN are not drawn.
      faces: triangles.
      size: (width, height) of the view in pixels.
      intrinsics, image_size: camera and (width, height) of the photo; when both are given the field of view is shaded.
    """
    rays = None
    if intrinsics is not None and image_size is not None:
        rays = [((u - intrinsics[0][2]) / intrinsics[0][0], 1.0) for u in (0, image_size[0])]
    return _view(vertices, faces, size, ("x", "z"), ("X (m)", "Z, forward (m)"), rays, light=(-0.5, -1.0, -0.35))


def side_view(
    vertices: Bodies,
    faces: Int[np.ndarray, "F 3"],
    size: tuple[int, int],
    intrinsics: Float[np.ndarray, "3 3"] | None = None,
    image_size: tuple[int, int] | None = None,
) -> Picture:
    """The scene from the camera's right: Z (forward) to the right, -Y up, metres. Arguments as in `top_view`."""
    rays = None
    if intrinsics is not None and image_size is not None:
        rays = [(1.0, -(v - intrinsics[1][2]) / intrinsics[1][1]) for v in (0, image_size[1])]
    return _view(vertices, faces, size, ("z", "-y"), ("Z, forward (m)", "-Y, up (m)"), rays, light=(1.0, -0.8, -0.5))


def _view(vertices, faces, size, axes, titles, rays, light) -> Picture:
    """An orthographic view with a metric grid. `rays` are the borders of the field of view in (right, up) metres."""
    bodies = as_bodies(vertices)
    right, up, forward = view_axes(axes)
    width, height = size[0] * _SMOOTH, size[1] * _SMOOTH
    unit = max(9, round(min(width, height) / 30))  # font size
    left, bottom, margin = round(3.6 * unit), round(3.2 * unit), unit
    plot = (left, margin, width - margin, height - bottom)
    plot_size = (plot[2] - plot[0], plot[3] - plot[1])
    drawable = [body for body in bodies if is_drawable(body)]
    points = np.concatenate([*drawable, np.zeros((1, 3))])
    bounds = _bounds(np.stack([points @ right, points @ up], axis=1), plot_size)
    scale = plot_size[0] / (bounds[1] - bounds[0])

    def pixel(a: float, b: float) -> tuple[float, float]:
        return (a - bounds[0]) * scale, (bounds[3] - b) * scale

    inner = Image.new("RGB", plot_size, _PAPER)
    draw = ImageDraw.Draw(inner)
    reach = 4 * max(bounds[1] - bounds[0], bounds[3] - bounds[2])
    ends = [tuple(reach * np.array(ray) / np.hypot(*ray)) for ray in rays or ()]
    if ends:
        draw.polygon([pixel(0, 0), *(pixel(*end) for end in ends)], fill=_CONE)
    ticks = [_ticks(low, high, scale, 3.2 * unit) for low, high in (bounds[:2], bounds[2:])]
    for k, values in enumerate(ticks):
        for value in values:
            a, b = pixel(value, value)
            grid_line = [(a, 0), (a, plot_size[1])] if k == 0 else [(0, b), (plot_size[0], b)]
            draw.line(grid_line, fill=(190, 194, 198) if abs(value) < 1e-9 else _GRID, width=_SMOOTH)
    for end in ends:
        draw.line([pixel(0, 0), pixel(*end)], fill=(120, 150, 190), width=_SMOOTH)
    radius = 0.4 * unit
    a, b = pixel(0, 0)
    draw.ellipse([a - radius, b - radius, a + radius, b + radius], fill=_INK)

    raster = rasterise_orthographic(bodies, faces, axes, bounds, plot_size)
    colour = _shade(raster, bodies, faces, light, viewing=forward)
    colour *= np.where(_outline(raster.person), 0.55, 1.0)[..., None]
    inner = Image.fromarray(_to_uint8(np.where(raster.person[..., None] >= 0, colour, np.asarray(inner))))

    sheet = Image.new("RGB", (width, height), (255, 255, 255))
    sheet.paste(inner, plot[:2])
    draw = ImageDraw.Draw(sheet)
    draw.rectangle([plot[0], plot[1], plot[2], plot[3]], outline=(160, 166, 172), width=_SMOOTH)
    font, small = ImageFont.load_default(unit), ImageFont.load_default(0.9 * unit)
    for value in ticks[0]:
        draw.text((left + pixel(value, 0)[0], plot[3] + 0.35 * unit), f"{value:g}", _INK, small, anchor="mt")
    for value in ticks[1]:
        draw.text((left - 0.35 * unit, margin + pixel(0, value)[1]), f"{value:g}", _INK, small, anchor="rm")
    draw.text(((plot[0] + plot[2]) / 2, height - 0.4 * unit), titles[0], _INK, font, anchor="mb")
    title = Image.new("RGB", (plot_size[1], round(1.5 * unit)), (255, 255, 255))
    ImageDraw.Draw(title).text((plot_size[1] / 2, 0.2 * unit), titles[1], _INK, font, anchor="mt")
    sheet.paste(title.rotate(90, expand=True), (round(0.3 * unit), plot[1]))

    chips = _Chips(sheet, size=round(1.05 * unit))
    half_text = 0.5 * chips.draw.textlength("camera", small)
    chips.draw.text((max(left + a, left + half_text + radius), margin + b + 1.3 * radius), "camera", _INK, small, "mt")
    colours = palette(len(bodies))
    for person, body in enumerate(bodies):
        if is_drawable(body):
            a, b = pixel(float(np.median(body @ right)), float((body @ up).max()))
            chips.place(person, (left + a, margin + b), colours[person])
    chips.finish()
    return np.asarray(sheet.resize(size, Image.Resampling.BOX))


class _Chips:
    """Small coloured number tags that avoid each other."""

    def __init__(self, image: Image.Image, size: int):
        self.draw, self.limits, self.size = ImageDraw.Draw(image), image.size, size
        self.font = ImageFont.load_default(size)
        self.taken: list[tuple[float, float, float, float]] = []
        self.texts: list[tuple[str, np.ndarray]] = []

    def place(self, number: int, anchor: tuple[float, float], colour: np.ndarray) -> None:
        """Puts the tag above `anchor`, or at the nearest free place beside or higher with a line to the anchor.

        The lines are drawn at once, the tags by `finish`: no line crosses a tag.
        """
        text = str(number)
        half_width, half_height = 0.5 * self.draw.textlength(text, self.font) + 0.45 * self.size, 0.72 * self.size
        steps = sorted(((i, j) for i in range(-6, 7) for j in range(-6, 1)), key=lambda s: math.hypot(1.5 * s[0], s[1]))
        boxes = []
        for i, j in steps:
            x = anchor[0] + i * 2.2 * half_width
            y = anchor[1] - 1.35 * half_height + j * 2.2 * half_height
            x = min(max(x, half_width + 1), self.limits[0] - half_width - 2)
            y = min(max(y, half_height + 1), self.limits[1] - half_height - 2)
            boxes.append((x - half_width, y - half_height, x + half_width, y + half_height))
        free = [
            box
            for box in boxes
            if all(box[2] < t[0] or box[0] > t[2] or box[3] < t[1] or box[1] > t[3] for t in self.taken)
        ]
        box = (free or boxes)[0]
        if box != boxes[0]:
            self.draw.line([(box[0] + box[2]) / 2, box[3], *anchor], _INK, max(1, round(self.size / 12)))
        self.taken.append(box)
        self.texts.append((text, colour))

    def finish(self) -> None:
        """Draws the tags."""
        outline = max(1, round(self.size / 12))
        for box, (text, colour) in zip(self.taken, self.texts, strict=True):
            fill = tuple(int(channel) for channel in colour)
            ink = (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 120 else (255, 255, 255)
            self.draw.rounded_rectangle(box, 0.35 * self.size, fill, outline=(255, 255, 255), width=outline)
            self.draw.text(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), text, ink, self.font, anchor="mm")


def _shade(raster: Raster, vertices, faces, light, viewing) -> Float[np.ndarray, "H W 3"]:
    """Lambert shading with interpolated normals: colour * (ambient + diffuse max(0, n.l)), float64 in 0..255.

    `light` points towards the light; `viewing` is the viewing direction, None for rays from the camera centre. Normals
    are turned towards the viewer: open or mirrored meshes are lit as well.
    """
    bodies = as_bodies(vertices)
    faces = np.asarray(faces)
    colours = palette(len(bodies)).astype(np.float64)
    light = np.asarray(light, dtype=np.float64) / np.linalg.norm(light)
    picture = np.zeros((*raster.person.shape, 3))
    for person in np.unique(raster.person[raster.person >= 0]):
        mine = raster.person == person
        body, corners = bodies[person], faces[raster.face[mine]]
        weights = raster.barycentric[mine][..., None]
        normal = _unit((_vertex_normals(body, faces)[corners] * weights).sum(axis=1))
        ray = (body[corners] * weights).sum(axis=1) if viewing is None else np.broadcast_to(viewing, normal.shape)
        facing = np.einsum("pi,pi->p", normal, _unit(ray))
        normal = np.where(facing[:, None] > 0, -normal, normal)
        lit = 0.42 + 0.5 * np.maximum(normal @ light, 0.0) + 0.18 * np.abs(facing)
        picture[mine] = colours[person] * lit[:, None]
    return picture.clip(0, 255)


def _vertex_normals(body: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals of the vertices (V, 3)."""
    a, b, c = body[faces[:, 0]], body[faces[:, 1]], body[faces[:, 2]]
    normal = np.repeat(np.cross(b - a, c - a), 3, axis=0)
    flat = faces.reshape(-1)
    return _unit(np.stack([np.bincount(flat, normal[:, k], minlength=len(body)) for k in range(3)], axis=1))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)


def _outline(person: np.ndarray) -> np.ndarray:
    """Pixels of a person whose right, lower, left or upper neighbour shows something else."""
    edge = np.zeros(person.shape, dtype=bool)
    across, down = person[:, 1:] != person[:, :-1], person[1:] != person[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge & (person >= 0)


def _bounds(points: np.ndarray, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(right_min, right_max, up_min, up_max) that hold the points at one scale on both axes, in the shape of `size`."""
    low, high = points.min(axis=0), points.max(axis=0)
    centre, extent = (low + high) / 2, np.maximum(high - low, 1.0) * 1.16
    metres_per_pixel = (extent / np.array(size)).max()
    half = metres_per_pixel * np.array(size) / 2
    return centre[0] - half[0], centre[0] + half[0], centre[1] - half[1], centre[1] + half[1]


def _ticks(low: float, high: float, scale: float, spacing: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], at least `spacing` pixels apart."""
    power = 10.0 ** math.floor(math.log10(spacing / scale))
    step = next(power * k for k in (1, 2, 5, 10, 20) if power * k * scale >= spacing)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _to_uint8(picture: np.ndarray) -> Picture:
    return np.rint(picture).clip(0, 255).astype(np.uint8)
