"""A scene seen through a calibrated camera: its `K`, and all its points without the distortion of the lens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from annyfit_jax.people.lens import Lens, undistort, undistort_picture
from annyfit_jax.people.scene import Scene

_POINTS = ("keypoints_133", "other_points", "landmarks")
"""Entries of `Scene.extra` that are points in pixels with a confidence."""


def calibrated(scene: Scene, intrinsics: Float[np.ndarray, "3 3"], lens: Lens | None) -> Scene:
    """The scene with a known camera. A point that the lens cannot have seen gets confidence 0, which is noted.

    Args:
      scene: its points, boxes, masks and depth map are those of the picture as the lens took it.
    """
    notes = [note for note in scene.notes if not note.startswith("intrinsics:")]
    if lens is None:
        return replace(scene, intrinsics=intrinsics, notes=notes)

    def straight(points: np.ndarray) -> np.ndarray:
        seen = points[..., 2] > 0
        moved = points.astype(np.float64)
        moved[seen, :2] = undistort(lens, moved[seen, :2], intrinsics)
        moved[~np.isfinite(moved[..., :2]).all(axis=-1)] = 0.0
        return moved

    keypoints = straight(scene.keypoints)
    if lost := int((scene.keypoints[..., 2] > 0).sum() - (keypoints[..., 2] > 0).sum()):
        notes.append(f"{lost} keypoints lie where the lens sees nothing")
    return replace(
        scene,
        intrinsics=intrinsics,
        lens=str(lens),
        keypoints=keypoints,
        dense_keypoints=straight(scene.dense_keypoints)
        if scene.dense_keypoints[..., 2].any()
        else scene.dense_keypoints,
        boxes=None if scene.boxes is None else _straight_boxes(scene.boxes, intrinsics, lens),
        masks=None if scene.masks is None else _straight_masks(scene.masks, intrinsics, lens),
        depth_map=None if scene.depth_map is None else undistort_picture(lens, scene.depth_map, intrinsics),
        notes=notes,
        extra={name: straight(value) if name in _POINTS else value for name, value in scene.extra.items()},
    )


def _straight_masks(masks: np.ndarray, intrinsics: np.ndarray, lens: Lens) -> np.ndarray:
    if not len(masks):
        return masks
    return np.stack([undistort_picture(lens, mask, intrinsics) for mask in masks])


def _straight_boxes(boxes: np.ndarray, intrinsics: np.ndarray, lens: Lens) -> np.ndarray:
    """(n, 4) boxes around the undistorted corners and middles of the sides; as they were where the lens sees no corner."""
    x0, y0, x1, y1 = boxes.T
    xm, ym = (x0 + x1) / 2, (y0 + y1) / 2
    outline = np.stack(
        [
            np.stack([x, y], -1)
            for x, y in ((x0, y0), (xm, y0), (x1, y0), (x1, ym), (x1, y1), (xm, y1), (x0, y1), (x0, ym))
        ],
        1,
    )
    moved = undistort(lens, outline, intrinsics)
    result = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)
    return np.where(np.isfinite(result).all(axis=1, keepdims=True), result, boxes)
