"""Named points: sides, order, distances against anthropometric ratios, and that they move with the body."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from annyfit_jax.inputs.point_sets import FACE, FEET, LEFT_HAND, POINT_SETS, RIGHT_HAND, WHOLE_BODY
from annyfit_jax.people.named_points import ALIASES, named_points
from annyfit_jax.synthetic.plain_people import ADULT_AVERAGE
from body_models import anny


@pytest.fixture(scope="module")
def model() -> anny.AnnyModel:
    return anny.load()


def place(model: anny.AnnyModel, shape: np.ndarray, pose: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Points and COCO keypoints of one body: x to its left, y back, z up, metres."""
    pose = np.zeros((162, 3)) if pose is None else pose
    params = (shape[None], np.zeros((1, 3)), pose[None], np.zeros((1, 3)))
    body = jax.jit(anny.forward)(model, anny.Params(*(jnp.asarray(p, model.dtype) for p in params)))
    points = named_points(model.labels)
    at = points.of(np.asarray(body.vertices[0], np.float64), np.asarray(body.bone_poses[0], np.float64))
    joints = dict(zip(model.labels.keypoints[:17], np.asarray(body.keypoints[0], np.float64)))
    return joints | dict(zip(points.names, at)) | {"height": np.ptp(np.asarray(body.vertices[0])[:, 2])}


@pytest.fixture(scope="module")
def adult(model: anny.AnnyModel) -> dict[str, np.ndarray]:
    return place(model, ADULT_AVERAGE)


def test_every_point_of_coco_wholebody_beyond_the_body_is_there(adult: dict) -> None:
    names = set(WHOLE_BODY[17:])
    assert names <= set(adult)
    assert set(ALIASES.values()) <= names
    assert set(ALIASES) <= {name for points in POINT_SETS.values() for name in points}


@pytest.mark.parametrize("shape", [ADULT_AVERAGE, np.array([0.9, 0.15, 0.5, 0.6, 0.4, 0.5])])
def test_left_and_right_mirror_each_other(model: anny.AnnyModel, shape: np.ndarray) -> None:
    at = place(model, shape)
    flip = np.array([-1.0, 1.0, 1.0])
    pairs = [(name, name.replace("left_", "right_")) for name in (*LEFT_HAND, *FEET[:3], "left_pupil")]
    mirror = {
        **{i: 16 - i for i in range(17)},
        **{17 + i: 26 - i for i in range(10)},
        **{31 + i: 35 - i for i in range(5)},
    }
    mirror |= {
        36: 45,
        37: 44,
        38: 43,
        39: 42,
        40: 47,
        41: 46,
        48: 54,
        49: 53,
        50: 52,
        55: 59,
        56: 58,
        60: 64,
        61: 63,
        65: 67,
    }
    pairs += [(FACE[a], FACE[b]) for a, b in mirror.items()]
    for left, right in pairs:
        assert np.linalg.norm(at[left] * flip - at[right]) < 0.0025, (left, right)
    for middle in (8, 27, 28, 29, 30, 33, 51, 57, 62, 66):
        assert abs(at[FACE[middle]][0]) < 0.001
    assert all(at[name][0] > 0 for name in (*LEFT_HAND, *FEET[:3], "face_16", "face_45", "face_54", "face_26"))
    assert all(at[name][0] < 0 for name in RIGHT_HAND)


def test_points_come_in_the_order_of_their_sets(adult: dict) -> None:
    face = np.stack([adult[name] for name in FACE])
    assert (np.diff(face[:17, 0]) > -0.002).all()  # jaw, from its right to its left
    assert face[:17, 2].argmin() == 8
    assert (np.diff(face[17:27, 0]) > 0).all()
    assert (np.diff(face[27:31, 2]) < 0).all() and face[:, 1].argmin() == 30  # the tip of the nose is in front
    assert (np.diff(face[31:36, 0]) > 0).all()
    assert (np.diff(face[36:40, 0]) > 0).all() and (np.diff(face[42:46, 0]) > 0).all()
    assert face[[37, 38], 2].min() > face[[40, 41], 2].max() and face[[43, 44], 2].min() > face[[46, 47], 2].max()
    assert (np.diff(face[48:55, 0]) > 0).all() and (np.diff(face[54:60, 0]) < 0).all()
    assert face[49:54, 2].min() > face[61:64, 2].max() >= face[65:68, 2].max() > face[55:60, 2].max()
    assert face[17:27, 2].min() > face[36:48, 2].max() > face[30, 2] > face[33, 2] > face[51, 2] > face[8, 2]
    for hand in (LEFT_HAND, RIGHT_HAND):
        for finger in range(5):
            chain = np.stack([adult[hand[0]], *(adult[name] for name in hand[1 + 4 * finger : 5 + 4 * finger])])
            away = np.linalg.norm(chain - chain[0], axis=1)
            assert (np.diff(away) > 0).all()  # the resting fingers lead away from the wrist
    for side in ("left", "right"):
        assert adult[f"{side}_heel"][1] > adult[f"{side}_ankle"][1] > adult[f"{side}_big_toe"][1]
        inner, outer = abs(adult[f"{side}_big_toe"][0]), abs(adult[f"{side}_small_toe"][0])
        assert inner < outer


RATIOS = (
    # Farkas, Anthropometry of the head and face: adults, mean of men and women, as shares of the height of the face below
    # the nasion (n-gn, 118 mm).
    ("face_39", "face_42", "face_27", "face_8", 32.0 / 118.0, 0.2),
    ("face_36", "face_45", "face_27", "face_8", 88.0 / 118.0, 0.1),
    ("face_48", "face_54", "face_27", "face_8", 52.0 / 118.0, 0.15),
    ("face_27", "face_33", "face_27", "face_8", 52.0 / 118.0, 0.15),
    ("face_0", "face_16", "face_27", "face_8", 135.0 / 118.0, 0.15),
    # Buchholz et al. 1992: bones of fingers as shares of the length of the hand, which is wrist to tip of the middle finger.
    ("left_index_1", "left_index_2", "left_hand_root", "left_middle_tip", 0.245, 0.35),
    ("left_middle_1", "left_middle_2", "left_hand_root", "left_middle_tip", 0.266, 0.35),
    ("left_middle_2", "left_middle_3", "left_hand_root", "left_middle_tip", 0.170, 0.35),
    ("left_ring_1", "left_ring_2", "left_hand_root", "left_middle_tip", 0.244, 0.35),
    ("left_little_1", "left_little_2", "left_hand_root", "left_middle_tip", 0.204, 0.35),
    ("left_thumb_2", "left_thumb_3", "left_hand_root", "left_middle_tip", 0.196, 0.35),
)


@pytest.mark.parametrize(("a", "b", "c", "d", "ratio", "tolerance"), RATIOS)
def test_distances_are_those_of_people(adult: dict, a, b, c, d, ratio: float, tolerance: float) -> None:
    distance = lambda p, q: np.linalg.norm(adult[p] - adult[q])  # noqa: E731
    assert distance(a, b) / distance(c, d) == pytest.approx(ratio, rel=tolerance)


def test_sizes_are_shares_of_body_height(adult: dict) -> None:
    # Drillis and Contini: hand .108, foot .152 of stature; the hand's fingers are bent a little at rest.
    hand = np.linalg.norm(adult["left_middle_tip"] - adult["left_hand_root"])
    assert hand / adult["height"] == pytest.approx(0.108, rel=0.15)
    foot = np.linalg.norm(adult["left_big_toe"] - adult["left_heel"])
    assert foot / adult["height"] == pytest.approx(0.152, rel=0.15)
    face = np.linalg.norm(adult["face_27"] - adult["face_8"])
    assert face / adult["height"] == pytest.approx(0.118 / 1.72, rel=0.15)


def test_points_move_with_their_bones(model: anny.AnnyModel, adult: dict) -> None:
    pose = np.zeros((162, 3))
    pose[model.labels.bones.index("finger2-1.L") - 1] = (0.8, 0.0, 0.0)
    pose[model.labels.bones.index("jaw") - 1] = (0.3, 0.0, 0.0)
    at = place(model, ADULT_AVERAGE, pose)
    moved = {name: np.linalg.norm(at[name] - adult[name]) for name in WHOLE_BODY[17:]}
    assert moved["left_index_tip"] > 0.02 and moved["left_index_1"] < 1e-6 and moved["left_middle_tip"] < 1e-6
    assert moved["face_8"] > 0.02 and moved["face_57"] > 0.01 and moved["face_30"] < 0.002 and moved["face_39"] < 1e-6
    assert moved["right_index_tip"] < 1e-6 and moved["left_heel"] < 1e-6
