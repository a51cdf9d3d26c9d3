"""Named point sets: names, orders, and which set the points of a file are."""

import json
from typing import Any

import numpy as np
import pytest
from helpers import require_shared
from hypothesis import given
from hypothesis import strategies as st

from annyfit_jax.inputs import point_sets
from annyfit_jax.inputs.point_sets import POINT_SETS, WHOLE_BODY, arrange, canonical_name, closeness_of, recognise
from annyfit_jax.people.scene import COCO17, SceneError

_MADE_OF = {
    "pelvis": ("left_hip", "right_hip"), "neck": ("left_shoulder", "right_shoulder"), "spine": ("left_hip", "right_shoulder"),
    "chin": ("nose", "nose"), "head_top": ("left_eye", "right_eye"),
}  # fmt: skip
"""Points of other sets as means of two of COCO's: good enough to have them where they belong."""


def people_of(path: str) -> list[np.ndarray]:
    """(17, 3) of everybody in the annotations of a shared file."""
    annotations = json.loads(require_shared(path).read_text())["annotations"]
    points = [np.array(a["keypoints"], float).reshape(-1, 3) for a in annotations if any(a.get("keypoints") or [])]
    return points


def reordered(person: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    known: dict[str, Any] = dict(zip(COCO17, person, strict=True))
    rows = []
    for name in names:
        if name in known:
            rows.append(known[name])
        else:
            a, b = (known[part] for part in _MADE_OF[name])
            rows.append([*(a[:2] + b[:2]) / 2, min(a[2], b[2])])
    return np.array(rows)


@pytest.fixture(params=["data/real/annotations.json", "data/pose2sim/pose2sim.json"])
def people(request):
    return people_of(request.param)


def test_every_set_names_its_points_once_in_the_common_spelling():
    counts = {"coco17": 17, "coco18": 18, "body_25": 25, "body_25b": 25, "halpe26": 26, "halpe136": 136, "coco133": 133}
    assert {name: len(POINT_SETS[name]) for name in counts} == counts
    for name, points in POINT_SETS.items():
        assert len(set(points)) == len(points), name
        assert [canonical_name(point) for point in points] == list(points), name
        assert len(set(points) & set(COCO17)) >= 12, name


def test_left_and_right_have_the_same_points():
    for name, points in POINT_SETS.items():
        swapped = {p.replace("left_", "right_") if "left_" in p else p.replace("right_", "left_") for p in points}
        assert swapped == set(points), name


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("LShoulder", "left_shoulder"), ("l_shoulder", "left_shoulder"), ("Right Shoulder", "right_shoulder"),
        ("shoulder_left", "left_shoulder"), ("RBigToe", "right_big_toe"), ("MidHip", "pelvis"), ("RHip", "right_hip"),
        ("face-12", "face_12"), ("left_forefinger4", "left_index_tip"), ("right_pinky_finger1", "right_little_1"),
        ("right_foot", "right_ankle"), ("Head", "head_top"),
    ],
)  # fmt: skip
def test_spellings(spelling, name):
    assert canonical_name(spelling) == name


def test_seventeen_points_of_coco_are_recognised_and_those_of_h36m_refused(people):
    assert recognise(people, "file")[0] == "coco17"
    for person in people:  # also of one person alone
        assert recognise([person], "file")[0] == "coco17"
    foreign = [reordered(person, POINT_SETS["h36m17"]) for person in people]
    with pytest.raises(
        SceneError, match=r"order of the 17 points is not that of coco17, but of h36m17; name the points"
    ):
        recognise(foreign, "file")
    judged = [person for person in foreign if not np.isnan(closeness_of([person], COCO17))]
    for person in judged:
        with pytest.raises(SceneError, match="not that of coco17"):
            recognise([person], "file")
    assert len(judged) > 0.8 * len(foreign)


def test_shuffled_points_are_refused(people):
    rng = np.random.default_rng(3)
    for _ in range(20):
        order = rng.permutation(17)
        with pytest.raises(SceneError, match="not that of coco17"):
            recognise([person[order] for person in people], "file")


def test_the_two_sets_of_25_points_are_told_apart_or_refused():
    folder = require_shared("data/pose2sim/openpose")
    people = [
        np.array(person["pose_keypoints_2d"]).reshape(-1, 3)
        for file in folder.rglob("*.json")
        for person in json.loads(file.read_text())["people"]
    ]
    assert recognise(people, "file")[0] == "body_25b"
    row = {name: i for i, name in enumerate(POINT_SETS["body_25b"])}
    other = [
        np.stack([person[row[name]] if name in row else person[[11, 12]].mean(0) for name in POINT_SETS["body_25"]])
        for person in people
    ]
    assert recognise(other, "file")[0] == "body_25"
    with pytest.raises(SceneError, match="may be body_25 or body_25b, and too few are seen"):
        recognise([np.zeros((25, 3))], "file")


def test_numbers_of_points_that_are_no_set():
    with pytest.raises(SceneError, match=r"no skeleton of 16 points is known; .*--skeleton"):
        recognise([np.ones((16, 3))], "file")
    with pytest.raises(SceneError, match="unknown skeleton 'kinect'; there are coco17"):
        point_sets.declared("kinect", "option skeleton")
    assert point_sets.declared("BODY-25B", "option") == POINT_SETS["body_25b"]
    with pytest.raises(SceneError, match="only 0 of the 3 names of points are known; not known is 'paw'"):
        point_sets.named(["paw", "tail", "muzzle"], "file")
    with pytest.raises(SceneError, match="left_hip is named twice"):
        point_sets.named([*COCO17, "LHip"], "file")


@given(
    name=st.sampled_from(sorted(POINT_SETS)),
    scale=st.floats(1e-2, 1e3),
    shift=st.floats(-1e3, 1e3),
    seed=st.integers(0, 99),
)
def test_closeness_depends_on_neither_size_nor_place(name, scale, shift, seed):
    points = POINT_SETS[name]
    person = np.random.default_rng(seed).uniform(0, 1, (len(points), 3)) + 1e-3
    moved = np.concatenate([person[:, :2] * scale + shift, person[:, 2:]], axis=1)
    assert closeness_of([moved], points) == pytest.approx(closeness_of([person], points), rel=1e-6)


@given(name=st.sampled_from(sorted(POINT_SETS)), seed=st.integers(0, 99))
def test_no_point_is_lost_by_arranging(name, seed):
    points = POINT_SETS[name]
    rows = np.random.default_rng(seed).uniform(1, 2, (len(points), 3))
    ordered, others = arrange(points, rows)
    for point, row in zip(points, rows, strict=True):
        found = ordered[WHOLE_BODY.index(point)] if point in WHOLE_BODY else others[point]
        np.testing.assert_array_equal(found, row)
    assert (ordered[:, 2] > 0).sum() + len(others) == len(points)
