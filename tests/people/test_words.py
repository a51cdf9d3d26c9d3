"""Words, classes, the camera and the dense set against the recorded tables."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import GOLDENS
from hypothesis import given
from hypothesis import strategies as st

from annyfit_jax.people import words
from annyfit_jax.people.camera import intrinsics_from_fov, project
from annyfit_jax.people.dense_points import crop_to_image, dense_vertex_indices

GOLDEN = GOLDENS / "annyfit"


@pytest.mark.parametrize(("table", "anchor"), [("age_text", words.age_anchor), ("gender_text", words.gender_anchor)])
def test_words_match_the_recorded_answers(table, anchor):
    recorded = json.loads((GOLDEN / "tables.json").read_text())[table]
    assert len(recorded) >= 9
    assert {text: anchor(text) for text in recorded} == recorded


def test_the_table_order_decides_between_words():
    assert words.age_anchor("Senior, perhaps a TODDLER") == 0.1
    assert words.age_anchor("a child or a kid-like adult") == 0.33
    assert words.age_anchor("teenagers") == words.UNUSABLE
    assert words.gender_anchor("female, not male") == 0.0
    assert words.gender_anchor("unknown") == 0.5


@given(st.text())
def test_any_text_gives_an_anchor(text):
    assert words.age_anchor(text) in {*words.AGE_WORDS.values(), words.UNUSABLE}
    assert words.gender_anchor(text) in {*words.GENDER_WORDS.values(), words.UNUSABLE}


def test_classes_are_the_nearest_anchors():
    for name, anchor in words.AGE_CLASSES.items():
        assert words.age_class(anchor) == name
        assert words.age_class(anchor + 0.04) == name
        assert words.age_anchor(name) == anchor
    for name, anchor in words.GENDER_CLASSES.items():
        assert words.gender_class(anchor - 0.2) == name
        assert words.gender_anchor(name) == anchor
    assert words.age_class(-0.3) == "baby"
    assert words.age_class(1.7) == "senior"
    assert words.age_class(0.05) == "baby"  # halfway: the younger one
    with pytest.raises(ValueError, match="NaN"):
        words.age_class(float("nan"))


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


def test_dense_detections_move_from_the_crop_to_the_image():
    with np.load(GOLDEN / "unit_preprocess.npz") as golden:
        for case in ("case0", "case1", "case2"):
            image = crop_to_image(golden[f"{case}_norm"], golden[f"{case}_bbox_xyxy"])
            np.testing.assert_allclose(image, golden[f"{case}_image"], rtol=1e-12)
    with pytest.raises(ValueError, match=r"\(n, 138, 3\) and \(n, 4\)"):
        crop_to_image(np.zeros((2, 138, 3)), np.zeros((3, 4)))


def test_the_dense_set_has_138_different_vertices():
    indices = dense_vertex_indices()
    assert indices.shape == (138,)
    assert len(set(indices.tolist())) == 138
    assert indices.min() >= 0
    assert indices.max() < 13718


def test_the_dense_set_is_the_one_of_the_goldens():
    recorded = json.loads((GOLDEN / "dense138_vertices.json").read_text())["vertex_indices"]
    assert dense_vertex_indices().tolist() == recorded
