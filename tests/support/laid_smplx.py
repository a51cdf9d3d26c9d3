"""A SMPL-X body that is said to lie upon Anny, without any fit: made-up numbers, for tests that need no truth of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import made_smplx
import numpy as np
import smplx_synthetic
from scipy.spatial.transform import Rotation

from annyfit_jax.conversion.convertible import Convertible, convertible_anny
from annyfit_jax.conversion.pairing import Laid
from annyfit_jax.smplx_fit.bone_frames import BoneFrames, bone_frames
from annyfit_jax.smplx_fit.smplx_map_body import Laying
from body_models import anny, body_pairs, smplx

AXES = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""A point p of Anny's resting body is p @ AXES in the axes of SMPL-X."""


def turns() -> np.ndarray:
    """(55, 3, 3): the change of axes, and some turn of each joint's own."""
    own = Rotation.from_rotvec(0.3 * np.random.default_rng(3).standard_normal((55, 3))).as_matrix()
    return own @ AXES.T


def laid(model: anny.AnnyModel) -> Laid:
    """SMPL-X's vertices scattered upon Anny's."""
    vertices = np.asarray(model.vertices.mean, np.float64).T @ AXES
    keypoints = 0.01 * np.arange(51.0).reshape(17, 3)
    chosen = np.random.default_rng(4).choice(len(vertices), smplx_synthetic.V, replace=False)
    heads = np.asarray(model.heads.mean, np.float64).T @ AXES
    joints = heads[[model.labels.bones.index(body_pairs.ANNY_BONES[joint]) for joint in smplx.JOINTS]]
    return Laid(vertices, keypoints, vertices[chosen], keypoints + 0.02, turns(), AXES, heads, joints)


def frames(model: anny.AnnyModel) -> tuple[Convertible, BoneFrames]:
    """Anny as the conversion sees it, and the frames."""
    body = convertible_anny(model)
    return body, bone_frames(body, laid(model))


def laying(model: anny.AnnyModel, folder: Path, kid: bool = False) -> Laying:
    """The whole, with the synthetic file."""
    arrays = smplx_synthetic.arrays()
    path = smplx_synthetic.save(folder, arrays)
    child = None
    if kid:
        child = folder / "smplx_kid_template.npy"
        np.save(child, 0.5 * arrays["v_template"])
    read = smplx.load(path, dtype=model.dtype, kid_template=child)
    return Laying(model, read, laid(model), frames(model)[1])


def made_laying(model: anny.AnnyModel, file: Path) -> Laying:
    """The made body laid upon Anny as it was made: vertex by vertex, and with the same axes everywhere."""
    known = laid(model)
    own = dataclasses.replace(
        known, smplx=known.anny[made_smplx.vertices_of_anny()], turns=np.tile(AXES.T, (55, 1, 1))
    )  # fmt: skip
    return Laying(model, smplx.load(file, dtype=model.dtype), own, bone_frames(convertible_anny(model), own))
