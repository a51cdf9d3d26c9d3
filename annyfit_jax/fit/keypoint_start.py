"""A starting point from 2D keypoints and words alone: no network, no feed-forward estimator.

Per person: phenotypes from the age and gender words at calibrated heights; depth from the size of body segments in pixels;
root orientation and a coarse leg posture by searching a grid of them for the one that explains the keypoints best. Limbs
are left to the optimisation, under joint limits (`annyfit_jax.people.anatomy`).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from annyfit_jax.people import anatomy
from annyfit_jax.people.anthropometry import mean_height_phenotypes
from annyfit_jax.people.scene import COCO17, BodyParameters, Scene
from body_models import anny

DEFAULT_AGE = 0.66
DEFAULT_GENDER = 0.5

# Segments whose pixel length bounds the depth from above: foreshortening only makes a segment look farther.
SEGMENTS = (
    ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"), ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"), ("left_shoulder", "left_elbow"), ("right_shoulder", "right_elbow"),
    ("left_elbow", "left_wrist"), ("right_elbow", "right_wrist"), ("left_hip", "left_knee"), ("right_hip", "right_knee"),
    ("left_knee", "left_ankle"), ("right_knee", "right_ankle"), ("left_ear", "right_ear"),
)  # fmt: skip
# Short or soft segments, for heads that look over a shoulder: used where none of the above is visible.
HEAD_SEGMENTS = (
    ("left_eye", "right_eye"), ("nose", "left_ear"), ("nose", "right_ear"), ("nose", "left_shoulder"),
    ("nose", "right_shoulder"), ("left_ear", "left_shoulder"), ("right_ear", "right_shoulder"),
)  # fmt: skip
# How much a keypoint says about the root orientation before the limbs are known.
_WEIGHTS = {"nose": 0.8, "eye": 0.8, "ear": 0.8, "shoulder": 1.0, "hip": 1.0, "knee": 0.5, "ankle": 0.3, "elbow": 0.2}
_WRIST_WEIGHT = 0.05
# Coarse postures (flexions in radians, see `anatomy.flexed_pose`) and what choosing them costs.
POSTURES: tuple[tuple[str, dict[str, float], float], ...] = (
    ("standing", {"upperleg01": -0.1, "lowerleg01": 0.1, "lowerarm01": -0.2}, 0.0),
    ("sitting", {"upperleg01": -1.4, "lowerleg01": 1.4, "lowerarm01": 0.3}, 0.03),
    ("squatting", {"upperleg01": -1.9, "lowerleg01": 2.0, "lowerarm01": 0.3}, 0.06),
)
_YAWS = np.deg2rad(np.arange(0, 360, 15))
_PITCHES = np.deg2rad(np.array([-75, -50, -25, 0, 25, 50, 75]))
_ROLLS = np.deg2rad(np.arange(-180, 180, 15))
_TILT_COST = 0.25
"""Cost of lying down against standing upright, in units of the robust keypoint error."""
_MIN_SEGMENT_PX = 5.0
_NEAREST_M = 0.3


@dataclass(frozen=True)
class KeypointStart:
    """Start of n people and what could not be known."""

    parameters: BodyParameters
    postures: list[str]
    """(n,) name of the coarse posture that was chosen."""


def calibrated_phenotypes(age: Float[np.ndarray, "n"], gender: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 6"]:
    """Phenotypes of the average body for age and gender anchors; -1 = unknown (an adult, between the sexes).

    All-0.5 is not the average body (a man of 1.90 m): `height` comes from the WHO-calibrated population table.
    """
    age = np.where(age < 0, DEFAULT_AGE, age)
    gender = np.where(gender < 0, DEFAULT_GENDER, gender)
    ages, male, female = mean_height_phenotypes()
    height = (1 - gender) * np.interp(age, ages, male) + gender * np.interp(age, ages, female)
    shape = np.full((len(age), 6), 0.5)
    shape[:, 0], shape[:, 1], shape[:, 4] = gender, age, height
    return shape


class KeypointStarter:
    """Makes starts for one body model; holds its contracted keypoints and the posture templates."""

    def __init__(self, model: anny.AnnyModel) -> None:
        self._points = anny.contract(model, np.asarray(model.keypoint_regressor)[:17])
        self._poses = np.stack([anatomy.flexed_pose(model, flexions) for _, flexions, _ in POSTURES])
        self._place = jax.jit(anny.points)
        rotations = _orientation_grid()
        self._rotations, self._tilt = rotations, 0.5 * (1.0 + rotations[:, 1, 2])  # body up (z) against camera down (y)
        self._facing = rotations[:, 2, 1]  # body back (y) along camera forward (z): 1 = faces the camera
        self._rotvecs = Rotation.from_matrix(rotations).as_rotvec()
        parts = [name.split("_")[-1] for name in COCO17]
        self._weights = np.array([_WEIGHTS.get(part, _WRIST_WEIGHT) for part in parts])
        index = {name: i for i, name in enumerate(COCO17)}
        self._segments = [np.array([(index[a], index[b]) for a, b in tier]) for tier in (SEGMENTS, HEAD_SEGMENTS)]

    def __call__(self, scene: Scene, min_confidence: float = 0.5) -> KeypointStart:
        """Start of every person of a scene. Every person needs at least one keypoint of `min_confidence`."""
        shape = calibrated_phenotypes(scene.age, scene.gender)
        templates = self._templates(shape)
        root, transl, pose, names = [], [], [], []
        for person in range(len(scene)):
            r, t, k = self._search(scene.keypoints[person], templates[person], scene.intrinsics, min_confidence)
            root.append(r)
            transl.append(t)
            pose.append(self._poses[k])
            names.append(POSTURES[k][0])
        return KeypointStart(BodyParameters(np.array(root), np.array(transl), np.array(pose), shape), names)

    def _templates(self, shape: np.ndarray) -> Float[np.ndarray, "n posture 17 3"]:
        """Keypoints about the root head in the body's own axes; computed for a fixed number of people at a time."""
        chunk, out = 8, []
        zero = jnp.zeros(3, self._points.heads.mean.dtype)
        for start in range(0, len(shape), chunk):
            part = shape[start : start + chunk]
            padded = jnp.asarray(np.pad(part, ((0, chunk - len(part)), (0, 0)), mode="edge"), zero.dtype)
            poses = jnp.asarray(self._poses, zero.dtype)
            placed = self._place(self._points, anny.Params(padded[:, None], zero, poses, zero))
            out.append(np.asarray(placed, np.float64)[: len(part)])
        return np.concatenate(out)

    def _search(
        self, keypoints: np.ndarray, templates: np.ndarray, intrinsics: np.ndarray, min_confidence: float
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """(root_rotvec (3,), translation (3,), posture) that explain one person's keypoints best."""
        seen = keypoints[:, 2] >= min_confidence
        pixels = keypoints[:, :2]
        focal = 0.5 * (intrinsics[0, 0] + intrinsics[1, 1])
        depth = self._depth(pixels, seen, templates[0], focal)
        rays = np.c_[pixels, np.ones(17)] @ np.linalg.inv(intrinsics).T
        weight = np.where(seen, self._weights, 0.0) + 1e-9
        extent = np.ptp(pixels[seen], axis=0).max() if seen.sum() > 1 else 0.0
        sigma = max(0.1 * extent, 4.0) * depth / focal  # metres at the person's depth
        turned = np.einsum("rij,tkj->trki", self._rotations, templates)  # (posture, rotation, 17, 3)
        ahead = turned[..., 2] + depth
        ahead = np.maximum(ahead, 0.1)
        offset = rays[:, :2] * ahead[..., None] - turned[..., :2]
        centre = (weight[:, None] * offset).sum(-2) / weight.sum()
        # A second, robust pass: a keypoint that no rigid posture explains must not drag the centre.
        for _ in range(2):
            squared = ((offset - centre[..., None, :]) ** 2).sum(-1)
            robust = weight / (1.0 + squared / sigma**2) ** 2
            centre = (robust[..., None] * offset).sum(-2) / robust.sum(-1, keepdims=True)
        squared = ((offset - centre[..., None, :]) ** 2).sum(-1) / sigma**2
        error = (weight * squared / (1.0 + squared)).sum(-1) / weight.sum()
        cost = error + _TILT_COST * self._tilt + np.array([c for _, _, c in POSTURES])[:, None]
        cost = cost + self._face_cost(seen)
        posture, best = np.unravel_index(cost.argmin(), cost.shape)
        translation = np.append(centre[posture, best], depth)
        return self._rotvecs[best], translation, int(posture)

    def _face_cost(self, seen: np.ndarray) -> np.ndarray:
        """Annotators and detectors do not mark a face that is turned away."""
        if seen[5:7].any() and not seen[:3].any():
            return 0.1 * np.maximum(self._facing, 0.0)
        if seen[:3].all():
            return 0.1 * np.maximum(-self._facing, 0.0)
        return np.zeros_like(self._facing)

    def _depth(self, pixels: np.ndarray, seen: np.ndarray, template: np.ndarray, focal: float) -> float:
        """z <= f L / l for every visible segment of true length L and pixel length l: the least of them."""
        for segments in self._segments:
            a, b = segments.T
            length = np.linalg.norm(template[a] - template[b], axis=-1)
            shown = np.linalg.norm(pixels[a] - pixels[b], axis=-1)
            usable = seen[a] & seen[b] & (shown > _MIN_SEGMENT_PX)
            if usable.any():
                return float(max((focal * length[usable] / shown[usable]).min(), _NEAREST_M))
        height = np.ptp(template[:, 2])
        extent = np.ptp(pixels[seen], axis=0).max() if seen.any() else 0.0
        return float(max(focal * height / max(extent, _MIN_SEGMENT_PX), _NEAREST_M))


def _orientation_grid() -> Float[np.ndarray, "rotation 3 3"]:
    """Roll about the view axis x pitch towards the camera x yaw about the body's own axis, from facing the camera."""
    base = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    yaw, pitch, roll = (_about(axis, angles) for axis, angles in ((1, _YAWS), (0, _PITCHES), (2, _ROLLS)))
    return np.einsum("aij,bjk,ckl,lm->abcim", roll, pitch, yaw, base).reshape(-1, 3, 3)


def _about(axis: int, angles: np.ndarray) -> np.ndarray:
    i, j = [k for k in range(3) if k != axis]
    sign = -1.0 if axis == 1 else 1.0
    out = np.zeros((len(angles), 3, 3))
    out[:, axis, axis] = 1.0
    out[:, i, i] = out[:, j, j] = np.cos(angles)
    out[:, j, i], out[:, i, j] = sign * np.sin(angles), -sign * np.sin(angles)
    return out
