"""Predicted people, which no optimiser has changed, as `SceneFit`, the format of fits."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.training.training_data import Size

_JOINTS = 17


def scene_fit(
    name: str,
    image_path: str,
    image_size: Size,
    intrinsics: Float[np.ndarray, "3 3"],
    people: BodyParameters,
    labels: tuple[np.ndarray, np.ndarray],
    *,
    keypoints_3d: Float[np.ndarray, "n 17 3"],
    height_m: Float[np.ndarray, "n"],
    keypoints_2d: Float[np.ndarray, "n 17 3"] | None = None,
    notes: list[str] | None = None,
    origin: str = "",
    asset_version: str = "",
    scene_notes: list[str] | None = None,
) -> SceneFit:
    """Predicted parameters as a fit: everybody is `ok`, the start is the result, and there are no losses.

    `labels`: names of the posed bones and of the shape coefficients. Without `keypoints_2d` none is seen, and the
    reprojection error is not known.
    """
    n = len(people.root_rotvec)
    cue = np.zeros((n, _JOINTS, 3), np.float32) if keypoints_2d is None else np.asarray(keypoints_2d, np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        pixels = project(np.asarray(keypoints_3d, np.float64), np.asarray(intrinsics, np.float64))
        distance = np.linalg.norm(pixels - cue[..., :2], axis=-1)
        error = (distance * (cue[..., 2] > 0)).sum(1) / (cue[..., 2] > 0).sum(1)
    error = error.astype(np.float32)
    own: dict[str, Any] = {
        field: np.asarray(getattr(people, field), np.float32) for field in ("root_rotvec", "transl", "pose", "shape")
    }
    return SceneFit(
        name=name,
        image_size=np.asarray(image_size, np.int32),
        image_path=image_path,
        K=np.asarray(intrinsics, np.float32),
        person_ids=np.array([str(k) for k in range(n)], np.str_),
        status=np.full(n, "ok"),
        notes=np.array(notes or [""] * n, np.str_),
        root_rotvec=own["root_rotvec"],
        transl=own["transl"],
        pose=own["pose"],
        shape=own["shape"],
        shape_raw=own["shape"],
        start_root_rotvec=own["root_rotvec"],
        start_transl=own["transl"],
        start_pose=own["pose"],
        start_shape=own["shape"],
        start_origin=origin,
        height_m=np.asarray(height_m, np.float32),
        depth_m=own["transl"][:, 2],
        reprojection_px=error,
        start_reprojection_px=error,
        keypoints_2d=cue,
        fitted_keypoints_3d=np.asarray(keypoints_3d, np.float32),
        age_word=np.full(n, -1, np.float32),
        gender_word=np.full(n, -1, np.float32),
        loss_names=np.zeros(0, np.str_),
        loss_curve=np.zeros((0, 0), np.float32),
        bone_labels=np.asarray(labels[0], np.str_),
        phenotype_labels=np.asarray(labels[1], np.str_),
        asset_version=asset_version,
        config_hash="",
        config_json="",
        scene_notes=np.array(scene_notes or [], np.str_),
        set_aside=np.zeros((0, 2), np.str_),
    )
