"""People without an age word are tried at several ages: a toddler is no adult far away, nor the other way round."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from second_order_cases import plus_config

from annyfit_jax.fit import second_order
from annyfit_jax.fit.fitter import Fitter
from annyfit_jax.fit.keypoint_start import calibrated_phenotypes
from annyfit_jax.fit.starts import prepare
from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import NUM_DENSE, Scene
from body_models import anny

AGES = np.array([0.1, 0.72])
"""A toddler and an adult."""
DEPTH_M = np.array([3.0, 4.0])
K = np.array([[900.0, 0.0, 500.0], [0.0, 900.0, 400.0], [0.0, 0.0, 1.0]])


@pytest.fixture(scope="module")
def fitter() -> Fitter:
    return Fitter(plus_config("person_lengths=[8]"), anny.load(), jax.devices()[:1])


@pytest.fixture(scope="module")
def untold(fitter) -> Scene:
    """The two of them upright before a level camera, seen without noise; nothing is told of them."""
    model, count = fitter.model, len(AGES)
    facing = Rotation.from_rotvec([np.pi / 2, 0.0, 0.0]) * Rotation.from_euler("z", 25.0, degrees=True)
    root = np.tile(facing.as_rotvec(), (count, 1))
    transl = np.stack([[-0.6, 0.6], [0.4, 0.1], DEPTH_M], 1)
    pose = np.tile(np.asarray(fitter.body.pose_rest).T, (count, 1, 1))
    shape = calibrated_phenotypes(AGES, np.zeros(count))
    points = anny.contract(model, np.asarray(model.keypoint_regressor)[:17])
    params = anny.Params(*(jnp.asarray(a, jnp.float32) for a in (shape, root, pose, transl)))
    joints = np.asarray(jax.jit(anny.points)(points, params), np.float64)
    keypoints = np.concatenate([project(joints, K), np.ones((count, 17, 1))], axis=2)
    nobody = np.full(count, -1.0)
    return Scene(
        "untold", (1000, 800), K, keypoints, np.zeros((count, NUM_DENSE, 3)), np.full(count, np.nan), np.full(count, -1),
        nobody, nobody,
    )  # fmt: skip


def test_only_people_without_a_word_are_tried_at_other_ages(fitter, untold):
    told = dataclasses.replace(untold, age=np.array([0.1, 0.66]))
    first_told = dataclasses.replace(untold, age=np.array([0.1, -1.0]))
    for scene, ages in ((untold, True), (told, False), (first_told, True)):
        ready = prepare(scene, fitter.config, fitter.starter)
        assert second_order.kind_of(ready, fitter.config).ages == ages
        problem, _ = second_order.assemble([ready], fitter.config)
        assert problem.supposed_ages == (fitter.config.map.supposed_ages if ages else ())
    nobody = plus_config("map.supposed_ages=[]")
    assert not second_order.kind_of(prepare(untold, nobody, fitter.starter), nobody).ages


def test_the_last_scenes_of_all_kinds_share_a_list_where_they_fit(fitter, untold):
    told = dataclasses.replace(untold, age=np.array([0.1, 0.66]))
    few = [prepare(scene, fitter.config, fitter.starter) for scene in (told, untold, told)]
    (batch,) = fitter.batches(iter(few))
    assert sorted(map(id, batch)) == sorted(map(id, few))
    assert second_order.kind_of_batch(batch, fitter.config).ages
    many = [prepare(scene, fitter.config, fitter.starter) for scene in (told, untold, told, told, untold)]
    apart = list(fitter.batches(iter(many)))  # ten people do not fit into one list of eight
    assert sorted(len(batch) for batch in apart) == [2, 3]
    assert [second_order.kind_of_batch(batch, fitter.config).ages for batch in apart] == [False, True]


def test_an_unknown_class_of_age_is_refused():
    with pytest.raises(ValueError, match=r"supposed_ages.*grandparent.*there are"):
        plus_config("map.supposed_ages=['grandparent']")


@pytest.mark.slow
def test_a_toddler_is_no_adult_far_away(fitter, untold):
    """Without the supposed ages the toddler is fitted as an adult twice as far away; the adult is the same with and without."""
    (fit,) = fitter.fit([untold])
    without = Fitter(plus_config("person_lengths=[8]", "map.supposed_ages=[]"), fitter.model, jax.devices()[:1])
    (before,) = without.fit([untold])
    assert before.depth_m[0] > 1.4 * DEPTH_M[0]
    assert abs(fit.depth_m[0] / DEPTH_M[0] - 1.0) < 0.2
    assert fit.shape[0, 1] < 0.3
    np.testing.assert_allclose(fit.depth_m[1], before.depth_m[1], rtol=0.05)
    assert fit.shape[1, 1] > 0.6


@pytest.mark.slow
def test_people_with_a_word_are_fitted_the_same_beside_people_without(fitter, untold):
    told = dataclasses.replace(untold, name="told", age=np.array([0.1, 0.66]))
    (alone,) = fitter.fit([told])
    together, _ = fitter.fit([told, untold])
    np.testing.assert_allclose(together.fitted_keypoints_3d, alone.fitted_keypoints_3d, atol=2e-3)
    np.testing.assert_allclose(together.sd_depth_m, alone.sd_depth_m, rtol=0.02)


@pytest.mark.slow
def test_a_word_outweighs_them(fitter, untold):
    """Somebody told to be a toddler beside somebody untold is a toddler, and near."""
    (fit,) = fitter.fit([dataclasses.replace(untold, age=np.array([0.1, -1.0]))])
    assert abs(fit.depth_m[0] / DEPTH_M[0] - 1.0) < 0.2
    np.testing.assert_allclose(fit.depth_m[1], DEPTH_M[1], rtol=0.1)
