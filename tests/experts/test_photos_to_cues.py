"""Which locations are photos."""

import json

import pytest
from PIL import Image

from annyfit_jax.people.scene import SceneError
from experts.photos_to_cues import are_photos


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
