"""From a validated scene to a starting point: which people can be fitted, from what, and what had to be repaired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from annyfit_jax.fit import evidence
from annyfit_jax.fit.config import FitConfig
from annyfit_jax.fit.keypoint_start import KeypointStart, calibrated_phenotypes
from annyfit_jax.fit.landmark_start import LandmarkStart
from annyfit_jax.inputs.cue_limits import without_impossible_cues
from annyfit_jax.people.scene import LANDMARKS_M, LANDMARKS_PX, BodyParameters, NobodyToFit, Scene, SceneError

NUM_POSED_BONES = 162
_PLACEHOLDER_DEPTH_M = 3.0
_POINTS = (LANDMARKS_PX, LANDMARKS_M, "keypoints_133", "other_points")
"""Entries of `Scene.extra` with a row per person that a fit reads."""
MIN_START_DEPTH_M = 0.1
"""A start nearer than this is behind the camera for all purposes."""


@dataclass
class PreparedScene:
    """The fittable people of a scene and their start."""

    scene: Scene
    """Only the fittable people."""
    start: BodyParameters
    kept: np.ndarray
    """(m,) index of each fittable person among the people of the input scene."""
    skipped: dict[int, str]
    """Input index -> reason, for the others."""
    skipped_ids: dict[int, str]
    """Input index -> person id, for the others."""
    notes: list[list[str]]
    """(m,) per person: what is missing or was repaired, e.g. `no_words`."""
    origin: str
    """`cue` or `keypoints`."""
    landmarks: LandmarkStart | None = None
    """A further start of the m people from their metric landmarks; None where the fit uses none."""
    from_cue: np.ndarray | None = None
    """(m,) bool: whose pose comes from a feed-forward estimate; None = everybody's where `origin` is `cue`, else nobody's."""

    @property
    def knows_pose(self) -> np.ndarray:
        """(m,) bool: `from_cue`, resolved."""
        return np.full(len(self.scene), self.origin == "cue") if self.from_cue is None else self.from_cue


def select_people(scene: Scene, index: np.ndarray) -> Scene:
    """The scene with only some of its people."""

    def pick(array):
        return None if array is None else array[index]

    # Arrays of another length are left for the one who reads them to refuse.
    arrays = {name: np.asarray(scene.extra[name]) for name in _POINTS if name in scene.extra}
    points = {name: array[index] for name, array in arrays.items() if array.shape[:1] == (len(scene),)}
    ids = scene.person_ids or [str(i) for i in range(len(scene))]
    return replace(
        scene,
        keypoints=scene.keypoints[index],
        dense_keypoints=scene.dense_keypoints[index],
        median_depth=scene.median_depth[index],
        depth_layer=scene.depth_layer[index],
        age=scene.age[index],
        gender=scene.gender[index],
        start=None if scene.start is None else scene.start.select(index),
        truth=None if scene.truth is None else scene.truth.select(index),
        person_ids=[ids[i] for i in index],
        heights=pick(scene.heights),
        distances=pick(scene.distances),
        boxes=pick(scene.boxes),
        masks=pick(scene.masks),
        extra=scene.extra | points,
    )


def prepare(scene: Scene, config: FitConfig, starter: Callable[[Scene, float], KeypointStart]) -> PreparedScene:
    """Choose the people that can be fitted and give each a finite start in front of the camera.

    Cues that no photo can give are set aside first (`inputs.cue_limits`) and noted. People without any confident keypoint and
    without dense points are set aside (`no_keypoints`), and so are those of whom too little is seen (`too_little_evidence`, see
    `annyfit_jax.fit.evidence`), unless a feed-forward estimate that is started from supports a body. A start behind the camera
    or with non-finite values is replaced by the keypoint start. Raises NobodyToFit, a SceneError, where nobody is left.
    """
    scene, impossible = without_impossible_cues(scene)
    reasons = _reasons_to_skip(scene, config)
    skipped = {i: reason for i, reason in enumerate(reasons) if reason}
    skipped_ids = {i: scene.person_ids[i] if scene.person_ids else str(i) for i in skipped}
    kept = np.array([i for i, reason in enumerate(reasons) if not reason], int)
    if not len(kept):
        raise NobodyToFit(f"{scene.name}: nobody can be fitted: {', '.join(sorted(set(reasons)))}", reasons)
    if config.start == "cue" and scene.start is None:
        raise SceneError(f"{scene.name}: config.start='cue', but the input has no starting parameters")
    part = select_people(scene, kept)
    seen = _confident(part, config)
    notes: list[list[str]] = [impossible[i] for i in kept]
    # The MAP fit searches for its starts itself, many at a time.
    search = _placeholder if config.searches_starts else lambda s: starter(s, config.keypoint_confidence).parameters
    from_cue = None
    if part.start is not None and config.start != "keypoints":
        broken = _unusable(part.start)
        origin, start = "cue", part.start
        from_cue = np.array([reason != "start_not_finite" for reason in broken])
        if any(broken):  # the search over orientations costs more than a fit: only where it is needed
            start = _repair(start, search(part), broken)
            for person, reason in enumerate(broken):
                notes[person] += [reason] if reason else []
    else:
        origin, start = "keypoints", search(part)
    start = BodyParameters(start.root_rotvec, start.transl, start.pose, np.array(start.shape, np.float32))
    if config.words_set_start:
        for column, words in ((0, part.gender), (1, part.age)):
            start.shape[:, column] = np.where(words >= 0, words, start.shape[:, column])
    for person, words in enumerate((part.gender < 0) & (part.age < 0)):
        if words:
            notes[person].append("no_words")
        if not seen[person]:
            notes[person].append("dense_points_only")
    return PreparedScene(part, start, kept, skipped, skipped_ids, notes, origin, from_cue=from_cue)


def _confident(scene: Scene, config: FitConfig) -> Bool[np.ndarray, "n"]:
    """Who has a confident keypoint."""
    return np.asarray((scene.keypoints[:, :, 2] >= config.keypoint_confidence).any(1))


def _reasons_to_skip(scene: Scene, config: FitConfig) -> list[str]:
    """Per person: why nobody can tell a body, or an empty string."""
    shown = _confident(scene, config) | (scene.dense_keypoints[:, :, 2] > 0).any(1)
    cues = (scene.keypoints, scene.dense_keypoints, config.keypoint_confidence)
    enough = evidence.enough(evidence.joints_seen(*cues), evidence.extent_px(*cues))
    supported = np.zeros(len(scene), bool)
    if scene.start is not None and config.start != "keypoints":
        supported = np.array([reason == "" for reason in _unusable(scene.start)], bool)
    return [
        "" if shown[i] and (enough[i] or supported[i]) else "too_little_evidence" if shown[i] else "no_keypoints"
        for i in range(len(scene))
    ]


def _placeholder(scene: Scene) -> BodyParameters:
    """Average bodies of the words, at rest in front of the camera."""
    n = len(scene)
    transl = np.tile([0.0, 0.0, _PLACEHOLDER_DEPTH_M], (n, 1))
    return BodyParameters(
        np.zeros((n, 3)), transl, np.zeros((n, NUM_POSED_BONES, 3)), calibrated_phenotypes(scene.age, scene.gender)
    )


def _unusable(start: BodyParameters) -> list[str]:
    """Per person: why the start cannot be started from, or an empty string."""
    reasons = []
    for person in range(len(start)):
        values = (start.root_rotvec[person], start.transl[person], start.pose[person], start.shape[person])
        if not all(np.isfinite(v).all() for v in values):
            reasons.append("start_not_finite")
        else:
            reasons.append("start_behind_camera" if start.transl[person, 2] < MIN_START_DEPTH_M else "")
    return reasons


def _repair(start: BodyParameters, fallback: BodyParameters, broken: list[str]) -> BodyParameters:
    """Replace what cannot be started from: everything that is not finite, or a position behind the camera."""
    fixed = BodyParameters(*(np.array(x) for x in (start.root_rotvec, start.transl, start.pose, start.shape)))
    for person, reason in enumerate(broken):
        if reason:
            fixed.transl[person] = fallback.transl[person]
        if reason == "start_not_finite":
            fixed.root_rotvec[person] = fallback.root_rotvec[person]
            fixed.pose[person] = fallback.pose[person]
            fixed.shape[person] = fallback.shape[person]
    return fixed
