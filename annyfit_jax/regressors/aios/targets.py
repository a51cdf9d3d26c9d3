"""True people of a batch, padded to a fixed number, and the order of the 3D points that losses compare."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float

PARTS = ("body", "left_hand", "right_hand", "face")


class PartArrays(NamedTuple):
    """One array per part, in the order of the bones in `BodyHead`."""

    body: Array | np.ndarray
    left_hand: Array | np.ndarray
    right_hand: Array | np.ndarray
    face: Array | np.ndarray


class BodyTargets(NamedTuple):
    """Parameters of the body model, each with a mask: data sets know some and not others."""

    rotvecs: PartArrays
    """Rotation vectors (batch, person, bone, 3), radians; the root in camera axes; hands without the mean hand."""
    rotvec_valid: PartArrays
    """(batch, person, bone), 0 or 1."""
    shape: Float[Array, "batch person coefficient"]
    shape_valid: Float[Array, "batch person"]
    expression: Float[Array, "batch person coefficient"]
    """No coefficients for a body without expressions."""
    expression_valid: Float[Array, "batch person"]


class Targets(NamedTuple):
    """What is known of the people of each image. Boxes and joints in shares of the unpadded image; entries of people that
    are not there are finite and do not matter."""

    people: Bool[Array, "batch person"]
    """Who is there."""
    boxes: Float[Array, "batch person 4"]
    """(cx, cy, w, h)."""
    part_boxes: Float[Array, "batch person 3 4"]
    """Left hand, right hand, face."""
    part_boxes_valid: Float[Array, "batch person 3"]
    body_joints: Float[Array, "batch person 17 3"]
    """(x, y, visible) in COCO order."""
    part_joints: Float[Array, "batch person 3 6 3"]
    """(x, y, visible): left hand, right hand, face."""
    body: BodyTargets
    points: Float[Array, "batch person point 4"]
    """(X, Y, Z, confidence) in camera axes, metres; `PointLayout` has the order."""
    relative_points: Float[Array, "batch person point 4"]
    """The same from the fitted body model; the body's relative to the pelvis (which is zero), those of hands and
    face relative to wrist and neck."""
    image_points: Float[Array, "batch person point 3"]
    """(x, y, confidence)."""
    has_3d: Float[Array, "batch"]
    """1 where the image's 3D points are to be trusted."""
    image_size: Float[Array, "batch 2"]
    """(width, height) of the resized picture without padding, pixels."""
    transl: Float[Array, "batch person 3"] | None = None
    """Of the body model's origin for `intrinsics`, metres; z = 0 where it is not known."""
    intrinsics: Float[Array, "batch 3 3"] | None = None
    """Of the true camera, pixels of the resized picture; zeros where it is not known."""


class PointLayout(NamedTuple):
    """Which of the compared points belong to which part. Static."""

    body: tuple[int, int]
    """First point, and one past the last."""
    left_hand: tuple[int, int]
    right_hand: tuple[int, int]
    face: tuple[int, int]
    pelvis: int
    neck: int
    left_wrist: int
    right_wrist: int

    def span(self, part: str) -> slice:
        """The points of a part."""
        return slice(*getattr(self, part))

    def root(self, part: str) -> int:
        """The point that relative positions of a part start from."""
        return {"body": self.pelvis, "left_hand": self.left_wrist, "right_hand": self.right_wrist, "face": self.neck}[
            part
        ]


SMPLX_POINTS = PointLayout((0, 25), (25, 45), (45, 65), (65, 137), pelvis=0, neck=7, left_wrist=12, right_wrist=13)
"""The 137 points of HumanData: 25 of the body, 20 of each hand, 72 of the face."""
