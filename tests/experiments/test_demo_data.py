"""The photos shipped for the demo: licences, credits, and what the reader makes of them."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import numpy as np
import pytest
from helpers import REPO, require_shared
from PIL import Image

from annyfit_jax.inputs import open_input
from annyfit_jax.people.words import age_anchor, gender_anchor
from annyfit_jax.report.scene_pages import coco_credits

FOLDER = REPO / "experiments" / "demo_data"
ANNOTATIONS = FOLDER / "annotations.json"
PHOTOS = FOLDER / "photos"
ALLOWED_LICENCES = {
    "http://creativecommons.org/licenses/by/2.0/": "CC BY 2.0",
    "http://creativecommons.org/licenses/by-sa/2.0/": "CC BY-SA 2.0",
}
COCO_FIELDS = {
    "id", "image_id", "category_id", "iscrowd", "num_keypoints", "keypoints", "bbox", "area", "segmentation"
}  # fmt: skip
OWN_FIELDS = {"age", "gender", "hand_label"}
AGE_WORDS = ("adult", "teenager", "child", "baby")
GENDER_WORDS = ("male", "female")


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return json.loads(ANNOTATIONS.read_text())


@pytest.fixture(scope="module")
def licence_of(content) -> dict[str, str]:
    """File name -> address of its licence."""
    address = {entry["id"]: entry["url"] for entry in content["licenses"]}
    return {image["file_name"]: address[image["license"]] for image in content["images"]}


def test_every_photo_has_a_licence_that_allows_shipping_it(licence_of):
    assert licence_of
    assert set(licence_of.values()) <= set(ALLOWED_LICENCES)


def test_shipped_files_are_exactly_the_listed_ones(content):
    listed = {image["file_name"] for image in content["images"]}
    assert {path.name for path in PHOTOS.iterdir()} == listed
    assert {path.name for path in FOLDER.iterdir()} == {"annotations.json", "CREDITS.md", "photos"}


def test_photos_are_unmodified(content):
    for image in content["images"]:
        data = (PHOTOS / image["file_name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == image["sha256"], image["file_name"]
        assert image["modified"] is False
        with Image.open(PHOTOS / image["file_name"]) as photo:
            assert photo.size == (image["width"], image["height"])


def test_only_the_annotations_that_may_be_shipped(content):
    """COCO's own fields are CC BY 4.0; the whole-body ones (feet, hands, face) are not ours to ship."""
    for annotation in content["annotations"]:
        assert set(annotation) <= COCO_FIELDS | OWN_FIELDS, annotation["id"]
    images = {image["id"] for image in content["images"]}
    assert {annotation["image_id"] for annotation in content["annotations"]} == images


def test_credits_name_every_photo_its_page_and_its_licence(content, licence_of):
    credits = (FOLDER / "CREDITS.md").read_text()
    rows = {row.split("|")[1].strip(): row for row in credits.splitlines() if re.match(r"\| \d+\.jpg ", row)}
    assert set(rows) == set(licence_of)
    for image in content["images"]:
        name = image["file_name"]
        flickr_id = re.search(r"/(\d+)_\w+\.jpg$", image["flickr_url"])
        assert flickr_id is not None
        assert image["source_url"].endswith(f"?id={flickr_id[1]}")
        assert f"({image['source_url']})" in rows[name]
        assert f"[{ALLOWED_LICENCES[licence_of[name]]}]({licence_of[name]})" in rows[name]
    assert "https://creativecommons.org/licenses/by/4.0/" in credits  # COCO's annotations


def test_the_page_credits_every_photo(content, licence_of):
    credits = coco_credits(str(ANNOTATIONS))
    assert set(credits) == set(licence_of)
    for image in content["images"]:
        line = credits[image["file_name"]]
        assert f'href="{image["source_url"]}"' in line
        assert f'href="{licence_of[image["file_name"]]}"' in line


def test_the_reader_finds_the_people_and_their_words(content):
    source = open_input(str(ANNOTATIONS), images=str(PHOTOS))
    assert source.kind == "coco"
    annotations = {str(a["id"]): a for a in content["annotations"]}
    fitted = {key for key, a in annotations.items() if a["num_keypoints"] > 0 and not a["iscrowd"]}
    seen = set()
    for scene in source:
        assert scene.image_path is not None
        assert not seen & set(scene.person_ids)
        seen |= set(scene.person_ids)
        for row, person in enumerate(scene.person_ids):
            annotation = annotations[person]
            flags = np.reshape(annotation["keypoints"], (17, 3))[:, 2]
            assert (scene.keypoints[row, :, 2] > 0).sum() == annotation["num_keypoints"] == (flags > 0).sum()
            assert scene.age[row] == age_anchor(annotation.get("age", ""))
            assert scene.gender[row] == gender_anchor(annotation.get("gender", ""))
    assert seen == fitted
    assert len(seen) == 25


def test_words_say_what_the_labels_say(content):
    for annotation in content["annotations"]:
        label = annotation.get("hand_label", {"age": -1, "gender": -1})
        assert annotation.get("age") == (AGE_WORDS[label["age"]] if label["age"] >= 0 else None)
        assert annotation.get("gender") == (GENDER_WORDS[label["gender"]] if label["gender"] >= 0 else None)


def test_photos_and_annotations_are_those_of_the_source(content):
    folder = require_shared("data/real")
    original = {a["id"]: a for a in json.loads((folder / "annotations.json").read_text())["annotations"]}
    for image in content["images"]:
        assert (PHOTOS / image["file_name"]).read_bytes() == (folder / image["file_name"]).read_bytes()
        expected = {a["id"] for a in original.values() if a["image_id"] == image["id"]}
        assert {a["id"] for a in content["annotations"] if a["image_id"] == image["id"]} == expected
    for annotation in content["annotations"]:
        for field in (COCO_FIELDS | {"hand_label"}) & set(annotation):
            assert annotation[field] == original[annotation["id"]][field], (annotation["id"], field)
