"""SMPL's joint rotations on Anny's bones: good enough to start a fit from, not a conversion.

SMPL rests with Y up, facing +Z, its left at +X, arms out and legs straight down; Anny with Z up, facing -Y, its left at +X, its
arms lowered. A bone that has a joint of SMPL takes that joint's orientation in space, after a turn of Anny's resting limb to
where SMPL's rests; the bones between follow their parent.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from annyfit_jax.fit.keypoint_start import calibrated_phenotypes
from annyfit_jax.people.scene import UNKNOWN_WORD
from body_models import anny

SMPL_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
_AXES = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Anny's body axes to SMPL's."""
_JOINTS = {
    "spine05": 3, "spine03": 6, "spine01": 9, "neck01": 12, "head": 15, "upperleg01.L": 1, "upperleg01.R": 2,
    "lowerleg01.L": 4, "lowerleg01.R": 5, "foot.L": 7, "foot.R": 8, "clavicle.L": 13, "clavicle.R": 14, "upperarm01.L": 16,
    "upperarm01.R": 17, "lowerarm01.L": 18, "lowerarm01.R": 19, "wrist.L": 20, "wrist.R": 21,
}  # fmt: skip
"""Anny's bone -> SMPL's joint."""
_LIMBS = {"upperleg01": "lowerleg01", "lowerleg01": "foot", "upperarm01": "lowerarm01", "lowerarm01": "wrist"}
"""Bones whose resting direction differs -> the bone at their end."""


class SmplToAnny:
    """Holds Anny's resting skeleton, of the average adult."""

    def __init__(self, model: anny.AnnyModel) -> None:
        average = calibrated_phenotypes(np.array([UNKNOWN_WORD]), np.array([UNKNOWN_WORD]))[0]
        _, poses = jax.jit(anny.rest)(model, jnp.asarray(average, model.heads.mean.dtype))
        rest = np.asarray(poses, np.float64)
        self._frames, self._heads = rest[..., :3], rest[..., 3]
        self._bones, self._parents = model.labels.bones, model.labels.parents
        self._joint = {self._bones.index(bone): joint for bone, joint in _JOINTS.items()}
        self._turn = {self._bones.index(bone): self._to_smpl_rest(bone) for bone in _JOINTS}

    def __call__(
        self, rotations: Float[np.ndarray, "24 3 3"], pelvis: Float[np.ndarray, "3"]
    ) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"], Float[np.ndarray, "162 3"]]:
        """(root_rotvec, transl, pose) of Anny for SMPL's joint rotations, each relative to its parent, root first.

        The middle between the hips goes to `pelvis` (SMPL's is some centimetres higher).
        """
        space = [np.asarray(rotations[0], np.float64)]
        for joint in range(1, 24):
            space.append(space[SMPL_PARENTS[joint]] @ rotations[joint])
        turned = [space[0] @ _AXES]  # per bone: from its rest to its place in camera axes
        local = [np.eye(3)]
        for bone in range(1, len(self._bones)):
            parent = turned[self._parents[bone]]
            joint = self._joint.get(bone)
            mine = parent if joint is None else space[joint] @ _AXES @ self._turn[bone]
            frame = self._frames[bone]
            turned.append(mine)
            local.append(frame.T @ parent.T @ mine @ frame)
        hips = [self._bones.index(f"upperleg01.{side}") for side in "LR"]
        transl = np.asarray(pelvis, np.float64) - turned[0] @ (self._heads[hips].mean(0) - self._heads[0])
        return (
            Rotation.from_matrix(turned[0]).as_rotvec(),
            transl,
            Rotation.from_matrix(np.stack(local[1:])).as_rotvec(),
        )

    def _to_smpl_rest(self, bone: str) -> np.ndarray:
        """Turns a limb from where Anny's rests to where SMPL's does, in Anny's axes."""
        stem, _, side = bone.partition(".")
        stem = "lowerarm01" if stem == "wrist" else stem  # a hand points as the forearm does
        if stem not in _LIMBS:
            return np.eye(3)
        start, end = (self._heads[self._bones.index(f"{name}.{side}")] for name in (stem, _LIMBS[stem]))
        wanted = np.array([0.0, 0.0, -1.0]) if "leg" in stem else np.array([1.0 if side == "L" else -1.0, 0.0, 0.0])
        have = (end - start) / np.linalg.norm(end - start)
        axis = np.cross(have, wanted)
        sine = np.linalg.norm(axis)
        return Rotation.from_rotvec(axis / max(sine, 1e-12) * np.arctan2(sine, have @ wanted)).as_matrix()
