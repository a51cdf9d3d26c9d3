"""AGORA: detection, MPJPE and MVE over matched people, and their quotients by F1.

| name | what |
|---|---|
| `precision`, `recall`, `f1` | over people flagged valid, rounded to 2 decimals; unmatched predictions are false positives, those on people who are not valid too |
| `MPJPE`, `MVE` | mm, joints (SMPL 24, SMPL-X the first 22) and body vertices relative to the middle of joints 1 and 2; mean over matched people, rounded to 1 decimal |
| `NMJE`, `NMVE` | `MPJPE` / `f1`, `MVE` / `f1` of the **rounded** figures, rounded to 1 decimal |
| `LH_*`, `RH_*`, `F_*` | hands (wrist + 15 joints) and face (neck + 51 points), aligned at wrist and neck, which are part of the mean; **a miss enters the mean as 0** |
| `FB_*` | B + (LH + RH + F) / 3 |
| `kid_*` | the same over people flagged kid, but with the false positives of **everybody** |
| `people_precision`, `people_recall`, `people_f1` | after `greedy_matching.match_people`, not rounded, over the people to be found; predictions on others are no false positives |
| `mpjpe_mm`, `mve_mm`, `nmje_mm`, `nmve_mm` | not rounded anywhere |
| `matched_LH_*`, ... | the means of hands and face over matched people alone, without the joint aligned at |

Images without a prediction: their valid people are misses, no false positives. People flagged valid but occluded by more than
90 % are not matched and count as misses. AGORA's own evaluator was not run; this follows its public description.
"""  # noqa: E501 (table rows)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from annyfit_jax.metrics import greedy_matching
from annyfit_jax.metrics.joint_errors import at_root, distances
from annyfit_jax.metrics.people_of_image import TruthPeople
from annyfit_jax.metrics.vertex_errors import same_topology

Errors = dict[str, np.ndarray]
HIPS = (1, 2)
"""Joints of SMPL and SMPL-X whose middle is the root."""
BODY_JOINTS = {"smpl": 24, "smplx": 22}
_MM = 1000.0


class Part(NamedTuple):
    """A part with a figure of its own."""

    name: str
    joints: Int[np.ndarray, "k"]
    """Of the 127 SMPL-X joints, the one to align at included."""
    origin: int
    """Joint to align at."""
    vertices: Int[np.ndarray, "m"] | None = None
    """None where the vertex numbers are not at hand: no vertex figure then."""


_LEFT_WRIST, _RIGHT_WRIST, _NECK = 20, 21, 12


def smplx_parts(vertices: Mapping[str, Int[np.ndarray, "m"]] | None = None) -> tuple[Part, ...]:
    """Left hand, right hand and face among the 127 joints of the SMPL-X layer (55 joints, 21 more points, 51 landmarks).

    `vertices` holds the vertex numbers of `left_hand`, `right_hand`, `face` (`truth.parts` reads them).
    """
    find = (vertices or {}).get
    return (
        Part("LH", np.array([_LEFT_WRIST, *range(25, 40)]), _LEFT_WRIST, find("left_hand")),
        Part("RH", np.array([_RIGHT_WRIST, *range(40, 55)]), _RIGHT_WRIST, find("right_hand")),
        Part("F", np.array([_NECK, *range(76, 127)]), _NECK, find("face")),
    )


def image_errors(
    predicted_2d: Float[np.ndarray, "p J 2"],
    truth: TruthPeople,
    joints: Float[np.ndarray, "p K 3"],
    vertices: Float[np.ndarray, "p V 3"] | None = None,
    *,
    truth_2d: Float[np.ndarray, "g J 2"] | None = None,
    truth_joints: Float[np.ndarray, "g K 3"] | None = None,
    body_joints: int | None = None,
    body_vertices: Int[np.ndarray, "m"] | None = None,
    root: Sequence[int] = HIPS,
    parts: Sequence[Part] = (),
) -> Errors:
    """What one image adds to the tables, to be pooled by `pool`.

    Args:
      predicted_2d: joints to match by, pixels; AGORA: the first 24 in 3840 x 2160.
      truth: `counted`, `valid`, `kid`; `joints_2d`, `joints_smplx`, `vertices` unless given apart.
      joints: as many as the truth's, metres, camera.
      vertices: None = no vertex figures. Raises TopologyError where the truth's mesh is another one.
      body_joints: leading joints of the body figures; default all.
      body_vertices: numbers of the body's vertices; default all.
      root: joints whose middle is the root.
    """
    truth_2d = truth.joints_2d if truth_2d is None else truth_2d
    target = truth.joints_smplx if truth_joints is None else truth_joints
    if target is None:
        raise ValueError(f"{truth.name}: joints_smplx: the AGORA protocol needs 3D joints of the truth")
    n = len(truth)
    everybody = np.ones(n, bool)
    valid = everybody if truth.valid is None else truth.valid
    counted = valid if truth.counted is None else truth.counted
    kid = ~everybody if truth.kid is None else truth.kid
    matches = greedy_matching.match_2d_greedy(
        predicted_2d, truth_2d, iou_threshold=greedy_matching.IOU_THRESHOLD["agora"], counted=counted
    )
    plain = greedy_matching.match_people(predicted_2d, truth_2d, None, greedy_matching.IOU_THRESHOLD["agora"], counted)
    p, g = matches.pairs.T
    missed = valid.copy()
    missed[g] = False
    body = slice(body_joints)
    out = {
        "count": np.array([valid.sum()]),
        "miss": np.array([missed.sum()]),
        "false_positives": np.array([len(matches.false_positives)]),
        "plain_count": np.array([counted.sum()]),
        "plain_miss": np.array([len(plain.misses)]),
        "plain_false_positives": np.array([len(plain.false_positives)]),
        "kid_count": np.array([(valid & kid).sum()]),
        "kid_miss": np.array([(missed & kid).sum()]),
        "kid": kid[g],
        "B_MPJPE": _joint_errors(joints[p][:, body], target[g][:, body], list(root)).mean(1),
    }
    if vertices is not None and truth.vertices is not None:
        same_topology(vertices, truth.vertices)
        use = slice(None) if body_vertices is None else body_vertices
        ours, theirs = _middle(joints[p], root), _middle(target[g], root)
        out["B_MVE"] = _vertex_errors(vertices[p][:, use], truth.vertices[g][:, use], ours, theirs)
    for part in parts:
        at = list(part.joints).index(part.origin)
        error = _joint_errors(joints[p][:, part.joints], target[g][:, part.joints], [at])
        # The joint aligned at has error 0; the published mean is over all of them, the plain one is not.
        out[f"{part.name}_MPJPE"] = error.mean(1)
        out[f"matched_{part.name}_MPJPE"] = np.delete(error, at, axis=1).mean(1)
        if part.vertices is not None and "B_MVE" in out and truth.vertices is not None:
            origin, theirs = joints[p][:, part.origin], target[g][:, part.origin]
            out[f"{part.name}_MVE"] = _vertex_errors(
                np.asarray(vertices)[p][:, part.vertices], truth.vertices[g][:, part.vertices], origin, theirs
            )
    return out


def pool(images: Sequence[Errors]) -> dict[str, float]:
    """The metrics of the module's table over all images; NaN for vertex figures where there are no vertices."""
    if not images:
        raise ValueError("agora.pool: expected the errors of at least one image")
    keys = set.intersection(*(set(image) for image in images))
    all_ = {key: np.concatenate([image[key] for image in images]) for key in keys}
    total = {key: int(all_[key].sum()) for key in ("count", "miss", "false_positives", "kid_count", "kid_miss")}
    everybody = np.ones(len(all_["kid"]), bool)
    out: dict[str, float] = {
        "scenes": len(images),
        "people": total["count"],
        "matched": len(everybody),
        "missed": total["miss"],
        "false_positives": total["false_positives"],
        "kid_people": total["kid_count"],
        "kid_missed": total["kid_miss"],
    }
    for prefix, use in (("", everybody), ("kid_", np.asarray(all_["kid"], bool))):
        count, miss, extra = total[f"{prefix}count"], total[f"{prefix}miss"], total["false_positives"]
        out |= {f"{prefix}{key}": value for key, value in _figures(all_, use, count, miss, extra).items()}
    rates = greedy_matching.detection_rates(
        *(int(all_[f"plain_{key}"].sum()) for key in ("count", "miss", "false_positives"))
    )
    return out | dict(zip(("people_precision", "people_recall", "people_f1"), rates))


def _figures(all_: Errors, use: np.ndarray, count: int, miss: int, extra: int) -> dict[str, float]:
    precision, recall, f1 = greedy_matching.precision_recall_f1(count, miss, extra)
    exact_f1 = greedy_matching.detection_rates(count, miss, extra)[2]
    out = {"precision": precision, "recall": recall, "f1": f1}
    for figure, quotient in (("MPJPE", "NMJE"), ("MVE", "NMVE")):
        body = _mean(all_[f"B_{figure}"][use]) if f"B_{figure}" in all_ else float("nan")
        out[figure] = _rounded(body)
        out[quotient] = _rounded(_ratio(out[figure], f1))
        out[f"{figure.lower()}_mm"] = body
        out[f"{quotient.lower()}_mm"] = _ratio(body, exact_f1)
        parts = [name for name in ("LH", "RH", "F") if f"{name}_{figure}" in all_]
        for name in parts:
            error = all_[f"{name}_{figure}"][use]
            out[f"{name}_{figure}"] = _rounded(float(error.sum() / (len(error) + miss)) if len(error) else float("nan"))
            out[f"matched_{name}_{figure}"] = _mean(all_.get(f"matched_{name}_{figure}", all_[f"{name}_{figure}"])[use])
        if len(parts) == 3:
            whole = out[figure] + sum(out[f"{name}_{figure}"] for name in parts) / 3
            out[f"FB_{figure}"] = _rounded(whole)
            out[f"FB_{quotient}"] = _rounded(_ratio(out[f"FB_{figure}"], f1))
    return out


def _joint_errors(joints: np.ndarray, truth: np.ndarray, root: list[int]) -> np.ndarray:
    return distances(at_root(joints, root), at_root(truth, root)) * _MM


def _vertex_errors(vertices: np.ndarray, truth: np.ndarray, origin: np.ndarray, truth_origin: np.ndarray) -> np.ndarray:
    ours = np.asarray(vertices, np.float64) - origin[:, None]
    return distances(ours, np.asarray(truth, np.float64) - truth_origin[:, None]).mean(1) * _MM


def _middle(joints: np.ndarray, root: Sequence[int]) -> np.ndarray:
    return np.asarray(joints, np.float64)[:, list(root)].mean(1)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _ratio(value: float, f1: float) -> float:
    return value / f1 if f1 else float("nan")


def _rounded(value: float) -> float:
    return round(float(value), 1)
