"""Joints of SMPL-X in the frames of Anny's bones: what is known of Anny's poses, said of SMPL-X.

With SMPL-X laid upon Anny at rest, every joint c has a bone b of Anny and a constant C_c with T_b = T_c C_c, where T are turns
from the rest of the own body (`conversion.pairing`). Let p be the joint above c, Pi_c the turn of b against the bone of p, a
product over the bones of Anny between them, and G_c the rest frame of b. Then SMPL-X's own rotation of the joint is

    R_c = C_p Pi_c C_c^T = (C_p G_c) exp(u_c) (C_c G_c)^T      with      u_c = log(G_c^T Pi_c G_c).

u_c is the rotation vector of Anny's bone where only one bone lies between them. So limits and priors of Anny's bones hold for
u as they are, and a fit may have u as its variables: R_c follows, and nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from annyfit_jax.conversion.convertible import Convertible, rest_frames
from annyfit_jax.conversion.pairing import Laid
from body_models import body_pairs, smplx

_STEP = 1e-4
"""Of central differences, radians."""


@dataclass(frozen=True)
class BoneFrames:
    """The frames of one SMPL-X body. J = 54 joints after the pelvis, B = 162 posed bones of Anny."""

    paths: tuple[tuple[int, ...], ...]
    """Per joint: rows of Anny's pose between the bone of the joint above (left out) and its own, from above."""
    parents: tuple[int, ...]
    """Per joint the joint above it, 0 = the pelvis."""
    frames: Float[np.ndarray, "B 3 3"]
    """Rest frames of Anny's posed bones, of the average body."""
    turns: Float[np.ndarray, "55 3 3"]
    """C of every joint, the pelvis first."""
    left: Float[np.ndarray, "J 3 3"]
    """C_p G_c."""
    right: Float[np.ndarray, "J 3 3"]
    """(C_c G_c)^T."""

    @property
    def own_bones(self) -> tuple[int, ...]:
        """Per joint: the row of Anny's pose of its own bone."""
        return tuple(path[-1] for path in self.paths)

    def of_anny(self, pose: Float[np.ndarray, "n B 3"]) -> Float[np.ndarray, "n J 3"]:
        """Variables u of the same posture."""
        local = Rotation.from_rotvec(np.asarray(pose, np.float64).reshape(-1, 3)).as_matrix()
        local = local.reshape(*pose.shape, 3)
        inside = self.frames @ local @ np.swapaxes(self.frames, 1, 2)
        out = np.zeros((len(pose), len(self.paths), 3))
        for joint, path in enumerate(self.paths):
            product = inside[:, path[0]]
            for row in path[1:]:
                product = product @ inside[:, row]
            frame = self.frames[path[-1]]
            out[:, joint] = Rotation.from_matrix(frame.T @ product @ frame).as_rotvec()
        return out

    def root_of_anny(self, root_rotvec: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """The pelvis of SMPL-X, where Anny's root is turned like this."""
        turned = Rotation.from_rotvec(np.asarray(root_rotvec, np.float64)).as_matrix() @ self.turns[0].T
        return Rotation.from_matrix(turned).as_rotvec().reshape(-1, 3)

    def own(self, u: Float[np.ndarray, "n J 3"]) -> Float[np.ndarray, "n J 3"]:
        """SMPL-X's own rotation vectors (`smplx.Params.pose_rotvec`)."""
        turned = Rotation.from_rotvec(np.asarray(u, np.float64).reshape(-1, 3)).as_matrix().reshape(*u.shape, 3)
        return _rotvecs(self.left @ turned @ self.right)

    def of_own(self, pose: Float[np.ndarray, "n J 3"]) -> Float[np.ndarray, "n J 3"]:
        """The inverse of `own`."""
        turned = Rotation.from_rotvec(np.asarray(pose, np.float64).reshape(-1, 3)).as_matrix().reshape(*pose.shape, 3)
        return _rotvecs(np.swapaxes(self.left, 1, 2) @ turned @ np.swapaxes(self.right, 1, 2))

    def slopes(self, pose: Float[np.ndarray, "B 3"], rows: np.ndarray) -> Float[np.ndarray, "J 3 K 3"]:
        """Derivatives of `of_anny` by the rotation vectors of K rows of Anny's pose."""
        moved = np.tile(np.asarray(pose, np.float64), (3 * len(rows), 1, 1))
        index = np.arange(3 * len(rows))
        ahead, back = moved.copy(), moved.copy()
        ahead[index, rows.repeat(3), index % 3] += _STEP
        back[index, rows.repeat(3), index % 3] -= _STEP
        difference = (self.of_anny(ahead) - self.of_anny(back)) / (2.0 * _STEP)
        return difference.reshape(len(rows), 3, -1, 3).transpose(2, 3, 0, 1)


def bone_frames(anny_body: Convertible, laid: Laid) -> BoneFrames:
    """The frames, from the body laid upon Anny."""
    bones, parents = anny_body.facts.bones, anny_body.facts.parents
    own = [bones.index(body_pairs.ANNY_BONES[joint]) for joint in smplx.JOINTS]
    above = _parents_of_joints(bones, parents, own)
    paths = []
    for joint in range(1, len(own)):
        path, bone = [], own[joint]
        while bone != own[above[joint]]:
            path.append(bone - 1)
            bone = parents[bone]
        paths.append(tuple(reversed(path)))
    # Found in single precision: made rotations again.
    frames = Rotation.from_matrix(rest_frames(anny_body)[1:]).as_matrix()
    own_frames = frames[[path[-1] for path in paths]]
    turns = Rotation.from_matrix(laid.turns).as_matrix()
    return BoneFrames(
        paths=tuple(paths),
        parents=tuple(above[1:]),
        frames=frames,
        turns=turns,
        left=turns[above[1:]] @ own_frames,
        right=np.swapaxes(turns[1:] @ own_frames, 1, 2),
    )


def _parents_of_joints(bones: tuple[str, ...], parents: tuple[int, ...], own: list[int]) -> list[int]:
    """Per joint the joint above it: the one whose bone is the next above in Anny (SMPL-X has the same hierarchy)."""
    joint_of = {bone: joint for joint, bone in enumerate(own)}
    above = [-1]
    for bone in own[1:]:
        up = parents[bone]
        while up not in joint_of:
            up = parents[up]
        above.append(joint_of[up])
    return above


def _rotvecs(matrices: Float[np.ndarray, "n J 3 3"]) -> Float[np.ndarray, "n J 3"]:
    return Rotation.from_matrix(matrices.reshape(-1, 3, 3)).as_rotvec().reshape(*matrices.shape[:2], 3)
