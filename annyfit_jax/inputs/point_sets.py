"""Named sets of body points: what the rows of a detector's output are, and how a set without a name is recognised.

Every point has one name in all sets (`left_shoulder`, `left_big_toe`, `right_index_tip`); `canonical_name` leads other
spellings to it. `POINT_SETS` gives the order of each set. The readers take COCO's 17 points by name and keep all others:
those of COCO-WholeBody in `Scene.extra["keypoints_133"]`, the rest in `other_points` with `other_point_names`.

A file often says only how many points it has. `recognise` then looks at the points themselves: joined as the right set says,
neighbours lie closer together than the points of a body do on average. Where that does not decide, it refuses.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from annyfit_jax.people.scene import COCO17, SceneError

FEET = ("left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel")
FACE = tuple(f"face_{i}" for i in range(68))
"""The 68 points of iBUG in their usual order: jaw, brows, nose, eyes, mouth."""
PUPILS = ("right_pupil", "left_pupil")
_FINGERS = tuple(
    f"{finger}_{joint}" for finger in ("thumb", "index", "middle", "ring", "little") for joint in (1, 2, 3, "tip")
)
LEFT_HAND = ("left_hand_root", *(f"left_{name}" for name in _FINGERS))
RIGHT_HAND = ("right_hand_root", *(f"right_{name}" for name in _FINGERS))
"""OpenPose, COCO-WholeBody and MediaPipe order the 21 points of a hand alike: wrist, then each finger from its root."""

WHOLE_BODY = (*COCO17, *FEET, *FACE, *LEFT_HAND, *RIGHT_HAND)
_OPENPOSE_ARMS = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip
_OPENPOSE_LEGS = ("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle")
_OPENPOSE_FACE = ("right_eye", "left_eye", "right_ear", "left_ear")
_HALPE26 = (
    *COCO17, "head_top", "neck", "pelvis", "left_big_toe", "right_big_toe", "left_small_toe", "right_small_toe",
    "left_heel", "right_heel",
)  # fmt: skip

POINT_SETS: dict[str, tuple[str, ...]] = {
    "coco17": COCO17,
    "h36m17": (
        "pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "spine", "neck", "chin",
        "head_top", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist",
    ),
    "mpii16": (
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "spine", "neck",
        "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    ),
    "coco18": (*_OPENPOSE_ARMS, *_OPENPOSE_LEGS, *_OPENPOSE_FACE),
    "body_25": (*_OPENPOSE_ARMS, "pelvis", *_OPENPOSE_LEGS, *_OPENPOSE_FACE, *FEET),
    "body_25b": (*COCO17, "neck", "head_top", *FEET),
    "halpe26": _HALPE26,
    "halpe136": (*_HALPE26, *FACE, *LEFT_HAND, *RIGHT_HAND),
    "coco133": WHOLE_BODY,
    "blazepose33": (
        "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer", "left_ear",
        "right_ear", "left_mouth", "right_mouth", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist",
        "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb", "right_thumb", "left_hip",
        "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_heel", "right_heel", "left_foot_index",
        "right_foot_index",
    ),
}  # fmt: skip
"""Set -> names of its points, in order."""

PARTS: dict[str, tuple[str, ...]] = {
    "foot_kpts": FEET, "face_kpts": (*FACE, *PUPILS), "lefthand_kpts": LEFT_HAND, "righthand_kpts": RIGHT_HAND,
}  # fmt: skip
"""Fields of an annotation, as COCO-WholeBody calls them, beside its `keypoints`; the pupils may be left out."""

ONLY_DECLARED = ("h36m17", "mpii16")
"""Sets that are never taken from their number of points; by the names in the file or by declaration they are read."""

COUNTS = frozenset(len(points) for name, points in POINT_SETS.items() if name not in ONLY_DECLARED)
"""Numbers of points that `recognise` knows."""

_BONES = (
    ("nose", "left_eye"), ("nose", "right_eye"), ("left_eye", "left_ear"), ("right_eye", "right_ear"), ("nose", "neck"),
    ("left_shoulder", "right_shoulder"), ("neck", "left_shoulder"), ("neck", "right_shoulder"), ("neck", "head_top"),
    ("neck", "chin"), ("chin", "head_top"), ("neck", "spine"), ("spine", "pelvis"), ("pelvis", "left_hip"),
    ("pelvis", "right_hip"), ("left_hip", "right_hip"),
    *((f"{side}_{a}", f"{side}_{b}") for side in ("left", "right") for a, b in (
        ("ear", "shoulder"), ("shoulder", "elbow"), ("elbow", "wrist"), ("shoulder", "hip"), ("hip", "knee"),
        ("knee", "ankle"), ("ankle", "heel"), ("heel", "big_toe"), ("big_toe", "small_toe"),
    )),
)  # fmt: skip
"""Pairs of neighbours on a body; of a set, those count whose two points it has."""
_MIN_SEEN = 8
"""Seen points of a person from which on the order of the points can be judged."""
_MAX_PEOPLE = 200
_FAR = 1e9
"""Pixels; a point beyond is nowhere."""
_WILD = 4.0
"""Points farther from the middle of a person than this multiple of the median do not count."""
_PLAUSIBLE = 0.75
"""Neighbours of the right set lie at less than this share of the mean distance of a person's points. On the annotated photos of
`tests/inputs/test_point_sets.py` single people have .65 at most, shuffled points .86 to 1.2."""
_CLEARLY = 1.2
"""A set is taken for another where its neighbours lie nearer by this factor."""
_DECLARE = f"name the points in the file, or declare their order with --skeleton, one of {', '.join(POINT_SETS)}"
_SIDES = {"l": "left", "r": "right", "lt": "left", "rt": "right", "left": "left", "right": "right"}
_SAME = {
    "mid_hip": "pelvis", "hip": "pelvis", "c_hip": "pelvis", "root": "pelvis", "upper_neck": "neck", "thorax": "neck",
    "head": "head_top", "headtop": "head_top", "top_head": "head_top", "bigtoe": "big_toe", "smalltoe": "small_toe",
}  # fmt: skip
_SAME_OF_A_SIDE = {**_SAME, "hip": "hip", "foot": "ankle"}
_FINGER = re.compile(r"(thumb|forefinger|index|middle|ring|pinky|little)(?:_finger)?_?([1-4])")
_FINGER_NAMES = {"forefinger": "index", "pinky": "little"}


@functools.lru_cache(maxsize=4096)
def canonical_name(name: str) -> str:
    """A point's name in the spelling of `POINT_SETS`: `LShoulder`, `l_shoulder`, `Left Shoulder` are `left_shoulder`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.strip())
    words = [word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word]
    side = ""
    for place in (0, -1):
        if not side and len(words) > 1 and words[place] in _SIDES:
            side = _SIDES[words.pop(place)]
    part = "_".join(words)
    if side and (finger := _FINGER.fullmatch(part)):
        part = f"{_FINGER_NAMES.get(finger[1], finger[1])}_{'tip' if finger[2] == '4' else finger[2]}"
    return f"{side}_{_SAME_OF_A_SIDE.get(part, part)}" if side else _SAME.get(part, part)


def declared(name: str, where: str) -> tuple[str, ...]:
    """The points of a set that a user or a file names. Raises SceneError, with the sets there are."""
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    for known, points in POINT_SETS.items():
        if key == known.replace("_", ""):
            return points
    raise SceneError(f"{where}: unknown skeleton {name!r:.60}; there are {', '.join(POINT_SETS)}")


def named(names: Sequence[str], where: str) -> tuple[str, ...]:
    """The points of a set that a file spells out. Raises SceneError where most of COCO's are not known, or one stands twice."""
    points = tuple(canonical_name(name) for name in names)
    known = set(points) & set(COCO17)
    strange = next((str(name) for name, point in zip(names, points, strict=True) if point not in known), "")
    if 2 * len(known) < min(len(points), len(COCO17)):
        raise SceneError(
            f"{where}: only {len(known)} of the {len(points)} names of points are known; not known is {strange!r:.40}"
        )
    if doubled := sorted(name for name in known if points.count(name) > 1):
        raise SceneError(f"{where}: the point {doubled[0]} is named twice")
    return points


def recognise(people: Sequence[Float[np.ndarray, "point 3"]], where: str) -> tuple[str, tuple[str, ...]]:
    """Which set the points of some people are, by their number and by how they lie: its name and its points.

    Rows are x, y and confidence, 0 = missing, all people of one number of points. Raises SceneError where no set has that
    number of points, or another order fits better, or the people do not tell.
    """
    count = len(people[0]) if len(people) else len(COCO17)
    known = {name: points for name, points in POINT_SETS.items() if len(points) == count}
    usual = [name for name in known if name not in ONLY_DECLARED]
    if not usual:
        raise SceneError(f"{where}: no skeleton of {count} points is known; {_DECLARE}")
    closeness = {name: closeness_of(people, points) for name, points in known.items()}
    best = min(closeness, key=lambda name: closeness[name])
    if np.isnan(closeness[usual[0]]):
        if len(usual) > 1:
            raise SceneError(
                f"{where}: the {count} points may be {_either(usual)}, and too few are seen to tell; {_DECLARE}"
            )
        return usual[0], known[usual[0]]
    if closeness[best] > _PLAUSIBLE or best not in usual:
        like = f", but of {best}" if best not in usual else ""
        raise SceneError(f"{where}: the order of the {count} points is not that of {_either(usual)}{like}; {_DECLARE}")
    if any(closeness[name] < _CLEARLY * closeness[best] for name in usual if name != best):
        raise SceneError(f"{where}: the {count} points may be {_either(usual)}; {_DECLARE}")
    return best, known[best]


def _either(known: Sequence[str]) -> str:
    return " or ".join(known)


def closeness_of(people: Sequence[Float[np.ndarray, "point 3"]], points: Sequence[str]) -> float:
    """Mean distance of neighbours relative to the mean distance of all points of a person; the median over the people.

    NaN where nobody shows enough points. It does not depend on the size or place of people in the picture.
    """
    rows = {name: i for i, name in enumerate(points)}
    bones = np.array([(rows[a], rows[b]) for a, b in _BONES if a in rows and b in rows])
    values: list[float] = []
    for person in people[:: max(1, len(people) // _MAX_PEOPLE)]:
        seen = (person[:, 2] > 0) & (np.abs(person) < _FAR).all(axis=1)
        if not seen.any():
            continue
        from_middle = np.full(len(person), np.inf)
        from_middle[seen] = np.linalg.norm(person[seen, :2] - np.median(person[seen, :2], axis=0), axis=1)
        seen &= from_middle <= _WILD * np.median(from_middle[seen])
        joined = bones[seen[bones].all(axis=1)]
        used = np.unique(bones)
        used = used[seen[used]]
        if len(used) < _MIN_SEEN or len(joined) < _MIN_SEEN - 2:
            continue
        xy = person[:, :2]
        distances = np.linalg.norm(xy[used][:, None] - xy[used][None], axis=-1)
        typical = distances[np.triu_indices(len(used), 1)].mean()
        if typical > 0:
            values.append(np.linalg.norm(xy[joined[:, 0]] - xy[joined[:, 1]], axis=1).mean() / typical)
    return float(np.median(values)) if values else float("nan")


def arrange(
    names: Sequence[str], points: Float[np.ndarray, "point 3"]
) -> tuple[Float[np.ndarray, "133 3"], dict[str, Float[np.ndarray, "3"]]]:
    """Named points of a person in the order of COCO-WholeBody (the first 17 are COCO's), missing ones 0; the others by name."""
    ordered, others = np.zeros((len(WHOLE_BODY), 3)), {}
    for name, point in zip(names, points, strict=True):
        if name in _PLACE:
            ordered[_PLACE[name]] = point
        else:
            others[name] = point
    return ordered, others


_PLACE = {name: row for row, name in enumerate(WHOLE_BODY)}
