"""From picture to input and from outputs to people, against the recordings of the released program."""

from __future__ import annotations

import aios_golden as golden
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annyfit_jax.regressors.aios import picture_preprocess


def recorded() -> dict[str, np.ndarray]:
    return golden.arrays("prep_post")


def test_output_sizes():
    for width, height, short, limit, *expected in recorded()["resize_w_h_size_max_ow_oh"]:
        got = picture_preprocess.output_size((float(width), float(height)), int(short), int(limit))
        assert got == tuple(expected), (width, height, short)


def test_crop_windows():
    for width, height, *rest in recorded()["crop_W_H_xywh_in_xywh_out"]:
        got = picture_preprocess.crop_window(np.array([rest[:4]]), (int(width), int(height)))
        np.testing.assert_array_equal(got, rest[4:])


def test_boxes_are_cleaned():
    found = recorded()
    for function, key in (
        (picture_preprocess.clip_box, "sanitize_out"),
        (picture_preprocess.enlarged_box, "process_out"),
    ):
        for box, expected in zip(found["sanitize_in"], found[key]):
            got = function(box, (640, 480))
            np.testing.assert_allclose(np.full(4, -1.0) if got is None else got, expected, atol=1e-4)


@pytest.mark.parametrize("case", range(4))
def test_warp(case):
    """OpenCV interpolates at 1/32 pixel, and so do we."""
    found = recorded()
    height, width = found[f"warp{case}_out_hw"]
    window = tuple(float(v) for v in found[f"warp{case}_bbox"])
    got = picture_preprocess.warp(found["warp_img"], window, (int(width), int(height)), bool(found[f"warp{case}_flip"]))  # pyright: ignore
    difference = np.abs(got - found[f"warp{case}_out"])
    assert difference.max() < 2e-3  # of 255


def test_normalisation():
    found = recorded()
    np.testing.assert_allclose(picture_preprocess.MEAN, found["norm_mean_rgb"])
    np.testing.assert_allclose(picture_preprocess.STD, found["norm_std_rgb"])
    image = np.full((1, 1, 3), 200.0, np.float32)
    bright = picture_preprocess.normalise(image, (1.2, 1.0, 2.0))[0, 0]
    np.testing.assert_allclose(
        bright, (np.array([240, 200, 255]) - picture_preprocess.MEAN) / picture_preprocess.STD, rtol=1e-6
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4))
def test_padding_is_at_the_right_and_bottom(sizes):
    images = [np.full((h, w, 3), k + 1.0, np.float32) for k, (h, w) in enumerate(sizes)]
    batch, padding = picture_preprocess.pad_batch(images)
    assert batch.shape[1:3] == (max(h for h, _ in sizes), max(w for _, w in sizes))
    for k, (h, w) in enumerate(sizes):
        np.testing.assert_array_equal(batch[k, :h, :w], images[k])
        assert not padding[k, :h, :w].any()
        assert (~padding[k]).sum() == h * w
        assert not batch[k][padding[k]].any()


def test_images_larger_than_the_bucket_are_refused():
    with pytest.raises(ValueError, match="5 x 4 do not fit the padded size 4 x 4"):
        picture_preprocess.pad_batch([np.zeros((4, 5, 3), np.float32)], (4, 4))
