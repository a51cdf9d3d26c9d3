"""A scene: one image, its camera and the expert cues of its people. Host-side numpy, the common currency of all readers.

Conventions (see WORKSPACE.md): camera axes x right, y down, z forward; metres; radians; pixels with the origin at the
top-left corner of the image. `n` is the number of people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

COCO17 = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
NUM_DENSE = 138
DEFAULT_FOV_DEGREES = 60.0
UNKNOWN_WORD = -1.0
LANDMARKS_PX, LANDMARKS_M = "landmarks", "world_landmarks"
"""Entries of `Scene.extra` with BlazePose's 33 landmarks, (n, 33, 3): x, y in pixels with a confidence; metres about the middle
of the hips, x right, y down, z away from the camera, for a camera that looks straight at the person."""


class SceneError(ValueError):
    """A scene that cannot be used. The message names the file, the field and what was expected."""


class NobodyToFit(SceneError):
    """A scene in which nobody can be fitted, and why, person by person."""

    def __init__(self, message: str, reasons: Sequence[str]) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons)
        """A word per person of the scene, as it follows `skipped:` in `SceneFit.status`."""


@dataclass
class BodyParameters:
    """Parameters of n bodies (Anny: MakeHuman rig, 163 bones, root-relative local-bone pose)."""

    root_rotvec: np.ndarray
    """(n, 3) orientation of the root bone in camera axes, radians."""
    transl: np.ndarray
    """(n, 3) position of the root bone's head in camera space, metres."""
    pose: np.ndarray
    """(n, 162, 3) rotation vectors of the other bones, each in its own rest frame, radians."""
    shape: np.ndarray
    """(n, 6) phenotypes: gender, age, muscle, weight, height, proportions."""

    def __len__(self) -> int:
        return len(self.transl)

    def select(self, index: np.ndarray) -> BodyParameters:
        """The people named by an integer or boolean index."""
        return BodyParameters(self.root_rotvec[index], self.transl[index], self.pose[index], self.shape[index])


@dataclass
class SmplxParameters(BodyParameters):
    """Parameters of n bodies of SMPL-X: `shape` are betas, `pose` turns of its 54 joints after the pelvis."""

    expression: np.ndarray
    """(n, E) coefficients of the face; NaN means zero."""

    def select(self, index: np.ndarray) -> SmplxParameters:
        """The people named by an integer or boolean index."""
        return SmplxParameters(
            self.root_rotvec[index], self.transl[index], self.pose[index], self.shape[index], self.expression[index]
        )


@dataclass
class Scene:
    """One image with the cues of its n people. A cue that is absent is NaN, -1 or confidence 0, never None per person."""

    name: str
    """Unique within an input; becomes the file name of the fit."""
    image_size: tuple[int, int]
    """(width, height) in pixels."""
    intrinsics: np.ndarray
    """(3, 3) pinhole matrix K in pixels. All points, boxes, masks and depths are without distortion, whatever the lens."""
    keypoints: np.ndarray
    """(n, 17, 3) COCO-17 x, y in full-image pixels and confidence (0 = missing)."""
    dense_keypoints: np.ndarray
    """(n, 138, 3) dense surface points x, y in full-image pixels and confidence; all zero where there is no such cue."""
    median_depth: np.ndarray
    """(n,) median metric depth inside the person's mask, metres; NaN = unknown."""
    depth_layer: np.ndarray
    """(n,) ordinal depth layer, smaller is nearer; -1 = unknown. Reference of the ranking where metric depth is absent."""
    age: np.ndarray
    """(n,) age anchor of the VLM's word in [0, 1]; -1 = no usable answer."""
    gender: np.ndarray
    """(n,) gender anchor of the VLM's word, 0 male .. 1 female; -1 = no usable answer."""
    start: BodyParameters | None = None
    """Feed-forward initialisation, or None: the start is then made from the keypoints."""
    truth: BodyParameters | None = None
    """Ground truth of synthetic scenes."""
    person_ids: list[str] = field(default_factory=list)
    """(n,) the input's own name of each person."""
    boxes: np.ndarray | None = None
    """(n, 4) x0, y0, x1, y1 in pixels."""
    masks: np.ndarray | None = None
    """(n, H, W) bool person masks; all False where one person has none."""
    depth_map: np.ndarray | None = None
    """(H, W) metric depth in metres, NaN = unknown."""
    image_path: str | None = None
    """The photo, if there is one."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(person id, reason) of people that the reader set aside."""
    notes: list[str] = field(default_factory=list)
    """What the reader assumed, e.g. `intrinsics: 60 degree field of view`."""
    keypoint_convention: str = "anny"
    """Who places the keypoints, by the names of `fit.second_order.map_cues.KEYPOINT_OFFSETS_M`: `anny` for the body's own
    regressors, `smplx` for SMPL-X's, `coco` for annotators and detectors in the manner of COCO."""
    heights: np.ndarray | None = None
    """(n, 2) measured body height and its standard deviation, metres; NaN = unknown."""
    distances: np.ndarray | None = None
    """(n, 2) measured distance of the root bone from the camera and its standard deviation, metres; NaN = unknown."""
    camera: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Measured value and standard deviation of `pitch_degrees` (down is positive), `roll_degrees`, `height_m` above ground."""
    lens: str = ""
    """Distortion of the photo's lens, which was taken out of all points, as `people.lens.Lens` writes it; empty = none."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further arrays: those that tests and evaluation use (e.g. `gt_coco3d`, `hand_depth_layer`), and keypoints beyond the 17:
    `keypoints_133` (n, 133, 3) in the order of COCO-WholeBody, and `other_points` (n, k, 3) with `other_point_names` (k,)."""

    def __len__(self) -> int:
        return len(self.keypoints)

    @property
    def focal_guessed(self) -> bool:
        """Whether `intrinsics` is a reader's guess, which it notes as `intrinsics: ...`."""
        return any(note.startswith("intrinsics:") for note in self.notes)
