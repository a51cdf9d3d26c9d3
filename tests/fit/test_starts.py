"""Starts: calibrated bodies, orientation and depth from 2D keypoints, and what happens to people who cannot be fitted."""

from __future__ import annotations

import dataclasses

import compiled_bodies
import jax.numpy as jnp
import numpy as np
import pytest
from fit_cases import released_config, trajectory

from annyfit_jax.fit.starts import prepare
from annyfit_jax.people import anatomy
from annyfit_jax.people.scene import BodyParameters, NobodyToFit, SceneError
from body_models import anny


@pytest.fixture(scope="module")
def model() -> anny.AnnyModel:
    return anny.load()


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
    with pytest.raises(NobodyToFit, match="nobody can be fitted: no_keypoints") as caught:
        prepare(dataclasses.replace(scene, keypoints=keypoints, dense_keypoints=dense), released_config(), starter)
    assert caught.value.reasons == ("no_keypoints",) * 3


@pytest.mark.parametrize(
    ("kept", "scale", "sees"),
    [
        ((0,), 1.0, False),
        ((0, 1, 2, 3, 4), 1.0, False),
        ((5, 6), 1.0, False),
        ((5, 6, 11), 1.0, True),
        (range(17), 0.01, False),
    ],
)
def test_too_little_evidence_gets_no_body_without_a_start(starter, kept, scale, sees):
    """A nose, a face, two shoulders, or a whole person of a few pixels: no body, unless somebody brings one."""
    scene, start = trajectory(1)
    keypoints, dense = np.array(scene.keypoints), np.array(scene.dense_keypoints)
    dense[1, :, 2] = 0.0
    keypoints[1, :, 2] = 0.0
    keypoints[1, list(kept), 2] = 1.0
    keypoints[1, :, :2] = 100.0 + scale * 40.0 * np.stack([np.arange(17), np.arange(17) % 5], 1)
    bare = dataclasses.replace(scene, keypoints=keypoints, dense_keypoints=dense, start=None, masks=None)
    expected = {} if sees else {1: "too_little_evidence"}
    assert prepare(bare, released_config(), starter).skipped == expected
    supported = dataclasses.replace(bare, start=start)
    assert prepare(supported, released_config(), starter).skipped == {}
    ignored = dataclasses.replace(released_config(), start="keypoints")
    assert prepare(supported, ignored, starter).skipped == expected
    start = dataclasses.replace(start, transl=np.where(np.arange(3)[:, None] == 1, np.nan, start.transl))
    assert prepare(dataclasses.replace(bare, start=start), released_config(), starter).skipped == expected


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
        return np.asarray(compiled_bodies.anny_keypoints(model, anny.Params(shape, zero, pose, zero)))

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
