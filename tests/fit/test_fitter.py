"""The whole pipeline: the shipped photos, and the cases a job meets on the way."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from fit_cases import short_config, trajectory
from helpers import REPO

from annyfit_jax import metrics
from annyfit_jax.fit.config import load_config
from annyfit_jax.fit.fitter import Fitter
from annyfit_jax.inputs import open_input
from annyfit_jax.people import anatomy
from body_models import anny

DEMO = REPO / "experiments" / "demo_data"


@pytest.fixture(scope="module")
def model() -> anny.AnnyModel:
    return anny.load()


@pytest.fixture(scope="module")
def demo(model):
    """Fits of the shipped photos, as `make demo` makes them."""
    config = load_config(REPO / "experiments" / "configs" / "annyfit_keypoints.py")
    source = open_input(str(DEMO / "annotations.json"), images=str(DEMO / "photos"))
    return list(Fitter(config, model).fit(source.load(i) for i in range(len(source))))


@pytest.mark.slow
def test_everybody_on_the_shipped_photos_is_fitted(demo):
    errors = np.concatenate([fit.reprojection_px for fit in demo])
    starts = np.concatenate([fit.start_reprojection_px for fit in demo])
    assert all((fit.status == "ok").all() for fit in demo)
    assert errors.mean() < 2.5
    assert errors.mean() < 0.2 * starts.mean()
    heights = np.concatenate([fit.height_m[fit.shape[:, 1] > 0.6] for fit in demo])
    assert ((heights > 1.45) & (heights < 2.0)).all()


@pytest.mark.slow
def test_elbows_and_knees_bend_the_right_way(demo, model):
    """Flexion about the anatomical axis stays within 0.1 rad of its range for every person of every photo."""
    bones, axes, ranges = anatomy.joint_axes(model)
    checked = 0
    for bone, axis, limits in zip(bones, axes, ranges):
        if model.labels.bones[bone].startswith(("lowerarm01", "lowerleg01")):
            flexion = np.concatenate([fit.pose[:, bone - 1] @ axis[0] for fit in demo])
            assert flexion.min() > limits[0, 0] - 0.1
            assert flexion.max() < limits[0, 1] + 0.1
            assert flexion.max() > 0.3  # somebody bends it
            checked += 1
    assert checked == 4


@pytest.mark.slow
def test_near_people_are_near(demo):
    """Depth order against the hand-labelled layers, which are no cue of this fit."""
    labels = {
        str(a["id"]): a.get("hand_label", {}).get("depth_id", -1)
        for a in json.loads((DEMO / "annotations.json").read_text())["annotations"]
    }
    right = [metrics.ordered_pairs(fit.depth_m, np.array([labels[str(i)] for i in fit.person_ids])) for fit in demo]
    right = np.concatenate(right)
    assert len(right) > 30
    assert right.mean() >= 0.95


@pytest.mark.slow
def test_an_impossible_cue_stays_with_its_person(model):
    """A keypoint at 1e30, a depth of 1e38 and a layer of 2^60 change nothing for whoever stands beside, and are noted."""
    fitter = Fitter(short_config(), model)
    scene, start = trajectory(1)
    good = dataclasses.replace(scene, start=start, dense_keypoints=np.zeros_like(scene.dense_keypoints))
    assert len(good) > 1
    without = [dataclasses.replace(good, **{name: np.array(getattr(good, name)) for name in _CUES}) for _ in range(2)]
    without[0].keypoints[0, 3, 2] = 0
    without[1].keypoints[0, 3] = [1e30, 5, 1]
    for odd, depth, layer in zip(without, (np.nan, 1e38), (-1, 2**60), strict=True):
        odd.median_depth[0], odd.depth_layer[0] = depth, layer
    expected, found = (next(iter(fitter.fit([odd]))) for odd in without)
    assert (found.status == "ok").all()
    assert "keypoint_far_outside;depth_beyond_any_place;depth_layer_beyond_any_place" in str(found.notes[0])
    np.testing.assert_array_equal(found.pose, expected.pose)
    np.testing.assert_array_equal(found.transl, expected.transl)


_CUES = ("keypoints", "median_depth", "depth_layer")


def test_odd_scenes_are_fitted_side_by_side(model):
    """One person, no words, nobody's dense points, a start behind the camera, a person without keypoints: one batch."""
    fitter = Fitter(short_config(), model)
    scene, start = trajectory(1)
    scene = dataclasses.replace(scene, start=start, person_ids=["p", "q", "r"])
    alone, _ = trajectory(0)
    no_words = dataclasses.replace(scene, name="no_words", age=np.full(3, -1.0), gender=np.full(3, -1.0))
    behind = dataclasses.replace(
        scene, name="behind", start=dataclasses.replace(start, transl=start.transl - [0, 0, 50.0])
    )
    hidden_keypoints, hidden_dense = scene.keypoints.copy(), scene.dense_keypoints.copy()
    hidden_keypoints[1, :, 2], hidden_dense[1, :, 2] = 0.0, 0.0
    hidden = dataclasses.replace(scene, name="hidden", keypoints=hidden_keypoints, dense_keypoints=hidden_dense)
    fits = list(fitter.fit([alone, no_words, behind, hidden]))
    assert [fit.name for fit in fits] == [alone.name, "no_words", "behind", "hidden"]
    assert (fits[0].status == "ok").all()
    assert (fits[1].status == "ok").all()
    assert all("no_words" in note for note in fits[1].notes)
    words = fits[1].loss_curve[:, list(fits[1].loss_names).index("words")]
    np.testing.assert_array_equal(words, 0.0)
    assert all("start_behind_camera" in note for note in fits[2].notes)
    assert (fits[2].status == "ok").all()
    assert list(fits[3].status) == ["ok", "skipped:no_keypoints", "ok"]
    assert list(fits[3].person_ids) == ["p", "q", "r"]
    assert np.isnan(fits[3].transl[1]).all()
    assert np.isfinite(fits[3].transl[[0, 2]]).all()
