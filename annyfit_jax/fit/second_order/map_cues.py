"""Cues that the MAP objective reads beside `Problem`: metric depth, words, known facts, sizes; people last, padded alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike, DTypeLike

from annyfit_jax.fit.config import FitConfig, MapObjective
from annyfit_jax.fit.problem import AnyArray, Capacity, depth_reference
from annyfit_jax.fit.second_order.columns import DEPTH_SCALE, FOCAL, GROUND, NUM_SCENE, PITCH, ROLL
from annyfit_jax.fit.second_order.map_body import pose_prior_arrays
from annyfit_jax.fit.starts import PreparedScene
from annyfit_jax.people.scene import COCO17, Scene
from annyfit_jax.people.words import AGE_CLASSES, GENDER_CLASSES

_ANCHORS = np.array(list(AGE_CLASSES.values()))
_NEIGHBOUR_SHARE = 0.8
"""Share of the wrong age words that are off by one class."""
_EDGE = 0.02
"""The extent of a person leaves out this share of the points on either side: wild points."""
_MIN_SPREAD_POINTS = 3
_UNKNOWN_SIZE_PX = 100.0
FIXED = 1e8
"""Precision of a scene's unknown that is none: a focal length that was given."""
_NOBODY_NEEDED = 3
"""Without words, the ground is for scenes of so many people: the ages of few cannot be told from their depths."""


class Facts(NamedTuple):
    """Facts about N people; precision 0 where unknown."""

    height_m: Float[AnyArray, "N"]
    height_precision: Float[AnyArray, "N"]
    distance_m: Float[AnyArray, "N"]
    distance_precision: Float[AnyArray, "N"]


class MapCues(NamedTuple):
    """Cues of N people in G scenes."""

    real: Float[AnyArray, "N"]
    """1, or 0 for padding."""
    log_depth: Float[AnyArray, "N"]
    """Log of the metric median depth, metres; 0 where unknown."""
    depth_known: Float[AnyArray, "N"]
    age_log_prob: Float[AnyArray, "C N"]
    """Log probability of each age class given the word, or of the population."""
    age_start: Float[AnyArray, "N"]
    """Age phenotype to start from where a word or nothing is known."""
    age_known: Float[AnyArray, "N"]
    gender_known: Float[AnyArray, "N"]
    """1 where the word is male or female (neutral says little)."""
    posture_log_weight: Float[AnyArray, "M N"]
    """Log weight of each component of the mixture of poses, given the age classes."""
    size_px: Float[AnyArray, "N"]
    """Size of the whole person in the picture, pixels."""
    image_size: Float[AnyArray, "2 N"]
    from_cue: Float[AnyArray, "N"]
    """1 where the start knows the pose (a feed-forward estimate), 0 for starts from 2D keypoints."""
    start_shape: Float[AnyArray, "S N"]
    """The start's shape before words were inserted."""
    keypoint_shift: Float[AnyArray, "17 3 N"]
    """Offset of the detector's keypoints in the rest axes of their bones, as a share of body height."""
    face_visible: Float[AnyArray, "N"]
    """1 where nose and eyes are marked."""
    face_hidden: Float[AnyArray, "N"]
    """1 where none of them is, but an ear and both shoulders are: from behind."""
    grounded: Float[AnyArray, "N"]
    """1 where the person's scene has a ground."""
    facts: Facts
    ranked: Float[AnyArray, "P"]
    """Per pair of `Problem.pairs`: 1 where the ranking counts."""
    first: Int[AnyArray, "P"]
    """All pairs of people of one scene."""
    second: Int[AnyArray, "P"]
    together: Float[AnyArray, "P"]
    """1, or 0 for padding."""
    scene_mean: Float[AnyArray, "G q"]
    """Prior of the scene's unknowns (`columns`)."""
    scene_precision: Float[AnyArray, "G q"]
    roll_known: Float[AnyArray, "G"]
    """1 where somebody told how the camera is rolled: no other quarter turn is tried."""


KEYPOINT_OFFSETS_M: dict[str, dict[str, tuple[float, float, float]]] = {
    "anny": {},
    "smplx": {},
    "coco": {
        "shoulder": (-0.006, 0.011, 0.001), "hip": (0.003, 0.004, -0.010), "ear": (0.001, -0.001, -0.011),
        "nose": (0.0, -0.005, 0.008), "eye": (-0.003, -0.005, 0.002),
    },
}  # fmt: skip
"""Keypoints as annotators and detectors place them, less the body's regressors: metres for a body of `_OFFSET_HEIGHT_M`, left
side, in the rest axes of the joint's bone (x outwards, y back, z up). Mean over three sets of real people fitted in 3D; elbows
and knees (confounded with the pose), wrists and ankles (under 5 mm) are left where they are. Where `smplx` has its keypoints is
known with the user's file only: Anny is fitted as if they were its own, and SMPL-X as it is."""
_OFFSET_HEIGHT_M = 1.72


def assemble_cues(
    prepared: Sequence[PreparedScene], config: FitConfig, capacity: Capacity, dtype: DTypeLike = np.float32
) -> MapCues:
    """Flatten the cues of prepared scenes like `problem.assemble` does, to the same capacity."""
    scenes, settings = [p.scene for p in prepared], config.map
    counts = [len(s) for s in scenes]
    pad = capacity.people - sum(counts)

    def people_last(arrays: Sequence[ArrayLike]) -> np.ndarray:
        flat = np.moveaxis(np.concatenate([np.asarray(a) for a in arrays]).astype(dtype), 0, -1)
        return np.ascontiguousarray(np.pad(flat, [(0, 0)] * (flat.ndim - 1) + [(0, pad)], mode="edge"))

    def scenes_first(arrays: Sequence[ArrayLike]) -> np.ndarray:
        flat = np.stack(arrays).astype(dtype)
        return np.pad(flat, [(0, capacity.scenes - len(flat))] + [(0, 0)] * (flat.ndim - 1), mode="edge")

    depth = [np.asarray(s.median_depth, np.float64) for s in scenes]
    known = [np.isfinite(d) & (d > 0) for d in depth]
    metric = [bool(k.any()) and settings.metric_depth for k in known]
    ranked, first, second, offset = [], [], [], 0
    for scene, has_metric, n in zip(scenes, metric, counts):
        i, j = np.triu_indices(n, 1)
        first.append(i + offset)
        second.append(j + offset)
        usable = np.isfinite(depth_reference(scene, config))
        order = settings.depth_order
        on = order == "always" or (order == "auto" and not has_metric)
        ranked.append(np.full(int((usable[i] & usable[j]).sum()), float(on)))
        offset += n
    pairs = sum(len(f) for f in first)

    def pad_pairs(arrays: Sequence[np.ndarray], kind: DTypeLike) -> np.ndarray:
        flat = np.concatenate([np.zeros(0), *arrays])
        return np.pad(flat, (0, capacity.pairs - len(flat))).astype(kind)

    real = people_last([np.ones(n) for n in counts])
    real[sum(counts) :] = 0.0
    word_known = [np.asarray(s.age) >= 0 for s in scenes]
    age = [age_log_probabilities(s.age, settings) for s in scenes]
    means, precisions = zip(*(_scene_prior(s, settings) for s in scenes), strict=True)
    return MapCues(
        real=real,
        log_depth=people_last([np.log(np.where(k, d, 1.0)) for d, k in zip(depth, known)]),
        depth_known=people_last([k.astype(float) * on for k, on in zip(known, metric)]),
        age_log_prob=people_last(age),
        age_start=people_last([_age_start(s.age, settings) for s in scenes]),
        age_known=people_last([k.astype(float) for k in word_known]),
        gender_known=people_last([_gender_known(s.gender).astype(float) for s in scenes]),
        posture_log_weight=people_last([posture_log_weights(a) for a in age]),
        size_px=people_last([sizes_px(s, settings) for s in scenes]),
        image_size=people_last([np.tile(np.asarray(s.image_size, float), (len(s), 1)) for s in scenes]),
        from_cue=people_last([np.asarray(p.knows_pose, float) for p in prepared]),
        start_shape=people_last(
            [p.start.shape if p.origin != "cue" or p.scene.start is None else p.scene.start.shape for p in prepared]
        ),
        keypoint_shift=people_last([np.tile(keypoint_shift(s, settings), (len(s), 1, 1)) for s in scenes]),
        face_visible=people_last([(s.keypoints[:, :3, 2] >= config.keypoint_confidence).all(1) * 1.0 for s in scenes]),
        face_hidden=people_last([_face_hidden(s, config.keypoint_confidence) * 1.0 for s in scenes]),
        grounded=people_last([np.full(n, float(_on_ground(s, k))) for s, n, k in zip(scenes, counts, word_known)]),
        facts=Facts(
            *(
                people_last(part)
                for name in ("heights", "distances")
                for part in zip(*(_known(getattr(s, name), len(s)) for s in scenes), strict=True)
            )
        ),
        ranked=pad_pairs(ranked, dtype),
        first=pad_pairs(first, np.int32),
        second=pad_pairs(second, np.int32),
        together=pad_pairs([np.ones(pairs)], dtype),
        scene_mean=scenes_first(means),
        scene_precision=scenes_first(precisions),
        roll_known=scenes_first(
            [np.array(float("roll_degrees" in s.camera or not settings.turned_pictures)) for s in scenes]
        ),
    )


def age_log_probabilities(age: Float[np.ndarray, "n"], settings: MapObjective) -> Float[np.ndarray, "n C"]:
    """Log probability of each age class (`AGE_CLASSES`) given a word's anchor: right with `word_right`, else a neighbour.

    Unusable words (negative) give the shares of `age_share`.
    """
    age, right = np.asarray(age, np.float64), settings.word_right
    word = np.abs(age[:, None] - _ANCHORS).argmin(1)
    steps = np.abs(np.arange(len(_ANCHORS)) - word[:, None])
    near, far = steps == 1, steps > 1
    probability = (
        right * (steps == 0)
        + (1 - right) * _NEIGHBOUR_SHARE * near / near.sum(1, keepdims=True)
        + (1 - right) * (1 - _NEIGHBOUR_SHARE) * far / far.sum(1, keepdims=True)
    )
    share = np.array([settings.age_share[name] for name in AGE_CLASSES])
    return np.log(np.where(age[:, None] >= 0, probability, share / share.sum()))


def posture_log_weights(age_log_prob: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n M"]:
    """Log weight of each component of the mixture of poses for people of some age."""
    asset = pose_prior_arrays()
    if list(asset["classes"]) != list(AGE_CLASSES):
        raise ValueError(
            f"annyfit_jax/data/pose_prior.npz has classes {list(asset['classes'])}, expected {list(AGE_CLASSES)}"
        )
    weight = np.exp(asset["log_weight"].astype(np.float64))  # (M, C)
    return np.log(np.exp(age_log_prob) @ weight.T)


def middle_ages(settings: MapObjective) -> Float[np.ndarray, "C"]:
    """The age phenotype in the middle of each of `AGE_CLASSES`."""
    return np.array([[table[name] for name in AGE_CLASSES] for table in (settings.age_low, settings.age_high)]).mean(0)


def _age_start(age: np.ndarray, settings: MapObjective) -> np.ndarray:
    """The middle of the word's class; an adult's without a word."""
    age = np.asarray(age, np.float64)
    word = np.where(age >= 0, np.abs(age[:, None] - _ANCHORS).argmin(1), list(AGE_CLASSES).index("adult"))
    return middle_ages(settings)[word]


def _gender_known(gender: np.ndarray) -> np.ndarray:
    return np.isin(np.abs(np.asarray(gender)[:, None] - list(GENDER_CLASSES.values())).argmin(1), (0, 2)) & (
        gender >= 0
    )


def _known(facts: np.ndarray | None, people: int) -> tuple[np.ndarray, np.ndarray]:
    """Value and precision of a fact of each person, from (n, 2) value and standard deviation, NaN = unknown."""
    if facts is None:
        return np.ones(people), np.zeros(people)
    value, sd = np.asarray(facts, np.float64).T
    known = np.isfinite(value) & (sd > 0)
    return np.where(known, value, 1.0), np.where(known, 1.0 / np.where(known, sd, 1.0) ** 2, 0.0)


def _face_hidden(scene: Scene, least: float) -> Bool[np.ndarray, "n"]:
    """Whose nose and eyes are not marked, although an ear and both shoulders are."""
    seen = scene.keypoints[..., 2] >= least
    return np.asarray(~seen[:, :3].any(1) & seen[:, 3:5].any(1) & seen[:, 5:7].all(1))


def _on_ground(scene: Scene, word_known: np.ndarray) -> bool:
    return len(scene) >= _NOBODY_NEEDED or bool(word_known.all())


def _scene_prior(scene: Scene, settings: MapObjective) -> tuple[np.ndarray, np.ndarray]:
    mean, precision = np.zeros(NUM_SCENE), np.zeros(NUM_SCENE)
    degrees = np.pi / 180.0
    focal_sd = settings.focal_sd if scene.focal_guessed and settings.focal_length else 0.0
    for row, value, sd in (
        (DEPTH_SCALE, 0.0, settings.depth_scale_sd),
        (FOCAL, 0.0, focal_sd),
        (PITCH, settings.pitch_degrees * degrees, settings.pitch_sd_degrees * degrees),
        (ROLL, 0.0, settings.roll_sd_degrees * degrees),
        (GROUND, settings.camera_height_m, settings.camera_height_sd_m),
    ):
        mean[row], precision[row] = value, (1.0 / sd**2 if sd > 0 else FIXED)
    for name, row, unit in (
        ("pitch_degrees", PITCH, degrees),
        ("roll_degrees", ROLL, degrees),
        ("height_m", GROUND, 1.0),
    ):
        if settings.known_facts and name in scene.camera:
            value, sd = scene.camera[name]
            mean[row], precision[row] = value * unit, 1.0 / (sd * unit) ** 2
    return mean, precision


def keypoint_shift(scene: Scene, settings: MapObjective) -> Float[np.ndarray, "17 3"]:
    """Offsets of the scene's keypoint convention as shares of body height, in a frame x left, y back, z up.

    Raises ValueError for a convention that is not known.
    """
    if scene.keypoint_convention not in KEYPOINT_OFFSETS_M:
        raise ValueError(
            f"{scene.name}: unknown keypoint convention {scene.keypoint_convention!r}; there are {sorted(KEYPOINT_OFFSETS_M)}"
        )
    out = np.zeros((len(COCO17), 3))
    if settings.keypoint_offsets:
        for i, name in enumerate(COCO17):
            side, _, part = name.rpartition("_")
            offset = np.array(KEYPOINT_OFFSETS_M[scene.keypoint_convention].get(part, (0.0, 0.0, 0.0)))
            out[i] = offset * (-1.0 if side == "right" else 1.0, 1.0, 1.0)
    return out / _OFFSET_HEIGHT_M


# ------------------------------------------------------------------------------------------------ sizes

_LONG_SEGMENTS: dict[tuple[str, str], float] = {
    ("shoulder", "hip"): 0.31, ("shoulder", "elbow"): 0.17, ("elbow", "wrist"): 0.16, ("hip", "knee"): 0.25,
    ("knee", "ankle"): 0.26,
}  # fmt: skip
"""Lengths of segments between keypoints of one side as shares of body height, alike within a tenth from toddlers on."""
_WIDTHS = {"shoulder": 0.20, "ear": 0.09, "eye": 0.035}
"""The same between the two sides: for people of whom no limb is seen."""


def sizes_px(scene: Scene, settings: MapObjective) -> Float[np.ndarray, "n"]:
    """Size of each whole person in the picture: the larger side of the box around its points or, where parts are hidden, what
    the segments between its keypoints say: the second largest, for one wild keypoint must not blow it up."""
    limbs, widths = _segments()
    out = []
    for person, points in enumerate(np.concatenate([scene.keypoints, scene.dense_keypoints], axis=1)):
        seen = points[points[:, 2] >= settings.min_confidence, :2]
        size = 0.0
        if len(seen) >= _MIN_SPREAD_POINTS:
            low, high = np.quantile(seen, [_EDGE, 1.0 - _EDGE], axis=0)
            size = float((high - low).max())
        for pairs, share in (limbs, widths):
            a, b = scene.keypoints[person, pairs[:, 0]], scene.keypoints[person, pairs[:, 1]]
            both = np.minimum(a[:, 2], b[:, 2]) >= settings.min_confidence
            implied = np.sort(np.linalg.norm(a[:, :2] - b[:, :2], axis=1)[both] / share[both])
            if len(implied):
                size = max(size, float(implied[max(len(implied) - 2, 0)]))
                break
        out.append(size if size > 0 else _UNKNOWN_SIZE_PX)
    return np.array(out)


def _segments() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    index = {name: i for i, name in enumerate(COCO17)}
    limbs = [
        (index[f"{side}_{a}"], index[f"{side}_{b}"], share)
        for (a, b), share in _LONG_SEGMENTS.items()
        for side in ("left", "right")
    ]
    widths = [(index[f"left_{part}"], index[f"right_{part}"], share) for part, share in _WIDTHS.items()]
    return tuple((np.array([row[:2] for row in rows]), np.array([row[2] for row in rows])) for rows in (limbs, widths))  # type: ignore[return-value]
