"""Hands and faces of people whose keypoints are known: 21 and 68 points each, with MediaPipe's networks (Apache-2.0).

A hand is looked for behind the wrist, on the line of the forearm and where BlazePose's knuckles are, in crops of which the
fingers point up; a face about the nose and the eyes, upright. What is found says where the second crop must be, as in
MediaPipe's tracking: the first only has to hold the part. A hand or face is kept where the network is sure that it sees one,
near the wrist or nose that it belongs to, and where the hand is that of the right side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from annyfit_jax.inputs.point_sets import POINT_SETS
from annyfit_jax.people.scene import COCO17
from experts.networks import frozen_graph
from experts.networks.batched import BatchedNetwork
from experts.networks.person_crops import Square, crop

HAND_SIZE, FACE_SIZE = 224, 192
"""Sides of the crops, pixels."""
NUM_HAND, NUM_FACE = 21, 68
_LANDMARK = {name: i for i, name in enumerate(POINT_SETS["blazepose33"])}

IBUG68 = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301, 168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
"""The vertex of MediaPipe's face mesh that is nearest to each of the 68 points of iBUG."""

_J = {name: i for i, name in enumerate(COCO17)}
_LIMBS_M = (
    (_J["left_shoulder"], _J["right_shoulder"], 0.34),
    (_J["left_ear"], _J["right_ear"], 0.15),
    *(
        (_J[f"{side}_{a}"], _J[f"{side}_{b}"], length)
        for side in ("left", "right")
        for a, b, length in (
            ("shoulder", "elbow", 0.29),
            ("elbow", "wrist", 0.25),
            ("shoulder", "hip", 0.5),
            ("hip", "knee", 0.42),
            ("knee", "ankle", 0.42),
        )
    ),
)
"""Pairs of keypoints and their distance on an adult, metres."""
_KNUCKLES = {
    side: [_LANDMARK[f"{side}_{point}"] for point in ("wrist", "pinky", "index")] for side in ("left", "right")
}
"""BlazePose's wrist and the knuckles of little and index finger."""
_HAND_M, _FACE_M, _FOOT_M = 0.19, 0.2, 0.27
"""Length of an adult's hand, height of a face, length of a shoe."""
_FIRST_HAND, _FIRST_FACE = 2.2, 1.8
"""Side of the first crop in lengths of the part, whose size is only guessed."""
_NEXT_HAND, _NEXT_FACE = 2.0, 1.5
"""Side of the second crop in longer sides of the box around what was found (MediaPipe's factors)."""


@dataclass(frozen=True)
class PartLimits:
    """When a part is looked for, and when it is believed."""

    least_px: float = 16.0
    """Length of a hand, or height of a face, in the photo."""
    least_keypoint: float = 0.3
    """Confidence of the wrist, or of nose and eyes."""
    least_presence: float = 0.5
    """Probability that there is a hand or face in the second crop."""
    least_side: float = 0.3
    """Probability that the hand is that of the side whose wrist it is at."""
    least_apart: float = 0.25
    """Two hands whose points are nearer on average, in lengths of a hand, are one: the surer one is kept."""
    reach: float = 0.6
    """Largest distance of the hand's root from the wrist, and of the tip of the nose from the nose, in lengths of the part."""


@dataclass(frozen=True)
class Parts:
    """Hands and faces of the n people of a photo: x, y in pixels, confidence; 0 where nothing was found."""

    left_hand: Float[np.ndarray, "n 21 3"]
    right_hand: Float[np.ndarray, "n 21 3"]
    face: Float[np.ndarray, "n 68 3"]


def feet(
    keypoints: Float[np.ndarray, "n 17 3"], landmarks: Float[np.ndarray, "n 33 3"], least: float = 0.3
) -> dict[str, Float[np.ndarray, "n 3"]]:
    """`left_big_toe`, `left_heel` and of the right: BlazePose's, within a foot's length of an ankle that is seen."""
    found = {}
    reach = np.array([metre_px(one, least) for one in keypoints]) * _FOOT_M
    for side in ("left", "right"):
        ankle = keypoints[:, _J[f"{side}_ankle"]]
        for name, theirs in (("big_toe", "foot_index"), ("heel", "heel")):
            landmark = _LANDMARK[f"{side}_{theirs}"]
            away = np.linalg.norm(landmarks[:, landmark, :2] - ankle[:, :2], axis=-1)
            near = (ankle[:, 2] >= least) & (away <= reach)
            found[f"{side}_{name}"] = landmarks[:, landmark] * near[:, None]
    return found


@dataclass(frozen=True)
class _Task:
    """A part to look for."""

    person: int
    part: str
    """`left`, `right` (hands) or `face`."""
    anchor: Float[np.ndarray, "2"]
    """The wrist, or the nose."""
    length: float
    """Of the part in the photo, pixels."""
    squares: tuple[Square, ...]
    """Where to look first; the crop in which the network is surest counts."""


class PartFinder:
    """Holds the two networks."""

    def __init__(self, limits: PartLimits | None = None) -> None:
        self.limits = limits or PartLimits()
        self._hand = BatchedNetwork(frozen_graph.bundled("hand_landmarks"), lambda p: p / 255.0, _decode_hand)
        self._face = BatchedNetwork(frozen_graph.bundled("face_landmarks"), lambda p: p / 255.0, _decode_face)

    def __call__(
        self,
        pixels: UInt8[np.ndarray, "height width 3"],
        keypoints: Float[np.ndarray, "n 17 3"],
        landmarks: Float[np.ndarray, "n 33 3"] | None,
    ) -> Parts:
        """The parts of the people of a photo, from their keypoints and BlazePose's landmarks (pixels, confidence)."""
        n = len(keypoints)
        found = {
            "left": np.zeros((n, NUM_HAND, 3)),
            "right": np.zeros((n, NUM_HAND, 3)),
            "face": np.zeros((n, NUM_FACE, 3)),
        }
        tasks = [
            task
            for i in range(n)
            for task in _tasks(i, keypoints[i], None if landmarks is None else landmarks[i], self.limits)
        ]
        for network, size, mine in (
            (self._hand, HAND_SIZE, [task for task in tasks if task.part != "face"]),
            (self._face, FACE_SIZE, [task for task in tasks if task.part == "face"]),
        ):
            for task, points in self._without_twins(list(self._found(network, size, pixels, mine))):
                found[task.part][task.person] = points
        return Parts(found["left"], found["right"], found["face"])

    def _found(
        self, network: BatchedNetwork, size: int, pixels: np.ndarray, tasks: Sequence[_Task]
    ) -> Iterator[tuple[_Task, Float[np.ndarray, "k 3"]]]:
        """The parts that are believed, each with its points in the photo."""
        looks = [(task, square) for task in tasks for square in task.squares]
        first = self._look(network, size, pixels, looks)
        best: dict[int, tuple[float, _Task, np.ndarray]] = {}
        for (task, _), (points, presence, _) in zip(looks, first, strict=True):
            if presence > best.get(id(task), (-1.0,))[0]:
                best[id(task)] = (presence, task, points)
        again = [(task, _next_square(task.part, points)) for _, task, points in best.values()]
        for (task, _), (points, presence, left) in zip(again, self._look(network, size, pixels, again), strict=True):
            side = {"left": left, "right": 1.0 - left, "face": 1.0}[task.part]
            root = points[0 if task.part != "face" else 30]
            near = np.linalg.norm(root - task.anchor) <= self.limits.reach * task.length
            if presence >= self.limits.least_presence and side >= self.limits.least_side and near:
                yield task, np.concatenate([points, np.full((len(points), 1), presence * side)], axis=1)

    def _without_twins(self, parts: list[tuple[_Task, np.ndarray]]) -> Iterator[tuple[_Task, np.ndarray]]:
        """Each part once: wrists that lie together, of one person or two, lead to one and the same hand."""
        kept: list[tuple[_Task, np.ndarray]] = []
        for task, points in sorted(parts, key=lambda one: -one[1][0, 2]):
            apart = [
                np.linalg.norm(points[:, :2] - other[:, :2], axis=1).mean() / max(task.length, of.length)
                for of, other in kept
            ]
            if min(apart, default=np.inf) >= self.limits.least_apart:
                kept.append((task, points))
                yield task, points

    @staticmethod
    def _look(
        network: BatchedNetwork, size: int, pixels: np.ndarray, looks: Sequence[tuple[_Task, Square]]
    ) -> list[tuple[np.ndarray, float, float]]:
        """Of each square: points in the photo, probability that a part is there, and that it is a left hand."""
        if not looks:
            return []
        points, presence, left = network([crop(pixels, square, size) for _, square in looks])
        return [
            (square.to_photo(p.astype(np.float64), size), float(there), float(side))
            for (_, square), p, there, side in zip(looks, points, presence, left, strict=True)
        ]


def metre_px(keypoints: Float[np.ndarray, "17 3"], least: float = 0.3) -> float:
    """Pixels of a metre at a person as if adult: the longest of the limbs seen, as none looks longer than it is. 0: unknown."""
    seen = keypoints[:, 2] >= least
    found = [
        float(np.linalg.norm(keypoints[a, :2] - keypoints[b, :2])) / length
        for a, b, length in _LIMBS_M
        if seen[a] and seen[b]
    ]
    # The second longest: one wild keypoint makes one limb long.
    return sorted(found)[-2] if len(found) > 1 else 0.0


def _tasks(person: int, keypoints: np.ndarray, landmarks: np.ndarray | None, limits: PartLimits) -> Iterator[_Task]:
    scale = metre_px(keypoints, limits.least_keypoint)
    hand, face = scale * _HAND_M, scale * _FACE_M
    points, seen = keypoints[:, :2], keypoints[:, 2] >= limits.least_keypoint
    for side in ("left", "right"):
        wrist, elbow = _J[f"{side}_wrist"], _J[f"{side}_elbow"]
        if hand < limits.least_px or not seen[wrist]:
            continue
        ways = [points[wrist] - points[elbow]] if seen[elbow] else []
        if landmarks is not None:
            root, little, index = landmarks[_KNUCKLES[side]]
            if min(root[2], little[2], index[2]) > 0.1 and np.linalg.norm(root[:2] - points[wrist]) < hand:
                ways.append((2 * index[:2] + little[:2]) / 3 - root[:2])
        squares = tuple(_hand_square(points[wrist], way, hand) for way in ways if np.linalg.norm(way) > 1.0)
        if squares:
            yield _Task(person, side, points[wrist], hand, squares)
    nose, eyes = _J["nose"], [_J["left_eye"], _J["right_eye"]]
    if face >= limits.least_px and seen[nose] and seen[eyes].all():
        middle, across = points[eyes].mean(0), points[eyes[0]] - points[eyes[1]]
        angle = float(np.arctan2(across[1], across[0])) if np.linalg.norm(across) > 0.1 * face else 0.0
        centre = 0.3 * middle + 0.7 * points[nose]
        yield _Task(
            person,
            "face",
            points[nose],
            face,
            (Square((float(centre[0]), float(centre[1])), _FIRST_FACE * face, angle),),
        )


def _hand_square(wrist: np.ndarray, way: np.ndarray, length: float) -> Square:
    way = way / np.linalg.norm(way)
    centre = wrist + 0.5 * length * way
    return Square((float(centre[0]), float(centre[1])), _FIRST_HAND * length, float(np.arctan2(way[0], -way[1])))


def _next_square(part: str, points: Float[np.ndarray, "k 2"]) -> Square:
    """The crop for a part that was found: turned upright, its box in the middle."""
    if part == "face":
        eyes = points[[36, 39]].mean(0), points[[42, 45]].mean(0)
        way = np.array([(eyes[1] - eyes[0])[1], -(eyes[1] - eyes[0])[0]])
    else:
        way = 0.25 * points[5] + 0.5 * points[9] + 0.25 * points[13] - points[0]
    angle = float(np.arctan2(way[0], -way[1]))
    upright = Square((0.0, 0.0), 1.0, -angle).to_photo(points + 0.5, 1)
    low, high = upright.min(0), upright.max(0)
    centre = Square((0.0, 0.0), 1.0, angle).to_photo(0.5 * (low + high) + 0.5, 1)
    scale = _NEXT_FACE if part == "face" else _NEXT_HAND
    return Square((float(centre[0]), float(centre[1])), max(float((high - low).max()) * scale, 8.0), angle)


def _decode_hand(outputs: dict[str, Array]) -> tuple[Array, Array, Array]:
    batch = len(outputs["presence"])
    return (
        outputs["landmarks"].reshape(batch, NUM_HAND, 3)[..., :2],
        jax.nn.sigmoid(outputs["presence"].reshape(batch)),
        jax.nn.sigmoid(-outputs["handedness"].reshape(batch)),
    )


def _decode_face(outputs: dict[str, Array]) -> tuple[Array, Array, Array]:
    batch = len(outputs["presence"])
    presence = jax.nn.sigmoid(outputs["presence"].reshape(batch))
    mesh = outputs["landmarks"].reshape(batch, -1, 3)
    return mesh[:, np.array(IBUG68), :2], presence, jax.numpy.ones_like(presence)
