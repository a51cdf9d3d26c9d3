"""What imperfect experts say about a rendered scene (numpy). Levels of noise: `world_config.py`.

Who sees what comes from the z-buffer: a point is OUTSIDE the picture, HIDDEN behind another person or a thing, SELF_HIDDEN
behind its own body, or VISIBLE.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial.transform import Rotation

from annyfit_jax.inputs.masks import erode
from annyfit_jax.people.scene import COCO17, UNKNOWN_WORD, BodyParameters
from annyfit_jax.people.words import AGE_CLASSES, GENDER_CLASSES
from annyfit_jax.synthetic import textures
from annyfit_jax.synthetic.plain_people import ADULT_AVERAGE
from annyfit_jax.synthetic.render import View
from annyfit_jax.synthetic.world_config import DepthNoise, KeypointNoise, StartNoise, WordNoise

OUTSIDE, HIDDEN, SELF_HIDDEN, VISIBLE = range(4)
# How far below the surface a joint lies at most, as a share of the trunk's length.
_JOINT_DEPTH = {
    "nose": 0.09,
    "eye": 0.10,
    "ear": 0.10,
    "shoulder": 0.27,
    "elbow": 0.17,
    "wrist": 0.13,
    "hip": 0.38,
    "knee": 0.22,
    "ankle": 0.17,
}
JOINT_DEPTH = np.array([_JOINT_DEPTH[name.split("_")[-1]] for name in COCO17])
_DENSE_DEPTH_M = 0.02
_SLACK_PX = 1.5
_MOST_HARDER = 4.0
_ANCHORS, _ANCHOR_REACH = 6, 0.15
_FEW_PIXELS = 9
_YOUNG_YEARS = 4.0
_J = {name: i for i, name in enumerate(COCO17)}
_SIDES = {
    part: [[_J[f"{side}_{joint}"] for joint in joints] for side in ("left", "right")]
    for part, joints in (("arms", ("shoulder", "elbow", "wrist")), ("legs", ("hip", "knee", "ankle")))
}
_CONFIDENCE = {HIDDEN: (0.15, 0.55), SELF_HIDDEN: (0.35, 0.75), VISIBLE: (0.65, 0.98), OUTSIDE: (0.0, 0.1)}


# ------------------------------------------------------------------------------------------------ who sees what


def visibility(
    view: View,
    points: Float[np.ndarray, "n k 3"],
    pixels: Float[np.ndarray, "n k 2"],
    below: Float[np.ndarray, "n k"],
    focal: float,
) -> Int[np.ndarray, "n k"]:
    """Level of each point of each person.

    Args:
      points: camera axes, metres.
      pixels: their projections.
      below: how far under the visible surface a point may lie and still count as seen, metres.
      focal: pixels; the surface under a pixel and a half is seen with it.
    """
    height, width = view.owner.shape
    z = points[..., 2]
    reach = z - below - _SLACK_PX * z / focal
    with np.errstate(invalid="ignore"):
        cell = np.floor(pixels).clip(-1e6, 1e6).astype(np.int64)
    inside = (cell >= 0).all(-1) & (cell[..., 0] < width) & (cell[..., 1] < height) & (z > 0)
    me = np.arange(len(points))[:, None]
    own_seen, own = np.zeros(z.shape, bool), np.zeros(z.shape, bool)
    for i, j in np.ndindex(3, 3):
        row, column = (cell[..., 1] + i - 1).clip(0, height - 1), (cell[..., 0] + j - 1).clip(0, width - 1)
        mine = view.owner[row, column] == me
        own |= mine
        own_seen |= mine & (view.depth[row, column] >= reach)
    row, column = cell[..., 1].clip(0, height - 1), cell[..., 0].clip(0, width - 1)
    owner = view.owner[row, column]
    covered = (owner != -1) & (owner != me) & (view.depth[row, column] < z)
    level = np.where(own_seen, VISIBLE, np.where(covered, HIDDEN, np.where(own, SELF_HIDDEN, VISIBLE)))
    return np.where(inside, level, OUTSIDE)


def joint_depths(joints: Float[np.ndarray, "n 17 3"]) -> Float[np.ndarray, "n 17"]:
    """`below` of `visibility` for COCO-17 joints."""
    middle = lambda part: joints[:, [_J[f"left_{part}"], _J[f"right_{part}"]]].mean(1)  # noqa: E731
    return JOINT_DEPTH * np.linalg.norm(middle("shoulder") - middle("hip"), axis=-1)[:, None]


def dense_depths(points: Float[np.ndarray, "n k 3"]) -> Float[np.ndarray, "n k"]:
    """`below` of `visibility` for points of the surface: the drawn mesh is coarser than the body's."""
    return np.full(points.shape[:2], _DENSE_DEPTH_M)


# ------------------------------------------------------------------------------------------------ keypoints


def harder(size: Float[np.ndarray, "n"], noise: KeypointNoise) -> Float[np.ndarray, "n"]:
    """Factor on errors and misses of small people."""
    return np.minimum(1.0 + (noise.small_px / np.maximum(size, 1.0)) ** 2, _MOST_HARDER)


def person_sigma(
    rng: np.random.Generator, size: Float[np.ndarray, "n"], noise: KeypointNoise
) -> Float[np.ndarray, "n"]:
    """Standard deviation of a visible point of each person, pixels per axis."""
    return np.maximum(noise.floor_px, size * rng.uniform(*noise.sigma, len(size))) * harder(size, noise)


def detect_joints(
    rng: np.random.Generator,
    pixels: Float[np.ndarray, "n 17 2"],
    level: Int[np.ndarray, "n 17"],
    sigma: Float[np.ndarray, "n"],
    size: Float[np.ndarray, "n"],
    noise: KeypointNoise,
) -> Float[np.ndarray, "n 17 3"]:
    """COCO-17 detections x, y, confidence; zeros where a joint is not found or outside the picture."""
    sigma = sigma[:, None] * _level_factor(level, noise)
    detections = _detections(
        rng, pixels, level, rng.normal(size=pixels.shape) * sigma[..., None], size, noise.wild, noise
    )
    for indices in _SIDES.values():
        swap = rng.random(len(pixels)) < noise.swapped
        left, right = indices
        rows = np.flatnonzero(swap)[:, None]
        detections[rows, left + right] = detections[rows, right + left]
    chance = np.where(
        level == HIDDEN, noise.missed_hidden, np.where(level == SELF_HIDDEN, 0.5 * noise.missed_hidden, noise.missed)
    )
    missed = rng.random(level.shape) < np.minimum(chance * harder(size, noise)[:, None], 0.95)
    detections[missed | (level == OUTSIDE)] = 0.0
    return detections


def detect_dense(
    rng: np.random.Generator,
    pixels: Float[np.ndarray, "n k 2"],
    level: Int[np.ndarray, "n k"],
    sigma: Float[np.ndarray, "n"],
    size: Float[np.ndarray, "n"],
    noise: KeypointNoise,
) -> Float[np.ndarray, "n k 3"]:
    """Dense detections x, y, confidence; points outside the picture have a confidence below 0.1."""
    white = rng.normal(size=pixels.shape)
    common = np.stack([_common_noise(rng, p, s) for p, s in zip(pixels, size)]) if noise.correlated > 0 else 0.0
    mixed = np.sqrt(1 - noise.correlated) * white + np.sqrt(noise.correlated) * common
    sigma = noise.dense_sigma * sigma[:, None] * _level_factor(level, noise)
    return _detections(rng, pixels, level, mixed * sigma[..., None], size, 0.5 * noise.wild, noise)


def _common_noise(rng: np.random.Generator, pixels: np.ndarray, size: float) -> Float[np.ndarray, "k 2"]:
    """Noise of unit variance that neighbouring points share: radial basis functions around a few of them."""
    anchors = pixels[rng.choice(len(pixels), _ANCHORS, replace=False)]
    square = ((pixels[:, None] - anchors) ** 2).sum(-1) / (_ANCHOR_REACH * max(size, 1.0)) ** 2
    weight = np.exp(-0.5 * (square - square.min(1, keepdims=True)))
    return (weight / np.linalg.norm(weight, axis=1, keepdims=True)) @ rng.normal(size=(_ANCHORS, 2))


def _level_factor(level: np.ndarray, noise: KeypointNoise) -> np.ndarray:
    return np.where(level == HIDDEN, noise.hidden, np.where(level == SELF_HIDDEN, noise.self_hidden, 1.0))


def _detections(rng, pixels, level, error, size, wild_share, noise: KeypointNoise) -> np.ndarray:
    low, high = (np.array([_CONFIDENCE[i][k] for i in range(4)])[level] for k in (0, 1))
    confidence = rng.uniform(low, high)
    wild = rng.random(level.shape) < wild_share
    confidence = np.where(wild, confidence * rng.uniform(0.5, 1.0, level.shape), confidence)
    reach = np.where(wild, noise.wild_size * size[:, None], 0.0)
    error = error + rng.normal(size=pixels.shape) * reach[..., None]
    return np.concatenate([pixels + error, confidence[..., None]], axis=-1)


# ------------------------------------------------------------------------------------------------ depth


def depth_map(
    rng: np.random.Generator,
    depth: Float[np.ndarray, "H W"],
    masks: Bool[np.ndarray, "n H W"],
    noise: DepthNoise,
) -> Float[np.ndarray, "H W"]:
    """A monocular expert's metric depth from the true one (inf = sky, which becomes NaN)."""
    out = depth * np.exp(rng.normal(0.0, noise.scale)) + rng.normal(0.0, noise.shift)
    for mask, scale, shift in zip(
        masks, rng.normal(0, noise.person_scale, len(masks)), rng.normal(0, noise.person_shift, len(masks))
    ):
        out[mask] = out[mask] * np.exp(scale) + shift
    rows, columns = np.indices(depth.shape, dtype=np.float32)
    step = 128.0 / max(depth.shape)
    smooth = textures.noise(textures.PLASTER, step * columns + rng.uniform(0, 256), step * rows + rng.uniform(0, 256))
    out = out * np.exp(noise.pixel * smooth)
    return np.where(np.isfinite(out), np.maximum(out, 0.05), np.nan)


def _turned(rotvec: Float[np.ndarray, "*batch 3"], by: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Rotations followed, in their own frame, by others."""
    return (Rotation.from_rotvec(rotvec) * Rotation.from_rotvec(by)).as_rotvec()


def median_depth(
    depth: Float[np.ndarray, "H W"], masks: Bool[np.ndarray, "n H W"], radius: int
) -> Float[np.ndarray, "n"]:
    """Median of the depth map inside each mask, eroded by `radius` pixels where enough of it is left; NaN for an empty mask."""
    out = np.full(len(masks), np.nan)
    for person, mask in enumerate(masks):
        inner = erode(mask, radius)
        inside = depth[inner if inner.sum() >= _FEW_PIXELS else mask]
        inside = inside[np.isfinite(inside)]
        if len(inside):
            out[person] = np.median(inside)
    return out


# ------------------------------------------------------------------------------------------------ words, boxes, start


def words(
    rng: np.random.Generator,
    age: Int[np.ndarray, "n"],
    years: Float[np.ndarray, "n"],
    gender: Int[np.ndarray, "n"],
    noise: WordNoise,
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Age and gender anchors of a vision-language model's answers; -1 = unusable."""
    n = len(age)
    answer = (rng.random((n, 1)) > np.array(noise.age)[age].cumsum(1)[:, :-1]).sum(1)
    young, r = (years < _YOUNG_YEARS).astype(int), rng.random(n)
    neutral = np.array(noise.neutral)[1 - young]
    wrong = np.array(noise.wrong)[1 - young]
    sex = np.where(r < neutral, 1, np.where(r < neutral + wrong, 2 - gender, gender))
    mute = rng.random((2, n)) < noise.unusable
    ages, genders = np.array(list(AGE_CLASSES.values())), np.array(list(GENDER_CLASSES.values()))
    return np.where(mute[0], UNKNOWN_WORD, ages[answer]), np.where(mute[1], UNKNOWN_WORD, genders[sex])


def mask_boxes(masks: Bool[np.ndarray, "n H W"]) -> Float[np.ndarray, "n 4"]:
    """x0, y0, x1, y1 around the visible pixels; zeros for an empty mask."""
    out = np.zeros((len(masks), 4))
    for box, mask in zip(out, masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return out


def start_bodies(
    rng: np.random.Generator,
    truth: BodyParameters,
    estimate_error: Float[np.ndarray, "162"],
    extremities: Bool[np.ndarray, "162"],
    noise: StartNoise,
) -> BodyParameters:
    """A feed-forward estimate without its translation, which `start_translation` adds."""
    n = len(truth)
    bias = rng.uniform(*noise.adult_bias, (n, 1))
    shape = bias * ADULT_AVERAGE + (1 - bias) * truth.shape
    shape[:, 0] = noise.gender
    shape += noise.shape_sd * rng.normal(size=(n, 6))
    pose = _turned(truth.pose, noise.pose * estimate_error[:, None] * rng.normal(size=truth.pose.shape))
    if noise.hands_frozen:
        pose[:, extremities] = 0.0
    root = _turned(truth.root_rotvec, noise.root * rng.normal(size=(n, 3)))
    return BodyParameters(root, np.zeros((n, 3)), pose, shape.clip(0.0, 1.0))


def start_translation(
    rng: np.random.Generator, fitted: Float[np.ndarray, "n 3"], noise: StartNoise
) -> Float[np.ndarray, "n 3"]:
    """The translation at which the start's body fits the image, off along the ray and sideways."""
    out = fitted * np.exp(rng.normal(0.0, noise.depth, (len(fitted), 1)))
    out[:, :2] += rng.normal(0.0, noise.offset, (len(fitted), 2)) * out[:, 2:]
    return out
