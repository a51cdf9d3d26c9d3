"""The exact truth of synthetic scenes, and the hand labels of photos: both come with the scene (`annyfit_jax.inputs`)."""

from __future__ import annotations

import numpy as np

from annyfit_jax.metrics.scene_scores import Truth
from annyfit_jax.people.scene import Scene, SceneError

TRUTH_KEYS = ("gt_coco3d", "gt_coco2d", "gt_visible", "gt_head_px", "gt_body_height", "gt_age_cat", "gt_gender_cat")
"""What `Scene.extra` must hold besides `Scene.truth`."""


def truth_of(scene: Scene) -> Truth:
    """Ground truth of all people of a scene. Raises SceneError naming the keys that are missing."""
    missing = [key for key in TRUTH_KEYS if key not in scene.extra] + ["gt_transl"] * (scene.truth is None)
    if missing or scene.truth is None:
        raise SceneError(f"{scene.name}: the synthetic protocol needs {', '.join(missing)}")
    extra = scene.extra
    return Truth(
        joints=extra["gt_coco3d"],
        depth=scene.truth.transl[:, 2],
        gender=extra["gt_gender_cat"],
        age=extra["gt_age_cat"],
        height=extra["gt_body_height"],
        joints_px=extra["gt_coco2d"],
        visible=extra["gt_visible"],
        head_px=extra["gt_head_px"],
        transl=scene.truth.transl,
        age_phenotype=scene.truth.shape[:, 1],
    )


def layers_of(scene: Scene) -> np.ndarray:
    """(n,) depth layers labelled by hand, -1 without one. Raises SceneError for a scene without boxes."""
    if scene.boxes is None:
        raise SceneError(f"{scene.name}: the layers protocol needs boxes")
    return scene.extra.get("hand_depth_layer", np.full(len(scene), -1))
