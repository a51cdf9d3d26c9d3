"""Compact forms of masks, depth maps and loose arrays in a record."""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.lib import format as npy

from annyfit_jax.people.scene import SceneError

MAX_MASK_PIXELS = 1 << 31
"""People x pixels of a scene's masks: what a record may unfold to."""


class FoldedMasks(NamedTuple):
    """Run lengths of the masks of a scene."""

    size: Int[np.ndarray, "2"]
    """Height, width."""
    runs: Int[np.ndarray, "n"]
    """Number of runs per person; none = no masks."""
    counts: Int[np.ndarray, "k"]
    """The runs of all people, one after the other."""


def run_lengths(mask: Bool[np.ndarray, "H W"]) -> Int[np.ndarray, "k"]:
    """Runs of background, person, ... down the columns, left to right (COCO's order), int32; they sum to H W."""
    flat = np.asarray(mask, bool).T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]]))
    return np.concatenate([[0], runs] if flat.size and flat[0] else [runs]).astype(np.int32)


def fold_masks(masks: Bool[np.ndarray, "n H W"] | None) -> dict[str, np.ndarray]:
    """The fields `mask_size`, `mask_runs`, `mask_counts`."""
    runs = [] if masks is None else [run_lengths(mask) for mask in masks]
    return {
        "mask_size": np.zeros(2, np.int64) if masks is None else np.array(masks.shape[1:], np.int64),
        "mask_runs": np.array([len(r) for r in runs], np.int32),
        "mask_counts": np.concatenate([np.zeros(0, np.int32), *runs]),
    }


def check_masks(folded: FoldedMasks, n: int, image_size: tuple[int, int], where: str) -> None:
    """Raises SceneError unless there are n masks of the image's size."""
    width, height = image_size
    runs, counts = folded.runs, folded.counts
    if tuple(folded.size) != (height, width):
        raise SceneError(
            f"{where}: mask_size: expected {(height, width)} (height, width), got {tuple(folded.size.tolist())}"
        )
    if n * height * width > MAX_MASK_PIXELS:
        raise SceneError(f"{where}: masks: {n} x {height} x {width} pixels, expected at most {MAX_MASK_PIXELS}")
    if len(runs) != n or (runs < 1).any() or int(runs.sum(dtype=np.int64)) != len(counts):
        raise SceneError(
            f"{where}: mask_runs: expected {n} numbers of runs that sum to {len(counts)}, got {runs.tolist()[:8]}"
        )
    filled = np.add.reduceat(counts, np.cumsum(runs) - runs, dtype=np.int64)
    if (counts < 0).any() or (filled != height * width).any():
        raise SceneError(
            f"{where}: mask_counts: expected runs that sum to {height * width} pixels, got {filled.tolist()[:8]}"
        )


def unfold_masks(folded: FoldedMasks, image_size: tuple[int, int]) -> Bool[np.ndarray, "n H W"]:
    """Masks from runs that `check_masks` has passed."""
    width, height = image_size
    masks = np.empty((len(folded.runs), height, width), bool)
    for person, part in enumerate(np.split(folded.counts, np.cumsum(folded.runs)[:-1])):
        masks[person] = np.repeat(np.arange(len(part)) % 2 == 1, part).reshape(width, height).T
    return masks


def half_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image's depth map at half resolution."""
    width, height = image_size
    return (height + 1) // 2, (width + 1) // 2


def half_depth(depth_map: Float[np.ndarray, "H W"] | None) -> Float[np.ndarray, "h w"]:
    """Every second pixel as float16, so that edges stay sharp; what float16 cannot hold is unknown. None gives (0, 0)."""
    if depth_map is None:
        return np.zeros((0, 0), np.float16)
    with np.errstate(over="ignore"):
        half = np.asarray(depth_map)[::2, ::2].astype(np.float16)
    return np.where(np.isfinite(half), half, np.float16(np.nan))


def full_depth(half: Float[np.ndarray, "h w"], image_size: tuple[int, int], where: str) -> Float[np.ndarray, "H W"]:
    """The depth map at full resolution, each value four times. Raises SceneError on another size."""
    width, height = image_size
    if half.shape != half_size(image_size):
        raise SceneError(f"{where}: depth: expected shape {half_size(image_size)}, got {half.shape}")
    return half.astype(np.float64).repeat(2, axis=0)[:height].repeat(2, axis=1)[:, :width]


def npy_bytes(array: np.ndarray) -> bytes:
    """An array of numbers or texts as the content of an `.npy` file."""
    stream = io.BytesIO()
    npy.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


def read_npy(data: bytes, where: str) -> np.ndarray:
    """The array of `npy_bytes`. Raises SceneError on anything else."""
    stream = io.BytesIO(data)
    try:
        version = npy.read_magic(stream)
        shape, _, dtype = npy.read_array_header_1_0(stream) if version == (1, 0) else npy.read_array_header_2_0(stream)
        # The header is checked before numpy allocates what it announces.
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
            raise ValueError(f"an array of shape {shape} and type {dtype} is not what is stored")
        return npy.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # a broken header fails in many ways
        raise SceneError(f"{where}: cannot be read ({type(error).__name__}: {error})") from None
