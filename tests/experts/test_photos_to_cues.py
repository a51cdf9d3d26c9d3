"""Which locations are photos."""

import dataclasses
import json
import os

import pytest
from PIL import Image

from annyfit_jax.people.scene import SceneError
from annyfit_jax.store.locations import place
from annyfit_jax.store.plan import StoreError
from experts.adapters import small_networks
from experts.interfaces import Card
from experts.photos_to_cues import PrecomputeOptions, are_photos, scenes_of_photos


def test_photos_with_files_beside_them_are_photos_and_with_keypoints_unsure(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    (tmp_path / "a.json").write_text(json.dumps({"camera": "left", "taken": "2026-11-30"}))
    assert are_photos(str(tmp_path))
    (tmp_path / "b_keypoints.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": [1.0, 2.0, 0.5] * 25}]}))
    with pytest.raises(
        SceneError, match="holds photos and keypoints of openpose: give the keypoints alone, with --images"
    ):
        are_photos(str(tmp_path))
    assert are_photos(str(tmp_path / "a.jpg"))
    assert not are_photos(str(tmp_path / "b_keypoints.json"))


def test_cues_of_networks_that_changed_are_packed_again_when_asked(tmp_path, monkeypatch):
    Image.new("RGB", (64, 48), (90, 90, 90)).save(tmp_path / "a.jpg")
    options = PrecomputeOptions(str(tmp_path / "a.jpg"), str(tmp_path / "cues"))
    first = scenes_of_photos(options)
    assert scenes_of_photos(options).source.location == first.source.location
    newer = Card("nanodet", "nanodet + movenet_thunder (bundled)", "1000", "Apache-2.0", commercial=True)
    monkeypatch.setattr(small_networks.NanoDetPeople, "card", newer)
    with pytest.raises(StoreError, match=r"another source.experts.detector"):
        scenes_of_photos(options)
    again = scenes_of_photos(dataclasses.replace(options, overwrite=True))
    assert again.source.location == first.source.location
    assert len(scenes_of_photos(options).source) == 1


def test_photos_in_a_bucket_are_told_from_scenes_beside_them(tmp_path, monkeypatch):
    monkeypatch.setenv("ANNYFIT_CACHE", str(tmp_path))
    bucket = place(f"memory://photos-{tmp_path.name}-{os.getpid()}")
    (bucket / "photos" / "a.jpg").put(b"photo")
    (bucket / "photos" / "a.json").put(b'{"camera": "left"}')
    assert are_photos(str(bucket / "photos")) and are_photos(str(bucket / "photos" / "a.jpg"))
    for name in ("scenes/a.npz", "root/preprocessed/a.npz"):
        (bucket / name).put(b"scene")
    (bucket / "scenes" / "a.jpg").put(b"photo")
    (bucket / "root" / "images" / "a.jpg").put(b"photo")
    assert not are_photos(str(bucket / "scenes")) and not are_photos(str(bucket / "root"))
    (bucket / "photos" / "b.json").put(json.dumps({"people": [{"pose_keypoints_2d": [1.0, 2.0, 0.5] * 25}]}).encode())
    with pytest.raises(SceneError, match="holds photos and keypoints of openpose"):
        are_photos(str(bucket / "photos"))
