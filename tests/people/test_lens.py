"""Distortion of lenses: against scalar formulas, its inverse, and pictures."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annyfit_jax.people.lens import Lens, checked_lens, distort, lens_of_text, undistort, undistort_picture
from annyfit_jax.people.scene import SceneError

K = np.array([[900.0, 0.0, 650.0], [0.0, 880.0, 350.0], [0.0, 0.0, 1.0]])
BROWN = Lens("brown", (-0.28, 0.09, 0.001, -0.002, -0.01))
FISHEYE = Lens("fisheye", (0.02, -0.01, 0.003, -0.0005))
small = st.floats(-0.05, 0.05)


def scalar(lens: Lens, x: float, y: float) -> tuple[float, float]:
    """The formulas of OpenCV's documentation, written out."""
    r = math.hypot(x, y)
    if lens.model == "fisheye":
        theta = math.atan(r)
        k = lens.coefficients
        bent = theta * (1 + k[0] * theta**2 + k[1] * theta**4 + k[2] * theta**6 + k[3] * theta**8)
        return (x * bent / r, y * bent / r) if r else (x, y)
    k1, k2, p1, p2, *rest = lens.coefficients
    k3, k4, k5, k6 = (*rest, 0.0, 0.0, 0.0, 0.0)[:4]
    radial = (1 + k1 * r**2 + k2 * r**4 + k3 * r**6) / (1 + k4 * r**2 + k5 * r**4 + k6 * r**6)
    return (
        x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2),
        y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y,
    )


@pytest.mark.parametrize("lens", [BROWN, FISHEYE, Lens("brown", (0.1, -0.2, 0.003, 0.002, 0.1, 0.2, -0.05, 0.01))])
def test_formulas(lens):
    points = np.random.default_rng(0).uniform(-0.7, 0.7, (50, 2))
    expected = [scalar(lens, *point) for point in points]
    np.testing.assert_allclose(distort(lens, points), expected, atol=1e-14)
    np.testing.assert_array_equal(distort(lens, np.zeros((1, 2))), [[0.0, 0.0]])


@given(k1=st.floats(-0.3, 0.3), k2=small, p1=st.floats(-0.005, 0.005), p2=st.floats(-0.005, 0.005), k3=small)
def test_points_come_back(k1, k2, p1, p2, k3):
    lens = Lens("brown", (k1, k2, p1, p2, k3))
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (20, 2))
    pixels = distort(lens, points) @ K[:2, :2].T + K[:2, 2]
    np.testing.assert_allclose(undistort(lens, pixels, K), points @ K[:2, :2].T + K[:2, 2], atol=1e-3)


@given(k1=small, k2=st.floats(-0.01, 0.01), angle=st.floats(0.0, 1.45))
def test_fisheye_points_come_back_from_wide_angles(k1, k2, angle):
    lens = Lens("fisheye", (k1, k2, 0.0, 0.0))
    point = np.array([[math.tan(angle) * 0.6, math.tan(angle) * 0.8]])
    pixels = distort(lens, point) @ K[:2, :2].T + K[:2, 2]
    back = undistort(lens, pixels, K)
    np.testing.assert_allclose(back, point @ K[:2, :2].T + K[:2, 2], rtol=1e-5, atol=1e-3)


def test_a_point_that_no_direction_leads_to_is_nan():
    # k1 = -0.28 alone folds at r = sqrt(1 / (3 * 0.28)): nothing is imaged farther out than 2/3 of that.
    lens = Lens("brown", (-0.28, 0.0, 0.0, 0.0))
    farthest = 2 / 3 * math.sqrt(1 / (3 * 0.28))
    pixels = np.array([[650 + 900 * 0.99 * farthest, 350.0], [650 + 900 * 1.01 * farthest, 350.0], [650 + 9e5, 350.0]])
    back = undistort(lens, pixels, K)
    assert np.isfinite(back).all(axis=1).tolist() == [True, False, False]


@pytest.mark.parametrize("lens", [BROWN, FISHEYE])
def test_a_picture_is_straightened_as_its_points_are(lens):
    points = np.array([[400.0, 200.0], [900.0, 500.0], [650.0, 350.0], [1100.0, 600.0]])
    v, u = np.mgrid[:700, :1300] + 0.5
    picture = np.zeros((700, 1300, 3), np.uint8)
    for x, y in points:  # blobs in the picture as the lens took it
        picture += np.round(250 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / 50))[..., None].astype(np.uint8)
    straight = undistort_picture(lens, picture, K)
    assert straight.dtype == np.uint8
    for x, y in undistort(lens, points, K):
        near = (np.abs(u - x) < 15) & (np.abs(v - y) < 15)
        weights = straight[..., 1] * near
        centre = np.array([(weights * u).sum(), (weights * v).sum()]) / weights.sum()
        np.testing.assert_allclose(centre, [x, y], atol=0.3)


def test_masks_and_depths_keep_their_kind():
    mask = np.zeros((70, 130), bool)
    mask[20:50, 40:90] = True
    small_k = K * [[0.1], [0.1], [1.0]]
    straight = undistort_picture(BROWN, mask, small_k)
    assert straight.dtype == bool
    assert 0.9 < straight.sum() / mask.sum() < 1.2
    depth = undistort_picture(Lens("brown", (0.5, 0.0, 0.0, 0.0)), np.where(mask, 3.0, 7.0), small_k)
    assert set(np.unique(depth[np.isfinite(depth)])) == {3.0, 7.0}
    assert np.isnan(depth[0, 0])  # the lens did not see so far


def test_text_and_checks():
    for lens in (BROWN, FISHEYE):
        assert lens_of_text(str(lens)) == lens
    assert lens_of_text("") is None
    assert checked_lens("brown", [0.0] * 5, "file") is None
    assert checked_lens("brown", [0.1, 0.2], "file") == Lens("brown", (0.1, 0.2, 0.0, 0.0))
    assert checked_lens("brown", [0.1] * 8 + [0.0] * 4, "file") == Lens("brown", (0.1,) * 8)
    with pytest.raises(SceneError, match=r"file: expected 4 finite coefficients \(fisheye\)"):
        checked_lens("fisheye", [0.1] * 5, "file")
    with pytest.raises(SceneError, match="file: expected 4 or 5 or 8 finite coefficients"):
        checked_lens("brown", [0.1] * 12, "file")
    with pytest.raises(SceneError, match="unknown model of distortion 'kannala'"):
        lens_of_text("kannala 1 2")
    with pytest.raises(SceneError, match="expected a model and numbers"):
        lens_of_text("brown one")
