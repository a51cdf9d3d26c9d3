"""The camera against recorded values: field of view, projection and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import GOLDENS
from hypothesis import given
from hypothesis import strategies as st

from annyfit_jax.people.camera import intrinsics_from_fov, project

GOLDEN = GOLDENS / "annyfit"


def test_focal_length_matches_the_recorded_values():
    with np.load(GOLDEN / "unit_preprocess.npz") as golden:
        for fov, size, focal in zip(golden["focal_fov"], golden["focal_size"], golden["focal"], strict=True):
            k = intrinsics_from_fov((size, size / 2), fov)
            np.testing.assert_allclose(k, [[focal, 0, size / 2], [0, focal, size / 4], [0, 0, 1]], rtol=1e-12)
            assert intrinsics_from_fov((size / 2, size), fov)[0, 0] == k[0, 0]


@given(fov=st.floats(1, 179), width=st.integers(1, 9000), height=st.integers(1, 9000))
def test_the_field_of_view_spans_the_longest_side(fov, width, height):
    k = intrinsics_from_fov((width, height), fov)
    half = max(width, height) / 2
    assert np.degrees(2 * np.arctan(half / k[0, 0])) == pytest.approx(fov, rel=1e-9)


@pytest.mark.parametrize(("size", "fov"), [((640, 480), 0.0), ((640, 480), 180.0), ((0, 480), 60.0)])
def test_impossible_cameras_are_refused(size, fov):
    with pytest.raises(ValueError, match="expected"):
        intrinsics_from_fov(size, fov)


@pytest.mark.parametrize("case", ["case0", "case1"])
def test_projection_and_its_gradient_match_the_recorded_values(case):
    with np.load(GOLDEN / "unit_projection.npz") as golden, jax.enable_x64(True):
        x, k = jnp.asarray(golden[f"{case}_x"]), jnp.asarray(golden[f"{case}_K"])
        value, pullback = jax.vjp(lambda points: project(points, k), x)
        np.testing.assert_allclose(value, golden[f"{case}_value"], rtol=1e-12)
        (gradient,) = pullback(jnp.asarray(golden[f"{case}_cotangent"]))
        scale = np.abs(golden[f"{case}_grad_x"]).max()
        np.testing.assert_allclose(gradient, golden[f"{case}_grad_x"], rtol=1e-11, atol=1e-13 * scale)
        assert np.array_equal(project(golden[f"{case}_x"], golden[f"{case}_K"]), np.asarray(value))


def test_projection_broadcasts_one_camera_per_person_and_uses_skew():
    rng = np.random.default_rng(0)
    points = rng.normal(loc=[0, 0, 5], scale=0.5, size=(4, 17, 3))
    k = rng.normal(size=(4, 3, 3)) + 300 * np.eye(3)
    k[:, 2] = [0, 0, 1]
    expected = np.einsum("nij,npj->npi", k, points)
    expected = expected[..., :2] / expected[..., 2:]
    np.testing.assert_allclose(project(points, k[:, None]), expected, rtol=1e-12)
