"""Annotations of altered photos stay on what they name."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from annyfit_jax.regressors.aios.augment import COCO_MIRROR
from experiments.studies import photo_copies


def dotted() -> tuple[Image.Image, list[dict]]:
    """A photo with white dots of 7 pixels at two annotated points: left and right shoulder."""
    pixels = np.zeros((200, 300, 3), np.uint8)
    points = np.zeros((17, 3))
    for k, (x, y) in {5: (180, 90), 6: (120, 110)}.items():
        pixels[y - 3 : y + 4, x - 3 : x + 4] = 255
        points[k] = [x + 0.5, y + 0.5, 2]
    person = {
        "bbox": [100, 60, 110, 90], "keypoints": points.ravel().tolist(), "num_keypoints": 2, "area": 5000.0
    }  # fmt: skip
    return Image.fromarray(pixels), [person]


def centres(picture: Image.Image) -> np.ndarray:
    """x, y of the white dots, from left to right."""
    from scipy import ndimage

    values = np.asarray(picture.convert("L"), float)
    values[np.abs(values - photo_copies.GREY) < 2] = 0
    parts, count = ndimage.label(values > 150)  # pyright: ignore[reportGeneralTypeIssues]
    found = np.array(ndimage.center_of_mass(values, parts, range(1, count + 1)))[:, ::-1] + 0.5
    return found[np.argsort(found[:, 0])]


@pytest.mark.parametrize(
    "change",
    [
        lambda picture, people: photo_copies.turned(picture, people, 20.0),
        lambda picture, people: photo_copies.window(picture, people, (40, 20, 280, 190), 0.8),
        lambda picture, people: photo_copies.window(picture, people, (40, 20, 280, 190), 1.5, mirror=True),
    ],
)
def test_points_lie_on_what_they_name(change):
    picture, (person,) = change(*dotted())
    points = np.array(person["keypoints"]).reshape(17, 3)
    assert person["num_keypoints"] == 2
    named = points[5:7, :2]
    np.testing.assert_allclose(named[np.argsort(named[:, 0])], centres(picture), atol=0.5)
    x, y, width, height = person["bbox"]
    assert (named >= [x, y]).all()
    assert (named <= [x + width, y + height]).all()


def test_a_mirrored_left_shoulder_is_a_right_one():
    picture, people = dotted()
    _, (plain,) = photo_copies.window(picture, people, (0, 0, 300, 200))
    _, (mirrored,) = photo_copies.window(picture, people, (0, 0, 300, 200), mirror=True)
    before, after = (np.array(person["keypoints"]).reshape(17, 3) for person in (plain, mirrored))
    np.testing.assert_allclose(after[6, :2], [300 - before[5, 0], before[5, 1]])
    assert COCO_MIRROR[5] == 6


def test_who_is_cut_off_does_not_count():
    picture, people = dotted()
    _, (cut,) = photo_copies.window(picture, people, (180, 0, 300, 200))
    assert cut["iscrowd"] == 1
    assert cut["num_keypoints"] == 0
    _, gone = photo_copies.window(picture, people, (220, 0, 300, 200))
    assert gone == []


def test_two_photos_side_by_side_keep_all_people():
    picture, people = dotted()
    whole, both = photo_copies.side_by_side((picture, people), (picture, people))
    assert whole.size == (1440, 480)
    first, second = (np.array(person["keypoints"]).reshape(17, 3)[5:7] for person in both)
    np.testing.assert_allclose(second[:, 0] - first[:, 0], 720)
    assert len(centres(whole)) == 4


def test_every_kind_has_every_photo():
    picture, people = dotted()
    made = photo_copies.copies([("a.jpg", picture, people), ("b.jpg", picture, people)], 0)
    assert {kind: len(photos) for kind, photos in made.items()} == {
        "half": 2, "dark": 2, "jpeg": 2, "turned": 2, "cropped": 2, "pairs": 1
    }  # fmt: skip
    assert len(photo_copies.copies([("a.jpg", picture, people)], 3)["random"]) == 3
