"""The networks that come with the installation: people with keypoints, and their masks with landmarks. JAX alone, no download.

How they are put together says `experts.networks.people_finder`; how well they do, `experiments.studies.photo_networks`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from annyfit_jax.inputs import point_sets
from annyfit_jax.store.locations import place
from annyfit_jax.store.mirrors import local
from experts.adapters.folders import file_fingerprint
from experts.interfaces import Card, Detections, ExpertError, Outlines, People, Photo
from experts.networks import blazepose, hands_and_faces, person_crops
from experts.networks.masks_of_crops import cleaned, photo_masks

_LICENCE = "Apache-2.0"


def _logistic(value: Any) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.asarray(value)))


def person_probability(value: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """How likely a found person is one, by its value: a logistic fit to the ten photos of the study (44 boxes)."""
    return _logistic(9.97 + 4.75 * np.log(np.maximum(value, 1e-6)))


def point_probability(score: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """How likely a keypoint of MoveNet is one that annotators see, and within a tenth of the person's box of where they see it.

    A logistic fit to 595 points of 35 people in the study's ten photos. Fitted to nine and asked about the tenth, what it
    calls 0.85 to 0.95 is right in 0.94, and 0.5 to 0.7 in 0.64.
    """
    clipped = np.clip(score, 1e-4, 1 - 1e-4)
    return np.where(np.asarray(score) > 0, _logistic(2.11 + 1.82 * np.log(clipped / (1 - clipped))), 0.0)


class _Bundled:
    """What the experts of this module share."""

    NAME = ""

    def close(self) -> None:
        """Lets go of the networks."""
        self._network = None

    def _loaded(self) -> Any:
        network = getattr(self, "_network", None)
        if network is None:
            raise ExpertError(f"{self.NAME}: not loaded")
        return network


@dataclass
class NanoDetPeople(_Bundled):
    """Boxes of people with their keypoints: NanoDet and MoveNet together."""

    mirror: bool = True
    """Also look at the mirror image: better boxes, a seventh slower."""
    tiles: bool = True
    """Also look at parts of the photo where there are small people."""
    least_score: float = 0.28
    """Of the detector; what becomes a person is decided by people.min_score."""

    NAME = "nanodet"

    @property
    def card(self) -> Card:
        """The weights are part of the package."""
        return Card(self.NAME, "nanodet + movenet_thunder (bundled)", "2", _LICENCE, commercial=True)

    def load(self) -> None:
        """Reads the weights; programs are compiled with the first photo."""
        from experts.networks.people_finder import PeopleFinder, Search

        self._network = PeopleFinder(Search(mirror=self.mirror, tiles=self.tiles, least_score=self.least_score))

    def detect(self, photos: Sequence[Photo]) -> list[Detections]:
        """Boxes and keypoints in pixels with confidences that are probabilities."""
        result = []
        for people in self._loaded()([photo.pixels for photo in photos]):
            points = people.keypoints.copy()
            points[..., 2] = point_probability(points[..., 2]) * seen_around(people.boxes, points)
            result.append(Detections(people.boxes, person_probability(people.values), keypoints=points))
        return result


def seen_around(
    boxes: Float[np.ndarray, "n 4"], points: Float[np.ndarray, "n 17 3"], margin: float = 0.12
) -> Bool[np.ndarray, "n 17"]:
    """Points in or near their person's box: farther out the network was shown grey, and guessed a body for the head it saw."""
    grown = np.array([person_crops.grown(box, margin) for box in boxes]).reshape(-1, 1, 4)
    return np.all((points[..., :2] >= grown[..., :2]) & (points[..., :2] <= grown[..., 2:]), axis=-1)


@dataclass
class MoveNetKeypoints(_Bundled):
    """17 keypoints per box: those that NanoDet's boxes come with, else MoveNet on crops around the boxes."""

    NAME = "movenet"

    @property
    def card(self) -> Card:
        """The weights are part of the package."""
        return Card(self.NAME, "movenet_thunder (bundled)", "2", _LICENCE, commercial=True)

    def load(self) -> None:
        """The network is loaded with the first boxes that came without keypoints."""
        self._network = None

    def keypoints(self, photos: Sequence[Photo], people: Sequence[People]) -> list[Float[np.ndarray, "n 17 3"]]:
        """(n, 17, 3) per photo: pixels, and confidences that are probabilities."""
        return [
            self._looked_at(photo, crowd) if crowd.detected_keypoints is None else np.asarray(crowd.detected_keypoints)
            for photo, crowd in zip(photos, people, strict=True)
        ]

    def _looked_at(self, photo: Photo, people: People) -> np.ndarray:
        from experts.networks.people_finder import PeopleFinder

        if getattr(self, "_network", None) is None:
            self._network = PeopleFinder()
        points = self._loaded().keypoints_of(photo.pixels, np.asarray(people.boxes, np.float64))
        points[..., 2] = point_probability(points[..., 2]) * seen_around(people.boxes, points)
        return points


@dataclass
class WholeBodyKeypoints(MoveNetKeypoints):
    """COCO-WholeBody's 133 points: MoveNet's 17, the heels and toes of BlazePose, and hands and faces by MediaPipe's networks.

    Little toes are not known. Hands and faces that are small, hidden or not sure to be there have confidence 0
    (`experts.networks.hands_and_faces.PartLimits`).
    """

    least_px: float = 16.0
    """Length of a hand, or height of a face, from which one is looked for."""

    NAME = "whole_body"
    uses = ("segmenter",)

    @property
    def card(self) -> Card:
        """The weights are part of the package."""
        return Card(
            self.NAME, "movenet_thunder + hand_landmarks + face_landmarks (bundled)", "1", _LICENCE, commercial=True
        )

    def load(self) -> None:
        """Reads the weights; programs are compiled with the first hand and face."""
        super().load()
        self._parts = hands_and_faces.PartFinder(hands_and_faces.PartLimits(least_px=self.least_px))

    def close(self) -> None:
        """Lets go of the networks."""
        super().close()
        self._parts = None

    def keypoints(self, photos: Sequence[Photo], people: Sequence[People]) -> list[Float[np.ndarray, "n 133 3"]]:
        """(n, 133, 3) per photo: pixels, and confidences that are probabilities."""
        if getattr(self, "_parts", None) is None:
            raise ExpertError(f"{self.NAME}: not loaded")
        bodies = super().keypoints(photos, people)
        return [self._whole(*given) for given in zip(photos, people, bodies, strict=True)]

    def _whole(self, photo: Photo, people: People, body: np.ndarray) -> np.ndarray:
        assert self._parts is not None
        feet = np.zeros((len(body), len(point_sets.FEET), 3))
        if people.landmarks is not None:
            for name, points in hands_and_faces.feet(body, people.landmarks).items():
                feet[:, point_sets.FEET.index(name)] = points
        parts = self._parts(photo.pixels, body, people.landmarks)
        return np.concatenate([body, feet, parts.face, parts.left_hand, parts.right_hand], axis=1)


@dataclass
class BlazePoseOutlines(_Bundled):
    """Masks, 33 landmarks and metric landmarks per box, on crops turned along the body."""

    path: str = ""
    """File of experiments.builders.build_networks (the heavy network); empty: the bundled one."""
    turn: bool = True
    """Turn crops so that the body stands upright, where keypoints say how it leans."""
    disagreement: float = 0.06
    """Mean distance of landmarks from keypoints, in longer sides of the box, from which a leaning person is looked at again."""
    threshold: float = 0.5
    """Probability from which a pixel is the person's."""

    NAME = "blazepose"

    @property
    def card(self) -> Card:
        """The weights are part of the package, or a file of the user's."""
        if self.path:
            known = file_fingerprint(self.path)
            version = f"sha256:{known}" if known else ""
            return Card(self.NAME, Path(self.path).name, version, _LICENCE, commercial=True)
        return Card(self.NAME, "blazepose_full (bundled)", "1", _LICENCE, commercial=True)

    def load(self) -> None:
        """Reads the weights; the program is compiled with the first photo."""
        if self.path and not place(self.path).is_file():
            raise ExpertError(f"{self.NAME}: no file {self.path}")
        self._network = blazepose.BlazePose(local(self.path))

    def segment(self, photos: Sequence[Photo], people: Sequence[People]) -> list[Outlines]:
        """Masks without islands, which overlap only where crops show one and the same person twice, and landmarks per photo."""
        figures, squares = self._looked_at([
            (photo, box, None if crowd.detected_keypoints is None else np.asarray(crowd.detected_keypoints[row]))
            for photo, crowd in zip(photos, people, strict=True)
            for row, box in enumerate(crowd.boxes)
        ])  # fmt: skip
        start, result = 0, []
        for photo, crowd in zip(photos, people, strict=True):
            rows = range(start, start + len(crowd))
            start += len(crowd)
            own = [squares[i] for i in rows]
            masks = photo_masks(figures.segmentation[list(rows)], own, crowd.boxes, photo.size, self.threshold)
            landmarks = np.zeros((len(crowd), blazepose.NUM_LANDMARKS, 3))
            world = np.zeros_like(landmarks)
            for k, i in enumerate(rows):
                landmarks[k, :, :2] = squares[i].to_photo(figures.landmarks[i, :, :2], blazepose.SIZE)
                landmarks[k, :, 2] = figures.landmarks[i, :, 2] * figures.landmarks[i, :, 3]
                world[k] = blazepose.turned_back(figures.world[i], squares[i].angle)
            result.append(Outlines(cleaned(masks), landmarks, world))
        return result

    def _looked_at(
        self, tasks: Sequence[tuple[Photo, np.ndarray, np.ndarray | None]]
    ) -> tuple[blazepose.Figures, list[person_crops.Square]]:
        """The figure of every (photo, box, keypoints or None) and its square. Where landmarks and keypoints disagree, the
        person is looked at again in crops turned otherwise, and the crop in which they agree best counts.
        """
        network = self._loaded()

        def look(at: Sequence[tuple[int, person_crops.Square]]) -> blazepose.Figures:
            crops = []
            for i, square in at:
                photo, box, _ = tasks[i]
                crops.append(person_crops.crop(photo.pixels, square, blazepose.SIZE, person_crops.grown(box, 0.1)))
            return network(crops)

        def off(i: int, square: person_crops.Square, landmarks: np.ndarray) -> float:
            _, box, points = tasks[i]
            placed = square.to_photo(landmarks[:, :2], blazepose.SIZE)
            return 0.0 if points is None else blazepose.disagreement(placed, points, box)

        squares = [blazepose.square_along(box, points if self.turn else None) for _, box, points in tasks]
        figures = look(list(enumerate(squares)))
        lowest = [off(i, square, figures.landmarks[i]) for i, square in enumerate(squares)]
        again = [
            (i, square)
            for i, (_, box, points) in enumerate(tasks)
            if self.turn and points is not None and lowest[i] > self.disagreement
            for square in blazepose.further_squares(box, points, squares[i])
        ]
        if again:
            further = look(again)
            parts = [np.array(part) for part in dataclasses.astuple(figures)]
            for k, (i, square) in enumerate(again):
                if (value := off(i, square, further.landmarks[k])) < lowest[i]:
                    lowest[i], squares[i] = value, square
                    for whole, part in zip(parts, dataclasses.astuple(further), strict=True):
                        whole[i] = part[k]
            figures = blazepose.Figures(*parts)
        return figures, squares
