"""The bundled networks give the numbers of the runtimes they come from, and do no harm around them.

`goldens/networks.npz` holds three small pictures and what TensorFlow.js 4.22 (backend cpu) and LiteRT (`ai-edge-litert`
2.3, the `.tflite` twins of the pose and hand networks) put out for them, enlarged four times pixel by pixel.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from annyfit_jax.people.scene import SceneError
from experts.networks import (
    association,
    blazepose,
    frozen_graph,
    masks_of_crops,
    movenet,
    nanodet,
    people_finder,
    person_crops,
)  # fmt: skip
from experts.networks.association import Pairing
from experts.networks.people_finder import merged_boxes

NAMES = ("nanodet", "movenet_thunder", "blazepose_full", "hand_landmarks", "face_landmarks")
CROP_PX = 1e-3
"""Pixels of the crop by which a network may differ from TensorFlow.js."""
LITERT_PX = 6e-3
"""LiteRT and TensorFlow.js themselves differ by 0.0044 px on this crop."""


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[1] / "goldens" / "networks.npz", allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def enlarged(picture: np.ndarray) -> np.ndarray:
    return np.kron(picture, np.ones((4, 4, 1), np.uint8)).astype(np.uint8)


def furthest(actual, expected) -> float:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max())


def test_movenet_places_the_keypoints_where_tensorflow_does(golden):
    found = movenet.MoveNet()([enlarged(golden["small"])])
    assert found.shape == (1, movenet.PEOPLE, 17, 3)
    assert furthest(found[0, 0, :, :2], golden["movenet"][:, [1, 0]] * movenet.SIZE) < CROP_PX
    assert furthest(found[0, 0, :, 2], golden["movenet"][:, 2]) < 1e-5
    assert found[0, 0, :, 2].mean() > 0.3  # the picture shows somebody


def test_nanodet_scores_and_sides_are_tensorflow_s(golden):
    square = np.full((416, 416, 3), 114, np.uint8)
    square[80:336, 80:336] = enlarged(golden["small"])
    candidates = nanodet.NanoDet()([square])[0][52 * 52 :][golden["nanodet_rows"]]
    assert furthest(candidates[:, 4], golden["nanodet_scores"]) < 1e-5
    bins = np.exp(golden["nanodet_sides"].reshape(-1, 4, 11).astype(np.float64))
    sides = (bins / bins.sum(-1, keepdims=True)) @ np.arange(11) * 16
    y, x = np.divmod(golden["nanodet_rows"], 26)
    centre = np.stack([x + 0.5, y + 0.5], -1) * 16
    expected = np.concatenate([centre - sides[:, :2], centre + sides[:, 2:]], -1)
    assert furthest(candidates[:, :4], expected) < CROP_PX
    assert candidates[:, 4].max() > 0.15  # there is somebody, though of 64 pixels


def test_blazepose_is_tensorflow_s_and_litert_s(golden):
    figures = blazepose.BlazePose()([enlarged(golden["small"])])
    ours, theirs = figures.landmarks[0], golden["blazepose_full_landmarks"]
    assert furthest(ours[:, :2], theirs[:, :2]) < CROP_PX
    assert furthest(ours[:, :2], golden["blazepose_full_litert_landmarks"][:, :2]) < LITERT_PX
    assert furthest(ours[:, 2:], 1 / (1 + np.exp(-theirs[:, 3:].astype(np.float64)))) < 1e-5
    assert furthest(figures.world[0], golden["blazepose_full_world"]) < 1e-5
    assert furthest(figures.presence, golden["blazepose_full_presence"]) < 1e-5
    sampled = figures.segmentation[0, ::16, ::16].astype(np.float64)
    # Logits reach hundreds: half a percent of a pixel's probability is a rounding error of theirs.
    assert furthest(1 / (1 + np.exp(-sampled.clip(-50, 50))), golden["blazepose_full_mask"]) < 5e-3


def test_hands_and_faces_are_tensorflow_s(golden):
    hand = frozen_graph.bundled("hand_landmarks")
    out = jax.jit(hand)(jnp.asarray(enlarged(golden["hand"])[None] / 255.0))
    assert furthest(out["landmarks"][0], golden["hand_landmarks"]) < CROP_PX
    assert furthest(out["landmarks"][0], golden["hand_litert"]) < CROP_PX
    assert furthest(out["world"][0], golden["hand_world"]) < 1e-5
    face = frozen_graph.bundled("face_landmarks")
    out = jax.jit(face)(jnp.asarray(enlarged(golden["face"])[None] / 255.0))
    assert furthest(np.asarray(out["landmarks"]).reshape(468, 3)[::6], golden["face_landmarks"]) < CROP_PX
    presence = 1 / (1 + np.exp(-np.asarray(out["presence"]).ravel()))
    assert furthest(presence, golden["face_presence"]) < 1e-5


def test_a_picture_s_answer_does_not_depend_on_its_batch(golden):
    network = movenet.MoveNet()
    picture, other = enlarged(golden["small"]), np.full((256, 256, 3), 90, np.uint8)
    alone = network([picture])[0]
    np.testing.assert_allclose(network([other, picture, other])[1], alone, atol=1e-3)
    assert network([]).shape == (0, movenet.PEOPLE, 17, 3)


def test_bundled_files_fit_the_budget_and_say_where_they_are_from():
    folder = Path(frozen_graph.__file__).parent / "weights"
    assert sum(path.stat().st_size for path in folder.glob("*.npz")) < 30_000_000
    assert {path.stem for path in folder.glob("*.npz")} == set(NAMES)
    notices = (Path(frozen_graph.__file__).parents[2] / "NOTICE").read_text()
    for name in NAMES:
        assert "Apache-2.0" in frozen_graph.bundled(name).graph.source
        assert f"{name}.npz" in notices


def test_files_that_are_no_networks_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, graph=np.frombuffer(json.dumps({"format": 99}).encode(), np.uint8))
    with pytest.raises(SceneError, match="format 99, expected 1"):
        frozen_graph.load(path)
    np.savez(
        path, graph=np.frombuffer(b'{"format": 1}', np.uint8), high=np.zeros(2, np.uint8), low=np.zeros(2, np.uint8)
    )
    with pytest.raises(SceneError, match="not a network"):
        frozen_graph.load(path)
    with pytest.raises(SceneError, match="no such network; make it with"):
        frozen_graph.bundled("posenet")
    network = frozen_graph.bundled("hand_landmarks")
    with pytest.raises(ValueError, match=r"expected pictures \(batch, \*\(224, 224, 3\)\)"):
        network(jnp.zeros((1, 64, 64, 3)))


# ------------------------------------------------------------------------------------------------ crops


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, -2.5])
def test_crops_show_what_their_square_says(angle):
    """A white dot of the photo is found in the crop where `to_crop` says."""
    pixels = np.zeros((300, 400, 3), np.uint8)
    dot = np.array([212.0, 131.0])
    pixels[128:134, 209:215] = 255
    square = person_crops.Square((190.0, 150.0), 160.0, angle)
    picture = person_crops.crop(pixels, square, 128).astype(float)[..., 0]
    picture[picture == person_crops.GREY] = 0
    y, x = np.mgrid[:128, :128] + 0.5
    found = np.array([(x * picture).sum(), (y * picture).sum()]) / picture.sum()
    np.testing.assert_allclose(found, square.to_crop(dot, 128), atol=0.6)
    np.testing.assert_allclose(square.to_photo(square.to_crop(dot, 128), 128), dot, atol=1e-9)


def test_what_is_outside_the_box_or_the_photo_or_hidden_is_grey():
    pixels = np.full((100, 100, 3), 200, np.uint8)
    hidden = np.zeros((100, 100), bool)
    hidden[:, 60:] = True
    square = person_crops.Square((50.0, 50.0), 200.0)
    picture = person_crops.crop(pixels, square, 100, np.array([20.0, 20, 90, 90]), hidden)
    grey = (picture == person_crops.GREY).all(-1)
    assert grey[:34].all()
    assert not grey[40:60, 40:54].any()
    assert grey[:, 56:].all()


def test_a_leaning_body_stands_upright_in_its_crop():
    points = np.ones((17, 3))
    points[5:7, :2], points[11:13, :2] = [[200, 90], [200, 110]], [[100, 90], [100, 110]]  # shoulders to the right
    square = blazepose.square_along(np.array([80.0, 60, 220, 140]), points)
    shoulders, hips = square.to_crop(np.array([[200.0, 100], [100.0, 100]]), 256)
    assert shoulders[1] < hips[1] - 50
    np.testing.assert_allclose(shoulders[0], hips[0], atol=1e-9)
    # World landmarks of the crop: up is -y there; in the photo's axes it is +x.
    turned = blazepose.turned_back(np.array([[0.0, -1.0, 0.3]]), square.angle)
    np.testing.assert_allclose(turned, [[1.0, 0.0, 0.3]], atol=1e-12)
    points[5, 2] = 0.1
    assert blazepose.square_along(np.array([80.0, 60, 220, 140]), points).angle == 0.0


# ------------------------------------------------------------------------------------------------ people


STICK = np.array(
    [
        [50, 8], [54, 6], [46, 6], [58, 8], [42, 8], [70, 22], [30, 22], [78, 38], [22, 38], [82, 52], [18, 52], [62, 52],
        [38, 52], [62, 74], [38, 74], [62, 96], [38, 96],
    ],
    float,
)  # fmt: skip


def person(x: float, y: float, score: float = 0.8, scale: float = 1.0) -> np.ndarray:
    return np.concatenate([STICK * scale + [x, y], np.full((17, 1), score)], 1)


def box_of(skeleton: np.ndarray) -> np.ndarray:
    low, high = skeleton[:, :2].min(0), skeleton[:, :2].max(0)
    return np.concatenate([low - 4, high + 4])


def people_of(boxes, scores, skeletons, owners, ranks, **limits):
    return association.associate(
        np.array(boxes, float), np.array(scores, float), np.array(skeletons), np.array(owners), np.array(ranks),
        (640, 480), Pairing(**limits),
    )  # fmt: skip


def test_two_boxes_on_one_person_are_one_person():
    here = person(100, 100)
    box = box_of(here)
    found = people_of(
        [box, box + np.array([6, 20, -6, 0])], [0.8, 0.5], [here, here + np.array([1, 1, 0])], [0, 1], [0, 0]
    )
    assert [(p.box, p.skeleton) for p in found] == [(0, 0)]


def test_the_upper_half_of_a_person_and_the_whole_are_one():
    """The half is seen better and wins, the whole says how far the person goes; a child in front has a top of its own."""
    half, whole, child = [100.0, 100, 180, 200], [95, 95, 190, 330], [95, 200, 190, 330]
    related = association.wholes_of_parts(np.array([half, whole, child]), 0.16)
    assert np.argwhere(related).tolist() == [[1, 0]]
    upper, below = person(100, 100, 0.8), person(95, 230, 0.7)
    upper[11:, 2] = 0.05
    found = people_of([half, whole], [0.7, 0.5], [upper, below], [0, 1], [0, 0])
    assert [(p.box, p.skeleton, p.more_boxes) for p in found] == [(0, 0, (1,))]
    photo = people_finder._Photo(np.zeros((480, 640, 3), np.uint8), np.array([half, whole]), np.array([0.7, 0.5]))
    photo.skeletons, photo.owners, photo.ranks = [upper, below], [0, 1], [0, 0]
    (box,) = people_finder._found(photo, found, 0.2).boxes
    assert half[3] + 30 < box[3] < whole[3] - 30


def test_one_box_with_two_people_gives_each_box_its_own():
    """Both crops show the person in front first; the second skeleton of the hidden one's crop is hers."""
    front, behind = person(100, 100), person(125, 90, 0.5)
    found = people_of(
        [box_of(front), box_of(behind)], [0.8, 0.6], [front, behind, front, behind], [0, 0, 1, 1], [0, 1, 0, 1]
    )
    assert sorted((p.box, p.skeleton) for p in found) in ([(0, 0), (1, 3)], [(0, 0), (1, 1)])


def test_heads_behind_heads_stay_two_people():
    left, right = person(100, 100, scale=0.4), person(119, 97, scale=0.4)
    for skeleton in (left, right):
        skeleton[7:, 2] = 0.02
    boxes = [box_of(skeleton[:7]) for skeleton in (left, right)]
    found = people_of(boxes, [0.6, 0.6], [left, right], [0, 1], [0, 0])
    assert sorted((p.box, p.skeleton) for p in found) == [(0, 0), (1, 1)]


def test_nobody_there_is_nobody_found():
    assert people_of([[10, 10, 60, 90]], [0.9], [person(10, 10, 0.08)], [0], [0]) == []
    assert people_of(np.zeros((0, 4)), [], np.zeros((0, 17, 3)), [], []) == []


def test_similarity_is_one_of_a_skeleton_with_itself_and_falls_with_distance():
    here = person(100, 100)
    values = association.similarity(
        here, np.array([here, here + np.array([5, 0, 0]), here + np.array([60, 0, 0])]), 5000.0
    )
    assert values[0] == pytest.approx(1.0)
    assert values[0] > values[1] > values[2]
    assert values[2] < 0.3


def test_boxes_of_one_person_are_averaged_by_score():
    best, near, other, part = (
        [0.0, 0, 100, 100, 0.9],
        [0, 0, 100, 110, 0.3],
        [300, 0, 400, 100, 0.5],
        [20, 20, 100, 100, 0.2],
    )
    merged = merged_boxes(np.array([part, near, other, best]))
    assert len(merged) == 2
    np.testing.assert_allclose(merged[0], [0, 0, 100, 102.5, 0.9])
    np.testing.assert_allclose(merged[1], [300, 0, 400, 100, 0.5])
    assert merged_boxes(np.zeros((0, 5))).shape == (0, 5)


def test_the_shape_of_a_body_covers_its_limbs_and_little_else():
    skeleton = person(100, 100, scale=2.0)
    shape = association.body_shape(skeleton, box_of(skeleton), (640, 480), 0.2)
    inside = skeleton[:, :2].astype(int)
    assert shape[inside[:, 1], inside[:, 0]].all()
    assert not shape[:, :100].any()
    assert 0.1 < shape.sum() / (box_of(skeleton)[2:] - box_of(skeleton)[:2]).prod() < 0.6


# ------------------------------------------------------------------------------------------------ masks


def test_masks_of_crops_lie_where_the_crop_was_and_never_overlap():
    size = (200, 100)
    logits = np.full((2, 256, 256), -9.0)
    logits[:, 64:192, 64:192] = [[[4.0]], [[6.0]]]
    squares = [person_crops.Square((60.0, 50.0), 80.0), person_crops.Square((90.0, 50.0), 80.0, np.pi / 2)]
    boxes = np.array([[20.0, 10, 100, 90], [50, 10, 130, 90]])
    masks = masks_of_crops.photo_masks(logits, squares, boxes, size, 0.5)
    assert not masks.all(0).any()
    expected = np.zeros((2, 100, 200), bool)
    expected[0, 30:70, 40:80] = expected[1, 30:70, 70:110] = True
    expected[0] &= ~expected[1]  # the surer one has what both claim
    assert (masks ^ expected).sum() < 200


def test_islands_go_and_a_person_behind_a_post_stays_whole():
    mask = np.zeros((1, 100, 100), bool)
    mask[0, 10:90, 20:40] = mask[0, 10:90, 44:60] = True
    whole = mask.copy()
    mask[0, 95:98, 90:94] = True
    np.testing.assert_array_equal(masks_of_crops.cleaned(mask), whole)
    assert not masks_of_crops.cleaned(np.zeros((1, 5, 5), bool)).any()


def test_one_person_in_two_crops_keeps_the_mask_twice():
    """Crops that show the same pixels are no rivals; a third person beside them keeps hers."""
    logits = np.full((3, 256, 256), -9.0)
    logits[:, 64:192, 64:192] = [[[4.0]], [[5.0]], [[6.0]]]
    squares = [person_crops.Square((x, 50.0), 80.0) for x in (60.0, 61.0, 90.0)]
    boxes = np.array([[20.0, 10, 100, 90], [22, 10, 100, 90], [50, 10, 130, 90]])
    masks = masks_of_crops.photo_masks(logits, squares, boxes, (200, 100), 0.5)
    np.testing.assert_array_equal(masks[0], masks[1])
    assert masks[0].sum() > 900
    assert not (masks[0] & masks[2]).any()
    assert masks[2].sum() > 1500


@pytest.mark.parametrize("sure", [0.9, 0.3])
def test_a_second_look_turns_the_crop_otherwise(sure):
    """Half as far and not at all; as far as the body leans where the first look did not dare to."""
    points = np.full((17, 3), sure)
    points[5:7, :2], points[11:13, :2] = [[190, 90], [210, 110]], [[90, 190], [110, 210]]  # by 45 degrees
    box = np.array([80.0, 60, 220, 240])
    first = blazepose.square_along(box, points)
    turns = [square.angle for square in blazepose.further_squares(box, points, first)]
    lean = np.pi / 4
    np.testing.assert_allclose([first.angle, *turns], [lean, lean / 2, 0.0] if sure > 0.5 else [0.0, lean / 2, lean])
    points[5:7, :2] = [[90, 80], [110, 80]]
    assert blazepose.further_squares(box, points, blazepose.square_along(box, points)) == []


def test_disagreement_is_a_share_of_the_box_over_seen_keypoints():
    points = np.zeros((17, 3))
    points[:4] = [[10, 10, 1.0], [20, 10, 1.0], [30, 10, 0.5], [40, 10, 0.1]]
    landmarks = np.zeros((33, 2))
    landmarks[list(blazepose.COCO_OF_LANDMARKS)] = points[:, :2] + [3.0, 4.0]
    landmarks[blazepose.COCO_OF_LANDMARKS[2]] += [0.0, 5.0]  # 9 and 3 away: 9.49, half the weight
    landmarks[blazepose.COCO_OF_LANDMARKS[3]] += 500.0  # hardly seen
    box = np.array([0.0, 0, 50, 100])
    assert blazepose.disagreement(landmarks, points, box) == pytest.approx((5 + 5 + 0.5 * np.hypot(3, 9)) / 2.5 / 100)
    assert blazepose.disagreement(landmarks, np.zeros((17, 3)), box) == 0.0
