"""Starts: calibrated bodies, orientation and depth from 2D keypoints, and what happens to people who cannot be fitted."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from fit_cases import make_scene, released_config, trajectory
from scipy.spatial.transform import Rotation

from annyfit_jax.fit.keypoint_start import KeypointStarter, calibrated_phenotypes
from annyfit_jax.fit.starts import prepare
from annyfit_jax.people import anatomy
from annyfit_jax.people.camera import intrinsics_from_fov
from annyfit_jax.people.scene import BodyParameters, Scene, SceneError
from body_models import anny

FACING = Rotation.from_rotvec([np.pi / 2, 0, 0])
K = intrinsics_from_fov((640, 480))


@pytest.fixture(scope="module")
def model() -> anny.AnnyModel:
    return anny.load()


@pytest.fixture(scope="module")
def starter(model) -> KeypointStarter:
    return KeypointStarter(model)


def heights(model, age, gender) -> np.ndarray:
    shape = calibrated_phenotypes(np.asarray(age, float), np.asarray(gender, float))
    up = np.asarray(anny.rest(model, jnp.asarray(shape, model.dtype))[0])[..., 2]
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
    points = np.asarray(anny.forward(model, params).keypoints[:17], np.float64) @ K.T
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


def test_people_without_evidence_are_set_aside_by_name(starter):
    scene, start = trajectory(1)
    keypoints, dense = scene.keypoints.copy(), scene.dense_keypoints.copy()
    keypoints[1, :, 2] = 0.0
    dense[1, :, 2] = 0.0
    scene = dataclasses.replace(
        scene, keypoints=keypoints, dense_keypoints=dense, start=start, person_ids=["a", "b", "c"], masks=None
    )
    prepared = prepare(scene, released_config(), starter)
    assert list(prepared.kept) == [0, 2]
    assert prepared.skipped == {1: "no_keypoints"}
    assert prepared.skipped_ids == {1: "b"}
    assert prepared.scene.person_ids == ["a", "c"]
    np.testing.assert_array_equal(prepared.start.transl, np.asarray(start.transl)[[0, 2]])
    keypoints[:, :, 2] = 0.0
    dense[:, :, 2] = 0.0
    with pytest.raises(SceneError, match="nobody has a confident keypoint"):
        prepare(dataclasses.replace(scene, keypoints=keypoints, dense_keypoints=dense), released_config(), starter)


def test_unusable_starts_are_repaired_and_noted(starter):
    scene, start = trajectory(1)
    broken = BodyParameters(*(np.array(x) for x in (start.root_rotvec, start.transl, start.pose, start.shape)))
    broken.transl[0, 2] = -2.0
    broken.pose[2, 5, 1] = np.nan
    prepared = prepare(dataclasses.replace(scene, start=broken), released_config(), starter)
    assert "start_behind_camera" in prepared.notes[0]
    assert "start_not_finite" in prepared.notes[2]
    assert prepared.start.transl[0, 2] > 0.3
    np.testing.assert_array_equal(prepared.start.pose[0], broken.pose[0])  # only its position was unusable
    assert np.isfinite(prepared.start.pose).all()
    np.testing.assert_array_equal(prepared.start.transl[1], broken.transl[1])


def test_words_overwrite_the_start_unless_told_not_to(starter):
    scene, start = trajectory(2)
    raw = BodyParameters(start.root_rotvec, start.transl, start.pose, np.full_like(np.asarray(start.shape), 0.4))
    scene = dataclasses.replace(scene, start=raw, gender=np.array([1.0, -1.0, 0.0]), age=np.array([0.1, -1.0, -1.0]))
    prepared = prepare(scene, released_config(), starter)
    np.testing.assert_allclose(prepared.start.shape[:, :2], [[1.0, 0.1], [0.4, 0.4], [0.0, 0.4]], atol=1e-7)
    assert [("no_words" in notes) for notes in prepared.notes] == [False, True, False]
    config = dataclasses.replace(released_config(), words_set_start=False)
    np.testing.assert_array_equal(prepare(scene, config, starter).start.shape, raw.shape.astype(np.float32))


def test_a_missing_cue_start_is_an_error_only_when_demanded(starter):
    scene = dataclasses.replace(trajectory(0)[0], start=None)
    assert prepare(scene, released_config(), starter).origin == "keypoints"
    with pytest.raises(SceneError, match="start='cue'"):
        prepare(scene, dataclasses.replace(released_config(), start="cue"), starter)


def test_limits_bend_knees_back_and_elbows_forward(model):
    """Flexing by the table's positive angle moves the ankle back (+Y) and the wrist to the front (-Y)."""
    zero = jnp.zeros(3, model.dtype)

    def keypoints(flexions):
        pose = jnp.asarray(anatomy.flexed_pose(model, flexions), model.dtype)
        shape = jnp.full(6, 0.5, model.dtype)
        return np.asarray(anny.forward(model, anny.Params(shape, zero, pose, zero)).keypoints)

    rest, bent = keypoints({}), keypoints({"lowerleg01": 1.0, "lowerarm01": 1.0})
    assert (bent[[15, 16], 1] > rest[[15, 16], 1] + 0.2).all()
    assert (bent[[9, 10], 1] < rest[[9, 10], 1] - 0.05).all()  # the resting elbow points forward already
    straight = keypoints({"lowerarm01": -0.65})
    assert (elbow_angles(straight) < 0.2).all()
    assert (elbow_angles(rest) > 0.6).all()
    raised = keypoints({"upperleg01": -1.0})
    assert (raised[[13, 14], 1] < rest[[13, 14], 1] - 0.2).all()


def elbow_angles(keypoints: np.ndarray) -> np.ndarray:
    """Angle between upper arm and forearm, left and right, radians; 0 = straight."""
    upper, lower = keypoints[[7, 8]] - keypoints[[5, 6]], keypoints[[9, 10]] - keypoints[[7, 8]]
    cosine = (upper * lower).sum(-1) / np.linalg.norm(upper, axis=-1) / np.linalg.norm(lower, axis=-1)
    return np.arccos(cosine)
