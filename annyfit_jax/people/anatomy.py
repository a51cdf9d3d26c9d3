"""Anatomy of the Anny rig: joint limits and a relaxed pose, in each bone's rest frame.

Used where a start knows no pose (2D keypoints only): a foreshortened limb may point towards or away from the camera, and
the limits say that elbows bend forwards and knees backwards. Ranges are textbook ranges of motion (AAOS), rounded and
widened, spread over the rig's several bones per limb segment. Body axes: x = the body's left, y = back, z = up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from body_models import anny


def other_side(bone: str) -> str:
    """The name of a bone of SMPL-X or Anny, or of a keypoint, on the other side; its own where it has none."""
    for left, right in (("left_", "right_"), (".L", ".R")):
        if left in bone:
            return bone.replace(left, right)
        if right in bone:
            return bone.replace(right, left)
    return bone


_FRONT = np.array([0.0, -1.0, 0.0])

# Per bone stem: ranges in radians about three axes. Legs and trunk: (flexion about x, lateral about y, twist about z) with
# flexion positive where the limb's end moves BACK. Left side; the right side mirrors lateral and twist.
_BODY_AXES_RANGES: dict[str, tuple[tuple[float, float], ...]] = {
    "pelvis": ((-0.1, 0.1), (-0.1, 0.1), (-0.1, 0.1)),
    "upperleg01": ((-2.2, 0.5), (-0.9, 0.5), (-0.7, 0.7)),
    "upperleg02": ((-0.1, 0.1), (-0.1, 0.1), (-0.4, 0.4)),
    "lowerleg01": ((-0.1, 2.4), (-0.1, 0.1), (-0.2, 0.2)),
    "lowerleg02": ((-0.05, 0.05), (-0.05, 0.05), (-0.3, 0.3)),
    "foot": ((-0.5, 0.8), (-0.4, 0.4), (-0.4, 0.4)),
    "spine05": ((-0.2, 0.5), (-0.25, 0.25), (-0.25, 0.25)),
    "spine04": ((-0.2, 0.4), (-0.25, 0.25), (-0.25, 0.25)),
    "spine03": ((-0.2, 0.3), (-0.2, 0.2), (-0.2, 0.2)),
    "spine02": ((-0.15, 0.25), (-0.15, 0.15), (-0.2, 0.2)),
    "spine01": ((-0.15, 0.25), (-0.15, 0.15), (-0.2, 0.2)),
    "breast": ((-0.05, 0.05), (-0.05, 0.05), (-0.05, 0.05)),
    "neck01": ((-0.3, 0.3), (-0.25, 0.25), (-0.4, 0.4)),
    "neck02": ((-0.3, 0.3), (-0.25, 0.25), (-0.4, 0.4)),
    "neck03": ((-0.3, 0.3), (-0.25, 0.25), (-0.4, 0.4)),
    "head": ((-0.4, 0.4), (-0.3, 0.3), (-0.5, 0.5)),
}
# At rest elbows are bent by 0.66 rad already and knees by 0.13 rad: a straight limb has a negative flexion.
# Arms: (flexion: the limb's end moves to the FRONT, abduction: outwards and up, twist about the bone).
_ARM_RANGES: dict[str, tuple[tuple[float, float], ...]] = {
    "clavicle": ((-0.2, 0.3), (-0.15, 0.4), (-0.2, 0.2)),
    "shoulder01": ((-0.2, 0.3), (-0.15, 0.4), (-0.2, 0.2)),
    "upperarm01": ((-0.7, 2.4), (-0.9, 2.2), (-1.0, 1.0)),
    "upperarm02": ((-0.1, 0.1), (-0.1, 0.1), (-0.6, 0.6)),
    "lowerarm01": ((-0.65, 1.8), (-0.1, 0.1), (-0.2, 0.2)),
    "lowerarm02": ((-0.05, 0.05), (-0.05, 0.05), (-1.2, 1.2)),
    "wrist": ((-1.0, 1.0), (-0.6, 0.6), (-0.3, 0.3)),
}
# Flexions of a person who stands at ease: a little of everything, always to the anatomical side.
_RELAXED = {"upperleg01": -0.15, "lowerleg01": 0.15, "lowerarm01": -0.2}


@dataclass(frozen=True)
class JointLimits:
    """Anatomical limits: per limited axis a bone, a unit axis in the bone's rest frame, and a range of angles (radians).

    The limited angle is the component of the bone's rotation vector along the axis.
    """

    bones: tuple[int, ...]
    axes: np.ndarray
    low: np.ndarray
    high: np.ndarray


def joint_axes(model: anny.AnnyModel) -> tuple[list[int], Float[np.ndarray, "bone 3 3"], Float[np.ndarray, "bone 3 2"]]:
    """Limited bones (indices into 163), their three unit axes in the bone's rest frame, and ranges in radians.

    Axes are taken from the mean of the shape space at rest; they turn by at most a few degrees with the phenotypes.
    """
    matrices = jax.jit(anny.rest_orientations)(np.asarray(model.axes.mean)[..., None], model.roll)
    orientation = np.moveaxis(np.asarray(matrices, np.float64)[..., 0], -1, 0)
    names = model.labels.bones
    bones, axes, ranges = [], [], []
    for i, name in enumerate(names):
        stem, _, side = name.partition(".")
        right = side == "R"
        if stem in _BODY_AXES_RANGES:
            world = np.eye(3)
            limits = np.array(_BODY_AXES_RANGES[stem])
            if right:
                limits[1:] = -limits[1:, ::-1]
        elif stem in _ARM_RANGES:
            along = orientation[i][:, 1]
            out = np.array([-1.0 if right else 1.0, 0.0, 0.0])
            raised = out - along * (along @ out)
            raised += np.array([0.0, 0.0, 1.0]) - along * along[2] if abs(along @ out) > 0.7 else 0.0
            front = _FRONT - along * (along @ _FRONT)
            world = np.stack([_unit(np.cross(along, front)), _unit(np.cross(along, raised)), along])
            limits = np.array(_ARM_RANGES[stem])
        else:
            continue
        bones.append(i)
        axes.append(world @ orientation[i])  # rows: R^T axis
        ranges.append(limits)
    return bones, np.stack(axes), np.stack(ranges)


def joint_limits(model: anny.AnnyModel) -> JointLimits:
    """The limits as the `joint_limits` term reads them; bones are rows of the 162-bone pose."""
    bones, axes, ranges = joint_axes(model)
    return JointLimits(
        bones=tuple(int(b) - 1 for b in np.repeat(bones, 3)),
        axes=axes.reshape(-1, 3),
        low=ranges[..., 0].ravel(),
        high=ranges[..., 1].ravel(),
    )


def flexed_pose(model: anny.AnnyModel, flexions: dict[str, float]) -> Float[np.ndarray, "162 3"]:
    """Pose with the named bones (stem or full name) turned about their flexion axis by an angle in radians."""
    bones, axes, _ = joint_axes(model)
    pose = np.zeros((len(model.labels.bones) - 1, 3))
    for bone, axis in zip(bones, axes):
        name = model.labels.bones[bone]
        angle = flexions.get(name, flexions.get(name.partition(".")[0], 0.0))
        pose[bone - 1] = angle * axis[0]
    return pose


# Spread of each bone's rotation over everyday poses (radians); the trunk of several bones is stiff, limbs are not.
_SPREAD = {
    "spine": 0.12, "neck": 0.15, "head": 0.25, "pelvis": 0.05, "clavicle": 0.1, "shoulder01": 0.1, "breast": 0.05,
    "upperleg02": 0.1, "lowerleg02": 0.1, "upperarm02": 0.15, "lowerarm02": 0.3, "wrist": 0.3, "foot": 0.3,
}  # fmt: skip
_LIMB_SPREAD = 0.7


def pose_spread(bones: Sequence[str]) -> Float[np.ndarray, "bone"]:
    """Standard deviation of each bone's rotation over everyday poses, radians: what a pull to the relaxed pose allows."""
    return np.array([next((s for stem, s in _SPREAD.items() if bone.startswith(stem)), _LIMB_SPREAD) for bone in bones])


def relaxed_pose(model: anny.AnnyModel) -> Float[np.ndarray, "162 3"]:
    """A person standing at ease."""
    return flexed_pose(model, _RELAXED)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)
