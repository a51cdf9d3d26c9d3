"""Pictures of people for questions about them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_photos import photo

from experts import crops
from experts.interfaces import People, Photo

# ------------------------------------------------------------------------------------------------ pictures of people


def test_prompt_variants_show_what_they_say():
    shown = photo()
    masks = np.zeros((1, 100, 200), bool)
    masks[0, 30:60, 70:90] = True
    people = People(np.array([[60.0, 20, 110, 80]]), ["0"], masks)
    crop = crops.person_picture(shown, people, 0, "person")
    np.testing.assert_array_equal(crop, shown.pixels[14:86, 55:115])
    masked = crops.person_picture(shown, people, 0, "masked")
    inside = masks[0, 14:86, 55:115]
    np.testing.assert_array_equal(masked[inside], crop[inside])
    assert (masked[~inside] == 127).all()
    marked = crops.person_picture(shown, people, 0, "box")
    assert marked.shape == shown.pixels.shape
    np.testing.assert_array_equal(marked[20:80, 60:110], shown.pixels[20:80, 60:110])
    assert marked[19, 80].tolist() == [255, 0, 0]
    assert marked[0, 0].tolist() == shown.pixels[0, 0].tolist()
    assert max(crops.person_picture(shown, people, 0, "box", max_side=50).shape) == 50
    with pytest.raises(ValueError, match="head, person, masked, box"):
        crops.person_picture(shown, people, 0, "portrait")
    assert set(crops.SUBJECTS) == set(crops.VARIANTS)


def test_the_head_is_found_by_keypoints():
    shown = photo()
    keypoints = np.zeros((1, 17, 3))
    keypoints[0, :7] = [[90, 30, 1], [92, 28, 1], [88, 28, 1], [94, 30, 1], [86, 30, 1], [100, 45, 1], [80, 45, 1]]
    people = People(np.array([[60.0, 20, 110, 90]]), ["0"], keypoints=keypoints)
    head = crops.person_picture(shown, people, 0, "head")
    rows, columns = head.shape[:2]
    assert 40 <= columns <= 50  # 2.2 shoulder widths
    assert rows == columns or abs(rows - columns) <= 1
    top, left = (int(v) for v in np.argwhere((shown.pixels == head[0, 0]).all(-1))[0])
    assert top <= 20 < 45 < top + rows
    assert left <= 80 < 100 < left + columns
    bare = crops.person_picture(shown, People(people.boxes, ["0"]), 0, "head")
    assert bare.shape[:2] == (28, 28)  # 0.4 of the box's longer side, from its top


@given(st.tuples(*[st.floats(-50, 250)] * 4), st.sampled_from(crops.VARIANTS), st.integers(1, 60), st.integers(1, 60))
def test_any_box_gives_a_picture(box, variant, width, height):
    people = People(np.array([box]), ["0"], np.zeros((1, height, width), bool), np.zeros((1, 17, 3)))
    shown = Photo("p", "p", np.zeros((height, width, 3), np.uint8))
    picture = crops.person_picture(shown, people, 0, variant, max_side=32)
    assert picture.size
    assert max(picture.shape[:2]) <= 60
