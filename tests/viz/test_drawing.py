"""Pictures of people by what they must show."""

import numpy as np
import pytest
from meshes import QUAD, SIZE, K, quad, sphere

from annyfit_jax.viz import (
    draw_keypoints,
    label_people,
    overlay,
    palette,
    rasterise,
    side_view,
    top_view,
)

# ------------------------------------------------------------------------------------------------------------ pictures


def test_palette_is_distinct():
    colours = palette(40).astype(float)
    assert colours.shape == (40, 3)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=2) + 1e9 * np.eye(40)
    assert distance.min() > 20
    assert distance[:12, :12].min() > 45
    np.testing.assert_array_equal(palette(5), palette(40)[:5])  # a person keeps the colour
    assert palette(0).shape == (0, 3)


@pytest.mark.parametrize("scale", [1, 2])
def test_overlay_shows_the_nearer_person_and_keeps_the_photo(scale):
    near, faces = sphere((0.1, 0.0, 2.0), radius=0.2)
    far, _ = sphere((0.0, 0.0, 3.0), radius=0.5)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for order in ([near, far], [far, near]):
        large = np.diag([scale, scale, 1.0]) @ K
        raster = rasterise(order, faces, large, (64 * scale, 48 * scale))
        result = overlay(image, raster, order, faces, alpha=1.0)
        empty = (raster.person < 0).reshape(48, scale, 64, scale).all(axis=(1, 3))
        np.testing.assert_array_equal(result[empty], image[empty])
        # Hue of the pixel in the middle of the near ball is that of its owner, up to brightness.
        owner = palette(2)[0 if order[0] is near else 1].astype(float)
        pixel = result[24, 36].astype(float)
        assert pixel @ owner / np.linalg.norm(pixel) / np.linalg.norm(owner) > 0.995
        half = overlay(image, raster, order, faces, alpha=0.5).astype(float)
        assert np.abs(half - (result.astype(float) + image) / 2).max() <= 1.0


def test_overlay_is_lit_from_above_whatever_the_orientation():
    vertices, faces = sphere((0.0, 0.0, 2.0))
    image = np.zeros((48, 64, 3), np.uint8)
    pictures = [
        overlay(image, rasterise([vertices], f, K, SIZE), [vertices], f, alpha=1.0) for f in (faces, faces[:, ::-1])
    ]
    assert pictures[0][14, 32].sum() > 1.3 * pictures[0][34, 32].sum()
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1


def test_overlay_refuses_another_size():
    raster = rasterise([quad(2.0)], QUAD, K, SIZE)
    with pytest.raises(ValueError, match=r"raster: expected size \(24, 30\)"):
        overlay(np.zeros((24, 30, 3), np.uint8), raster, [quad(2.0)], QUAD)


def test_keypoints_are_drawn_where_they_are():
    image = np.zeros((400, 600, 3), np.uint8)
    keypoints = np.zeros((2, 17, 3))
    keypoints[1, 0] = 250.5, 100.5, 0.9
    keypoints[1, 1] = 20.0, 20.0, 0.0  # missing
    result = draw_keypoints(image, keypoints, None)
    assert np.abs(result[100, 250].astype(int) - palette(2)[1]).max() <= 2
    assert not result[:, :240].any()
    projected = np.full((2, 17, 2), np.nan)
    projected[1, 5:7] = [[40.5, 50.5], [340.5, 50.5]]  # both shoulders: one limb
    projected[0, 5:7] = [[1e9, 0], [0, -1e9]]  # far outside: skipped
    limb = draw_keypoints(image, keypoints, projected)
    assert np.abs(limb[50, 80].astype(int) - palette(2)[1]).max() <= 2
    assert not limb[150:].any()


def test_labels_mark_only_visible_people():
    vertices, faces = sphere((0.0, 0.1, 2.0))
    hidden, _ = sphere((0.0, 0.1, 9.0))
    raster = rasterise([vertices, hidden], faces, K * [[5], [5], [1]], (320, 240))
    image = np.full((240, 320, 3), 9, np.uint8)
    difference = (label_people(image, raster, 2) != image).any(axis=2)
    rows, columns = np.nonzero(difference)
    assert 0 < difference.sum() < 900
    assert abs(columns.mean() - 160) < 12
    assert rows.max() <= np.nonzero(raster.person == 0)[0].min() + 2


def test_top_view_places_people_and_survives_failed_fits():
    left, faces = sphere((-2.0, 0.0, 3.0))
    right, _ = sphere((2.0, 0.0, 8.0))
    picture = top_view([left, right], faces, (600, 450), K, SIZE)
    assert picture.shape == (450, 600, 3)

    def centre(person):
        colour = palette(2)[person].astype(float)
        tint = picture / np.linalg.norm(picture, axis=2, keepdims=True).clip(1) @ (colour / np.linalg.norm(colour))
        rows, columns = np.nonzero(tint > 0.998)
        return np.median(rows), np.median(columns)

    assert centre(0)[1] < centre(1)[1]  # left is left
    assert centre(0)[0] > centre(1)[0]  # farther is higher
    # 4 m and 5 m apart at one scale on both axes.
    across, along = centre(1)[1] - centre(0)[1], centre(0)[0] - centre(1)[0]
    assert across / along == pytest.approx(4 / 5, abs=0.06)
    for view in (top_view, side_view):
        assert view([left * np.nan, left + np.inf], faces, (200, 150)).shape == (150, 200, 3)
        with_failed = view([left, left * np.nan], faces, (300, 220))
        assert np.isin(with_failed.reshape(-1, 3) @ [65536, 256, 1], palette(1).astype(int) @ [65536, 256, 1]).any()


def test_side_view_is_upright():
    low, faces = sphere((0.0, 1.0, 3.0))
    high, _ = sphere((0.0, -1.0, 5.0))
    picture = side_view([low, high], faces, (600, 450), K, SIZE).astype(float)
    first, second = (
        np.argwhere(picture / np.linalg.norm(picture, axis=2, keepdims=True).clip(1) @ (c / np.linalg.norm(c)) > 0.998)
        for c in palette(2).astype(float)
    )
    assert np.median(first[:, 0]) > np.median(second[:, 0])  # lower
    assert np.median(first[:, 1]) < np.median(second[:, 1])  # nearer is further left
