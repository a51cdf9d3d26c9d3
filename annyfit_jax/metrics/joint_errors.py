"""Errors of joints in 3D: alignments and the means over them. Pure numpy, float64; results in the unit of the input.

| name | alignment | source |
|---|---|---|
| `root_mpjpe`, `rooted_errors` | translation, at a root joint or the middle of two | every table; the root must be named |
| `pa_mpjpe` | one similarity per person | Umeyama 1991; mmpose `procrustes`, BUDDI, roma |
| `joint_pa_mpjpe` | one similarity for all people of a scene | BUDDI "pairwise", Anny-Fit "joint PA-MPJPE" |
| `joint_pa_mpjpe_best_of_two` | the same, the lower of two assignments of two people | BUDDI; not for matched people |
| `scale_align` | s = <p, g> / <p, p>, no centring | mmpose `scale` |
| `centred_scale_align` | both centred, s = sqrt(sum |g|^2 / sum |p|^2) | BUDDI `scale` |
| `mmpose_mpjpe` | mean over visible joints; **all** joints, visible or not, enter the alignment | mmpose, as published |
| `visible_pa_mpjpe` | invisible joints are dropped before the alignment | the sensible variant |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

LEFT_HIP, RIGHT_HIP = 11, 12
"""Of COCO-17."""


def distances(
    a: Float[np.ndarray, "*#batch axis"], b: Float[np.ndarray, "*#batch axis"]
) -> Float[np.ndarray, "*batch"]:
    """Euclidean distance of corresponding points."""
    return np.linalg.norm(np.asarray(a, np.float64) - b, axis=-1)


# ------------------------------------------------------------------------------------------------ alignments


def similarity_align(
    source: Float[np.ndarray, "*batch P 3"], target: Float[np.ndarray, "*batch P 3"]
) -> Float[np.ndarray, "*batch P 3"]:
    """The source after the least-squares similarity transform to the target (Umeyama 1991), a proper rotation.

    With centred A, B and A^T B = U S V^T: R = U D V^T, D = diag(1, 1, det(U V^T)), scale = tr(S D) / |A|^2. A mirrored
    source stays mirrored. A source without extent becomes the target's mean; non-finite input gives NaN. No points: none.
    """
    source, target = _same_points(source, target, "similarity_align")
    if source.shape[-2] == 0:
        return source
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


def scale_align(
    source: Float[np.ndarray, "*batch P 3"], target: Float[np.ndarray, "*batch P 3"]
) -> Float[np.ndarray, "*batch P 3"]:
    """The source scaled about the origin by s = <source, target> / <source, source> (mmpose `scale`)."""
    source, target = _same_points(source, target, "scale_align")
    return source * _ratio((source * target).sum((-2, -1)), (source**2).sum((-2, -1)))


def centred_scale_align(
    source: Float[np.ndarray, "*batch P 3"], target: Float[np.ndarray, "*batch P 3"]
) -> Float[np.ndarray, "*batch P 3"]:
    """The source moved and scaled to the mean and the extent of the target (BUDDI `scale`)."""
    source, target = _same_points(source, target, "centred_scale_align")
    mean = target.mean(-2, keepdims=True)
    a, b = source - source.mean(-2, keepdims=True), target - mean
    return a * np.sqrt(_ratio((b**2).sum((-2, -1)), (a**2).sum((-2, -1)))) + mean


def at_root(joints: Float[np.ndarray, "*batch J 3"], root: int | Sequence[int]) -> Float[np.ndarray, "*batch J 3"]:
    """Joints relative to one of them, or to the mean of several (two hips)."""
    joints = np.asarray(joints, np.float64)
    return joints - joints[..., [root] if isinstance(root, int) else list(root), :].mean(-2, keepdims=True)


def hip_centred(joints: Float[np.ndarray, "*batch 17 3"]) -> Float[np.ndarray, "*batch 17 3"]:
    """COCO-17 joints relative to the midpoint of the hips."""
    joints = np.asarray(joints, np.float64)
    return joints - 0.5 * (joints[..., LEFT_HIP, None, :] + joints[..., RIGHT_HIP, None, :])


# ------------------------------------------------------------------------------------------------ errors


def rooted_errors(
    joints: Float[np.ndarray, "*batch J 3"], truth: Float[np.ndarray, "*batch J 3"], root: int | Sequence[int]
) -> Float[np.ndarray, "*batch J"]:
    """Distance of every joint, both sides relative to their own root."""
    return distances(at_root(joints, root), at_root(truth, root))


def root_mpjpe(joints: Float[np.ndarray, "*batch 17 3"], truth: Float[np.ndarray, "*batch 17 3"]) -> np.ndarray:
    """Mean joint distance per person, both aligned at the midpoint of the hips."""
    return distances(hip_centred(joints), hip_centred(truth)).mean(-1)


def pa_mpjpe(
    joints: Float[np.ndarray, "*batch P 3"], truth: Float[np.ndarray, "*batch P 3"]
) -> Float[np.ndarray, "*batch"]:
    """Mean joint distance per person after a similarity per person."""
    return np.asarray(distances(similarity_align(joints, truth), truth).mean(-1))


def joint_pa_mpjpe(
    joints: Float[np.ndarray, "n P 3"],
    truth: Float[np.ndarray, "n P 3"],
    visible: Bool[np.ndarray, "n P"] | None = None,
) -> float:
    """Mean joint distance after one similarity for all people of a scene together.

    With `visible`, other joints are dropped before the alignment; NaN where none is left.
    """
    rows = np.ones(np.shape(truth)[:-1], bool) if visible is None else np.asarray(visible, bool)
    source, target = np.asarray(joints, np.float64)[rows], np.asarray(truth, np.float64)[rows]
    return float(distances(similarity_align(source, target), target).mean()) if len(target) else float("nan")


def joint_pa_mpjpe_best_of_two(joints: Float[np.ndarray, "2 P 3"], truth: Float[np.ndarray, "2 P 3"]) -> float:
    """The lower `joint_pa_mpjpe` of the two ways to assign two people (BUDDI)."""
    if len(joints) != 2:
        raise ValueError(f"joint_pa_mpjpe_best_of_two: expected two people (2, P, 3), got {np.shape(joints)}")
    return min(joint_pa_mpjpe(joints, truth), joint_pa_mpjpe(np.asarray(joints)[::-1], truth))


MMPOSE_ALIGNMENTS = {"none": lambda source, _: source, "scale": scale_align, "procrustes": similarity_align}


def mmpose_mpjpe(
    joints: Float[np.ndarray, "n P 3"],
    truth: Float[np.ndarray, "n P 3"],
    visible: Bool[np.ndarray, "n P"],
    alignment: str = "none",
) -> float:
    """mmpose's figure: mean distance over the visible joints of all people, aligned with every joint, visible or not."""
    aligned = MMPOSE_ALIGNMENTS[alignment](np.asarray(joints, np.float64), np.asarray(truth, np.float64))
    return float(distances(aligned, truth)[visible].mean()) if np.any(visible) else float("nan")


def visible_pa_mpjpe(
    joints: Float[np.ndarray, "n P 3"], truth: Float[np.ndarray, "n P 3"], visible: Bool[np.ndarray, "n P"]
) -> Float[np.ndarray, "n"]:
    """PA-MPJPE per person over its visible joints alone; NaN for a person with fewer than 3 of them."""
    rows = [np.flatnonzero(v) for v in np.asarray(visible, bool)]
    return np.array(
        [float(pa_mpjpe(p[r], g[r])) if len(r) >= 3 else np.nan for p, g, r in zip(joints, truth, rows)]
    ).reshape(len(rows))


def pck(
    joints: Float[np.ndarray, "n P D"],
    truth: Float[np.ndarray, "n P D"],
    visible: Bool[np.ndarray, "n P"],
    norm: Float[np.ndarray, "n"],
    threshold: float,
) -> float:
    """Share of joints nearer than `threshold` x `norm`: first per joint, then over joints that have any (mmpose)."""
    visible = np.asarray(visible, bool)
    right = (
        np.linalg.norm(np.asarray(joints, np.float64) - truth, axis=-1) < threshold * np.asarray(norm)[:, None]
    ) & visible
    count = visible.sum(0)
    return float((right.sum(0)[count > 0] / count[count > 0]).mean()) if count.any() else float("nan")


def _same_points(source: np.ndarray, target: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or source.shape[-1:] != (3,) or source.ndim < 2:
        raise ValueError(f"{name}: expected two arrays (..., P, 3), got {source.shape} and {target.shape}")
    return source, target


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1.0), 0.0)[..., None, None]
