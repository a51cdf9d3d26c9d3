"""Quality of fitted people against ground truth or hand labels. Pure numpy; lengths in metres unless a name says mm or px.

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

People, joints and pairs are pooled over all scenes before the mean, except `joint_pa_mpjpe`. A mean of nothing is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int

from experts.words import AGE_CLASSES, GENDER_CLASSES

AGE_ANCHORS = np.array(list(AGE_CLASSES.values()))
"""baby, toddler, child, teenager, adult, senior."""
GENDER_ANCHORS = np.array(list(GENDER_CLASSES.values()))
"""male, neutral, female."""
EQUAL_DEPTH_M = 0.2
PCKH_SHARE = 0.6
_LEFT_HIP, _RIGHT_HIP = 11, 12
_MM = 1000.0


# ------------------------------------------------------------------------------------------------ geometry


def project(
    points: Float[np.ndarray, "*batch 3"], intrinsics: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "*batch 2"]:
    """Pinhole projection of camera-space points to pixels; points behind the camera mirror."""
    homogeneous = points @ np.asarray(intrinsics, np.float64).T
    return homogeneous[..., :2] / homogeneous[..., 2:]


def similarity_align(
    source: Float[np.ndarray, "*batch P 3"], target: Float[np.ndarray, "*batch P 3"]
) -> Float[np.ndarray, "*batch P 3"]:
    """The source after the least-squares similarity transform to the target (Umeyama 1991), a proper rotation.

    With centred A, B and A^T B = U S V^T: R = U D V^T, D = diag(1, 1, det(U V^T)), scale = tr(S D) / |A|^2. A mirrored
    source stays mirrored. A source without extent becomes the target's mean; non-finite input gives NaN.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or source.shape[-1:] != (3,):
        raise ValueError(f"similarity_align: expected two arrays (..., P, 3), got {source.shape} and {target.shape}")
    finite = np.isfinite(source + target).all((-2, -1), keepdims=True)
    a = np.where(finite, source, 0.0)
    b = np.where(finite, target, 0.0)
    mean = b.mean(-2, keepdims=True)
    a, b = a - a.mean(-2, keepdims=True), b - mean
    u, s, vt = np.linalg.svd(np.swapaxes(a, -1, -2) @ b)
    d = np.ones_like(s)
    d[..., -1] = np.sign(np.linalg.det(u @ vt))
    extent = (a**2).sum((-2, -1))
    scale = np.where(extent > 0, (s * d).sum(-1) / np.where(extent > 0, extent, 1.0), 0.0)
    aligned = scale[..., None, None] * (a @ ((u * d[..., None, :]) @ vt)) + mean
    return np.where(finite, aligned, np.nan)


def distances(a: Float[np.ndarray, "*batch 3"], b: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch"]:
    """Euclidean distance of corresponding points."""
    return np.linalg.norm(np.asarray(a, np.float64) - b, axis=-1)


def hip_centred(joints: Float[np.ndarray, "*batch 17 3"]) -> Float[np.ndarray, "*batch 17 3"]:
    """COCO-17 joints relative to the midpoint of the hips."""
    joints = np.asarray(joints, np.float64)
    return joints - 0.5 * (joints[..., _LEFT_HIP, None, :] + joints[..., _RIGHT_HIP, None, :])


def root_mpjpe(joints: Float[np.ndarray, "*batch 17 3"], truth: Float[np.ndarray, "*batch 17 3"]) -> np.ndarray:
    """Mean joint distance per person, both aligned at the midpoint of the hips; unit of the input."""
    return distances(hip_centred(joints), hip_centred(truth)).mean(-1)


def pa_mpjpe(joints: Float[np.ndarray, "*batch P 3"], truth: Float[np.ndarray, "*batch P 3"]) -> np.ndarray:
    """Mean joint distance per person after a similarity per person; unit of the input."""
    return distances(similarity_align(joints, truth), truth).mean(-1)


def joint_pa_mpjpe(joints: Float[np.ndarray, "n P 3"], truth: Float[np.ndarray, "n P 3"]) -> float:
    """Mean joint distance after one similarity for all people of a scene together; unit of the input."""
    stacked = np.reshape(truth, (-1, 3))
    return float(distances(similarity_align(np.reshape(joints, (-1, 3)), stacked), stacked).mean())


# ------------------------------------------------------------------------------------------------ order and classes


def depth_relation(difference: Float[np.ndarray, "*batch"], equal: float = EQUAL_DEPTH_M) -> Int[np.ndarray, "*batch"]:
    """1 where a depth difference exceeds `equal` metres, -1 where it is below -`equal`, else 0."""
    return np.where(difference > equal, 1, np.where(difference < -equal, -1, 0))


def ordered_pairs(depth: Float[np.ndarray, "n"], layer: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "pairs"]:
    """Per pair of people in different depth layers: whether the one in the nearer layer (smaller number) is nearer.

    People without a layer (-1) or without a finite depth make no pair; equal depths are wrong. The mean of the result is the
    share of correctly ordered pairs.
    """
    depth, layer = np.asarray(depth, np.float64), np.asarray(layer)
    if depth.shape != layer.shape or depth.ndim != 1:
        raise ValueError(f"ordered_pairs: expected depth (n,) and layer (n,), got {depth.shape} and {layer.shape}")
    use = (layer >= 0) & np.isfinite(depth)
    depth, layer = depth[use], layer[use].astype(np.int64)
    i, j = np.triu_indices(len(depth), 1)
    different = layer[i] != layer[j]
    i, j = i[different], j[different]
    return np.sign(depth[i] - depth[j]) == np.sign(layer[i] - layer[j])


def nearest_anchor(values: Float[np.ndarray, "n"], anchors: Float[np.ndarray, "k"]) -> Int[np.ndarray, "n"]:
    """Index of the nearest anchor, the lower one where two are equally near."""
    return np.abs(np.asarray(values, np.float64)[:, None] - anchors).argmin(1)


def gender_side(values: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """0 male below 0.5, 2 female above, 1 at exactly 0.5."""
    return np.where(values > 0.5, 2, np.where(values < 0.5, 0, 1))


def macro_f1(predicted: Int[np.ndarray, "n"], truth: Int[np.ndarray, "n"]) -> float:
    """Mean over the classes present in the truth of F1 = 2 TP / (2 TP + FP + FN); NaN for no person."""
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    scores = []
    for label in np.unique(truth):
        hit = np.sum((predicted == label) & (truth == label))
        scores.append(2 * hit / (np.sum(predicted == label) + np.sum(truth == label)))
    return _mean(scores)


# ------------------------------------------------------------------------------------------------ synthetic protocol


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
        return Truth(**{f.name: np.asarray(getattr(self, f.name))[index] for f in fields(self)})


def scene_errors(fit: People, truth: Truth, intrinsics: Float[np.ndarray, "3 3"]) -> dict[str, np.ndarray]:
    """Errors of one scene per joint, person, pair or scene, to be pooled by `pool`. Raises ValueError on unequal counts."""
    joints = np.asarray(fit.joints, np.float64)
    target = np.asarray(truth.joints, np.float64)
    if joints.shape != target.shape:
        raise ValueError(f"scene_errors: joints of the fit {joints.shape} and of the truth {target.shape} differ")
    n = len(joints)
    visible = np.asarray(truth.visible, bool)
    error_px = np.linalg.norm(project(joints, intrinsics) - truth.joints_px, axis=-1)
    z, true_z = np.asarray(fit.depth, np.float64), np.asarray(truth.depth, np.float64)
    i, j = np.triu_indices(n, 1)
    relation = depth_relation(true_z[i] - true_z[j])
    related = depth_relation(z[i] - z[j]) == relation
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
    }


def pool(scenes: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    """The metrics of the module's table, with `scenes`, `people` and `pairs` counted."""
    if not scenes:
        raise ValueError("pool: expected the errors of at least one scene")
    all_ = {key: np.concatenate([scene[key] for scene in scenes]) for key in scenes[0]}
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
        "age_acc": _mean(all_["age"] == all_["age_truth"]),
        "age_f1": macro_f1(all_["age"], all_["age_truth"]),
        "gender_acc": _mean(all_["gender"] == all_["gender_truth"]),
        "gender_f1": macro_f1(all_["gender"], all_["gender_truth"]),
        "gender_acc_strict": _mean(all_["gender_strict"] == all_["gender_truth"]),
        "height_err": _mean(all_["height_err"]),
    }  # fmt: skip


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
    error = np.linalg.norm(project(np.asarray(joints, np.float64), intrinsics) - keypoints[..., :2], axis=-1)
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
