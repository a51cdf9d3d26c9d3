"""Facts that somebody knows: from the fields of a COCO file, through records, and refused where they are no numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from annyfit_jax.inputs import cue_schema, open_input
from annyfit_jax.people.scene import Scene, SceneError


def coco(tmp_path, image: dict[str, Any] | None = None, first: dict[str, Any] | None = None) -> Scene:
    """A scene of two people, the first with further fields."""
    keypoints = [[float(v) for k in range(17) for v in (100 + 5 * k + 200 * n, 50 + 10 * k, 2)] for n in range(2)]
    annotations = [
        {"id": n + 1, "image_id": 1, "category_id": 1, "keypoints": keypoints[n], "num_keypoints": 17} for n in range(2)
    ]
    annotations[0] |= first or {}
    path = tmp_path / "people.json"
    image = {"id": 1, "file_name": "a.jpg", "width": 640, "height": 480, **(image or {})}
    path.write_text(
        json.dumps({"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "person"}]})
    )
    return open_input(str(path)).load(0)


def test_facts_of_people_and_camera_are_read(tmp_path):
    scene = coco(
        tmp_path,
        {"camera_pitch_degrees": 12, "camera_height_m": [2.5, 0.1]},
        {"height_m": [1.72, 0.01], "distance_m": 4},
    )
    assert scene.heights is not None and scene.distances is not None
    np.testing.assert_array_equal(scene.heights, [[1.72, 0.01], [np.nan, np.nan]])
    np.testing.assert_array_equal(scene.distances, [[4.0, 0.1], [np.nan, np.nan]])
    assert scene.camera == {"pitch_degrees": (12.0, 2.0), "height_m": (2.5, 0.1)}
    assert scene.keypoint_convention == "coco"
    assert scene.focal_guessed


def test_nothing_is_known_where_nothing_is_told(tmp_path):
    scene = coco(tmp_path, {"keypoint_convention": "anny", "cam_int": [[500, 0, 320], [0, 500, 240], [0, 0, 1]]})
    assert scene.heights is None and scene.distances is None and scene.camera == {}
    assert scene.keypoint_convention == "anny"


@pytest.mark.parametrize("value", ["tall", True, [1.7], [1.7, 0.0], [1.7, -1], [float("nan"), 0.1], 0.0, -1.7])
def test_what_is_no_height_is_refused(tmp_path, value):
    with pytest.raises(SceneError, match="annotation 1: height_m: expected"):
        coco(tmp_path, first={"height_m": value})


def test_records_keep_facts(tmp_path):
    scene = coco(tmp_path, {"camera_roll_degrees": 3}, {"height_m": 1.6})
    back = cue_schema.decode(cue_schema.serialize(cue_schema.encode(scene)), "record 0")
    assert back.heights is not None and scene.heights is not None
    np.testing.assert_array_equal(back.heights, scene.heights)
    assert back.camera == scene.camera and back.keypoint_convention == "coco" and back.distances is None
    assert cue_schema.content_hash(back) == cue_schema.content_hash(scene)
    assert cue_schema.content_hash(
        coco(tmp_path, {"camera_roll_degrees": 4}, {"height_m": 1.6})
    ) != cue_schema.content_hash(scene)
