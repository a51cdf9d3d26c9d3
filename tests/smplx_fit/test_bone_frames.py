"""Poses of Anny as those of SMPL-X: the bones point the same way, and nothing is lost between the two descriptions."""

from __future__ import annotations

import laid_smplx
import numpy as np
import pytest
from helpers import max_abs
from scipy.spatial.transform import Rotation

from annyfit_jax.conversion.convertible import Convertible
from annyfit_jax.smplx_fit.bone_frames import BoneFrames
from body_models import body_pairs, smplx

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def case(load_anny) -> tuple[Convertible, BoneFrames]:
    return laid_smplx.frames(load_anny())


def turned(parents, root: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(B, 3, 3) turns from rest of a chain of rotations, each in the axes of the resting body."""
    out = [root]
    for bone in range(1, len(parents)):
        out.append(out[parents[bone]] @ inside[bone - 1])
    return np.stack(out)


def test_every_joint_of_smplx_is_turned_as_its_bone_of_anny(case):
    """T_anny = T_smplx C for all 55 pairs, whatever the pose; chains are multiplied out here, bone by bone."""
    body, frames = case
    pose, root = 0.5 * RNG.standard_normal((1, 162, 3)), RNG.standard_normal((1, 3))
    local = Rotation.from_rotvec(pose[0]).as_matrix()
    inside = frames.frames @ local @ np.swapaxes(frames.frames, 1, 2)
    anny = turned(body.facts.parents, Rotation.from_rotvec(root[0]).as_matrix(), inside)
    own = Rotation.from_rotvec(frames.own(frames.of_anny(pose))[0]).as_matrix()
    pelvis = Rotation.from_rotvec(frames.root_of_anny(root)[0]).as_matrix()
    mine = turned((-1, *frames.parents), pelvis, own)
    bones = [body.facts.bones.index(body_pairs.ANNY_BONES[joint]) for joint in smplx.JOINTS]
    assert max_abs(mine @ laid_smplx.turns(), anny[bones]) < 1e-6


def test_a_joint_of_one_bone_has_that_bones_rotation(case):
    _, frames = case
    pose = 0.5 * RNG.standard_normal((2, 162, 3))
    found = frames.of_anny(pose)
    alone = [j for j, path in enumerate(frames.paths) if len(path) == 1]
    assert len(alone) > 20
    assert max_abs(found[:, alone], pose[:, [frames.paths[j][0] for j in alone]]) < 1e-9


def test_own_rotations_there_and_back(case):
    _, frames = case
    u = 0.5 * RNG.standard_normal((3, 54, 3))
    assert max_abs(frames.of_own(frames.own(u)), u) < 1e-9


def test_the_tree_is_that_of_smplx(case):
    _, frames = case
    parents = dict(zip(smplx.JOINTS[1:], (smplx.JOINTS[p] for p in frames.parents)))
    assert parents["left_knee"] == "left_hip" and parents["head"] == "neck" and parents["left_index1"] == "left_wrist"
    assert parents["neck"] == parents["left_collar"] == "spine3"


def test_slopes_are_those_of_the_product(case):
    """Along single bones the identity; over several, the change along a random direction."""
    _, frames = case
    pose = 0.4 * RNG.standard_normal((162, 3))
    rows = np.arange(162)
    slope = frames.slopes(pose, rows)
    jaw = smplx.JOINTS.index("jaw") - 1
    assert max_abs(slope[jaw, :, frames.paths[jaw][0]], np.eye(3)) < 1e-7
    direction = RNG.standard_normal((162, 3))
    step = 1e-5
    change = (frames.of_anny((pose + step * direction)[None]) - frames.of_anny((pose - step * direction)[None]))[0]
    assert max_abs(np.einsum("jikc,kc->ji", slope, direction), change / (2 * step)) < 1e-5
