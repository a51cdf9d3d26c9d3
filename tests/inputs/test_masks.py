"""Masks: run lengths, polygons, broken encodings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annyfit_jax.inputs import masks as masks_io
from annyfit_jax.people.scene import SceneError

quick = settings(max_examples=25, deadline=None)


def encode_runs(mask: np.ndarray) -> list[int]:
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return [0, *runs] if flat[0] else runs


def compress(runs: list[int]) -> str:
    """COCO's text form, written from its definition."""
    text = ""
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        while True:
            group, value = value & 31, value >> 5
            done = value == (-1 if group & 16 else 0)
            text += chr(48 + group + (0 if done else 32))
            if done:
                break
    return text


@quick
@given(seed=st.integers(0, 2**31), width=st.integers(1, 40), height=st.integers(1, 40), share=st.floats(0, 1))
def test_run_lengths_round_trip(seed, width, height, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    runs = encode_runs(mask)
    for counts in (runs, compress(runs)):
        decoded = masks_io.decode_rle({"size": [height, width], "counts": counts}, (width, height), "x")
        np.testing.assert_array_equal(decoded, mask)


@quick
@given(text=st.text(max_size=20))
def test_broken_run_lengths_raise_scene_errors(text):
    with pytest.raises(SceneError, match="counts"):
        masks_io.decode_rle({"size": [200, 31], "counts": text}, (31, 200), "x")


def test_a_polygon_covers_the_pixels_whose_centre_is_inside():
    triangle = np.array([[1.2, 1.1], [9.7, 3.3], [4.1, 8.9]])
    x, y = np.meshgrid(np.arange(12) + 0.5, np.arange(10) + 0.5)
    sides = [
        (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
        for a, b in zip(triangle, np.roll(triangle, -1, axis=0), strict=True)
    ]
    np.testing.assert_array_equal(masks_io.fill_polygon(triangle, (12, 10)), np.all(np.array(sides) > 0, axis=0))
