"""Hands and faces by the bundled networks: on photos whose faces were annotated, turned, mirrored, and where there are none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import REPO, require_shared
from PIL import Image

from annyfit_jax.people.scene import COCO17
from experts.networks import hands_and_faces
from experts.networks.hands_and_faces import HAND_SIZE, PartFinder, PartLimits, metre_px

J = {name: i for i, name in enumerate(COCO17)}
PHOTOS = REPO / "experiments" / "demo_data" / "photos"


def annotated(photo: str) -> list[dict]:
    content = json.loads((REPO / "experiments" / "demo_data" / "annotations.json").read_text())
    (image,) = [entry["id"] for entry in content["images"] if entry["file_name"] == photo]
    return [a for a in content["annotations"] if a["image_id"] == image and a["num_keypoints"]]


def keypoints_of(people: list[dict]) -> np.ndarray:
    points = np.array([person["keypoints"] for person in people], float).reshape(-1, 17, 3)
    points[..., 2] = points[..., 2] > 0
    return points


def pixels_of(photo: str) -> np.ndarray:
    return np.asarray(Image.open(PHOTOS / photo).convert("RGB"))


@pytest.fixture(scope="module")
def finder() -> PartFinder:
    return PartFinder()


@pytest.fixture(scope="module")
def children() -> tuple[np.ndarray, np.ndarray]:
    """Pixels, and the keypoints of twelve people of whom most look into the camera."""
    return pixels_of("000000001000.jpg"), keypoints_of(annotated("000000001000.jpg"))


@pytest.fixture(scope="module")
def found(finder, children):
    return finder(*children, None)


def test_the_face_of_an_annotated_photo(finder):
    people = json.loads((require_shared("data/real") / "annotations.json").read_text())["annotations"]
    (person,) = [p for p in people if p.get("face_valid") or max(p.get("face_kpts", [0])) > 0]
    face = np.array(person["face_kpts"], float).reshape(68, 3)
    parts = finder(pixels_of("000000000785.jpg"), keypoints_of([person]), None)
    assert parts.face[0, :, 2].min() > 0.9
    off = np.linalg.norm(parts.face[0, :, :2] - face[:, :2], axis=1)
    assert off.mean() < 0.07 * np.ptp(face[:, 1])  # 1.8 of 40 pixels; she wears sunglasses and a scarf
    # Her hands hold ski poles in mittens: no hand is better than a wrong one.
    assert not parts.left_hand[0].any() and not parts.right_hand[0].any()


def test_faces_lie_on_the_clicked_eyes_and_noses(children, found):
    keypoints = children[1]
    sure = np.flatnonzero(found.face[:, 0, 2] > 0.9)
    assert len(sure) >= 9
    for i in sure:
        eyes = found.face[i, 42:48, :2].mean(0), found.face[i, 36:42, :2].mean(0)
        width = np.ptp(found.face[i, :, 0])
        for place, name in ((eyes[0], "left_eye"), (eyes[1], "right_eye"), (found.face[i, 30, :2], "nose")):
            assert np.linalg.norm(place - keypoints[i, J[name], :2]) < 0.2 * width, (i, name)


def test_hands_begin_at_the_wrist_and_point_away_from_the_elbow(children, found):
    keypoints = children[1]
    count = 0
    for side, hands in (("left", found.left_hand), ("right", found.right_hand)):
        for i in np.flatnonzero(hands[:, 0, 2] > 0.5):
            wrist, elbow = keypoints[i, J[f"{side}_wrist"]], keypoints[i, J[f"{side}_elbow"]]
            size = metre_px(keypoints[i]) * 0.19
            assert np.linalg.norm(hands[i, 0, :2] - wrist[:2]) < 0.6 * size
            if elbow[2] > 0:
                assert (hands[i, 9, :2] - hands[i, 0, :2]) @ (wrist[:2] - elbow[:2]) > 0, (i, side)
            count += 1
    assert count >= 5


def test_no_hand_is_given_away_twice(found):
    hands = np.concatenate([found.left_hand, found.right_hand])
    hands = hands[hands[:, 0, 2] > 0][..., :2]
    apart = np.linalg.norm(hands[:, None] - hands[None], axis=-1).mean(-1)
    length = np.linalg.norm(hands[:, 9] - hands[:, 0], axis=-1).min()
    assert apart[~np.eye(len(hands), dtype=bool)].min() > 0.4 * length


def test_a_mirrored_photo_has_the_same_parts_on_the_other_side(finder, children, found):
    pixels, keypoints = children
    width = pixels.shape[1]
    other = [J[name.replace("left", "?").replace("right", "left").replace("?", "right")] for name in COCO17]
    mirrored = keypoints[:, other] * [-1, 1, 1] + [width - 1, 0, 0]
    parts = finder(np.ascontiguousarray(pixels[:, ::-1]), mirrored, None)
    off = []
    for here, there in ((found.left_hand, parts.right_hand), (found.right_hand, parts.left_hand)):
        both = (here[:, 0, 2] > 0) & (there[:, 0, 2] > 0)
        assert both.sum() >= 0.6 * max((here[:, 0, 2] > 0).sum(), 1)
        back = there[both, :, :2] * [-1, 1] + [width - 1, 0]
        off += np.linalg.norm(back - here[both, :, :2], axis=-1).mean(1).tolist()
    assert np.median(off) < 2.5


def test_a_photo_turned_by_a_quarter_has_the_same_parts(finder, children, found):
    pixels, keypoints = children
    turned = keypoints.copy()
    turned[..., 0], turned[..., 1] = keypoints[..., 1], pixels.shape[1] - 1 - keypoints[..., 0]
    parts = finder(np.ascontiguousarray(np.rot90(pixels)), turned, None)
    both = (found.face[:, 0, 2] > 0.9) & (parts.face[:, 0, 2] > 0.9)
    assert both.sum() >= 0.9 * (found.face[:, 0, 2] > 0.9).sum()
    back = np.stack([pixels.shape[1] - 1 - parts.face[both, :, 1], parts.face[both, :, 0]], -1)
    assert np.median(np.linalg.norm(back - found.face[both, :, :2], axis=-1)) < 1.5


def test_where_nobody_is_nothing_is_found(finder, children):
    empty = np.full((480, 640, 3), 110, np.uint8)
    parts = finder(empty, children[1], None)
    assert not any(part.any() for part in (parts.left_hand, parts.right_hand, parts.face))
    nobody = finder(empty, np.zeros((0, 17, 3)), None)
    assert nobody.face.shape == (0, 68, 3) and nobody.left_hand.shape == (0, 21, 3)


def test_small_hands_and_unsure_wrists_are_not_looked_for(children):
    keypoints = children[1][:1].copy()

    def parts(points: np.ndarray, **limits: float) -> set[str]:
        return {task.part for task in hands_and_faces._tasks(0, points[0], None, PartLimits(**limits))}

    assert parts(keypoints) == {"left", "right", "face"}
    assert parts(keypoints, least_px=1000.0) == set()
    keypoints[0, J["left_wrist"], 2] = 0.1
    assert parts(keypoints) == {"right", "face"}


def test_the_next_crop_holds_the_hand_with_the_fingers_up():
    hand, corner = np.zeros((21, 2)), np.array([300.0, 200.0])
    for finger in range(5):
        hand[1 + 4 * finger : 5 + 4 * finger] = [[20 * (k + 1), 8 * (finger - 2)] for k in range(4)]  # to the right
    square = hands_and_faces._next_square("left", hand + corner)
    inside = square.to_crop(hand + corner, HAND_SIZE)
    assert (inside > 0).all() and (inside < HAND_SIZE).all()
    way = inside[9] - inside[0]
    assert way[1] < 0 and abs(way[0]) < 1e-6 * abs(way[1]) + 1e-6
    np.testing.assert_allclose(0.5 * (inside.min(0) + inside.max(0)), HAND_SIZE / 2, atol=1e-6)
    assert square.side == pytest.approx(2.0 * 80)


def test_a_wild_keypoint_does_not_make_a_person_large():
    points = np.zeros((17, 3))
    for name, place in {
        "left_shoulder": (0, 0),
        "left_hip": (0, 50),
        "left_knee": (0, 92),
        "left_ankle": (900, 0),
    }.items():
        points[J[name]] = (*place, 1.0)
    assert metre_px(points) == pytest.approx(100.0)
    assert metre_px(np.zeros((17, 3))) == 0.0


def test_feet_far_from_their_ankle_are_nobody_s():
    keypoints, landmarks = np.zeros((2, 17, 3)), np.zeros((2, 33, 3))
    for name, place in {"left_hip": (0, 0), "left_knee": (0, 42), "left_ankle": (0, 84)}.items():
        keypoints[:, J[name]] = (*place, 1.0)
    landmarks[:, [29, 31]] = [[-5, 90, 0.9], [15, 92, 0.8]]
    landmarks[:, [30, 32]] = [[0, 90, 0.9], [20, 92, 0.8]]
    landmarks[1, 31, :2] = [300, 10]
    found = hands_and_faces.feet(keypoints, landmarks)
    np.testing.assert_array_equal(found["left_heel"], landmarks[:, 29])
    np.testing.assert_array_equal(found["left_big_toe"][0], landmarks[0, 31])
    assert not found["left_big_toe"][1].any()
    assert not found["right_heel"].any() and not found["right_big_toe"].any()  # its ankle is not seen
