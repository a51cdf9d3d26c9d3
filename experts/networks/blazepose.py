"""33 landmarks, a mask and metric landmarks of one person, with BlazePose (MediaPipe's pose_landmark, Apache-2.0):
crops of 256 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from annyfit_jax.fit.landmark_start import COCO_OF_LANDMARKS, NUM_LANDMARKS
from experts.networks import frozen_graph
from experts.networks.batched import BatchedNetwork
from experts.networks.person_crops import Square, square_of

SIZE = 256


@dataclass(frozen=True)
class Figures:
    """What the network says about n crops."""

    landmarks: Float[np.ndarray, "n 33 4"]
    """x, y in pixels of the crop, visibility and presence as probabilities."""
    world: Float[np.ndarray, "n 33 3"]
    """Metres about the middle of the hips; x right, y down, z away from the camera, for a camera that looks straight at it."""
    presence: Float[np.ndarray, "n"]
    """Probability that there is somebody."""
    segmentation: Float[np.ndarray, "n 256 256"]
    """Logits of the person's pixels."""


class BlazePose:
    """Figures of the person in crops. `path` is a file of the builder in place of the bundled network (the heavy one)."""

    def __init__(self, path: str = "") -> None:
        network = frozen_graph.load(path) if path else frozen_graph.bundled("blazepose_full")
        self.network = BatchedNetwork(network, lambda pictures: pictures / 255.0, _decode)

    def __call__(self, crops: list[UInt8[np.ndarray, "256 256 3"]]) -> Figures:
        """One figure per crop."""
        outputs = self.network(crops)
        if outputs is None:
            zeros = np.zeros
            return Figures(zeros((0, NUM_LANDMARKS, 4)), zeros((0, NUM_LANDMARKS, 3)), zeros(0), zeros((0, SIZE, SIZE)))
        return Figures(*outputs)


_SCALE = 1.25
"""Side of a crop in longer sides of the box."""
_SURE, _UNSURE = 0.5, 0.2


def square_along(box: Float[np.ndarray, "4"], keypoints: Float[np.ndarray, "17 3"] | None) -> Square:
    """The square to cut out for a person: around the box, turned so that the way from hips to shoulders is up, as
    MediaPipe does it.
    """
    upright = square_of(box, _SCALE)
    angle = None if keypoints is None else _lean(keypoints, upright.side, _SURE)
    return upright if angle is None or abs(angle) <= _LEAN else replace(upright, angle=angle)


def further_squares(box: Float[np.ndarray, "4"], keypoints: Float[np.ndarray, "17 3"], first: Square) -> list[Square]:
    """Squares for a second look at somebody whose landmarks do not lie on the keypoints: turned half as far as the body
    leans, as far as it leans where the keypoints were too unsure for the first look, and not at all.
    """
    upright = square_of(box, _SCALE)
    angle = _lean(keypoints, upright.side, _UNSURE)
    if angle is None or abs(angle) <= _LEAN:
        return []
    return [replace(upright, angle=turn) for turn in (angle / 2, angle if first.angle == 0.0 else 0.0)]


def disagreement(
    landmarks: Float[np.ndarray, "33 2"], keypoints: Float[np.ndarray, "17 3"], box: Float[np.ndarray, "4"]
) -> float:
    """Mean distance of landmarks from another network's keypoints (pixels, confidence), in longer sides of the box; 0 where
    those show nothing.
    """
    weight = np.where(keypoints[:, 2] > _UNSURE, keypoints[:, 2], 0.0)
    off = np.linalg.norm(landmarks[list(COCO_OF_LANDMARKS)] - keypoints[:, :2], axis=-1)
    return float((weight * off).sum() / max(weight.sum(), 1e-6) / max(box[2] - box[0], box[3] - box[1], 1.0))


def _lean(keypoints: Float[np.ndarray, "17 3"], side: float, sure: float) -> float | None:
    """Radians from the photo's up to the way from hips to shoulders; None where keypoints do not say."""
    if (keypoints[[5, 6, 11, 12], 2] < sure).any():
        return None
    up = keypoints[5:7, :2].mean(0) - keypoints[11:13, :2].mean(0)
    if np.linalg.norm(up) < 0.1 * side:  # seen from above or below: no direction to turn to
        return None
    return float(np.arctan2(up[0], -up[1]))


_LEAN = np.deg2rad(15)
"""The network was trained on crops that are turned a little less or more; below this nothing is gained."""


def turned_back(world: Float[np.ndarray, "33 3"], angle: float) -> Float[np.ndarray, "33 3"]:
    """World landmarks of a crop turned by `angle` in axes parallel to the camera's."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(world, np.float64) @ np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _decode(outputs: dict[str, Array]) -> tuple[Array, Array, Array, Array]:
    batch = len(outputs["presence"])
    landmarks = outputs["landmarks"].reshape(batch, -1, 5)[:, :NUM_LANDMARKS]
    flags = jax.nn.sigmoid(landmarks[..., 3:])
    return (
        jax.numpy.concatenate([landmarks[..., :2], flags], -1),
        outputs["world"].reshape(batch, -1, 3)[:, :NUM_LANDMARKS],
        jax.nn.sigmoid(outputs["presence"].reshape(batch)),
        outputs["segmentation"][..., 0],
    )
