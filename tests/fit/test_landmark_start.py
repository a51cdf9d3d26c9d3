"""Starts from metric landmarks: the pose that made the landmarks comes back, wherever the person stands in the picture."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from annyfit_jax.fit import starts
from annyfit_jax.fit.keypoint_start import calibrated_phenotypes
from annyfit_jax.fit.landmark_start import COCO_OF_LANDMARKS, LandmarkStarter, line_of_sight
from annyfit_jax.people import anatomy
from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import LANDMARKS_M, LANDMARKS_PX, NUM_DENSE, Scene, SceneError
from body_models import anny

pytestmark = pytest.mark.unoptimised

SIZE = (1000, 800)
K = np.array([[900.0, 0.0, 500.0], [0.0, 900.0, 400.0], [0.0, 0.0, 1.0]])
POSTURES = (
    {"lowerarm01": -0.2},
    {"upperleg01": -1.4, "lowerleg01": 1.4, "lowerarm01": 0.3},
    {"upperleg01.L": -0.8, "lowerleg01.L": 1.0, "lowerarm01.R": 1.2, "upperarm01.R": 0.8},
)
HIPS = [11, 12]


@pytest.fixture(scope="module")
def model() -> anny.AnnyModel:
    return anny.load()


@pytest.fixture(scope="module")
def starter(model) -> LandmarkStarter:
    return LandmarkStarter(model)


@pytest.fixture(scope="module")
def place(model):
    """(root_rotvec, pose, transl) -> (n, 17, 3) keypoints of average adults, metres, camera axes."""
    points = anny.contract(model, np.asarray(model.keypoint_regressor)[:17])
    shape = calibrated_phenotypes(np.full(1, -1.0), np.full(1, -1.0))[0]
    put = jax.jit(anny.points)

    def keypoints(root: np.ndarray, pose: np.ndarray, transl: np.ndarray) -> np.ndarray:
        params = (np.tile(shape, (len(root), 1)), root, pose, transl)
        return np.asarray(put(points, anny.Params(*(jnp.asarray(a, jnp.float32) for a in params))), np.float64)

    return keypoints


@pytest.fixture(scope="module")
def scene(model, place) -> Scene:
    """Three people, one of them at the edge of a wide picture, with the landmarks that a camera straight before each sees."""
    pose = np.stack([anatomy.flexed_pose(model, flexions) for flexions in POSTURES])
    yaw = np.array([0.0, 60.0, 200.0])
    turned = Rotation.from_rotvec([np.pi / 2, 0, 0]) * Rotation.from_euler("z", yaw[:, None], degrees=True)
    transl = np.array([[0.0, 0, 4], [2.0, 0.1, 4], [-1, 0.3, 5]])
    joints = place(turned.as_rotvec(), pose, transl)
    pixels, metres = np.zeros((3, 33, 3)), np.zeros((3, 33, 3))
    every = list(COCO_OF_LANDMARKS)
    pixels[:, every, :2], pixels[:, every, 2] = project(joints, K), 1.0
    metres[:, every] = joints - joints[:, HIPS].mean(1, keepdims=True)
    down = metres[:, [27, 28]] - metres[:, [25, 26]]
    metres[:, [31, 32]] = metres[:, [27, 28]] + 0.2 * down
    metres = metres @ line_of_sight(pixels, K)
    keypoints = np.concatenate([pixels[:, every, :2], np.ones((3, 17, 1))], 2)
    return Scene(
        "people", SIZE, K, keypoints, np.zeros((3, NUM_DENSE, 3)), np.full(3, np.nan), np.full(3, -1), np.full(3, -1.0),
        np.full(3, -1.0),
        extra={
            LANDMARKS_PX: pixels, LANDMARKS_M: metres, "root": turned.as_rotvec(), "pose": pose, "transl": transl,
            "joints": joints,
        },
    )  # fmt: skip


def test_the_pose_behind_the_landmarks_comes_back(model, starter, scene, place):
    start = starter(scene)
    assert start.known.all()
    off = Rotation.from_rotvec(start.root_rotvec) * Rotation.from_rotvec(scene.extra["root"]).inv()
    assert np.degrees(off.magnitude()).max() < 9.0  # a raised arm moves the shoulder keypoint
    joints = place(start.root_rotvec, start.pose, scene.extra["transl"])
    away = (joints - joints[:, HIPS].mean(1, keepdims=True)) - (
        scene.extra["joints"] - scene.extra["joints"][:, HIPS].mean(1, keepdims=True)
    )
    assert np.linalg.norm(away, axis=-1).mean() < 0.025
    # Elbows and knees bend about their hinges: the flexion is found and nothing else.
    names = model.labels.bones[1:]
    for person, flexions in enumerate(POSTURES):
        for bone in ("lowerarm01.L", "lowerarm01.R", "lowerleg01.L", "lowerleg01.R"):
            wanted = anatomy.flexed_pose(model, flexions)[names.index(bone)]
            assert np.linalg.norm(start.pose[person, names.index(bone)] - wanted) < 0.25, (person, bone)


def test_a_camera_that_is_not_straight_before_the_person_is_allowed_for(starter, scene):
    """The same landmarks in the middle of the picture and at its edge: bodies turned by the angle between the rays."""
    pixels = np.array(scene.extra[LANDMARKS_PX])
    pixels[..., :2] = K[:2, 2]
    middle = starter(dataclasses.replace(scene, extra=scene.extra | {LANDMARKS_PX: pixels}))
    turns = Rotation.from_rotvec(starter(scene).root_rotvec) * Rotation.from_rotvec(middle.root_rotvec).inv()
    weighted = scene.extra[LANDMARKS_PX][:, list(COCO_OF_LANDMARKS), :2].mean(1)
    rays = np.c_[(weighted - K[:2, 2]) / 900.0, np.ones(3)]
    np.testing.assert_allclose(turns.magnitude(), np.arccos(1.0 / np.linalg.norm(rays, axis=1)), atol=1e-4)
    assert turns.as_rotvec()[1, 1] > 0.3  # to the right is about +y


def test_people_without_usable_landmarks_have_no_start(starter, scene):
    metres = np.array(scene.extra[LANDMARKS_M])
    metres[0] = 0.0
    metres[1, 13] = np.nan
    start = starter(dataclasses.replace(scene, extra=scene.extra | {LANDMARKS_M: metres}))
    assert start.known.tolist() == [False, False, True]
    assert np.isnan(start.pose[:2]).all()
    assert np.isfinite(start.pose[2]).all()
    assert starter(dataclasses.replace(scene, extra={})) is None


def test_landmarks_of_another_shape_are_refused(starter, scene):
    extra = scene.extra | {LANDMARKS_M: scene.extra[LANDMARKS_M][:2]}
    with pytest.raises(SceneError, match=r"people: extra.world_landmarks: expected \(3, 33, 3\), got \(2, 33, 3\)"):
        starter(dataclasses.replace(scene, extra=extra))


def test_landmarks_stay_with_their_people(scene):
    chosen = starts.select_people(scene, np.array([2, 0]))
    np.testing.assert_array_equal(chosen.extra[LANDMARKS_M], scene.extra[LANDMARKS_M][[2, 0]])
    np.testing.assert_array_equal(chosen.extra[LANDMARKS_PX], scene.extra[LANDMARKS_PX][[2, 0]])


def test_landmarks_of_too_few_people_do_not_stop_a_fit_that_needs_none(scene):
    extra = scene.extra | {LANDMARKS_M: scene.extra[LANDMARKS_M][:2]}
    chosen = starts.select_people(dataclasses.replace(scene, extra=extra), np.array([0, 2]))
    np.testing.assert_array_equal(chosen.extra[LANDMARKS_M], extra[LANDMARKS_M])
    assert len(chosen.extra[LANDMARKS_PX]) == 2
