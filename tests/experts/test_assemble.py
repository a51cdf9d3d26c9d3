"""A scene from what experts said of a photo."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from annyfit_jax.people.camera import intrinsics_from_35mm, intrinsics_from_fov
from experts.assemble import _medians, scene_of
from experts.expert_store import Entry
from experts.people_rules import Rules

SIZE = (160, 120)


@pytest.mark.parametrize(
    ("intrinsics", "guessed"),
    [
        (intrinsics_from_fov(SIZE, 60.0), True),
        (intrinsics_from_fov(SIZE, 50.0), False),
        (intrinsics_from_35mm(SIZE, 35.0), False),
    ],
)
def test_a_focal_length_that_nothing_tells_is_estimated_by_the_fit(tmp_path, intrinsics, guessed):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)).save(path)
    points = np.dstack([np.linspace(40, 90, 17), np.linspace(20, 100, 17), np.full(17, 0.9)])
    entries = {
        "detector": Entry(
            "a", {"boxes": np.array([[30.0, 10.0, 70.0, 100.0]]), "scores": np.array([0.9])}, {"ids": ["0"], "skipped": []}
        ),
        "keypoints": Entry("a", {"keypoints": points}),
        "camera": Entry("a", {"intrinsics": np.asarray(intrinsics)}),
    }  # fmt: skip
    scene = scene_of("a", str(path), entries, Rules(), [])
    assert len(scene) == 1
    assert scene.focal_guessed == guessed
    assert any("nothing tells the focal length" in note for note in scene.notes) == guessed


def test_a_duplicate_does_not_hide_the_person_it_repeats():
    """The mask of a duplicate leaves out a strip behind the person's edge, which is farther away."""
    depth = np.full((60, 60), 3.0)
    depth[:, 30:] = 5.0
    masks = np.zeros((2, 60, 60), bool)
    masks[:, 10:50, 10:30] = True
    masks[0, 10:50, 30:40] = True
    kept = np.array([0])
    assert _medians(depth, masks, kept, [1]).tolist() == [3.0]
    assert _medians(depth, masks, kept, []).tolist() == [5.0]  # somebody real is in front there
    assert np.isnan(_medians(None, masks, kept, [1])).all()
