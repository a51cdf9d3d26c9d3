"""Cues that somebody has already are read from a bucket as from a disk, and asked for again when they have changed."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from annyfit_jax.store.locations import Location, place
from experts import registry
from experts.adapters.coco_file import cues_in
from experts.interfaces import ExpertError, People, Photo
from experts.registry import create

SIZE = (64, 48)


@pytest.fixture
def given(tmp_path, monkeypatch) -> tuple[Path, Location]:
    """The same files on a disk and in a bucket."""
    monkeypatch.setenv("ANNYFIT_CACHE", str(tmp_path / "cache"))
    disk, bucket = tmp_path / "disk", place(f"memory://given-{tmp_path.name}-{os.getpid()}")
    (disk / "masks").mkdir(parents=True)
    (disk / "depth").mkdir()
    labels = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    labels[10:40, 10:30] = 1
    Image.fromarray(labels).save(disk / "masks" / "a.png")
    np.save(disk / "depth" / "a.npy", np.full((SIZE[1], SIZE[0]), 2.5))
    person = {"id": 7, "image_id": 1, "bbox": [10, 10, 20, 30], "keypoints": [20, 20, 2] * 17, "age": "child"}
    (disk / "coco.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [person]}))
    (disk / "words.json").write_text(json.dumps({"7": {"age": "baby"}}))
    (disk / "camera.json").write_text(json.dumps({"K": [[50, 0, 32], [0, 50, 24], [0, 0, 1]], "size": list(SIZE)}))
    for name in place(disk).tree():
        (bucket / name).put((disk / name).read_bytes())
    return disk, bucket


def asked(root: Path | Location) -> list[np.ndarray]:
    """What every expert that reads files says of a photo."""
    at = place(str(root))
    photo = Photo("a", "a.jpg", np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    crowd = People(np.array([[10.0, 10.0, 30.0, 40.0]]), ["0"])
    experts: dict[str, Any] = {
        "segmenter": create("segmenter", "folder", path=str(at / "masks")),
        "depth": create("depth", "folder", path=str(at / "depth")),
        "keypoints": create("keypoints", "coco", path=str(at / "coco.json")),
        "words": create("words", "coco", path=str(at / "coco.json"), words_file=str(at / "words.json")),
        "camera": create("camera", "calibration", path=str(at / "camera.json")),
    }
    for expert in experts.values():
        assert expert.card.checkpoint in ("masks", "depth", "coco.json", "camera.json")
        assert registry.options_of(expert)["fingerprint"]
        expert.load()
    return [
        experts["segmenter"].segment([photo], [crowd])[0],
        experts["depth"].depth([photo])[0].depth,
        experts["keypoints"].keypoints([photo], [crowd])[0],
        experts["words"].words([photo], [crowd])[0].anchors["age"],
        experts["camera"].intrinsics([photo], [None])[0],
    ]


def test_experts_say_the_same(given):
    disk, bucket = given
    for ours, expected in zip(asked(bucket), asked(disk), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert cues_in(str(bucket / "coco.json")) == cues_in(str(disk / "coco.json"))


def test_a_changed_object_has_another_fingerprint(given):
    _, bucket = given
    for cue, name, path in (("depth", "folder", "depth"), ("keypoints", "coco", "coco.json")):
        expert: Any = create(cue, name, path=str(bucket / path))
        before = expert.fingerprint()
        assert before == expert.fingerprint()
        (bucket / path / "b.npy" if cue == "depth" else bucket / path).put(b"[]")
        assert expert.fingerprint() != before


def test_what_is_not_there_is_said(given):
    _, bucket = given
    for cue, name in (("depth", "folder"), ("keypoints", "coco"), ("camera", "calibration")):
        with pytest.raises(ExpertError, match=f"{bucket}/none"):
            create(cue, name, path=str(bucket / "none")).load()
