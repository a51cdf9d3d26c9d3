"""Cues drawn on their photo: boxes, masks, skeletons, depth as colour."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, UInt8

from annyfit_jax.inputs.cue_source import open_cues
from annyfit_jax.inputs.scene_source import InputOptions
from annyfit_jax.people.scene import Scene
from annyfit_jax.viz import draw_keypoints, palette

# Near is warm and bright, far is cold and dark: corners of a perceptually ordered ramp (like "magma" reversed).
_RAMP = np.array(
    [[252, 253, 191], [254, 159, 109], [222, 73, 104], [140, 41, 129], [59, 15, 112], [0, 0, 4]], np.float64
)
_UNKNOWN_DEPTH = (190, 196, 202)
_INK = (20, 22, 26)


def draw_boxes(
    photo: UInt8[np.ndarray, "H W 3"], boxes: Float[np.ndarray, "n 4"], labels: list[str]
) -> UInt8[np.ndarray, "H W 3"]:
    """Boxes x0, y0, x1, y1 in pixels with a label each, in the colours of the people; labels do not cover each other."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(photo)
    draw = ImageDraw.Draw(picture)
    height, width = photo.shape[:2]
    pen = max(2, round(max(width, height) / 320))
    for box, colour in zip(boxes, palette(len(boxes)), strict=True):
        fill = tuple(int(channel) for channel in colour)
        x0, y0, x1, y1 = (float(v) for v in np.clip(box, 0, [width - 1, height - 1] * 2))
        draw.rectangle([x0, y0, max(x1, x0), max(y1, y0)], outline=_INK, width=pen + 2)
        draw.rectangle([x0, y0, max(x1, x0), max(y1, y0)], outline=fill, width=pen)
    # All labels come after all boxes, so that none is crossed out, each inside the picture and below those before it.
    font = ImageFont.load_default(max(13, round(0.02 * max(width, height))))
    taken: list[tuple[float, float, float, float]] = []
    for box, label, colour in zip(boxes, labels, palette(len(boxes)), strict=True):
        if not label:
            continue
        left, top, right, bottom = draw.textbbox((0, 0), label, font)
        wide, high = right - left + 8, bottom - top + 8
        x = float(np.clip(box[0] + pen, 0, max(width - wide, 0)))
        y = float(np.clip(box[1] + pen, 0, max(height - high, 0)))
        while (
            under := [t for t in taken if x < t[2] and t[0] < x + wide and y < t[3] and t[1] < y + high]
        ) and y + high < height:
            y = max(t[3] for t in under) + 1
        y = min(y, max(height - high, 0))
        taken.append((x, y, x + wide, y + high))
        draw.rectangle(
            [x, y, x + wide, y + high], fill=_INK, outline=tuple(int(channel) for channel in colour), width=2
        )
        draw.text((x + 4 - left, y + 4 - top), label, "white", font)
    return np.asarray(picture)


def draw_masks(
    photo: UInt8[np.ndarray, "H W 3"], masks: Bool[np.ndarray, "n H W"], alpha: float = 0.55
) -> UInt8[np.ndarray, "H W 3"]:
    """Masks as a tint of each person's colour over a paler photo; where two overlap, both colours mix."""
    base = 0.6 * photo.astype(np.float64) + 0.4 * 255
    cover = masks.sum(axis=0)[..., None]
    tint = np.einsum("nhw,nc->hwc", masks.astype(np.float64), palette(len(masks)).astype(np.float64))
    mixed = np.where(cover > 0, (1 - alpha) * base + alpha * tint / np.maximum(cover, 1), base)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def depth_range(depth: Float[np.ndarray, "H W"]) -> tuple[float, float]:
    """(nearest, farthest) metres that the colours span: all but the extreme 2 % of the known depths; (nan, nan) for none."""
    known = depth[np.isfinite(depth)]
    if not known.size:
        return np.nan, np.nan
    low, high = np.percentile(known, [2, 98])
    return float(low), float(max(high, low * 1.001))


def depth_colours(depth: Float[np.ndarray, "H W"], span: tuple[float, float]) -> UInt8[np.ndarray, "H W 3"]:
    """Depth as colour, evenly in inverse depth: bright is near, dark is far, grey is unknown."""
    near, far = (1.0 / max(value, 1e-6) for value in span)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.clip((near - 1.0 / depth) / max(near - far, 1e-12), 0.0, 1.0)
    known = np.isfinite(share) & np.isfinite(depth)
    position = np.where(known, share, 0.0) * (len(_RAMP) - 1)
    colours = np.stack([np.interp(position, np.arange(len(_RAMP)), _RAMP[:, c]) for c in range(3)], axis=-1)
    return np.where(known[..., None], np.rint(colours), _UNKNOWN_DEPTH).astype(np.uint8)


def draw_dense(photo: UInt8[np.ndarray, "H W 3"], points: Float[np.ndarray, "n k 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Dense points as dots in the colours of the people, fainter with lower confidence."""
    from PIL import Image, ImageDraw

    height, width = photo.shape[:2]
    layer = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(layer)
    radius = max(1.5, max(width, height) / 400)
    for person, colour in zip(points, palette(len(points)), strict=True):
        for x, y, confidence in person:
            if confidence > 0:
                fill = (*(int(channel) for channel in colour), int(255 * np.clip(confidence, 0.2, 1.0)))
                draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)
    return np.asarray(Image.alpha_composite(Image.fromarray(photo).convert("RGBA"), layer).convert("RGB"))


def cue_pictures(
    scene: Scene, photo: UInt8[np.ndarray, "H W 3"], start: Float[np.ndarray, "n 17 2"] | None = None
) -> list[tuple[str, str, UInt8[np.ndarray, "H W 3"]]]:
    """(kind, caption, picture) of every cue that a scene has.

    Args:
      scene: its cues.
      photo: RGB of the scene's size.
      start: COCO keypoints of the initial bodies in pixels, NaN rows where there is none.
    """
    words = [
        ", ".join(part for part in pair if part) for pair in zip(*(word_list(scene, a) for a in ("age", "gender")))
    ]
    labels = [f"{person} {said}".strip() for person, said in zip(scene.person_ids, words, strict=True)]
    result = []
    if scene.boxes is not None:
        result.append(("boxes", "Boxes and words", draw_boxes(photo, scene.boxes, labels)))
    pale = np.clip(0.6 * photo + 0.4 * 255, 0, 255).astype(np.uint8)
    result.append(("keypoints", "Keypoints", draw_keypoints(pale, scene.keypoints, None)))
    if np.any(whole_body(scene)[..., 2] > 0):
        result.append(("wholebody", "Whole-body keypoints", draw_dense(pale, whole_body(scene))))
    if start is not None:
        result.append(("start", "Initial bodies", draw_keypoints(pale, scene.keypoints, start)))
    if np.any(scene.dense_keypoints[..., 2] > 0):
        result.append(("dense", "Dense points", draw_dense(pale, scene.dense_keypoints)))
    if scene.masks is not None and scene.masks.any():
        result.append(("masks", "Masks", draw_masks(photo, scene.masks)))
    if scene.depth_map is not None:
        span = depth_range(scene.depth_map)
        caption = (
            "Depth: none known"
            if not np.isfinite(span).all()
            else f"Depth: bright {span[0]:.1f} m, dark {span[1]:.1f} m"
        )
        result.append(
            ("depth", caption, depth_colours(scene.depth_map, span if np.isfinite(span).all() else (1.0, 2.0)))
        )
    return result


def whole_body(scene: Scene) -> Float[np.ndarray, "n k 3"]:
    """The keypoints of feet, face and hands, where the scene has them: 116, else none."""
    stored = scene.extra.get("keypoints_133")
    return np.zeros((len(scene), 0, 3)) if stored is None else np.asarray(stored)[:, 17:]


def word_list(scene: Scene, attribute: str) -> list[str]:
    """(n,) words of the people for an attribute, empty where none is known."""
    from annyfit_jax.inputs.cue_schema import words_of
    from annyfit_jax.people.words import AGE_CLASSES, GENDER_CLASSES

    stored = scene.extra.get(f"{attribute}_words")
    if stored is not None:
        return [str(word) for word in stored]
    classes = AGE_CLASSES if attribute == "age" else GENDER_CLASSES
    return words_of(getattr(scene, attribute), classes)


def found_in_photo(cues: str) -> Callable[[str, np.ndarray], list[tuple[str, np.ndarray]]]:
    """A function that shows what experts found in a photo: boxes with keypoints, and masks, each with a caption.

    Args:
      cues: folder of a cue dataset. The function takes the name of one of its scenes and the (H, W, 3) photo.
    """
    source = open_cues(cues, InputOptions(with_masks=True))
    index = {name: i for i, name in enumerate(source.names)}

    def pictures(name: str, photo: UInt8[np.ndarray, "H W 3"]) -> list[tuple[str, np.ndarray]]:
        scene = source.load(index[name])
        drawn = []
        if scene.boxes is not None:
            points = draw_keypoints(photo, scene.keypoints, None)
            drawn.append(("Found: boxes and keypoints", draw_boxes(points, scene.boxes, scene.person_ids)))
        if scene.masks is not None and scene.masks.any():
            drawn.append(("Found: masks", draw_masks(photo, scene.masks)))
        return drawn

    return pictures
