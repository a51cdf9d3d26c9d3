"""Which fits to trust: checks per person, from a `SceneFit` alone, and a score in [0, 1].

    trust = judge(fit)                          # arrays over the n people of the scene
    keep = trust.score >= THRESHOLD
    trust.reasons()                             # per person, the checks that speak against the fit

A check is a number in a unit of its own; its strain is that number as a share of what is tolerated (`LIMITS`): 1 is where doubt
begins. The score is 1 / (1 + s^2) with s^2 the sum of the squared strains: 0.5 where one check alone reaches its limit. What a
check cannot see (no such cue, a solver that reports no uncertainty) is NaN and strains nothing. People without a fit score 0.

| check | number | unit |
|---|---|---|
| reprojection | mean error of the confident body keypoints, over the person's extent in the image | share |
| depth | log(depth cue x scale of the scene / depth of the visible surface): depth cue against size in the image | log |
| age | age of the fit against its word, over half the way to the neighbouring class | share |
| gender | the same for gender | share |
| limits | phenotypes at the end of their range; angles as far over their anatomical limits as is tolerated | count |
| penetration | overlap with the others, deepest pair of limb spheres | metres |
| converged | 1 where the solver still had something to gain | 0 or 1 |
| uncertainty | standard deviation of the depth over the depth | share |
| alternatives | distance of the joints to those of other starts that explain the picture as well | metres |

`THRESHOLD` keeps the precision that `experiments/results/annyfit_plus.md` reports on scenes with known truth
(`python -m experiments.studies.calibrate_uncertainty` measures it): depth within 10 % and joints, hips aligned, within 80 mm.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from annyfit_jax.fit.second_order.map_body import RADII, SPHERES
from annyfit_jax.people import anatomy
from annyfit_jax.people.camera import project
from annyfit_jax.people.words import AGE_CLASSES, GENDER_CLASSES
from annyfit_jax.records.fit_files import SceneFit
from body_models import anny

THRESHOLD = 0.5
LIMITS = {
    "reprojection": 0.12, "depth": 0.03, "age": 2.0, "gender": 1.0, "limits": 0.8, "penetration": 0.1, "converged": 2.0,
    "uncertainty": 0.06, "alternatives": 0.08,
}  # fmt: skip
"""Where doubt begins; chosen on synthetic scenes of other seeds than those that the precision is reported for."""
_EDGE = 1e-3
_ANGLE_RAD = 0.3
_LEAST_EXTENT_PX = 10.0


@dataclass(frozen=True)
class Trust:
    """Checks of the n people of a scene, see the module's table; NaN = cannot be checked."""

    reprojection: Float[np.ndarray, "n"]
    depth: Float[np.ndarray, "n"]
    age: Float[np.ndarray, "n"]
    gender: Float[np.ndarray, "n"]
    limits: Float[np.ndarray, "n"]
    penetration: Float[np.ndarray, "n"]
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
    return Trust(
        reprojection=fit.reprojection_px / np.maximum(_extent(fit), _LEAST_EXTENT_PX),
        depth=_depth_gap(fit),
        age=_word_gap(shape[:, 1], fit.age_word, np.array(list(AGE_CLASSES.values()))),
        gender=_word_gap(shape[:, 0], np.where(fit.gender_word == GENDER_CLASSES["neutral"], -1.0, fit.gender_word),
                         np.array([GENDER_CLASSES["male"], GENDER_CLASSES["female"]])),
        limits=_at_limits(fit, shape[:, 2:]),
        penetration=_penetration(fit),
        converged=np.where(np.isnan(fit.converged), np.nan, 1.0 - fit.converged),
        uncertainty=fit.sd_depth_m / fit.depth_m,
        alternatives=np.asarray(fit.spread_m, np.float64),
        fitted=ok,
    )  # fmt: skip


def _extent(fit: SceneFit) -> Float[np.ndarray, "n"]:
    """Larger side of the box around the projected keypoints of the fit, pixels."""
    points = np.asarray(fit.fitted_keypoints_3d, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        px = project(points, np.asarray(fit.K, np.float64))
    return (px.max(1) - px.min(1)).max(-1)


def _depth_gap(fit: SceneFit) -> Float[np.ndarray, "n"]:
    """Signed; where the solver did not say how the scene's cues scale, their median ratio does."""
    surface = np.where(np.isnan(fit.visible_depth_m), fit.depth_m, fit.visible_depth_m)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(np.asarray(fit.depth_cue_m, np.float64) / surface)
    known = np.isfinite(ratio)
    if not known.any():
        return np.full(len(fit), np.nan)
    scale = np.log(fit.depth_scale.astype(np.float64))
    return ratio + np.where(np.isnan(scale), -np.median(ratio[known]), scale)


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
