"""17 keypoints of one person, with MoveNet Thunder (tfhub.dev/google/movenet/singlepose/thunder/4, Apache-2.0): crops of 256 pixels.

The network gives a map of where people's centres are, a map per keypoint, and from each cell the way to the keypoints of the person
there. As its makers do it: the person whose centre is likeliest, near the middle of the crop; for each keypoint the likeliest cell, near where
that person's is expected; and an offset within the cell.
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


class MoveNet:
    """Keypoints of the person in the middle of crops."""

    def __init__(self) -> None:
        self.network = BatchedNetwork(frozen_graph.bundled("movenet_thunder"), lambda pictures: pictures, decode)

    def __call__(self, crops: list[UInt8[np.ndarray, "256 256 3"]]) -> Float[np.ndarray, "crop 17 3"]:
        """x, y in pixels of the crop and the network's score, in COCO's order."""
        found = self.network(crops)
        return np.zeros((0, 17, 3)) if found is None else found.astype(np.float64)


def decode(outputs: dict[str, Array]) -> Float[Array, "batch 17 3"]:
    """x, y in pixels of the crop, score."""
    heatmaps = jax.nn.sigmoid(outputs["heatmaps"])
    batch, rows, columns, count = heatmaps.shape
    y, x = jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing="ij")
    cells = jnp.stack([y, x], -1).astype(jnp.float32)
    middle = jnp.linalg.norm(cells - (rows / 2), axis=-1)
    centre = jax.nn.sigmoid(outputs["centre"][..., 0]) / (middle + _NEAR)
    person = centre.reshape(batch, -1).argmax(-1)
    every = jnp.arange(batch)
    ways = outputs["regression"].reshape(batch, -1, count, 2)[every, person]
    expected = ways + cells.reshape(-1, 2)[person][:, None]
    distance = jnp.linalg.norm(cells[None, :, :, None] - expected[:, None, None], axis=-1)
    likely = (heatmaps / (distance + _NEAR)).reshape(batch, -1, count)
    cell = likely.argmax(1)
    offsets = outputs["offsets"].reshape(batch, -1, count, 2)
    which = (every[:, None], cell, jnp.arange(count)[None])
    place = cells.reshape(-1, 2)[cell] + offsets[which]
    scores = heatmaps.reshape(batch, -1, count)[which]
    return jnp.concatenate([place[..., ::-1] * _CELL, scores[..., None]], -1)
