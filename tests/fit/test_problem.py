"""Flattening scenes into one problem and back."""

from __future__ import annotations

import dataclasses
from typing import Any

import fit_cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annyfit_jax.fit.config import FitConfig
from annyfit_jax.fit.problem import Capacity, assemble, capacity_of, depth_reference, split_people
from annyfit_jax.people.scene import BodyParameters, Scene

CONFIG = FitConfig(stages=())
FLOAT64: Any = np.float64
COUNTS = st.lists(st.integers(1, 5), min_size=1, max_size=5)


def random_case(n: int, seed: int) -> tuple[Scene, BodyParameters]:
    """A scene of n people in which every number is different."""
    rng = np.random.default_rng(seed)
    words = np.array([-1.0, 0.0, 0.1, 0.33, 0.5, 0.66, 0.999], np.float32)
    scene = fit_cases.make_scene(
        f"scene{seed}",
        rng.uniform(0, 600, (n, 17, 3)),
        intrinsics=np.diag([500.0 + seed, 510.0, 1.0]),
        dense_keypoints=rng.uniform(0, 600, (n, 138, 3)),
        median_depth=np.where(rng.random(n) < 0.3, np.nan, rng.uniform(2, 6, n)),
        age=rng.choice(words, n),
        gender=rng.choice(words[[0, 1, 4]], n),
    )
    start = BodyParameters(*(rng.standard_normal((n, *s)) for s in ((3,), (3,), (162, 3), (6,))))
    return scene, start


def random_cases(counts) -> tuple[list[Scene], list[BodyParameters]]:
    cases = [random_case(n, 10 * k) for k, n in enumerate(counts)]
    return [s for s, _ in cases], [p for _, p in cases]


def roomier(scenes, by: int) -> Capacity:
    need = capacity_of(scenes)
    return Capacity(need.people + by, need.pairs + 2 * by, need.scenes + by)


@settings(deadline=None, max_examples=25)
@given(counts=COUNTS, extra=st.integers(0, 3))
def test_people_come_back_unchanged(counts, extra):
    scenes, starts = random_cases(counts)
    _, variables = assemble(scenes, starts, CONFIG, roomier(scenes, extra), FLOAT64)
    back = split_people(variables, scenes)
    assert len(back) == len(starts)
    for got, want in zip(back, starts):
        for field in dataclasses.fields(BodyParameters):
            np.testing.assert_array_equal(getattr(got, field.name), getattr(want, field.name))


@settings(deadline=None, max_examples=25)
@given(counts=COUNTS, extra=st.integers(0, 3))
def test_weights_scenes_and_pairs(counts, extra):
    scenes, starts = random_cases(counts)
    need = capacity_of(scenes)
    problem, _ = assemble(scenes, starts, CONFIG, roomier(scenes, extra), FLOAT64)
    people = np.repeat(np.arange(len(counts)), counts)
    real = slice(0, need.people)
    np.testing.assert_array_equal(problem.scene[real], people)
    np.testing.assert_array_equal(problem.person_weight[real], 1.0 / np.array(counts)[people])
    for weights in (problem.person_weight, problem.word_weight):
        assert not weights[..., need.people :].any()
    # Every scene's usable answers weigh 1 in all; an unusable one weighs nothing.
    for k, scene in enumerate(scenes):
        words = np.stack([scene.gender, scene.age])
        weights = problem.word_weight[:, real][:, people == k]
        np.testing.assert_array_equal(weights > 0, words >= 0)
        np.testing.assert_allclose(weights.sum(), float((words >= 0).any()))
    # Pairs: all unordered ones of a scene whose depths are both known, and no other.
    want = set()
    for k, scene in enumerate(scenes):
        known = np.flatnonzero(np.isfinite(scene.median_depth)) + sum(counts[:k])
        want |= {(i, j, k) for i in known for j in known if i < j}
    used = problem.pairs.weight > 0
    got = list(zip(problem.pairs.first[used], problem.pairs.second[used], problem.pairs.scene[used]))
    assert set(got) == want
    assert len(got) == len(want)
    depth = np.concatenate([s.median_depth for s in scenes])
    np.testing.assert_array_equal(
        problem.pairs.gap[used], depth[problem.pairs.first[used]] - depth[problem.pairs.second[used]]
    )


def test_cues_are_components_first_people_last():
    scenes, starts = random_cases((2, 3))
    problem, variables = assemble(scenes, starts, CONFIG, roomier(scenes, 2), FLOAT64)
    keypoints = np.concatenate([s.keypoints for s in scenes])
    dense = np.concatenate([s.dense_keypoints for s in scenes])
    cues = problem.cues
    for person in range(5):
        np.testing.assert_array_equal(cues.keypoints_px[:, :, person], keypoints[person, :, :2].T)
        np.testing.assert_array_equal(cues.keypoint_confidence[:, person], keypoints[person, :, 2])
        np.testing.assert_array_equal(cues.dense_px[:, :, person], dense[person, :, :2].T)
        np.testing.assert_array_equal(cues.dense_confidence[:, person], dense[person, :, 2])
        np.testing.assert_array_equal(cues.intrinsics[:, :, person], scenes[person >= 2].intrinsics)
    assert variables.pose.shape == (3, 162, 7)
    np.testing.assert_array_equal(variables.pose[:, :, 3], starts[1].pose[1].T)
    assert problem.num_scenes == 4
    # Padding is finite: it goes through the body model like everybody else.
    for array in (*cues, *variables):
        assert np.isfinite(array).all()


@pytest.mark.parametrize("field", ["people", "pairs", "scenes"])
def test_too_small_a_capacity_is_an_error(field):
    scenes, starts = random_cases((2, 3))
    need = capacity_of(scenes)
    assert need == Capacity(people=5, pairs=4, scenes=2)
    short = dataclasses.replace(need, **{field: getattr(need, field) - 1})
    with pytest.raises(ValueError, match=r"Capacity\(people=5, pairs=4, scenes=2\).*more than the capacity"):
        assemble(scenes, starts, CONFIG, short)


def test_word_anchors_are_float32_numbers():
    """As in the release, whose targets are float32 even in its float64 runs."""
    scene, start = random_case(2, 0)
    scene = dataclasses.replace(scene, age=np.array([0.33, 0.999]), gender=np.array([1.0, -1.0]))
    problem, _ = assemble([scene], [start], CONFIG, dtype=FLOAT64)
    assert problem.word_target.dtype == np.float64
    np.testing.assert_array_equal(problem.word_target[1], np.array([0.33, 0.999], np.float32).astype(np.float64))
    assert not np.isin(problem.word_target[1], (0.33, 0.999)).any()
    np.testing.assert_array_equal(problem.word_weight, [[1 / 3, 0], [1 / 3, 1 / 3]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_number_has_the_dtype_asked_for(dtype):
    scenes, starts = random_cases((2, 1))
    problem, variables = assemble(scenes, starts, CONFIG, roomier(scenes, 1), dtype)
    floats = [*problem.cues, problem.person_weight, problem.word_target, problem.word_weight, *variables]
    assert {np.asarray(x).dtype for x in (*floats, problem.pairs.gap, problem.pairs.weight)} == {np.dtype(dtype)}


# ------------------------------------------------------------------------------------------------ depth


def test_metric_depth_ranks_where_there_is_any():
    scene, _ = random_case(3, 0)
    nan = np.nan
    scene = dataclasses.replace(scene, median_depth=np.array([2.5, nan, 4.0]), depth_layer=np.array([2, 1, 0]))
    np.testing.assert_array_equal(depth_reference(scene, CONFIG), [2.5, nan, 4.0])  # the layer is not mixed in


def test_layers_rank_where_no_metric_depth_is():
    scene, start = random_case(4, 0)
    layers = dataclasses.replace(scene, median_depth=np.full(4, np.nan), depth_layer=np.array([0, 2, -1, 0]))
    config = dataclasses.replace(CONFIG, layer_depth_m=1.5)
    np.testing.assert_array_equal(depth_reference(layers, config), [0.0, 3.0, np.nan, 0.0])
    problem, _ = assemble([layers], [start], config, dtype=FLOAT64)
    used = problem.pairs.weight > 0
    pairs = zip(problem.pairs.first[used], problem.pairs.second[used], problem.pairs.gap[used])
    assert set(pairs) == {(0, 1, -3.0), (0, 3, 0.0), (1, 3, 3.0)}


def test_no_depth_at_all_is_no_pair():
    scene, start = random_case(4, 0)
    problem, _ = assemble([dataclasses.replace(scene, median_depth=np.full(4, np.nan))], [start], CONFIG)
    assert not problem.pairs.weight.any()
