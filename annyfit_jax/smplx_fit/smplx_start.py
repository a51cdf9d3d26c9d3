"""Where the fit of SMPL-X starts and what it believes beforehand, of the people of one scene, from their fits of Anny."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial.transform import Rotation

from annyfit_jax.conversion.convert_fits import CHILD_AGE
from annyfit_jax.fit.config import FitConfig
from annyfit_jax.fit.fit_body import FitBody
from annyfit_jax.fit.keypoint_start import calibrated_phenotypes
from annyfit_jax.fit.second_order import hypotheses
from annyfit_jax.fit.second_order.columns import DEPTH_SCALE, FOCAL, GROUND, NUM_SCENE, PITCH, ROLL
from annyfit_jax.fit.second_order.costs.shape import AGE, GENDER, HEIGHT
from annyfit_jax.fit.second_order.map_cues import FIXED, Facts
from annyfit_jax.fit.starts import PreparedScene, select_people
from annyfit_jax.people.camera import project
from annyfit_jax.people.fitted import PARTS, SceneFit
from annyfit_jax.people.scene import COCO17, BodyParameters, Scene
from annyfit_jax.smplx_fit.smplx_map_body import Laying
from body_models import smplx

_HIPS = [COCO17.index("left_hip"), COCO17.index("right_hip")]
_JOINT = {name: row for row, name in enumerate(smplx.JOINTS[1:])}
_FINGERS = {
    side: [row for name, row in _JOINT.items() if name.startswith(side) and name[-1] in "123"]
    for side in ("left", "right")
}
_HELD_SD, _LOOSE_SD = 0.05, 0.1
_HELD = {
    **{f"{side}_hand": {f"{side}_wrist": _HELD_SD, f"{side}_elbow": _LOOSE_SD} for side in ("left", "right")},
    "head": {"head": _HELD_SD, "neck": _LOOSE_SD},
    **{f"{side}_foot": {f"{side}_ankle": _HELD_SD} for side in ("left", "right")},
}  # fmt: skip
"""Joints that the fit of Anny's parts has told, and how far they may turn, radians: the fit of the body sees less of them."""
_MOST_BETA = 3.0
"""Betas of a start, at most."""
_QUARTER = 0.5 * np.pi


@dataclass(frozen=True)
class SmplxStart:
    """m people of one scene. Poses are in the frames of Anny's bones (`bone_frames`), J = 54 joints, S betas."""

    ready: PreparedScene
    """Only these people."""
    rows: Int[np.ndarray, "m"]
    """Of the scene's fit."""
    start: BodyParameters
    pose_mean: Float[np.ndarray, "m J 3"]
    pose_precision: Float[np.ndarray, "m J"]
    """0 where the mixture of poses speaks, or nothing."""
    root_mean: Float[np.ndarray, "m 3"]
    root_precision: Float[np.ndarray, "m"]
    shape_precision: Float[np.ndarray, "m S"]
    """About zero."""
    height: Float[np.ndarray, "m 2"]
    """Body height to be expected, metres, and its standard deviation."""
    reading: Int[np.ndarray, "m"]
    """Of `hypotheses.READINGS`: how the fit of Anny has read the keypoints."""
    scene: Float[np.ndarray, "q"]
    """Unknowns of the scene, NaN where Anny's fit has none."""
    roll_mode: float
    """Turn of the picture, radians; NaN where it is not known."""
    parts_seen: Bool[np.ndarray, "m 5"]
    """Whose hands, head and feet the fit of Anny has moved."""


class SmplxStarter:
    """Starts for one SMPL-X body."""

    def __init__(self, laying: Laying, anny_body: FitBody, body: FitBody, config: FitConfig) -> None:
        """
        Args:
          anny_body, body: Anny and SMPL-X as the objective takes them.
        """
        self.laying, self._config = laying, config
        self._kid = laying.model.labels.kid
        heights = jax.jit(lambda body, shape: body.height(shape))
        self._anny_height = lambda shapes: _in_chunks(
            lambda s: heights(anny_body, s), shapes, anny_body.shape_low.dtype
        )
        nobody = jnp.zeros((body.shape_low.shape[0], 1), body.shape_low.dtype)
        height, pull = jax.vjp(body.height, nobody)
        self._height = float(height[0])
        self._height_slope = np.asarray(pull(jnp.ones_like(height))[0][:, 0], np.float64)
        self._kid_height = float(body.height(nobody.at[-1].set(1.0))[0]) if self._kid else np.nan
        joints = np.asarray(laying.model.joints.mean, np.float64).T
        self._hips = joints[[1, 2]].mean(0) - joints[0]
        means = np.asarray(laying.model.hand_means, np.float64).reshape(2, 15, 3)
        own = np.zeros((1, len(_JOINT), 3))
        for side, mean in zip(("left", "right"), means, strict=True):
            own[0, _FINGERS[side]] = mean
        self._at_ease = laying.frames.of_own(own)[0]

    def can_be_fitted(self, fit: SceneFit) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
        """Whom SMPL-X can be fitted to; and who is a child without there being a shape for one."""
        child = fit.ok & (np.nan_to_num(fit.shape[:, AGE], nan=1.0) < CHILD_AGE)
        refused = child if not self._kid else np.zeros_like(child)
        return fit.ok & ~refused, refused

    def __call__(self, ready: PreparedScene, fit: SceneFit) -> SmplxStart | None:
        """The start of the people of a scene; None where there is nobody."""
        wanted, _ = self.can_be_fitted(fit)
        index = np.flatnonzero(wanted[ready.kept])
        if not len(index):
            return None
        rows = ready.kept[index]
        given = dataclasses.replace(
            ready, scene=select_people(ready.scene, index), start=ready.start.select(index), kept=rows,
            notes=[ready.notes[i] for i in index], from_cue=ready.knows_pose[index], landmarks=None,
        )  # fmt: skip
        frames, count = self.laying.frames, len(index)
        pose = frames.of_anny(fit.pose[rows])
        seen = np.nan_to_num(fit.parts_seen[rows]) > 0
        for part, joints in (
            ("left_hand", _FINGERS["left"]), ("right_hand", _FINGERS["right"]),
            ("head", [_JOINT["jaw"], _JOINT["left_eye"], _JOINT["right_eye"]]),
            ("left_foot", [_JOINT["left_foot"]]), ("right_foot", [_JOINT["right_foot"]]),
        ):  # fmt: skip
            unseen = np.flatnonzero(~seen[:, PARTS.index(part)])
            pose[unseen[:, None], np.array(joints)] = self._at_ease[joints]
        root = frames.root_of_anny(fit.root_rotvec[rows])
        height = np.asarray(fit.height_m, np.float64)[rows]
        child = fit.shape[rows, AGE] < CHILD_AGE
        hips = np.asarray(fit.fitted_keypoints_3d, np.float64)[rows][:, _HIPS].mean(1)
        turned = Rotation.from_rotvec(root).apply(np.tile(self._hips, (count, 1)))
        scale = (height / self._height)[:, None]
        start = BodyParameters(root, hips - turned * np.where(scale > 0, scale, 1.0), pose, self._betas(height, child))
        mean, precision = pose.copy(), np.zeros((count, len(_JOINT)))
        root_mean, root_precision = root.copy(), np.zeros(count)
        known = given.knows_pose
        if known.any():
            begun = given.start.select(np.flatnonzero(known))
            mean[known], root_mean[known] = frames.of_anny(begun.pose), frames.root_of_anny(begun.root_rotvec)
            precision[known] = self.laying.start_sd(self._config) ** -2.0
            root_precision[known] = self._config.map.root_sd**-2.0
        for part, joints in _HELD.items():
            told = np.flatnonzero(seen[:, PARTS.index(part)])
            for name, sd in joints.items():
                mean[told, _JOINT[name]], precision[told, _JOINT[name]] = pose[told, _JOINT[name]], sd**-2.0
        return SmplxStart(
            given, rows, start, mean, precision, root_mean, root_precision, self._shape_precision(child),
            self._expected_height(fit.shape[rows]), reading_of(given.scene, fit, rows), *_scene_of(given.scene, fit),
            seen,
        )  # fmt: skip

    def _betas(self, height: np.ndarray, child: np.ndarray) -> np.ndarray:
        """The smallest betas that give the height; of children the blend alone."""
        slope = self._height_slope.copy()
        if self._kid:
            slope[-1] = 0.0
        betas = (height - self._height)[:, None] * slope / max(float(slope @ slope), 1e-12)
        betas = betas.clip(-_MOST_BETA, _MOST_BETA)
        if self._kid:
            blend = (height - self._height) / (self._kid_height - self._height)
            betas[child] = 0.0
            betas[child, -1] = blend[child].clip(0.0, 1.0)
        return betas

    def _shape_precision(self, child: np.ndarray) -> np.ndarray:
        precision = np.ones((len(child), len(self._height_slope)))
        if self._kid:
            precision[:, -1] = np.where(child, 0.0, FIXED)
        return precision

    def _expected_height(self, shape: Float[np.ndarray, "m 6"]) -> Float[np.ndarray, "m 2"]:
        """Of the population at the age and sex that Anny's fit has found, of this build."""
        mean = np.asarray(shape, np.float64).copy()
        mean[:, HEIGHT] = calibrated_phenotypes(mean[:, AGE], mean[:, GENDER])[:, HEIGHT]
        taller = mean.copy()
        taller[:, HEIGHT] += self._config.map.height_sd
        both = self._anny_height(np.concatenate([mean, taller]))
        low, high = np.split(both, 2)
        return np.stack([low, np.maximum(high - low, 0.01)], axis=1)


def with_expected_heights(facts: Facts, expected: Float[np.ndarray, "2 N"]) -> Facts:
    """Measured heights and those to be expected as one Gaussian."""
    own = 1.0 / expected[1] ** 2
    total = np.asarray(facts.height_precision) + own
    mean = (np.asarray(facts.height_precision) * np.asarray(facts.height_m) + own * expected[0]) / total
    dtype = np.asarray(facts.height_m).dtype
    return facts._replace(height_m=mean.astype(dtype), height_precision=total.astype(dtype))


def reading_of(scene: Scene, fit: SceneFit, rows: Int[np.ndarray, "m"]) -> Int[np.ndarray, "m"]:
    """Which reading of the keypoints the fitted bodies agree with; the plain one unless another is clearly nearer."""
    pixels = project(np.asarray(fit.fitted_keypoints_3d, np.float64)[rows], np.asarray(fit.K, np.float64))
    given, confidence = scene.keypoints[..., :2], np.nan_to_num(scene.keypoints[..., 2])
    errors = []
    for index in hypotheses.READINGS:
        off = np.linalg.norm(pixels - given[:, index], axis=-1)
        errors.append(np.where(confidence[:, index] > 0, confidence[:, index] * np.nan_to_num(off), 0.0).sum(1))
    errors = np.stack(errors)
    best = errors.argmin(0)
    return np.where(errors.min(0) < _CLEARLY * errors[0], best, 0).astype(np.int32)


_CLEARLY = 0.5


def _scene_of(scene: Scene, fit: SceneFit) -> tuple[Float[np.ndarray, "q"], float]:
    """Unknowns of the scene as Anny's fit has them, in the order of `columns`, and the turn of the picture."""
    people = np.flatnonzero(fit.ok)
    first = people[0]
    pitch, roll, ground = np.asarray(fit.camera, np.float64)[first]
    mode = np.round(roll / _QUARTER) * _QUARTER % (2.0 * np.pi) if np.isfinite(roll) else np.nan
    own = (roll - mode + np.pi) % (2.0 * np.pi) - np.pi
    out = np.full(NUM_SCENE, np.nan)
    out[[PITCH, ROLL, GROUND]] = pitch, own, ground
    out[FOCAL] = np.log(fit.K[0, 0] / np.asarray(scene.intrinsics)[0, 0])
    scale = float(fit.depth_scale[first])
    out[DEPTH_SCALE] = np.log(scale) if np.isfinite(scale) and scale > 0 else np.nan
    return out, float(mode)


def _in_chunks(heights: Callable[[jax.Array], jax.Array], shapes: np.ndarray, dtype: Any) -> np.ndarray:
    """Of any number of shapes (n, 6), by one compiled program."""
    out = []
    for start in range(0, len(shapes), _CHUNK):
        part = shapes[np.minimum(np.arange(start, start + _CHUNK), len(shapes) - 1)]
        out.append(np.asarray(heights(jnp.asarray(part.T, dtype)), np.float64)[: len(shapes) - start])
    return np.concatenate(out)


_CHUNK = 64
