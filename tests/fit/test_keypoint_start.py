"""Starts from 2D keypoints and words: calibrated bodies, orientation, depth."""

from __future__ import annotations

import dataclasses

import compiled_bodies
import jax.numpy as jnp
import numpy as np
import pytest
from fit_cases import make_scene
from scipy.spatial.transform import Rotation

from annyfit_jax.fit.keypoint_start import calibrated_phenotypes
from annyfit_jax.people import anatomy
from annyfit_jax.people.camera import intrinsics_from_fov
from annyfit_jax.people.scene import Scene
from body_models import anny


@pytest.fixture(scope="module")
def model() -> anny.AnnyModel:
    return anny.load()


FACING = Rotation.from_rotvec([np.pi / 2, 0, 0])
K = intrinsics_from_fov((640, 480))


def heights(model, age, gender) -> np.ndarray:
    shape = calibrated_phenotypes(np.asarray(age, float), np.asarray(gender, float))
    up = np.asarray(compiled_bodies.anny_rest(model, jnp.asarray(shape, model.dtype))[0])[..., 2]
    return up.max(-1) - up.min(-1)


def test_words_give_bodies_of_the_right_size(model):
    """Population heights of the anthropometry table: man, woman, 8-year-old boy and girl, newborn boy."""
    got = heights(model, [0.66, 0.66, 0.33, 0.33, 0.0], [0, 1, 0, 1, 0])
    np.testing.assert_allclose(got, [1.78, 1.59, 1.32, 1.27, 0.56], atol=0.04)


def test_unknown_words_mean_an_adult_between_the_sexes(model):
    unknown, mean = heights(model, [-1], [-1])[0], heights(model, [0.66, 0.66], [0, 1]).mean()
    assert abs(unknown - mean) < 0.05


def person(model, turn: Rotation, flexions: dict[str, float], depth: float, age: float = 0.66) -> Scene:
    """A scene of one synthetic person, root turned by `turn` from facing the camera."""
    shape = calibrated_phenotypes(np.array([age]), np.array([0.0]))
    rotvec = (turn * FACING).as_rotvec()
    params = anny.Params(
        *(
            jnp.asarray(x, model.dtype)
            for x in (shape[0], rotvec, anatomy.flexed_pose(model, flexions), [0.2, 0.1, depth])
        )
    )
    points = np.asarray(compiled_bodies.anny_keypoints(model, params)[:17], np.float64) @ K.T
    keypoints = np.concatenate([points[:, :2] / points[:, 2:], np.ones((17, 1))], 1)
    return make_scene("one", keypoints[None], intrinsics=K, age=np.array([age]), gender=np.array([0.0]))


@pytest.mark.parametrize(
    ("turn", "flexions"),
    [
        (Rotation.identity(), {}),
        (Rotation.from_euler("y", 180, degrees=True), {}),
        (Rotation.from_euler("y", 80, degrees=True), {}),
        (Rotation.from_euler("y", -50, degrees=True), {}),
        (Rotation.from_euler("z", 90, degrees=True), {}),
        (Rotation.identity(), {"upperleg01": -1.4, "lowerleg01": 1.4}),
        (Rotation.from_euler("y", 60, degrees=True), {"upperleg01": -1.4, "lowerleg01": 1.4}),
    ],
    ids=["front", "back", "profile", "half", "lying", "sitting", "sitting-half"],
)
def test_orientation_and_depth_from_keypoints(model, starter, turn, flexions):
    scene = person(model, turn, flexions, depth=4.0)
    start = starter(scene).parameters
    error = (Rotation.from_rotvec(start.root_rotvec[0]) * (turn * FACING).inv()).magnitude()
    assert np.rad2deg(error) < 30
    assert abs(start.transl[0, 2] - 4.0) < 0.6
    if flexions:
        assert starter(scene).postures[0] in ("sitting", "squatting")  # from the front the two look alike


def test_a_child_is_nearer_than_an_adult_of_the_same_size_in_pixels(model, starter):
    """The same keypoints, two words: the depth follows the body's size."""
    scene = person(model, Rotation.identity(), {}, depth=4.0)
    child = dataclasses.replace(scene, age=np.array([0.33]))
    ratio = starter(child).parameters.transl[0, 2] / starter(scene).parameters.transl[0, 2]
    assert 0.68 < ratio < 0.80  # heights 1.32 m and 1.78 m
