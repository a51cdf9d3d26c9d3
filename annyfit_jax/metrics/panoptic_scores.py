"""CMU Panoptic: BEV's MPJPE per action, and Anny-Fit's root MPJPE and joint PA-MPJPE.

| name | what |
|---|---|
| `mpjpe`, `mpjpe_<action>` | BEV, mm: joints at the pelvis, sum over visible joints **/ 14**; a miss costs 150 mm; false positives nothing; mean over people |
| `root_mpjpe` | Anny-Fit's column: COCO-17, root = middle of the hips, joints with ground-truth confidence, matched people |
| `joint_pa_mpjpe` | Anny-Fit's column: one similarity per image for all matched people; mean over images |
| `pa_mpjpe` | one similarity per person, visible joints alone |
| `mpjpe_abs`, `depth_abs_err` | no alignment, mm; error of the hips' camera z, m |
| `recall`, `f1` | over people, not rounded |

BEV's ground truth is shifted by (0, 6, 3) cm except for the pelvis, and joints of confidence < 0.2 are invisible; readers give
raw joints, `bev_targets` prepares them. The evaluation code of Anny-Fit's two columns is not public; the joint set is the one
of a helper in its repository.
"""  # noqa: E501 (table rows)

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from annyfit_jax.metrics import greedy_matching
from annyfit_jax.metrics.joint_errors import at_root, distances, joint_pa_mpjpe, visible_pa_mpjpe
from annyfit_jax.metrics.people_of_image import PredictedPeople, TruthPeople
from annyfit_jax.metrics.skeletons import HIPS, LSP14, pick, shared
from annyfit_jax.people.scene import COCO17

Errors = dict[str, np.ndarray]
ACTIONS = ("haggling", "mafia", "ultimatum", "pizza")
MISS_MM = 150.0
MIN_CONFIDENCE = 0.2
MIN_JOINTS_INSIDE = 6
"""BEV counts people with more than 5 of 14 joints inside the picture."""
BEV_SHIFT_M = np.array([0.0, 0.06, 0.03])
"""Added to every joint but the pelvis when BEV's ground truth is prepared."""
UNLABELLED = -2.0
_MM = 1000.0


def bev_errors(
    predicted_2d: Float[np.ndarray, "p 14 2"],
    predicted_3d: Float[np.ndarray, "p 14 3"],
    truth_2d: Float[np.ndarray, "g 14 2"],
    truth_3d: Float[np.ndarray, "g 14 3"],
    roots: tuple[int, int] = (13, 13),
    predicted_roots: Float[np.ndarray, "p 3"] | None = None,
) -> Float[np.ndarray, "people"]:
    """BEV's error per counted person, mm, in the evaluator's conventions: matched people first, then the misses at 150 mm.

    Args:
      truth_2d, truth_3d: joints without a label at -2 (3D: visible if x > -2). People whose 2D x are all <= -2 are dropped.
      roots: index of the root joint of the prediction and of the truth.
      predicted_roots: (p, 3) roots that are not among the 14 joints; replaces `roots[0]`.
    """
    labelled = truth_2d[..., 0] > UNLABELLED
    keep = labelled.any(1)
    visible = truth_3d[..., 0] > UNLABELLED
    truth_2d, labelled, visible, target = (x[keep] for x in (truth_2d, labelled, visible, at_root(truth_3d, roots[1])))
    if len(predicted_2d) == 0:
        return np.full(len(truth_2d), MISS_MM)
    matches = greedy_matching.match_2d_greedy(
        predicted_2d, truth_2d, labelled, greedy_matching.IOU_THRESHOLD["panoptic"]
    )
    if not len(matches.pairs):
        return np.full(len(truth_2d), MISS_MM)
    root = predicted_3d[:, roots[0]] if predicted_roots is None else predicted_roots
    p, g = matches.pairs.T
    errors = distances(predicted_3d[p] - root[p, None], target[g]) * visible[g] * _MM
    return np.concatenate([errors.mean(-1), np.full(len(matches.misses), MISS_MM)])


def bev_targets(truth: TruthPeople) -> tuple[Float[np.ndarray, "g 14 2"], Float[np.ndarray, "g 14 3"]]:
    """Ground truth prepared as BEV does: people with 6 joints inside the picture, -2 for unsure joints, the shift added.

    `truth` has raw joints (any set that includes `LSP14`), `labelled_3d` their confidence test, `image_size` the picture.
    """
    points, seen = _panoptic_joints(truth, LSP14)
    pixels = pick(truth.joints_2d, truth.names, LSP14).astype(np.float64)
    inside = ((pixels > 0) & (pixels < np.asarray(truth.image_size))).all(-1)
    keep = inside.sum(1) >= MIN_JOINTS_INSIDE
    points = np.where(seen[..., None], points, UNLABELLED)
    points[:, :-1] += BEV_SHIFT_M  # also to those at -2, as published: their z is then no -2, their x still is
    return pixels[keep], points[keep]


def image_errors(predicted: PredictedPeople, truth: TruthPeople) -> Errors:
    """What one image adds to the tables, to be pooled by `pool`."""
    pixels, points = bev_targets(truth)
    ours_2d = pick(predicted.joints_2d, predicted.names, LSP14).astype(np.float64)
    ours_3d = pick(predicted.joints_3d, predicted.names, LSP14).astype(np.float64)
    bev = bev_errors(ours_2d, ours_3d, pixels, points)
    action = next((i for i, name in enumerate(ACTIONS) if name in truth.group), -1)
    return {"bev": bev, "action": np.full(len(bev), action), **_annyfit_errors(predicted, truth)}


def pool(images: Sequence[Errors]) -> dict[str, float]:
    """The metrics of the module's table over all images."""
    if not images:
        raise ValueError("panoptic.pool: expected the errors of at least one image")
    all_ = {key: np.concatenate([image[key] for image in images]) for key in images[0]}
    count, misses, extra = (int(all_[key].sum()) for key in ("count", "misses", "false_positives"))
    _, recall, f1 = greedy_matching.detection_rates(count, misses, extra)
    return {
        "scenes": len(images),
        "people": count,
        "matched": len(all_["root_mpjpe"]),
        "missed": misses,
        **{key: _mean(all_[key]) for key in ("root_mpjpe", "joint_pa_mpjpe", "pa_mpjpe", "mpjpe_abs", "depth_abs_err")},
        "mpjpe": _mean(all_["bev"]),
        **{f"mpjpe_{name}": _mean(all_["bev"][all_["action"] == i]) for i, name in enumerate(ACTIONS)},
        "recall": recall,
        "f1": f1,
    }


def _annyfit_errors(predicted: PredictedPeople, truth: TruthPeople) -> Errors:
    names = shared(predicted.names, truth.names, COCO17)  # BEV's files have no face: then the limbs
    target, seen = _panoptic_joints(truth, names)
    pixels = pick(truth.joints_2d, truth.names, names)
    ours = pick(predicted.joints_3d, predicted.names, names).astype(np.float64)
    hips = [names.index(name) for name in HIPS]
    inside = ((pixels > 0) & (pixels < np.asarray(truth.image_size))).all(-1)
    # A person to be found: both hips known (they are the root), enough joints inside the picture.
    counted = seen[:, hips].all(1) & ((seen & inside).sum(1) >= MIN_JOINTS_INSIDE)
    matches = greedy_matching.match_people(
        pick(predicted.joints_2d, predicted.names, names), pixels, seen & inside,
        greedy_matching.IOU_THRESHOLD["panoptic"], counted,
    )  # fmt: skip
    p, g = matches.pairs.T
    p3, g3, visible = ours[p], target[g], seen[g]
    rooted = distances(at_root(p3, hips), at_root(g3, hips))
    one_similarity = joint_pa_mpjpe(p3, g3, visible) * _MM
    middle = lambda x: x[:, hips].mean(1)  # noqa: E731
    return {
        "count": np.array([int(counted.sum())]),
        "misses": np.array([len(matches.misses)]),
        "false_positives": np.array([len(matches.false_positives)]),
        "root_mpjpe": _per_person(rooted, visible) * _MM,
        "joint_pa_mpjpe": np.array([one_similarity] if len(p) else []),
        "pa_mpjpe": visible_pa_mpjpe(p3, g3, visible) * _MM,
        "mpjpe_abs": _per_person(distances(p3, g3), visible) * _MM,
        "depth_abs_err": np.abs(middle(p3)[:, 2] - middle(g3)[:, 2]),
    }


def _panoptic_joints(truth: TruthPeople, names: Sequence[str]) -> tuple[np.ndarray, Bool[np.ndarray, "g J"]]:
    if truth.joints_3d is None or truth.labelled_3d is None or truth.image_size is None:
        raise ValueError(f"{truth.name}: the panoptic protocol needs 3D joints, their labels and the image size")
    points = pick(truth.joints_3d, truth.names, names).astype(np.float64)
    return points, pick(truth.labelled_3d[..., None], truth.names, names)[..., 0]


def _per_person(errors: np.ndarray, visible: np.ndarray) -> np.ndarray:
    return np.where(visible, errors, 0.0).sum(1) / np.maximum(visible.sum(1), 1)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
