"""Cues that no photo can give: they are set aside one by one, so that the person, and whoever stands beside, is still fitted.

What a reader lets through is finite, but a keypoint at 1e30 overflows single precision in the fit, and what is not finite there
spreads to everybody of the scene. The limits are far beyond anything that experts produce.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from annyfit_jax.people.scene import BodyParameters, Scene

REACH = 100.0
"""A point further outside than this many times the longer side of the picture is no keypoint."""
MAX_DEPTH_M = 10_000.0
MAX_LAYER = 1_000_000
MAX_TRANSL_M = 10_000.0
MAX_ROTVEC = 100.0
"""Radians: some sixteen turns."""
MAX_PHENOTYPE = 100.0
IMPOSSIBLE = (
    "keypoint_far_outside", "dense_point_far_outside", "depth_beyond_any_place", "depth_layer_beyond_any_place",
    "start_beyond_any_body",
)  # fmt: skip
"""Notes of `without_impossible_cues` that tell of a broken cue, not only of one that was clipped."""


def without_impossible_cues(scene: Scene) -> tuple[Scene, list[list[str]]]:
    """The scene with impossible cues marked as absent, and per person what was set aside, as words for the notes.

    Keypoints and dense points far outside the picture get confidence 0, confidences above 1 count as 1, depths and layers
    beyond any place are unknown, and starts beyond any body are not finite, which has them replaced. A scene in which
    nothing is impossible is returned as it is.
    """
    notes: list[list[str]] = [[] for _ in range(len(scene))]

    def note(people: Any, word: str) -> bool:
        for person in np.flatnonzero(people):
            notes[person].append(word)
        return bool(people.any())

    changed: dict[str, object] = {}
    for name, word in (("keypoints", "keypoint"), ("dense_keypoints", "dense_point")):
        points = np.asarray(getattr(scene, name))
        far = _far(points, scene.image_size)
        sure = points[..., 2] > 1
        if note(far.any(1), f"{word}_far_outside") | note(sure.any(1), f"{word}_confidence_above_1"):
            points = np.array(points, np.float64)
            points[..., 2] = np.where(far, 0.0, np.minimum(points[..., 2], 1.0))
            changed[name] = np.where(far[..., None], 0.0, points)
    depth = np.asarray(scene.median_depth)
    if note(beyond := depth > MAX_DEPTH_M, "depth_beyond_any_place"):
        changed["median_depth"] = np.where(beyond, np.nan, depth)
    layer = np.asarray(scene.depth_layer)
    if note(beyond := (layer > MAX_LAYER) | (layer < -MAX_LAYER), "depth_layer_beyond_any_place"):
        changed["depth_layer"] = np.where(beyond, -1, layer)
    if scene.start is not None and note(beyond := _beyond_any_body(scene.start), "start_beyond_any_body"):
        values = (scene.start.root_rotvec, scene.start.transl, scene.start.pose, scene.start.shape)
        changed["start"] = BodyParameters(
            *(np.where(beyond.reshape(-1, *[1] * (np.ndim(v) - 1)), np.nan, np.asarray(v, np.float64)) for v in values)
        )
    return (replace(scene, **changed) if changed else scene), notes  # pyright: ignore[reportArgumentType]


def _far(points: Float[np.ndarray, "n k 3"], image_size: tuple[int, int]) -> Bool[np.ndarray, "n k"]:
    reach = REACH * max(image_size)
    outside = ~((np.abs(points[..., 0]) <= reach) & (np.abs(points[..., 1]) <= reach))
    return outside & (points[..., 2] > 0)


def _beyond_any_body(start: BodyParameters) -> Bool[np.ndarray, "n"]:
    """NaN is not beyond: that start is known not to be finite."""
    n = len(start)
    limits = (
        (start.root_rotvec, MAX_ROTVEC), (start.transl, MAX_TRANSL_M), (start.pose, MAX_ROTVEC),
        (start.shape, MAX_PHENOTYPE),
    )  # fmt: skip
    return np.any([(np.abs(np.asarray(v)).reshape(n, -1) > limit).any(1) for v, limit in limits], axis=0)
