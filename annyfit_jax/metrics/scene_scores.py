"""Fits against the exact truth of synthetic scenes, or hand labels of photos. Pure numpy; metres unless a name says mm, px.

The synthetic protocol (`scene_errors`, `pool`) follows the evaluation tool of the synthetic scenes:

| metric | unit | definition |
|---|---|---|
| `err2d_px`, `err2d_median_px` | px | distance of projected COCO-17 joints to the noise-free truth, over visible joints |
| `pckh06` | share | visible joints nearer than 0.6 x the head length in the image |
| `mpjpe_root` | mm | mean joint distance, each person aligned at the midpoint of the hips |
| `pa_mpjpe` | mm | the same after a similarity transform per person |
| `joint_pa_mpjpe` | mm | the same after one similarity for all people of a scene; mean over scenes of 2 people or more |
| `mpjpe_abs` | mm | camera space, no alignment |
| `depth_abs_err`, `depth_rel_err` | m, share | error of the root's camera z; divided by the true z |
| `pcrd02` | share | pairs whose root depths are rightly nearer, equal (within 0.2 m) or further |
| `pcrd02_far` | share | the same over pairs that truly differ by more than 0.2 m |
| `age_acc`, `age_f1` | share | nearest of six age anchors; macro F1 over the classes present in the truth |
| `gender_acc`, `gender_f1` | share | female above 0.5, male below; exactly 0.5 is neutral, hence wrong for both |
| `gender_acc_strict` | share | nearest of male 0, neutral 0.5, female 1 |
| `height_err` | m | error of the resting body's height |
| `transl_abs_err` | m | distance of the root bone in camera space; only where both sides give it |
| `age_years_err` | years | error of the age phenotype through Anny's WHO knots; only where both sides give it |

People, joints and pairs are pooled over all scenes before the mean, except `joint_pa_mpjpe`. A mean of nothing is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from annyfit_jax.metrics.depth_order import depth_relation, ordered_pairs
from annyfit_jax.metrics.joint_errors import distances, joint_pa_mpjpe, pa_mpjpe, root_mpjpe
from annyfit_jax.metrics.word_scores import (
    AGE_ANCHORS,
    GENDER_ANCHORS,
    age_years,
    gender_side,
    macro_f1,
    nearest_anchor,
)
from annyfit_jax.people.camera import project

PCKH_SHARE = 0.6
"""Of the head length in the image; Relative Human's PCKh (`keypoint_scores`) has another threshold."""
_MM = 1000.0


@dataclass
class People:
    """What the protocol compares of the n people of one scene."""

    joints: Float[np.ndarray, "n 17 3"]
    """COCO-17 in camera space."""
    depth: Float[np.ndarray, "n"]
    """Camera z of the root bone."""
    gender: np.ndarray
    """(n,) phenotype values of a fit, class indices (`GENDER_ANCHORS`) of the truth."""
    age: np.ndarray
    """(n,) phenotype values of a fit, class indices (`AGE_ANCHORS`) of the truth."""
    height: Float[np.ndarray, "n"]
    """Height of the resting body."""
    transl: Float[np.ndarray, "n 3"] | None = field(default=None, kw_only=True)
    """Root bone in camera space; with it on both sides `transl_abs_err` is known."""
    age_phenotype: Float[np.ndarray, "n"] | None = field(default=None, kw_only=True)
    """In [0, 1]; with it on both sides `age_years_err` is known."""


@dataclass
class Truth(People):
    """Ground truth of a synthetic scene."""

    joints_px: Float[np.ndarray, "n 17 2"]
    """Noise-free projections."""
    visible: Bool[np.ndarray, "n 17"]
    """Inside the image and not hidden behind another person."""
    head_px: Float[np.ndarray, "n"]
    """Head length in the image."""

    def select(self, index: np.ndarray) -> Truth:
        """The people named by an integer or boolean index."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return replace(self, **{name: np.asarray(x)[index] for name, x in values if x is not None})


def scene_errors(fit: People, truth: Truth, intrinsics: Float[np.ndarray, "3 3"]) -> dict[str, np.ndarray]:
    """Errors of one scene per joint, person, pair or scene, to be pooled by `pool`. Raises ValueError on unequal counts."""
    joints = np.asarray(fit.joints, np.float64)
    target = np.asarray(truth.joints, np.float64)
    if joints.shape != target.shape:
        raise ValueError(f"scene_errors: joints of the fit {joints.shape} and of the truth {target.shape} differ")
    n = len(joints)
    visible = np.asarray(truth.visible, bool)
    error_px = np.linalg.norm(project(joints, np.asarray(intrinsics, np.float64)) - truth.joints_px, axis=-1)
    z, true_z = np.asarray(fit.depth, np.float64), np.asarray(truth.depth, np.float64)
    i, j = np.triu_indices(n, 1)
    relation = depth_relation(true_z[i] - true_z[j])
    related = depth_relation(z[i] - z[j]) == relation
    more = {}
    if fit.transl is not None and truth.transl is not None:
        more["transl_abs_err"] = distances(fit.transl, np.asarray(truth.transl, np.float64))
    if fit.age_phenotype is not None and truth.age_phenotype is not None:
        more["age_years_err"] = np.abs(age_years(fit.age_phenotype) - age_years(truth.age_phenotype))
    return {
        "err2d_px": error_px[visible],
        "pckh06": (error_px < PCKH_SHARE * np.asarray(truth.head_px)[:, None])[visible],
        "mpjpe_root": root_mpjpe(joints, target) * _MM,
        "pa_mpjpe": pa_mpjpe(joints, target) * _MM,
        "joint_pa_mpjpe": np.array([joint_pa_mpjpe(joints, target) * _MM] if n > 1 else []),
        "mpjpe_abs": distances(joints, target).mean(-1) * _MM,
        "depth_abs_err": np.abs(z - true_z),
        "depth_rel_err": np.abs(z - true_z) / true_z,
        "pcrd02": related,
        "pcrd02_far": related[relation != 0],
        "age": nearest_anchor(fit.age, AGE_ANCHORS),
        "age_truth": np.asarray(truth.age, np.int64),
        "gender": gender_side(fit.gender),
        "gender_strict": nearest_anchor(fit.gender, GENDER_ANCHORS),
        "gender_truth": np.asarray(truth.gender, np.int64),
        "height_err": np.abs(np.asarray(fit.height, np.float64) - truth.height),
        **more,
    }


def pool(scenes: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    """The metrics of the module's table, with `scenes`, `people` and `pairs` counted; without those of age and gender where the
    errors lack them, of bodies that have neither."""
    if not scenes:
        raise ValueError("pool: expected the errors of at least one scene")
    keys = [key for key in scenes[0] if all(key in scene for scene in scenes)]
    all_ = {key: np.concatenate([scene[key] for scene in scenes]) for key in keys}
    return {
        "scenes": len(scenes),
        "people": len(all_["mpjpe_abs"]),
        "pairs": len(all_["pcrd02"]),
        "err2d_px": _mean(all_["err2d_px"]),
        "err2d_median_px": _median(all_["err2d_px"]),
        **{
            key: _mean(all_[key])
            for key in (
                "pckh06", "mpjpe_root", "pa_mpjpe", "joint_pa_mpjpe", "mpjpe_abs", "depth_abs_err", "depth_rel_err",
                "pcrd02", "pcrd02_far",
            )
        },
        **(_words(all_) if "age" in all_ else {}),
        "height_err": _mean(all_["height_err"]),
        **{key: _mean(all_[key]) for key in ("transl_abs_err", "age_years_err") if key in all_},
    }  # fmt: skip


def _words(all_: dict[str, np.ndarray]) -> dict[str, float]:
    return {
        "age_acc": _mean(all_["age"] == all_["age_truth"]),
        "age_f1": macro_f1(all_["age"], all_["age_truth"]),
        "gender_acc": _mean(all_["gender"] == all_["gender_truth"]),
        "gender_f1": macro_f1(all_["gender"], all_["gender_truth"]),
        "gender_acc_strict": _mean(all_["gender_strict"] == all_["gender_truth"]),
    }


# ------------------------------------------------------------------------------------------------ labelled photos


def labelled_errors(
    joints: Float[np.ndarray, "n 17 3"],
    depth: Float[np.ndarray, "n"],
    layer: Int[np.ndarray, "n"],
    keypoints: Float[np.ndarray, "n 17 3"],
    boxes: Float[np.ndarray, "n 4"],
    intrinsics: Float[np.ndarray, "3 3"],
) -> dict[str, np.ndarray]:
    """Errors of one photo against labelled keypoints (x, y, confidence; 0 = not labelled) and depth layers.

    `err2d_px` per labelled keypoint, `err2d_box` the same divided by the square root of the person's box area (x0, y0, x1,
    y1), `ordered_pairs` per pair in different layers.
    """
    pixels = project(np.asarray(joints, np.float64), np.asarray(intrinsics, np.float64))
    error = np.linalg.norm(pixels - keypoints[..., :2], axis=-1)
    labelled = (keypoints[..., 2] > 0) & np.isfinite(error)
    size = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    return {
        "err2d_px": error[labelled],
        "err2d_box": (error / size[:, None])[labelled],
        "ordered_pairs": ordered_pairs(depth, layer),
        "people": np.isfinite(depth),
    }


def pool_labelled(photos: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    """Means over all labelled keypoints and all pairs of all photos."""
    if not photos:
        raise ValueError("pool_labelled: expected the errors of at least one photo")
    all_ = {key: np.concatenate([photo[key] for photo in photos]) for key in photos[0]}
    return {
        "scenes": len(photos),
        "people": int(all_["people"].sum()),
        "keypoints": len(all_["err2d_px"]),
        "pairs": len(all_["ordered_pairs"]),
        "err2d_px": _mean(all_["err2d_px"]),
        "err2d_median_px": _median(all_["err2d_px"]),
        "err2d_box": _mean(all_["err2d_box"]),
        "ordered_pairs": _mean(all_["ordered_pairs"]),
    }


def _mean(values: Iterable) -> float:
    values = np.asarray(values, np.float64)
    return float(values.mean()) if len(values) else float("nan")


def _median(values: Iterable) -> float:
    values = np.asarray(values, np.float64)
    return float(np.median(values)) if len(values) else float("nan")
