"""What an expert is: one small protocol per cue, numpy in and numpy out, a list of photos at a time.

An expert is made cheaply (its options are its fields), says what it depends on (`card`), loads its model when told to
(`load`) and lets go of it (`close`). Between the two it answers one kind of question:

    detector    detect(photos)              -> Detections        boxes and scores
    segmenter   segment(photos, people)     -> (n, H, W) bool    masks from boxes, or Outlines: masks and landmarks
    keypoints   keypoints(photos, people)   -> (n, 17 or 133, 3) x, y in pixels, confidence
    dense       dense(photos, people)       -> (n, 138, 3)       dense surface points, likewise
    depth       depth(photos)               -> DepthEstimate     metric depth, perhaps the camera
    camera      intrinsics(photos, depths)  -> (3, 3)            pinhole matrix
    words       words(photos, people)       -> Words             age, gender, ... with probabilities
    start       start(photos, people)       -> BodyParameters    initial bodies, NaN rows where there is none

Each returns a list with one entry per photo; an exception in place of an entry says that this photo failed, one that is raised
that some photo of the list did (they are then asked about in halves), an ExpertError that going on makes no sense. `n` is the
number of people of a photo; pixels have their origin at the top-left corner of the photo in display orientation; metres; a cue
that is not known is NaN, -1 or confidence 0.

An expert may also have

    place(process)      called before `load` with the number of this process: processes of one machine take different devices
    photos_at_once      fewest photos per call (for a server that answers many questions at once)
    needs_pixels        False: the size of a photo is enough (answers that stand in files), `pixels` are zeros
    uses                cues whose answers it wants to see besides those that every expert for its cue is given
    fingerprint()       checksum of files that its answers are read from
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, UInt8

from annyfit_jax.people.scene import BodyParameters


class ExpertError(ValueError):
    """An expert that cannot be used as asked: the message says the command or place that helps. Stops the program."""


@dataclass(frozen=True)
class Card:
    """What the cues of an expert depend on; goes into the dataset and, as a note, into every fit."""

    expert: str
    """Name in the registry, or `module:Class`."""
    checkpoint: str = ""
    """Hub id, file or server; empty where there are no weights."""
    version: str = ""
    """Revision of the checkpoint, or version of the program."""
    licence: str = ""
    """SPDX name where there is one; empty = not stated."""
    commercial: bool = False
    """Whether the licence allows commercial use. False opens only with --allow_noncommercial."""

    def to_json(self) -> dict[str, Any]:
        """As stored in the provenance of a record."""
        return {
            "expert": self.expert,
            "checkpoint": self.checkpoint,
            "version": self.version,
            "licence": self.licence,
            "commercial": self.commercial,
        }


@dataclass(frozen=True)
class Photo:
    """A photo to look at."""

    name: str
    """The scene's name."""
    path: str
    """The file."""
    pixels: UInt8[np.ndarray, "H W 3"]
    """RGB in display orientation."""
    file: str = ""
    """The path below the folder of photos, with `/`; empty: the file's name."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def relative(self) -> str:
        """Path below the folder of photos: what files beside the photos are named after."""
        return self.file or PurePath(self.path).name

    @property
    def stem(self) -> str:
        """`relative` without its suffix."""
        return PurePath(self.relative).with_suffix("").as_posix()


@dataclass(frozen=True)
class Detections:
    """People found in a photo."""

    boxes: Float[np.ndarray, "n 4"]
    """x0, y0, x1, y1 in pixels."""
    scores: Float[np.ndarray, "n"]
    """Confidences in [0, 1]."""
    ids: list[str] = field(default_factory=list)
    """The source's own names of the people; empty: numbered from 0."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(id, reason) of what the source itself says is no person to fit (a crowd region)."""
    keypoints: Float[np.ndarray, "n 17 3"] | None = None
    """x, y in pixels, confidence: of a detector that finds boxes and keypoints together."""


@dataclass(frozen=True)
class Outlines:
    """What a segmenter says of the n people of a photo that finds landmarks along with the masks (BlazePose)."""

    masks: Bool[np.ndarray, "n H W"]
    landmarks: Float[np.ndarray, "n 33 3"]
    """x, y in pixels, confidence."""
    world_landmarks: Float[np.ndarray, "n 33 3"]
    """Metres about the middle of the hips, in axes parallel to the camera's: x right, y down, z forward."""


@dataclass(frozen=True)
class People:
    """What earlier experts found out about the n people of a photo."""

    boxes: Float[np.ndarray, "n 4"]
    ids: list[str] = field(default_factory=list)
    masks: Bool[np.ndarray, "n H W"] | None = None
    """None where no segmenter was asked, or it failed."""
    keypoints: Float[np.ndarray, "n k 3"] | None = None
    """17 COCO keypoints, or 133 of which these are the first."""
    intrinsics: Float[np.ndarray, "3 3"] | None = None
    detected_keypoints: Float[np.ndarray, "n 17 3"] | None = None
    """Those that the detector found along with the boxes; None where it finds boxes alone."""
    landmarks: Float[np.ndarray, "n 33 3"] | None = None
    world_landmarks: Float[np.ndarray, "n 33 3"] | None = None
    """As in `Outlines`; None where the segmenter finds masks alone."""

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class DepthEstimate:
    """Metric depth of a photo."""

    depth: Float[np.ndarray, "H W"]
    """Distance along the optical axis, metres; NaN or not positive = unknown."""
    intrinsics: Float[np.ndarray, "3 3"] | None = None
    """Where the model estimates the camera as well."""


@dataclass(frozen=True)
class Words:
    """What is said about the n people of a photo. Keys are attributes: `age`, `gender`, ..."""

    anchors: dict[str, Float[np.ndarray, "n"]]
    """Phenotype values in [0, 1]; -1 = unknown."""
    words: dict[str, list[str]] = field(default_factory=dict)
    """The class behind each anchor, empty = unknown."""
    probabilities: dict[str, Float[np.ndarray, "n c"]] = field(default_factory=dict)
    """Of the classes in the order of the expert's table; what is missing to 1 is the probability of `unknown`."""
    answers: list[str] = field(default_factory=list)
    """(n,) what was answered, for people to read."""


@runtime_checkable
class Expert(Protocol):
    """What every expert offers."""

    @property
    def card(self) -> Card:
        """What the cues depend on; complete after `load`."""
        ...

    def load(self) -> None:
        """Imports what is heavy and reads the checkpoint. Raises ExpertError with the command that helps."""
        ...

    def close(self) -> None:
        """Lets go of the model and its memory."""
        ...


class Detector(Expert, Protocol):
    """Finds people."""

    def detect(self, photos: Sequence[Photo]) -> list[Detections]:
        """Boxes, scores and the source's own ids per photo."""
        ...


class Segmenter(Expert, Protocol):
    """Outlines people whose boxes are known."""

    def segment(
        self, photos: Sequence[Photo], people: Sequence[People]
    ) -> Sequence[Bool[np.ndarray, "n H W"] | Outlines]:
        """(n, H, W) masks per photo, perhaps with landmarks."""
        ...


class KeypointDetector(Expert, Protocol):
    """Finds the keypoints of people whose boxes are known."""

    def keypoints(self, photos: Sequence[Photo], people: Sequence[People]) -> list[Float[np.ndarray, "n k 3"]]:
        """(n, 17 or 133, 3) per photo: x, y in pixels, confidence."""
        ...


class DenseDetector(Expert, Protocol):
    """Finds dense surface points of people whose boxes are known."""

    def dense(self, photos: Sequence[Photo], people: Sequence[People]) -> list[Float[np.ndarray, "n 138 3"]]:
        """(n, 138, 3) per photo: x, y in pixels, confidence."""
        ...


class DepthEstimator(Expert, Protocol):
    """Estimates metric depth."""

    def depth(self, photos: Sequence[Photo]) -> list[DepthEstimate]:
        """A depth map per photo, metres, and perhaps its camera."""
        ...


class CameraEstimator(Expert, Protocol):
    """Finds out a photo's pinhole camera."""

    def intrinsics(
        self, photos: Sequence[Photo], depths: Sequence[Float[np.ndarray, "3 3"] | None]
    ) -> list[Float[np.ndarray, "3 3"]]:
        """`depths`: the cameras that the depth expert estimated, None where it estimated none."""
        ...


class WordExpert(Expert, Protocol):
    """Says age, gender, ... of people."""

    def words(self, photos: Sequence[Photo], people: Sequence[People]) -> Sequence[Words | Exception]:
        """What is said of the people of each photo, or the exception that this photo ended with."""
        ...


class StartExpert(Expert, Protocol):
    """Proposes initial bodies."""

    def start(self, photos: Sequence[Photo], people: Sequence[People]) -> list[BodyParameters]:
        """Bodies per photo in camera axes, metres; NaN rows for people without one."""
        ...


METHODS = {
    "detector": "detect", "segmenter": "segment", "keypoints": "keypoints", "dense": "dense", "depth": "depth",
    "camera": "intrinsics", "words": "words", "start": "start",
}  # fmt: skip
"""Cue -> the method that its expert must have, in the order in which the experts run."""


class Loaded:
    """Base of experts that have nothing to load."""

    def load(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of any framework says that memory ran out."""
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "RESOURCE_EXHAUSTED" in str(error)
