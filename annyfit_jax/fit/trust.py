"""Which fits to trust: checks per person, from a `SceneFit` alone, and a score in [0, 1].

    trust = judge(fit)                          # arrays over the n people of the scene
    keep = trust.score >= THRESHOLD
    trust.reasons()                             # per person, the checks that speak against the fit

Every fit of every config is judged where it is made, and the score is stored as its field `trust`; `scores` reads it, also of
older files. A check is a number in a unit of its own; its strain is that number as a share of what is tolerated (`LIMITS`): 1
is where doubt begins. The score is 1 / (1 + s^2) with s^2 the sum of the squared strains: 0.5 where one check alone reaches its
limit. What a check cannot see (no such cue, a solver that reports no uncertainty) is NaN and strains nothing. People without a
fit score 0.

| question | check | number | unit |
|---|---|---|---|
| evidence | evidence | (4 / joints seen)^2, `annyfit_jax.fit.evidence` | share |
| | size | 20 over the person's extent in the image in pixels | share |
| | cues | cues that no photo can give, which were set aside (`inputs.cue_limits`) | count |
| plausibility | height | height phenotype off the population's mean for age and gender, in its standard deviations | sd |
| | distance | depth of the root | metres |
| | in_front | share of the seen joints that are not in front of the camera | share |
| | limits | phenotypes at the end of their range; angles as far over their anatomical limits as is tolerated | count |
| | penetration | overlap with the others, deepest pair of limb spheres | metres |
| agreement | reprojection | mean error of the confident body keypoints, over the extent of what is seen of the person | share |
| | proportions | log of how much larger head or body are in the image than in the fit | log |
| | depth | log(depth cue x scale of the scene / depth of the visible surface): against the others of the scene | log |
| | scale | log of the scale of the scene's depth cues: against size in the image, absolutely | log |
| | age | age of the fit against its word, over half the way to the neighbouring class | share |
| | gender | the same for gender | share |
| convergence | converged | 1 where the solver still had something to gain | 0 or 1 |
| | uncertainty | standard deviation of the height of the body | metres |
| | alternatives | distance of the joints to those of other starts that explain the picture as well | metres |

Uncertainty is that of the height of the body in metres, which stands for that of the depth where the focal length is known. The
deviation of the depth as its share would distrust every baby, whose size is less certain in shares and more certain in metres
than that of an adult; and everybody in photos whose focal length was guessed. There the score speaks of the body: its distance
is as uncertain as the focal length, see `sd_depth_m`.

`THRESHOLD` keeps the precision that `experiments/results/annyfit_plus.md` reports on scenes with known truth
(`python -m experiments.studies.calibrate_uncertainty` measures it): depth within 10 % and joints, hips aligned, within 80 mm.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from annyfit_jax.fit import evidence
from annyfit_jax.fit.second_order.map_body import RADII, SPHERES
from annyfit_jax.inputs.cue_limits import IMPOSSIBLE
from annyfit_jax.people import anatomy
from annyfit_jax.people.anthropometry import mean_height_phenotypes
from annyfit_jax.people.camera import project
from annyfit_jax.people.words import AGE_CLASSES, GENDER_CLASSES
from annyfit_jax.records.fit_files import SceneFit
from body_models import anny

THRESHOLD = 0.5
LIMITS = {
    "evidence": 1.0, "size": 1.0, "cues": 1.0, "height": 4.0, "distance": 60.0, "in_front": 0.05, "limits": 0.8,
    "penetration": 0.1, "reprojection": 0.12, "proportions": 0.5, "depth": 0.03, "scale": 0.4, "age": 2.0, "gender": 1.0,
    "converged": 2.0, "uncertainty": 0.12, "alternatives": 0.08,
}  # fmt: skip
"""Where doubt begins; chosen on synthetic scenes of other seeds than those that the precision is reported for."""
_EDGE = 1e-3
_ANGLE_RAD = 0.3
_LEAST_EXTENT_PX = 1.0
_FEW_JOINTS = 4.0
_SMALL_PX = 20.0
_HEIGHT_SD = 0.1
"""Spread of the height phenotype of people of one age and gender, as `MapObjective.height_sd`."""
_FRONT_M = 0.05
_SURE = 0.5
"""Confidence from which a keypoint counts fully, where the fit does not say what it saw."""
_PARTS = ((0, 5), (5, 17))
"""Keypoints of the head, and of the body: the first, and the one behind the last."""
_PAIRS = 6
_PART_NOISE_PX, _PART_NOISE_SHARE = 4.0, 0.01


@dataclass(frozen=True)
class Trust:
    """Checks of the n people of a scene, see the module's table; NaN = cannot be checked."""

    evidence: Float[np.ndarray, "n"]
    size: Float[np.ndarray, "n"]
    cues: Float[np.ndarray, "n"]
    height: Float[np.ndarray, "n"]
    distance: Float[np.ndarray, "n"]
    in_front: Float[np.ndarray, "n"]
    limits: Float[np.ndarray, "n"]
    penetration: Float[np.ndarray, "n"]
    reprojection: Float[np.ndarray, "n"]
    proportions: Float[np.ndarray, "n"]
    depth: Float[np.ndarray, "n"]
    scale: Float[np.ndarray, "n"]
    age: Float[np.ndarray, "n"]
    gender: Float[np.ndarray, "n"]
    converged: Float[np.ndarray, "n"]
    uncertainty: Float[np.ndarray, "n"]
    alternatives: Float[np.ndarray, "n"]
    fitted: np.ndarray
    """(n,) bool: whether there is a fit at all."""

    @property
    def strains(self) -> dict[str, Float[np.ndarray, "n"]]:
        """Every check as a share of its limit; 0 where it cannot be checked."""
        return {name: np.nan_to_num(np.abs(getattr(self, name)) / limit, nan=0.0) for name, limit in LIMITS.items()}

    @property
    def score(self) -> Float[np.ndarray, "n"]:
        """(n,) in [0, 1]."""
        total = sum(strain**2 for strain in self.strains.values())
        return np.where(self.fitted, 1.0 / (1.0 + total), 0.0)

    def reasons(self) -> list[list[str]]:
        """Per person: names of the checks beyond their limit, the worst first; `not fitted` where there is no fit."""
        strains = self.strains
        out = []
        for person, fitted in enumerate(self.fitted):
            bad = sorted((-s[person], name) for name, s in strains.items() if s[person] >= 1.0)
            out.append([name for _, name in bad] if fitted else ["not fitted"])
        return out


def judge(fit: SceneFit) -> Trust:
    """All checks of a fit. Fits of any solver; those that report no uncertainty leave that check out."""
    ok = fit.ok
    shape = np.asarray(fit.shape, np.float64)
    if tuple(fit.phenotype_labels) not in (anny.PHENOTYPE_LABELS, ()):  # another body: no words, no limits
        shape = np.full((len(fit), 6), np.nan)
    joints, extent = _observed(fit)
    gap, scale = _depth_gaps(fit)
    return Trust(
        evidence=(_FEW_JOINTS / np.maximum(joints, 1e-3)) ** 2,
        size=_SMALL_PX / np.maximum(extent, 1e-3),
        cues=np.array([sum(word in IMPOSSIBLE for word in str(note).split(";")) for note in fit.notes], np.float64),
        height=_off_population(shape),
        distance=np.asarray(fit.depth_m, np.float64),
        in_front=_not_in_front(fit),
        limits=_at_limits(fit, shape[:, 2:]),
        penetration=_penetration(fit),
        reprojection=_error_share(fit, extent),
        proportions=_proportions(fit, extent),
        depth=gap,
        scale=scale,
        age=_word_gap(shape[:, 1], fit.age_word, np.array(list(AGE_CLASSES.values()))),
        gender=_word_gap(shape[:, 0], np.where(fit.gender_word == GENDER_CLASSES["neutral"], -1.0, fit.gender_word),
                         np.array([GENDER_CLASSES["male"], GENDER_CLASSES["female"]])),
        converged=np.where(np.isnan(fit.converged), np.nan, 1.0 - fit.converged),
        uncertainty=np.asarray(fit.sd_height_m, np.float64),
        alternatives=np.asarray(fit.spread_m, np.float64),
        fitted=ok,
    )  # fmt: skip


def scores(fit: SceneFit) -> Float[np.ndarray, "n"]:
    """The stored trust of each person, 0 without a fit; of fits that were stored without it, and of predictions, what `judge`
    finds."""
    stored = np.where(fit.ok, np.asarray(fit.trust, np.float64), 0.0)
    return judge(fit).score if np.isnan(stored).any() else stored


def _observed(fit: SceneFit) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Joints seen and their extent in pixels; where the fit does not say, by its 2D keypoints, NaN without one."""
    keypoints = np.nan_to_num(np.asarray(fit.keypoints_2d, np.float64))
    cues = (keypoints, np.zeros((len(fit), 0, 3)), _SURE)
    some = (keypoints[..., 2] > 0).any(1)
    joints = np.where(np.isnan(fit.evidence) & some, evidence.joints_seen(*cues), fit.evidence)
    extent = np.where(np.isnan(fit.extent_px) & some, evidence.extent_px(*cues), fit.extent_px)
    return joints.astype(np.float64), extent.astype(np.float64)


def _error_share(fit: SceneFit, extent: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Over the extent of what is seen; of fits that do not know it, over that of the projected keypoints."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        px = project(np.asarray(fit.fitted_keypoints_3d, np.float64), np.asarray(fit.K, np.float64))
        fitted = (px.max(1) - px.min(1)).max(-1)
    return fit.reprojection_px / np.maximum(np.where(np.isnan(extent), fitted, extent), _LEAST_EXTENT_PX)


def _off_population(shape: Float[np.ndarray, "n 6"]) -> Float[np.ndarray, "n"]:
    ages, male, female = mean_height_phenotypes()
    gender, age = np.clip(shape[:, 0], 0.0, 1.0), shape[:, 1]
    mean = (1.0 - gender) * np.interp(age, ages, male) + gender * np.interp(age, ages, female)
    return np.abs(shape[:, 4] - mean) / _HEIGHT_SD


def _not_in_front(fit: SceneFit) -> Float[np.ndarray, "n"]:
    """Of the seen keypoints; of a person of whom none is seen, of all."""
    seen = np.nan_to_num(fit.keypoints_2d[..., 2]) > 0
    seen |= ~seen.any(1, keepdims=True)
    behind = seen & (np.asarray(fit.fitted_keypoints_3d, np.float64)[..., 2] < _FRONT_M)
    return behind.sum(1) / seen.sum(1)


def _proportions(fit: SceneFit, extent: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The larger of head and body: |log| of how much longer the distances between its seen keypoints are in the image than
    those of the fit, the median over all pairs of keypoints; NaN where neither part shows four keypoints.

    A body of the wrong age has a head of the wrong size: at the place of its shoulders it cannot be laid onto the seen one.
    """
    points = np.asarray(fit.fitted_keypoints_3d, np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        fitted = project(points, np.asarray(fit.K, np.float64))
    seen = np.asarray(fit.keypoints_2d, np.float64)
    known = (points[..., 2] > _FRONT_M) & (seen[..., 2] >= 0.5 * _SURE)
    noise = _PART_NOISE_PX + _PART_NOISE_SHARE * np.nan_to_num(extent)[:, None]
    out = np.full((len(fit), len(_PARTS)), np.nan)
    for part, (first, last) in enumerate(_PARTS):
        i, j = (index + first for index in np.triu_indices(last - first, 1))
        pairs = known[:, i] & known[:, j]
        # What keypoints are off is added: the ratio of two short lengths says little.
        longer = (_lengths(seen[..., :2], i, j) + noise) / (_lengths(fitted, i, j) + noise)
        for person in np.flatnonzero(pairs.sum(1) >= _PAIRS):
            out[person, part] = abs(np.log(np.median(longer[person, pairs[person]])))
    return np.fmax.reduce(out, axis=1)


def _lengths(px: Float[np.ndarray, "n 17 2"], i: np.ndarray, j: np.ndarray) -> Float[np.ndarray, "n pairs"]:
    return np.linalg.norm(px[:, i] - px[:, j], axis=-1)


def _depth_gaps(fit: SceneFit) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """How far each depth cue is off its body after scaling, signed, and the log of that scale, which is one for the scene.

    Where the solver did not say how the scene's cues scale, their median ratio does.
    """
    surface = np.where(np.isnan(fit.visible_depth_m), fit.depth_m, fit.visible_depth_m)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(np.asarray(fit.depth_cue_m, np.float64) / surface)
    known = np.isfinite(ratio)
    if not known.any():
        return np.full(len(fit), np.nan), np.full(len(fit), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.log(fit.depth_scale.astype(np.float64))
    scale = np.where(np.isnan(scale), -np.median(ratio[known]), scale)
    return ratio + scale, np.where(known, np.abs(scale), np.nan)


def _word_gap(value: np.ndarray, word: np.ndarray, anchors: np.ndarray) -> Float[np.ndarray, "n"]:
    """Distance to the word's anchor over half the way to the next anchor on that side: 1 = between two classes."""
    anchors = np.sort(anchors)
    index = np.abs(np.asarray(word, np.float64)[:, None] - anchors).argmin(1)
    mine = anchors[index]
    above = anchors[np.minimum(index + 1, len(anchors) - 1)] - mine
    below = mine - anchors[np.maximum(index - 1, 0)]
    span = np.where(value >= mine, above, below)
    span = np.where(span > 0, span, np.maximum(above, below))
    return np.where(np.asarray(word) >= 0, np.abs(value - mine) / (0.5 * span), np.nan)


def _at_limits(fit: SceneFit, build: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n"]:
    """Muscle, weight, height, proportions at an end of their range, and the largest angle over an anatomical limit."""
    ends = ((build <= _EDGE) | (build >= 1 - _EDGE)).sum(1)
    bones, axes, low, high = _limits()
    over = np.zeros(len(fit))
    if fit.pose.shape[1] > bones.max():
        angle = (np.asarray(fit.pose, np.float64)[:, bones] * axes).sum(-1)
        over = (np.maximum(low - angle, 0) + np.maximum(angle - high, 0)).max(1)
    return np.where(np.isnan(build).any(1), np.nan, ends + over / _ANGLE_RAD)


@functools.cache
def _limits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    limits = anatomy.joint_limits(anny.load())
    return np.asarray(limits.bones, int), np.asarray(limits.axes), np.asarray(limits.low), np.asarray(limits.high)


def _penetration(fit: SceneFit) -> Float[np.ndarray, "n"]:
    """Metres that the deepest pair of limb spheres of a person and any other overlap; 0 where nobody is near."""
    ok = np.flatnonzero(fit.ok)
    out = np.where(fit.ok, 0.0, np.nan)
    centres = np.einsum("sk,nki->nsi", SPHERES, np.asarray(fit.fitted_keypoints_3d, np.float64)[ok])
    radii = RADII * np.asarray(fit.height_m, np.float64)[ok, None]
    for a, first in enumerate(ok):
        for b in range(a):
            distance = np.linalg.norm(centres[a][:, None] - centres[b][None], axis=-1)
            deepest = max(float((radii[a][:, None] + radii[b][None] - distance).max()), 0.0)
            out[first], out[ok[b]] = max(out[first], deepest), max(out[ok[b]], deepest)
    return out
