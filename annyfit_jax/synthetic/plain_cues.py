"""Where synthetic people stand and what imperfect experts see of them (numpy, one scene at a time)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import COCO17, UNKNOWN_WORD
from annyfit_jax.people.words import AGE_CLASSES, GENDER_CLASSES

DEPTH_M = (2.0, 9.0)
_NEIGHBOUR_SHARE, _NEIGHBOUR_GAP_M = 0.35, 0.06
"""Share of the people who stand at somebody else's depth, and how closely, metres."""
_TRIES = 24
_MIN_INSIDE, _FEW_INSIDE, _MIN_GAP_M, _NEAREST_M = 9, 5, 0.45, 0.4
_NUM_JOINTS = len(COCO17)
_J = {name: i for i, name in enumerate(COCO17)}
# Capsules that hide others: two joints each, radius as a share of the torso's length.
_LIMBS = np.array(
    [(_J[f"{s}_{a}"], _J[f"{s}_{b}"]) for s in ("left", "right")
     for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))]
)  # fmt: skip
_RADII = np.array([0.10, 0.08, 0.16, 0.11] * 2 + [0.34, 0.22])
_HIDDEN_BEHIND_M = 0.12
_MIN_DEPTH_POINTS = 5
_MIN_START_DEPTH_M = 0.5


def place(
    rng: np.random.Generator,
    points: Float[np.ndarray, "n k 3"],
    image_size: tuple[int, int],
    intrinsics: Float[np.ndarray, "3 3"],
    camera_height: float,
    tilt: float,
) -> Float[np.ndarray, "n 3"]:
    """Translations that put people (points relative to their root, COCO-17 first) on the ground, in view and apart.

    Nobody comes nearer than _NEAREST_M. Where no position on the ground shows enough of a person (a toddler under a camera
    that looks up), the person floats near the middle of the image.
    """
    n, width = len(points), image_size[0]
    up = np.array([0.0, -np.cos(tilt), -np.sin(tilt)])
    low = (points @ up).min(1)
    z = rng.uniform(*DEPTH_M, (n, _TRIES))
    near = rng.random((n, _TRIES)) < _NEIGHBOUR_SHARE
    whose, offset = rng.random((n, _TRIES)), rng.normal(0.0, _NEIGHBOUR_GAP_M, (n, _TRIES))
    column = rng.uniform(0.08, 0.92, (n, _TRIES)) * width
    lift = np.where(rng.random(n) < 0.15, np.abs(rng.normal(0.0, 0.25, n)), 0.0)
    middle = rng.uniform(0.3, 0.7, (n, 2)) * image_size
    out = np.zeros((n, 3))
    for person in range(n):
        depth = z[person]
        if person:
            other = out[(whose[person] * person).astype(int), 2]
            depth = np.where(near[person], (other + offset[person]).clip(*DEPTH_M), depth)
        x = (column[person] - intrinsics[0, 2]) / intrinsics[0, 0] * depth
        # Height over the camera along `up` is -camera_height - low + lift; solved for y.
        y = (camera_height + low[person] - lift[person] - np.sin(tilt) * depth) / np.cos(tilt)
        tries = np.stack([x, y, depth], axis=-1)
        visible = inside(project(points[person, None, :_NUM_JOINTS] + tries[:, None], intrinsics), image_size).sum(-1)
        visible = np.where((points[person, :, 2].min() + depth) > _NEAREST_M, visible, -1)
        gaps = np.linalg.norm(tries[:, None, ::2] - out[None, :person, ::2], axis=-1).min(-1, initial=np.inf)
        score = np.minimum(visible, _MIN_INSIDE) - np.where(gaps < _MIN_GAP_M, _MIN_INSIDE, 0)
        best = int(score.argmax())  # the first of the best
        if visible[best] >= _FEW_INSIDE:
            out[person] = tries[best]
        else:
            centre = points[person, :_NUM_JOINTS].mean(0)
            depth_here = max(depth[best], _NEAREST_M - points[person, :, 2].min() + 1.0)
            ray = (middle[person] - intrinsics[:2, 2]) / np.diag(intrinsics)[:2]
            out[person] = [*(ray * (depth_here + centre[2]) - centre[:2]), depth_here]
    return out


def inside(pixels: Float[np.ndarray, "*batch 2"], image_size: tuple[int, int]) -> Bool[np.ndarray, "*batch"]:
    """Whether pixels lie in the image."""
    return np.asarray(((pixels >= 0) & (pixels < np.array(image_size))).all(-1))


def hidden(
    points: Float[np.ndarray, "n k 3"], joints: Float[np.ndarray, "n 17 3"], intrinsics: Float[np.ndarray, "3 3"]
) -> Bool[np.ndarray, "n k"]:
    """Which points lie behind another person: within the image of a capsule around a limb, and farther away."""
    n, k = points.shape[:2]
    if n == 1:
        return np.zeros((n, k), bool)
    shoulders, hips, ears = (
        joints[:, [_J[f"left_{part}"], _J[f"right_{part}"]]].mean(1) for part in ("shoulder", "hip", "ear")
    )
    first = np.concatenate([joints[:, _LIMBS[:, 0]], shoulders[:, None], shoulders[:, None]], axis=1)
    second = np.concatenate([joints[:, _LIMBS[:, 1]], hips[:, None], ears[:, None]], axis=1)
    radius = _RADII * np.linalg.norm(shoulders - hips, axis=-1)[:, None]
    a, b = project(first, intrinsics).reshape(-1, 2), project(second, intrinsics).reshape(-1, 2)
    z_a, z_b = first[..., 2].ravel(), second[..., 2].ravel()
    along = b - a
    square = np.maximum((along**2).sum(-1), 1e-9)
    p = project(points, intrinsics).reshape(-1, 1, 2) - a
    share = ((p * along).sum(-1) / square).clip(0.0, 1.0)
    distance = np.square(p[..., 0] - share * along[:, 0]) + np.square(p[..., 1] - share * along[:, 1])
    z = z_a + share * (z_b - z_a)
    behind = points[..., 2].reshape(-1, 1) - z > _HIDDEN_BEHIND_M
    covers = (distance * z**2 < (radius.ravel() * intrinsics[0, 0]) ** 2) & behind
    covers = covers.reshape(n, k, n, -1).any(-1)
    return (covers & ~np.eye(n, dtype=bool)[:, None]).any(-1)


def detect_keypoints(
    rng: np.random.Generator,
    pixels: Float[np.ndarray, "n 17 2"],
    hidden: Bool[np.ndarray, "n 17"],
    sigma: Float[np.ndarray, "n"],
    extent: Float[np.ndarray, "n"],
    image_size: tuple[int, int],
) -> Float[np.ndarray, "n 17 3"]:
    """COCO-17 detections x, y, confidence; 6 % and whatever is outside the image are missing (zeros)."""
    detections = _detect(rng, pixels, hidden, sigma[:, None], rng.uniform(0.6, 0.98, hidden.shape), extent, 0.02)
    detections[~inside(pixels, image_size) | (rng.random(hidden.shape) < 0.06)] = 0.0
    return detections


def detect_dense(
    rng: np.random.Generator,
    pixels: Float[np.ndarray, "n k 2"],
    hidden: Bool[np.ndarray, "n k"],
    away: Bool[np.ndarray, "n k"],
    sigma: Float[np.ndarray, "n"],
    extent: Float[np.ndarray, "n"],
    image_size: tuple[int, int],
) -> Float[np.ndarray, "n k 3"]:
    """Dense detections x, y, confidence; `away` marks points on the far side of their own body."""
    shape = hidden.shape
    confidence = np.where(away, rng.uniform(0.25, 0.7, shape), rng.uniform(0.6, 0.98, shape))
    detections = _detect(rng, pixels, hidden, sigma[:, None] * np.where(away, 1.4, 1.0), confidence, extent, 0.01)
    detections[..., 2] = np.where(inside(pixels, image_size), detections[..., 2], rng.uniform(0.0, 0.1, shape))
    return detections


def _detect(
    rng: np.random.Generator,
    pixels: np.ndarray,
    hidden: np.ndarray,
    sigma: np.ndarray,
    confidence: np.ndarray,
    extent: np.ndarray,
    wild_share: float,
) -> np.ndarray:
    shape = hidden.shape
    sigma = np.where(hidden, 2.5, 1.0) * sigma
    confidence = np.where(hidden, rng.uniform(0.15, 0.6, shape), confidence)
    wild = np.where(rng.random(shape) < wild_share, 0.3 * extent[:, None], 0.0)
    noise = rng.normal(size=(*shape, 2)) * sigma[..., None] + rng.normal(size=(*shape, 2)) * wild[..., None]
    return np.concatenate([pixels + noise, confidence[..., None]], axis=-1)


def median_depth(
    rng: np.random.Generator, depths: Float[np.ndarray, "n k"], seen: Bool[np.ndarray, "n k"]
) -> Float[np.ndarray, "n"]:
    """Median depth cue: over the points seen (all, where few are), times a scene's scale error and a person's error."""
    enough = seen.sum(1, keepdims=True) >= _MIN_DEPTH_POINTS
    median = np.nanmedian(np.where(seen | ~enough, depths, np.nan), axis=1)
    return median * np.exp(rng.normal(0.0, 0.05)) * np.exp(rng.normal(0.0, 0.015, len(depths)))


def words(
    rng: np.random.Generator, age: Int[np.ndarray, "n"], gender: Int[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Age and gender anchors of a vision-language model that confuses neighbouring classes; -1 = unusable.

    It is often unsure about the sex of babies and toddlers.
    """
    n = len(age)
    slips = np.where(rng.random(n) < 0.12, rng.choice([-1, 1], n), 0)
    age_word = (age + slips).clip(0, len(AGE_CLASSES) - 1)
    young, r = age <= 1, rng.random(n)
    neutral, wrong = r < np.where(young, 0.45, 0.05), r < np.where(young, 0.55, 0.09)
    gender_word = np.where(neutral, 1, np.where(wrong, 2 - gender, gender))
    ages, genders = np.array(list(AGE_CLASSES.values())), np.array(list(GENDER_CLASSES.values()))
    mute = rng.random((2, n)) < 0.03
    return (
        np.where(mute[0], UNKNOWN_WORD, ages[age_word]),
        np.where(mute[1], UNKNOWN_WORD, genders[gender_word]),
    )


def boxes(pixels: Float[np.ndarray, "n k 2"], image_size: tuple[int, int]) -> Float[np.ndarray, "n 4"]:
    """x0, y0, x1, y1 around the points, cut at the image."""
    return np.concatenate([pixels.min(1), pixels.max(1)], axis=-1).clip(0.0, np.tile(image_size, 2))


def fit_translation(
    joints: Float[np.ndarray, "n k 3"],
    pixels: Float[np.ndarray, "n k 2"],
    intrinsics: Float[np.ndarray, "3 3"],
    weight: Float[np.ndarray, "n k"],
) -> Float[np.ndarray, "n 3"]:
    """Translations t that bring the joints + t onto the pixels.

    With ray (u, v) of a pixel, least squares of (x + t_x) - u (z + t_z) and (y + t_y) - v (z + t_z), which is linear in t,
    weighted by `weight` / depth; the depth is iterated.
    """
    ray = (pixels - intrinsics[:2, 2]) / np.diag(intrinsics)[:2]
    rows = np.zeros((*joints.shape[:2], 2, 3))
    rows[..., 0, 0] = rows[..., 1, 1] = 1.0
    rows[..., 2] = -ray
    target = ray * joints[..., 2:] - joints[..., :2]
    per_depth = np.ones_like(weight)
    t = np.zeros((len(joints), 3))
    for _ in range(5):
        w = np.square(weight * per_depth)
        normal = np.einsum("nk,nkai,nkaj->nij", w, rows, rows) + 1e-9 * np.eye(3)
        t = np.linalg.solve(normal, np.einsum("nk,nkai,nka->ni", w, rows, target)[..., None])[..., 0]
        per_depth = 1.0 / np.maximum(joints[..., 2] + t[:, 2:], 0.3)
    t[:, 2] = np.maximum(t[:, 2], _MIN_START_DEPTH_M)
    return t
