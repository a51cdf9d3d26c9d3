"""Fits of one made-up photo, written by hand: for readers, writers and checks of fits."""

from __future__ import annotations

import dataclasses

import numpy as np
import smplx_synthetic

from annyfit_jax.records.fit_files import SceneFit
from body_models import smplx

UPRIGHT = (np.pi / 2, 0.0, 0.0)
"""Root rotation of a person who stands and faces the camera."""


def make_fit(name: str = "photo", **changes) -> SceneFit:
    """Three people of one 640 x 480 photo: an upright adult 4 m away, a bent child at 3 m, and one who was not fitted."""
    rng = np.random.default_rng(0)
    pose = rng.normal(0.0, 0.05, (3, 162, 3)).astype(np.float32)
    pose[0] = 0.0
    values = {
        "root_rotvec": np.array([UPRIGHT, (1.2, 0.4, -0.3), UPRIGHT], np.float32),
        "transl": np.array([(-0.5, 0.1, 4.0), (0.6, 0.3, 3.0), (0, 0, 5)], np.float32),
        "pose": pose,
        "shape": np.array([(0, 0.7, 0.5, 0.4, 0.6, 0.5), (1, 0.2, 0.5, 0.5, 0.5, 0.5), (0.5,) * 6], np.float32),
    }
    for array in values.values():
        array[2] = np.nan
    starts = {f"start_{key}": value + np.float32(0.01) for key, value in values.items()}
    row = np.array([1.7, 0.9, np.nan], np.float32)
    content = {
        "name": name,
        "image_size": np.array([640, 480], np.int32),
        "image_path": "",
        "K": np.array([[554.0, 0, 320], [0, 550.0, 240], [0, 0, 1]], np.float32),
        "person_ids": np.array(["7", "left one", "9"]),
        "status": np.array(["ok", "ok", "skipped:no_keypoints"]),
        "notes": np.array(["", "no_words", ""]),
        **values,
        "shape_raw": values["shape"] + np.float32(0.001),
        **starts,
        "start_origin": "cue",
        "height_m": row,
        "depth_m": values["transl"][:, 2],
        "reprojection_px": row,
        "start_reprojection_px": row + 1,
        "keypoints_2d": rng.uniform(0, 400, (3, 17, 3)).astype(np.float32),
        "fitted_keypoints_3d": rng.normal(size=(3, 17, 3)).astype(np.float32),
        "age_word": np.array([0.66, -1, -1], np.float32),
        "gender_word": np.array([0, -1, -1], np.float32),
        "loss_names": np.array(["keypoints", "words"]),
        "loss_curve": rng.uniform(size=(5, 2)).astype(np.float32),
        "bone_labels": np.array([f"bone{i}" for i in range(162)]),
        "phenotype_labels": np.array(["gender", "age", "muscle", "weight", "height", "proportions"]),
        "asset_version": "test",
        "config_hash": "0123456789abcdef",
        "config_json": "{}",
        "scene_notes": np.array(["intrinsics: 60 degree field of view"]),
        "set_aside": np.array([("12", "crowd")]),
    }
    return SceneFit(**{**content, **changes})


def make_smplx_fit() -> SceneFit:
    """The same people as SMPL-X with 10 betas, two with a fit and one without."""
    drawn = smplx_synthetic.parameters(3)
    values = {
        "root_rotvec": drawn["root_rotvec"], "transl": drawn["translation"], "pose": drawn["pose_rotvec"],
        "shape": drawn["betas"],
    }  # fmt: skip
    values = {name: value.astype(np.float32) for name, value in values.items()}
    for value in values.values():
        value[2] = np.nan
    starts = {f"start_{name}": value for name, value in values.items()}
    return dataclasses.replace(
        make_fit(), **values, **starts, shape_raw=values["shape"], bone_labels=np.array(smplx.JOINTS[1:]),
        phenotype_labels=np.array([f"beta{i}" for i in range(10)]), asset_version="SMPLX_NEUTRAL.npz",
        image_path="photos/a.jpg",
    )  # fmt: skip
