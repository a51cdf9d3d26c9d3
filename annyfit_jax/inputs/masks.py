"""Person masks and what is read through them: COCO polygons and run lengths, depth maps, a person's median depth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.lib import format as npy
from scipy import ndimage

from annyfit_jax.inputs.photos import MAX_PIXELS, opened_picture
from annyfit_jax.inputs.validate import checked_array
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.files import open_regular
from annyfit_jax.records.npz import open_npz

_MAX_CORNER = 1e7
"""Pixels: what lies further out is no corner of a silhouette."""
_MAX_CROSSINGS = 4_000_000
_MAX_POLYGONS = 1000
_FAR_M = 300.0
"""Metres: the nearest tenth of a photo of people is never as far as this, but always in a map of millimetres."""
EROSION_PX = 2
"""Depth maps blur across silhouettes: this border of a mask is left out of the median."""


def decode_segmentation(segmentation: Any, image_size: tuple[int, int], where: str) -> Bool[np.ndarray, "H W"]:
    """A COCO `segmentation` as a mask: polygons (lists of flat x, y) or run lengths, plain or compressed.

    A pixel belongs to a polygon when the polygon covers its centre. An empty list is an empty mask. Raises SceneError.
    """
    width, height = image_size
    check_full_resolution(image_size, where)
    if isinstance(segmentation, dict):
        return decode_rle(segmentation, image_size, where)
    if not isinstance(segmentation, list):
        raise SceneError(f"{where}: expected a list of polygons or a run-length object, got {type(segmentation)}")
    if len(segmentation) > _MAX_POLYGONS:
        raise SceneError(f"{where}: expected at most {_MAX_POLYGONS} polygons, got {len(segmentation)}")
    mask = np.zeros((height, width), bool)
    for polygon in segmentation:
        xy = checked_array(polygon, where, ("2k",))
        if len(xy) % 2 or len(xy) < 6 or not (np.abs(xy) <= _MAX_CORNER).all():
            raise SceneError(
                f"{where}: expected polygons of at least 3 x, y pairs of up to {_MAX_CORNER:g} pixels, got {len(xy)} numbers"
            )
        mask |= fill_polygon(xy.reshape(-1, 2), image_size, where)
    return mask


def fill_polygon(
    corners: Float[np.ndarray, "k 2"], image_size: tuple[int, int], where: str = "polygon"
) -> Bool[np.ndarray, "H W"]:
    """The pixels whose centre (i + 0.5) lies inside a polygon, by the even-odd rule.

    Raises SceneError where its edges cross more rows of pixels than any silhouette does.
    """
    width, height = image_size
    start, end = np.asarray(corners, np.float64), np.roll(corners, -1, axis=0)
    # Rows whose centre an edge crosses; half-open, so that a corner on a centre line counts once.
    lower, upper = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first, last = (np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64) for y in (lower, upper))
    counts = last - first
    if counts.sum() > _MAX_CROSSINGS:
        raise SceneError(f"{where}: a polygon of {len(corners)} corners that crosses {counts.sum()} rows of pixels")
    top, bottom = (int(first.min()), int(last.max())) if len(counts) else (0, 0)
    mask = np.zeros((height, width), bool)
    toggles = np.zeros((max(0, bottom - top), width + 1), np.int32)
    edge = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    (x0, y0), (x1, y1) = start[edge].T, end[edge].T
    x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
    np.add.at(toggles, (rows - top, np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)), 1)
    mask[top:bottom] = np.cumsum(toggles, axis=1)[:, :width] % 2 > 0
    return mask


def check_full_resolution(image_size: tuple[int, int], where: str) -> None:
    """Raises SceneError for a picture so large that an array of its pixels is not to be made for what a file declares."""
    width, height = image_size
    if width * height > MAX_PIXELS:
        raise SceneError(
            f"{where}: masks and depth maps need a picture of at most {MAX_PIXELS} pixels, got {width} x {height}"
        )


def decode_rle(rle: dict, image_size: tuple[int, int], where: str) -> Bool[np.ndarray, "H W"]:
    """COCO run lengths `{"size": [height, width], "counts": ...}` as a mask.

    Runs alternate background, person, ... down the columns, left to right. `counts` is a list, or text in which each
    number is written in groups of 5 bits (low first, bit 6 says that another group follows, sign extended), from the
    fourth on as the difference to the number two places before. Raises SceneError where the runs do not fill the image.
    """
    width, height = image_size
    size, counts = rle.get("size"), rle.get("counts")
    if size != [height, width]:
        raise SceneError(f"{where}.size: expected [{height}, {width}] (height, width), got {size}")
    if isinstance(counts, str):
        runs = _decompress_counts(counts, where)
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        runs = counts
    else:
        raise SceneError(f"{where}.counts: expected text or a list of whole numbers, got {type(counts).__name__}")
    if any(run < 0 for run in runs) or sum(runs) != width * height:
        raise SceneError(f"{where}.counts: expected runs that sum to {width * height} pixels, got {sum(runs)}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T.copy()


def _decompress_counts(text: str, where: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 60:
            raise SceneError(f"{where}.counts: not a compressed COCO run-length text")
        value |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise SceneError(f"{where}.counts: the compressed run-length text is cut off")
    return runs


def resize_nearest(array: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Samples an (h, w) array at the pixel centres of an image of size (width, height)."""
    width, height = image_size
    if array.shape == (height, width):
        return array
    rows = ((np.arange(height) + 0.5) * array.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * array.shape[1] / width).astype(int)
    return array[rows[:, None], columns[None]]


def erode(mask: Bool[np.ndarray, "H W"], pixels: int = EROSION_PX) -> Bool[np.ndarray, "H W"]:
    """Takes `pixels` off the border of a mask (a square of 2 `pixels` + 1 must fit); the image edge does not count."""
    return ndimage.minimum_filter(mask.view(np.uint8), 2 * pixels + 1, mode="constant", cval=1).view(bool)


def median_depths(
    depth_map: Float[np.ndarray, "H W"],
    masks: Bool[np.ndarray, "n H W"],
    others: Bool[np.ndarray, "m H W"] | None = None,
) -> Float[np.ndarray, "n"]:
    """Median metric depth of each person, metres; NaN without a known depth in the mask.

    Pixels that another person's mask (or one of `others`, people who are only occluders) also claims are left out, and
    so is a border of EROSION_PX. Where nothing remains the mask without the border counts, then the whole mask.
    """
    claims = masks.sum(axis=0, dtype=np.int64)
    if others is not None:
        claims = claims + others.sum(axis=0, dtype=np.int64)
    medians = np.full(len(masks), np.nan)
    known = np.isfinite(depth_map)
    for person, mask in enumerate(masks):
        alone = mask & (claims == 1)
        for region in (erode(mask) & alone, alone, mask):
            inside = region & known
            if inside.any():
                medians[person] = np.median(depth_map[inside])
                break
    return medians


def read_depth_map(folder: str, stem: str, image_size: tuple[int, int]) -> Float[np.ndarray, "H W"] | None:
    """Metric depth of an image in metres at full resolution, NaN = unknown; None where the folder has no such file.

    `<stem>.npy` and `<stem>.npz` (entry `depth`, `depth_map` or the only one) are metres, 16-bit `<stem>.png` is
    millimetres; what can only be millimetres where metres are expected is refused. Values that are not positive are unknown.
    Other resolutions are resampled to the nearest pixel. Raises SceneError.
    """
    for suffix in (".npy", ".npz", ".png"):
        path = Path(folder) / (stem + suffix)
        if os.path.lexists(path):
            break
    else:
        return None
    values = checked_array(_depth_values(path), str(path), ("h", "w"))
    if not values.size:
        raise SceneError(f"{path}: expected a depth map of shape (h, w), got {values.shape}")
    check_full_resolution(image_size, str(path))
    values = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    if suffix == ".png":
        return resize_nearest(values / 1000.0, image_size)
    known = values[np.isfinite(values)]
    if known.size and (near := float(np.percentile(known, 10))) > _FAR_M:
        raise SceneError(
            f"{path}: expected metres, got a map whose nearest tenth lies beyond {near:.0f}: are these millimetres? "
            "Then divide by 1000, or store them as a 16-bit .png"
        )
    return resize_nearest(values, image_size)


def _depth_values(path: Path) -> np.ndarray:
    if path.suffix == ".npz":
        with open_npz(str(path)) as npz:
            keys = [key for key in ("depth", "depth_map") if key in npz] or npz.keys()
            if len(keys) != 1:
                raise SceneError(f"{path}: expected one entry named `depth` or `depth_map`, got {keys}")
            return npz.read(keys[0])
    try:
        if path.suffix == ".npy":
            with open_regular(path) as file:
                return npy.read_array(file, allow_pickle=False)
        with opened_picture(path, formats=("PNG",)) as image:
            if not image.mode.startswith("I"):
                raise SceneError(f"{path}: expected a 16-bit depth image in millimetres, got mode {image.mode}")
            return np.array(image)
    except SceneError:
        raise
    except Exception as error:  # image and array decoders fail in many ways
        raise SceneError(f"{path}: cannot be read as a depth map ({type(error).__name__}: {error})") from error


def read_label_image(folder: str, stem: str, image_size: tuple[int, int]) -> np.ndarray | None:
    """`<stem>.png` of a folder as an (H, W) array of labels (0 background); None where there is no such file."""
    path = Path(folder) / f"{stem}.png"
    if not os.path.lexists(path):
        return None
    check_full_resolution(image_size, str(path))
    with opened_picture(path, formats=("PNG",)) as image:
        labels = np.array(image)
    if not labels.size:
        raise SceneError(f"{path}: the label image is empty")
    return resize_nearest(checked_array(labels, f"{path} (label image)", ("h", "w"), np.int64), image_size)
