"""People as boxes, with NanoDet-g (github.com/RangiLyu/nanodet, Apache-2.0): 416 pixels, classes of COCO, of which
people are used.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from experts.networks import frozen_graph
from experts.networks.batched import BatchedNetwork
from experts.networks.person_crops import GREY

SIZE = 416
_MEAN = np.array([103.53, 116.28, 123.675], np.float32)
_STD = np.array([57.375, 57.12, 58.395], np.float32)
"""Of blue, green, red."""
_CLASSES, _BINS, _PERSON = 80, 11, 0
_STRIDES = (8, 16, 32)


class NanoDet:
    """Boxes and scores of people in pictures; those of overlapping candidates are all there (`suppressed` chooses)."""

    def __init__(self) -> None:
        self.network = BatchedNetwork(frozen_graph.bundled("nanodet"), _prepare, _decode)

    def __call__(self, pictures: list[UInt8[np.ndarray, "h w 3"]]) -> list[Float[np.ndarray, "candidate 5"]]:
        """Per picture x0, y0, x1, y1 in its pixels and the score, in no order, for all candidates."""
        fitted = [_fitted(picture) for picture in pictures]
        outputs = self.network([picture for picture, _ in fitted])
        if outputs is None:
            return []
        return [
            np.concatenate([candidates[:, :4] / ratio, candidates[:, 4:]], 1)
            for candidates, (_, ratio) in zip(outputs, fitted, strict=True)
        ]


def _fitted(picture: np.ndarray) -> tuple[np.ndarray, float]:
    """The picture in the top-left corner of the network's square, and the ratio of sizes."""
    height, width = picture.shape[:2]
    ratio = SIZE / max(width, height)
    size = (max(round(width * ratio), 1), max(round(height * ratio), 1))
    square = np.full((SIZE, SIZE, 3), GREY, np.uint8)
    square[: size[1], : size[0]] = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
    return square, ratio


def _prepare(pictures: Array) -> Array:
    return (pictures[..., ::-1] - _MEAN) / _STD


def _decode(outputs: dict[str, Array]) -> Float[Array, "batch candidate 5"]:
    """A candidate per cell of three grids: the distances to the four sides are expectations over bins of a stride each."""
    parts = []
    for stride in _STRIDES:
        grid = outputs[f"stride{stride}"]
        batch, rows, columns, _ = grid.shape
        scores = jax.nn.sigmoid(grid[..., _PERSON : _PERSON + 1])
        bins = jax.nn.softmax(grid[..., _CLASSES:].reshape(batch, rows, columns, 4, _BINS))
        sides = (bins * jnp.arange(_BINS)).sum(-1) * stride
        y, x = jnp.meshgrid((jnp.arange(rows) + 0.5) * stride, (jnp.arange(columns) + 0.5) * stride, indexing="ij")
        centre = jnp.stack([x, y], -1)
        boxes = jnp.concatenate([centre - sides[..., :2], centre + sides[..., 2:], scores], -1)
        parts.append(boxes.reshape(batch, rows * columns, 5))
    return jnp.concatenate(parts, 1)
