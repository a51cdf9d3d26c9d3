"""Which bones of Anny and joints of SMPL-X are the same part of a body, by name: what is carried from one body to the other.

SMPL-X's joints have a counterpart each; that of the pelvis, Anny's root, is at another place in the body. Anny has more bones:
limbs, spine and feet in several pieces, the palm, toes, the face. Those move with the part that their next ancestor with a
counterpart is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

_FINGERS = {"thumb": 1, "index": 2, "middle": 3, "ring": 4, "pinky": 5}
_SIDED = {
    "hip": "upperleg01", "knee": "lowerleg01", "ankle": "foot", "foot": "toe2-1", "collar": "clavicle",
    "shoulder": "upperarm01", "elbow": "lowerarm01", "wrist": "wrist", "eye": "eye",
    **{f"{name}{k}": f"finger{number}-{k}" for name, number in _FINGERS.items() for k in (1, 2, 3)},
}  # fmt: skip
ANNY_BONES: Mapping[str, str] = MappingProxyType(
    {
        "pelvis": "root", "spine1": "spine05", "spine2": "spine03", "spine3": "spine01", "neck": "neck01", "head": "head",
        "jaw": "jaw",
        **{f"{side}_{joint}": f"{bone}.{side[0].upper()}" for side in ("left", "right") for joint, bone in _SIDED.items()},
    }
)  # fmt: skip
"""Joint of SMPL-X -> bone of Anny with the same orientation in space, but for a constant turn."""
SAME_PLACE: tuple[str, ...] = tuple(
    f"{side}_{joint}" for side in ("left", "right") for joint in _SIDED if joint not in ("collar", "foot")
)
"""Joints of SMPL-X that lie where the heads of their bones in Anny do, to a centimetre or two."""


def parts(bones: Sequence[str], parents: Sequence[int]) -> tuple[str, ...]:
    """For each of Anny's bones the joint of SMPL-X that moves the same part of the body."""
    joints = {bone: joint for joint, bone in ANNY_BONES.items()}
    found: list[str] = []
    for bone, parent in zip(bones, parents):
        stem, _, side = bone.partition(".")
        if stem.startswith("toe"):
            found.append(f"{'left' if side == 'L' else 'right'}_foot")
        elif bone in joints:
            found.append(joints[bone])
        else:
            found.append(found[parent])
    return tuple(found)
