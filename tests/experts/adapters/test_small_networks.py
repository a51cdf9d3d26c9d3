"""The experts that come with the installation, on a photo whose people were annotated by hand, and where nobody is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import require_shared

from annyfit_jax.inputs.masks import decode_segmentation
from annyfit_jax.inputs.photos import names_photos, photo_paths, read_photo
from annyfit_jax.people.boxes import pairwise_iou
from annyfit_jax.people.scene import SceneError
from experts import expert_cues, people_rules, pipeline
from experts.adapters import small_networks
from experts.interfaces import Card, Detections, ExpertError, Outlines, People, Photo
from experts.networks import blazepose
from experts.people_rules import Rules
from experts.registry import SETS, build, check_licences

DEMO = Path(__file__).parents[3] / "experiments" / "demo_data"
NAME = "000000252219.jpg"


@pytest.fixture(scope="module")
def photo() -> Photo:
    path = DEMO / "photos" / NAME
    return Photo("street", str(path), read_photo(path))


@pytest.fixture(scope="module")
def clicked() -> list[dict]:
    content = json.loads((DEMO / "annotations.json").read_text())
    (image,) = [entry["id"] for entry in content["images"] if entry["file_name"] == NAME]
    return [a for a in content["annotations"] if a["image_id"] == image and a["num_keypoints"]]


@pytest.fixture(scope="module")
def experts():
    made = build("default")
    for _cue, expert in made.items():
        expert.load()
    yield made
    for _cue, expert in made.items():
        expert.close()


@pytest.fixture(scope="module")
def detected(experts, photo) -> Detections:
    nobody = Photo("nobody", "", np.full((240, 320, 3), 90, np.uint8))
    found, empty = experts.detector.detect([photo, nobody])
    assert len(empty.boxes) == 0
    assert empty.keypoints.shape == (0, 17, 3)
    return people_rules.select_detections(found, photo.size, Rules())


@pytest.fixture(scope="module")
def matched(detected, clicked) -> list[int]:
    """Annotation -> found person."""
    x, y, w, h = np.array([a["bbox"] for a in clicked]).T
    overlap = pairwise_iou(np.stack([x, y, x + w, y + h], -1), detected.boxes)
    assert (overlap.max(1) > 0.7).all()
    return overlap.argmax(1).tolist()


def test_everybody_is_found_once_and_nobody_else(detected, clicked, matched):
    assert sorted(matched) == list(range(len(detected.boxes)))
    assert (detected.scores > 0.9).all()


def test_keypoints_lie_where_people_clicked(detected, clicked, matched):
    errors = []
    for annotation, person in zip(clicked, matched, strict=True):
        truth = np.reshape(annotation["keypoints"], (17, 3))
        assert detected.keypoints is not None
        away = np.linalg.norm(detected.keypoints[person, :, :2] - truth[:, :2], axis=-1)
        errors += (away / max(annotation["bbox"][2:]))[truth[:, 2] > 0].tolist()
    assert np.mean(np.array(errors) < 0.1) > 0.9
    assert np.median(errors) < 0.03


def test_masks_and_landmarks_are_those_of_the_people(experts, photo, detected, clicked, matched):
    people = People(detected.boxes, detected.ids, detected_keypoints=detected.keypoints)
    (outlines,) = experts.segmenter.segment([photo], [people])
    assert isinstance(outlines, Outlines)
    assert not (outlines.masks.sum(0) > 1).any()
    for annotation, person in zip(clicked, matched, strict=True):
        truth = decode_segmentation(annotation["segmentation"], photo.size, NAME)
        mask = outlines.masks[person]
        assert (truth & mask).sum() / (truth | mask).sum() > 0.65
        # Nose, shoulders, hips, ankles of the two networks.
        coco, blaze = [0, 5, 6, 11, 12, 15, 16], [0, 11, 12, 23, 24, 27, 28]
        away = np.linalg.norm(detected.keypoints[person, coco, :2] - outlines.landmarks[person, blaze, :2], axis=-1)
        assert np.median(away) < 0.06 * max(annotation["bbox"][2:])
        world = outlines.world_landmarks[person]
        assert 1.2 < np.linalg.norm(world[0] - world[27:29].mean(0)) < 2.0  # nose to ankles, metres
        assert world[0, 1] < world[27, 1]  # y points down
    entry = expert_cues.encode("segmenter", outlines, photo, people, Rules())
    detector = expert_cues.encode("detector", detected, photo, None, Rules())
    again = expert_cues.people_of({"detector": detector, "segmenter": entry}, photo.size)
    np.testing.assert_array_equal(again.masks, outlines.masks)
    np.testing.assert_array_equal(again.world_landmarks, outlines.world_landmarks)
    np.testing.assert_array_equal(again.detected_keypoints, people_rules.confident(detected.keypoints, photo.size))


def test_keypoints_around_boxes_of_another_detector(experts, photo, detected):
    people = People(detected.boxes[::-1], detected.ids)
    (points,) = experts.keypoints.keypoints([photo], [people])
    apart = np.linalg.norm(points[..., :2] - detected.keypoints[::-1, :, :2], axis=-1)
    side = (people.boxes[:, 2:] - people.boxes[:, :2]).max(-1)
    assert (np.median(apart, -1) < 0.03 * side).all()
    (kept,) = experts.keypoints.keypoints([photo], [People(detected.boxes, detected_keypoints=detected.keypoints)])
    np.testing.assert_array_equal(kept, detected.keypoints)


def test_a_head_in_a_crowd_is_no_whole_body():
    points = np.full((1, 17, 3), 0.9)
    points[0, :, 0], points[0, :, 1] = 50, np.linspace(10, 200, 17)
    seen = small_networks.seen_around(np.array([[30.0, 0, 70, 50]]), points)
    assert seen[0, :4].all()
    assert not seen[0, 5:].any()


def test_confidences_are_probabilities_that_rise_with_the_score():
    scores = np.linspace(0, 1, 50)
    chance = small_networks.point_probability(scores)
    assert chance[0] == 0.0
    assert (np.diff(chance) > 0).all()
    assert chance[-1] <= 1.0
    values = small_networks.person_probability(np.array([1e-9, 0.05, 0.1, 0.2, 1.0]))
    assert (np.diff(values) > 0).all()
    assert values[0] < 0.01
    assert values[-1] > 0.99


def test_the_default_set_is_free_to_use_and_needs_no_download():
    experts = build("default")
    check_licences(experts, allow_noncommercial=False)
    assert all(not expert.card.checkpoint or "bundled" in expert.card.checkpoint for _cue, expert in experts.items())
    assert {"detector": "rtdetr", "keypoints": "vitpose"}.items() <= SETS["large"].items()
    assert build("default", ["segmenter.path=/no/such/file.npz"]).segmenter.path == "/no/such/file.npz"
    with pytest.raises(ExpertError, match=r"blazepose: no file /no/such/file\.npz"):
        build("default", ["segmenter.path=/no/such/file.npz"]).segmenter.load()


def test_an_expert_is_given_what_it_says_it_uses():
    class Wants:
        uses = ("segmenter",)
        card = Card("wants", commercial=True)

    assert pipeline.upstream("keypoints", Wants()) == ("detector", "segmenter")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ExpertError, match="detector: wants uses segmenter, which are found later"):
        pipeline.upstream("detector", Wants())  # pyright: ignore[reportArgumentType]


def test_photos_are_named_by_folder_file_or_pattern(tmp_path):
    for name in ("a.jpg", "b/c.PNG", "b/d.avif", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    every = [tmp_path / "a.jpg", tmp_path / "b" / "c.PNG", tmp_path / "b" / "d.avif"]
    assert photo_paths(tmp_path) == (tmp_path, every)
    assert photo_paths(every[1]) == (tmp_path / "b", [every[1]])
    assert photo_paths(f"{tmp_path}/*/*") == (tmp_path, every[1:])
    assert photo_paths(f"{tmp_path}/**/*.jpg") == (tmp_path, every[:1])
    with pytest.raises(SceneError, match="no photo"):
        photo_paths(f"{tmp_path}/*.gif")
    with pytest.raises(SceneError, match="no such file or folder"):
        photo_paths(tmp_path / "missing")
    assert names_photos(tmp_path)
    assert names_photos(f"{tmp_path}/*.jpg")
    assert names_photos(every[0])
    assert not names_photos(tmp_path / "notes.txt")
    assert not names_photos(tmp_path / "annotations.json")


def test_a_leaning_person_is_looked_at_again(experts):
    """A man who leans over: his landmarks lie on his keypoints only in the crop that is turned less."""
    path = require_shared("data/pose2sim/photos") / "single_f065_c2.jpg"
    lab = Photo("lab", str(path), read_photo(path))
    found = people_rules.select_detections(experts.detector.detect([lab])[0], lab.size, Rules())
    sides = (found.boxes[:, 2:] - found.boxes[:, :2]).max(1)
    man = int(sides.argmax())
    assert found.keypoints is not None
    box, points = found.boxes[man], found.keypoints[man]
    people = People(box[None], ["man"], detected_keypoints=points[None])
    off = []
    for limit in (1.0, small_networks.BlazePoseOutlines.disagreement):
        expert = small_networks.BlazePoseOutlines(disagreement=limit)
        expert.load()
        (outlines,) = expert.segment([lab], [people])
        off.append(blazepose.disagreement(outlines.landmarks[0, :, :2], points, box))
    assert off[0] > 0.2
    assert off[1] < 0.05


def test_whole_body_keypoints_are_movenet_s_and_hands_faces_and_feet(experts, photo, detected):
    people = People(detected.boxes, detected.ids, detected_keypoints=detected.keypoints)
    (outlines,) = experts.segmenter.segment([photo], [people])
    people = People(
        detected.boxes, detected.ids, detected_keypoints=detected.keypoints, landmarks=outlines.landmarks
    )  # fmt: skip
    chosen = build("whole_body")
    chosen.keypoints.load()
    (points,) = chosen.keypoints.keypoints([photo], [people])
    assert points.shape == (len(people), 133, 3)
    np.testing.assert_array_equal(points[:, :17], detected.keypoints)
    for row, landmark, ankle in ((17, 31, 15), (19, 29, 15), (20, 32, 16), (22, 30, 16)):
        kept = points[:, row, 2] > 0
        assert kept.sum() >= 2, "most feet of this photo are seen"
        np.testing.assert_array_equal(points[kept, row], outlines.landmarks[kept, landmark])
        assert (points[kept, ankle, 2] >= 0.3).all()
    assert not points[:, [18, 21]].any()
    assert ((points[..., 2] >= 0) & (points[..., 2] <= 1)).all()
    assert (points[:, 23:, 2] > 0).any()
    chosen.keypoints.close()
    with pytest.raises(ExpertError, match="not loaded"):
        chosen.keypoints.keypoints([photo], [people])
