"""17 keypoints of one person, with MoveNet Thunder (tfhub.dev/google/movenet/singlepose/thunder/4, Apache-2.0): crops of
256 pixels.

The network gives a map of where people's centres are, a map per keypoint, and from each cell the way to the keypoints of
the person there. As its makers do it: the person whose centre is likeliest, near the middle of the crop; for each keypoint
the likeliest cell, near where that person's is expected; and an offset within the cell. Unlike them we also take the next
likeliest centres: a crop often shows several people, and `association` finds out whose it is.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from experts.networks import frozen_graph
from experts.networks.batched import BatchedNetwork

SIZE = 256
_CELL = 4
"""Pixels of a cell of the maps."""
_NEAR = 1.7998046875
"""Cells: what is added to a distance before a likelihood is divided by it (float16 of 1.8)."""


PEOPLE = 4
"""Skeletons per crop."""
_APART = 5.0
"""Cells between the centres of two of them."""


class MoveNet:
    """Keypoints of the people in crops, the one in the middle first."""

    def __init__(self) -> None:
        self.network = BatchedNetwork(frozen_graph.bundled("movenet_thunder"), lambda pictures: pictures, decode)

    def __call__(self, crops: list[UInt8[np.ndarray, "256 256 3"]]) -> Float[np.ndarray, "crop people 17 3"]:
        """x, y in pixels of the crop and the network's score, in COCO's order; the first is whom the makers' decoding gives."""
        keypoints = self.network(crops)
        return np.zeros((0, PEOPLE, 17, 3)) if keypoints is None else keypoints.astype(np.float64)


def decode(outputs: dict[str, Array]) -> Float[Array, "batch people 17 3"]:
    """x, y in pixels of the crop, score."""
    heatmaps = jax.nn.sigmoid(outputs["heatmaps"])
    batch, rows, columns, count = heatmaps.shape
    y, x = jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing="ij")
    cells = jnp.stack([y, x], -1).reshape(-1, 2).astype(jnp.float32)
    heatmaps = heatmaps.reshape(batch, -1, count)
    ways = outputs["regression"].reshape(batch, -1, count, 2)
    offsets = outputs["offsets"].reshape(batch, -1, count, 2)
    middle = jnp.linalg.norm(cells - rows / 2, axis=-1)
    centres = jax.nn.sigmoid(outputs["centre"].reshape(batch, -1)) / (middle + _NEAR)
    every = jnp.arange(batch)

    def person(centres: Array, _: None) -> tuple[Array, Array]:
        centre = centres.argmax(-1)
        expected = ways[every, centre] + cells[centre][:, None]
        distance = jnp.linalg.norm(cells[None, :, None] - expected[:, None], axis=-1)
        cell = (heatmaps / (distance + _NEAR)).argmax(1)
        which = (every[:, None], cell, jnp.arange(count)[None])
        place, scores = cells[cell] + offsets[which], heatmaps[which]
        taken = jnp.linalg.norm(cells[None] - cells[centre][:, None], axis=-1) < _APART
        return jnp.where(taken, 0.0, centres), jnp.concatenate([place[..., ::-1] * _CELL, scores[..., None]], -1)

    _, people = jax.lax.scan(person, centres, None, length=PEOPLE)
    return jnp.moveaxis(people, 0, 1)
