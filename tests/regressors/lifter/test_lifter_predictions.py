"""The lifter alone: scenes of keypoints in, people in the format of fits out, one program for all sizes of scenes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers import REPO

from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import Scene
from annyfit_jax.regressors.lifter.lifter_predictions import ScenePredictor
from annyfit_jax.regressors.photo_predictions import predict_scenes
from annyfit_jax.synthetic import plain
from annyfit_jax.training.protocol import PredictOptions, Regressor
from annyfit_jax.training.training_config import load_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def regressor() -> Regressor:
    return load_config(REPO / "experiments" / "configs" / "lifter.py").regressor


@pytest.fixture(scope="module")
def predictor(regressor) -> ScenePredictor:
    return regressor.scene_predictor(regressor.shipped_variables())


@pytest.fixture(scope="module")
def scenes(predictor) -> list[Scene]:
    return list(plain.Generator(plain.Recipe(seed=31), predictor._meshes.model).scenes(range(3)))


class Some:
    """A source of scenes."""

    def __init__(self, scenes: list[Scene]) -> None:
        self.names, self._scenes = [scene.name for scene in scenes], scenes

    def load(self, index: int) -> Scene:
        return self._scenes[index]

    def stamp(self, index: int) -> str:
        return ""


def test_people_stand_where_their_keypoints_are(predictor, scenes):
    for scene in scenes:
        fit = predictor.fit(scene)
        assert (fit.status == "ok").all()
        assert len(fit) == len(scene)
        assert fit.start_origin == "lifter"
        pixels = project(fit.fitted_keypoints_3d.astype(np.float64), scene.intrinsics)
        seen = scene.keypoints[..., 2] > 0.5
        off = np.linalg.norm(pixels - scene.keypoints[..., :2], axis=-1)
        shown = np.where(seen[..., None], scene.keypoints[..., :2], np.nan)
        size = (np.nanmax(shown, axis=1) - np.nanmin(shown, axis=1)).max(-1)
        assert np.median(off[seen]) < 0.15 * np.median(size)
        assert (fit.transl[:, 2] > 0).all()


def test_the_start_of_a_scene_is_not_looked_at(predictor, scenes):
    scene = scenes[0]
    one, other = predictor.fit(scene), predictor.fit(dataclasses.replace(scene, start=None))
    np.testing.assert_array_equal(one.pose, other.pose)


def test_scenes_are_written_as_fits(predictor, scenes, tmp_path):
    done = predict_scenes(lambda: predictor, Some(scenes), tmp_path)  # type: ignore[arg-type]
    assert done.photos == len(scenes)
    assert done.people == sum(len(scene) for scene in scenes)
    assert len(list((tmp_path / "fits").glob("*.npz"))) == len(scenes)
    assert len((tmp_path / "people.jsonl").read_text().splitlines()) == done.people
    again = predict_scenes(lambda: predictor, Some(scenes), tmp_path)  # type: ignore[arg-type]
    assert again == done


def test_options_about_photos_are_refused(regressor):
    with pytest.raises(ValueError, match="short_side"):
        regressor.scene_predictor(regressor.shipped_variables(), PredictOptions(short_side=100))
    with pytest.raises(ValueError, match="no predictions from photos"):
        regressor.predictor(regressor.shipped_variables())


def test_the_best_person_alone(regressor, scenes):
    options = PredictOptions(single_person=True)
    fit = regressor.scene_predictor(regressor.shipped_variables(), options).fit(max(scenes, key=len))
    assert len(fit) == 1
