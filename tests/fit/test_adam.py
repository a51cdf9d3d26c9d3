"""The solver against the recorded runs of the released optimiser, and what must not change a fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import chex
import fit_cases
import jax
import numpy as np
import pytest
from fit_cases import GOLDEN_TERMS, GROUPS, TRAJECTORIES, golden
from helpers import max_abs

from annyfit_jax.fit import adam, objective
from annyfit_jax.fit.config import FitConfig
from annyfit_jax.fit.fit_body import FitBody, anny_body
from annyfit_jax.fit.problem import Capacity, Variables, capacity_of, split_people
from annyfit_jax.people.scene import BodyParameters, Scene
from annyfit_jax.records import settings

pytestmark = pytest.mark.unoptimised
BodyMaker = Callable[[FitConfig, str], FitBody]


@pytest.fixture(scope="module")
def make_body(load_anny) -> BodyMaker:
    """`make_body(config, dtype)`: each prepared body once."""
    bodies: dict[tuple, FitBody] = {}

    def make(config: FitConfig, dtype: str) -> FitBody:
        key = (config.mesh, config.mesh_samples, dtype)
        if key not in bodies:
            with jax.enable_x64(dtype == "float64"):
                bodies[key] = anny_body(load_anny(dtype), config)
        return bodies[key]

    return make


# ------------------------------------------------------------------------------------------------ recorded runs
#
# Largest differences measured over the four trajectories (12 people, 400 steps):
#
#   run              total loss    transl     root       pose       shape
#   float64 exact    3e-14 rel     4e-15 m    7e-15 rad  3e-14 rad  6e-15
#   float32 exact    2e-5 rel      6e-6 m     2e-6 rad   8e-6 rad   3e-5
#   float32 sampled  4e-3 rel      6e-4 m     2e-3 rad   7e-2 rad   9e-4


def total(losses: tuple[dict[str, jax.Array], ...]) -> np.ndarray:
    """(step, scene) total loss of a whole schedule."""
    return np.concatenate([np.asarray(sum(stage.values())) for stage in losses])


def all_trajectories(make_body: BodyMaker, mesh: str, dtype: str) -> adam.BatchFit:
    """The four recorded scenes as one batch."""
    config = settings.apply_overrides(fit_cases.released_config(), [f"mesh={mesh}"])
    cases = [fit_cases.trajectory(i) for i in TRAJECTORIES]
    return fit_cases.fit(config, make_body(config, dtype), cases, dtype=dtype)[2]


def by_scene(variables: Variables) -> list[dict[str, np.ndarray]]:
    ends = split_people(variables, [fit_cases.trajectory(i)[0] for i in TRAJECTORIES])
    return [dataclasses.asdict(end) for end in ends]


@pytest.fixture(scope="module")
def exact64(make_body) -> Iterator[adam.BatchFit]:
    with jax.enable_x64(True):
        yield all_trajectories(make_body, "exact", "float64")


@pytest.mark.slow
def test_float64_total_loss_at_every_step(exact64):
    got = total(exact64.losses)
    for i in TRAJECTORIES:
        np.testing.assert_allclose(got[:, i], golden(f"traj_{i:03d}_f64")["loss_total_loss"], rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("term", GOLDEN_TERMS)
def test_float64_loss_of_every_term_at_every_step(exact64, term):
    # A term that is not computed in a stage is zero there, in the goldens too.
    got = np.concatenate(
        [np.asarray(stage.get(term, np.zeros_like(stage["keypoints"]))) for stage in exact64.losses]
    )  # fmt: skip
    for i in TRAJECTORIES:
        want = golden(f"traj_{i:03d}_f64")["loss_" + GOLDEN_TERMS[term]]
        want = np.pad(want, (0, len(got) - len(want)))  # the ranking is recorded where its weight is not zero
        np.testing.assert_allclose(got[:, i], want, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_float64_parameters_after_every_stage(exact64, stage):
    for i, got in enumerate(by_scene(exact64.stage_variables[stage - 1])):
        for group in GROUPS:
            assert max_abs(got[group], golden(f"traj_{i:03d}_f64")[f"params_stage{stage}_{group}"]) < 1e-9, (i, group)


def test_float64_starts_are_the_recorded_starts():
    for i in TRAJECTORIES:
        start = dataclasses.asdict(fit_cases.trajectory(i)[1])
        for group in GROUPS:
            np.testing.assert_array_equal(start[group], golden(f"traj_{i:03d}_f64")[f"params_step000_{group}"])


@pytest.mark.slow
def test_the_end_is_the_last_stage(exact64):
    chex.assert_trees_all_equal(exact64.variables, exact64.stage_variables[-1])


@pytest.mark.slow
def test_reported_reprojection_error_at_start(exact64):
    """Against plain numpy on the recorded projections."""
    errors = []
    for i in TRAJECTORIES:
        seen = golden(f"traj_{i:03d}_scene")["keypoints_2d"]
        distance = np.linalg.norm(golden(f"traj_{i:03d}_f64")["start_coco2d"] - seen[..., :2], axis=-1)
        errors += [d[c >= 0.5].mean() for d, c in zip(distance, seen[..., 2])]
    np.testing.assert_allclose(exact64.start_reprojection_px, errors, rtol=1e-9)
    assert np.median(exact64.reprojection_px) < np.median(errors)


@pytest.mark.slow
def test_float32(make_body):
    out = all_trajectories(make_body, "exact", "float32")
    losses, ends = total(out.losses), by_scene(out.variables)
    for i in TRAJECTORIES:
        want = golden(f"traj_{i:03d}_f32")
        np.testing.assert_allclose(losses[:, i], want["loss_total_loss"], rtol=1e-4)
        for group in GROUPS:
            assert max_abs(ends[i][group], want[f"params_stage3_{group}"]) < 5e-4, (i, group)


@pytest.mark.slow
def test_float32_sampled_mesh_stays_close_to_the_exact_one(make_body):
    out = all_trajectories(make_body, "sampled", "float32")
    losses, ends = total(out.losses), by_scene(out.variables)
    bounds = {"transl": 2e-3, "root_rotvec": 1e-2, "pose": 0.1, "shape": 5e-3}
    for i in TRAJECTORIES:
        want = golden(f"traj_{i:03d}_f32")
        np.testing.assert_allclose(losses[:, i], want["loss_total_loss"], rtol=1e-2)
        for group, bound in bounds.items():
            assert max_abs(ends[i][group], want[f"params_stage3_{group}"]) < bound, (i, group)


# ------------------------------------------------------------------------------------------------ first gradients

PAD = 2
"""Padded people in the gradient test."""


@pytest.fixture(scope="module")
def first_gradients(make_body) -> Iterator[list[Variables]]:
    """Gradient of the total at the first step of every stage, in every group, with `PAD` padded people at the end."""
    config = settings.apply_overrides(fit_cases.released_config(), ["mesh=exact"])
    with jax.enable_x64(True):
        body = make_body(config, "float64")

        @jax.jit
        def gradient(weights, body, problem, reference):
            mesh = body.predict(reference, objective.clamp).mesh

            def loss(variables):
                prediction = body.predict(variables, objective.clamp)
                values = objective.energy(
                    weights, variables, prediction, reference, mesh, problem, body.shared, config
                )  # fmt: skip
                return sum(v.sum() for v in values.values())

            return jax.grad(loss)(reference)

        cases = [fit_cases.trajectory(i) for i in TRAJECTORIES]
        need = capacity_of([scene for scene, _ in cases])
        capacity = dataclasses.replace(need, people=need.people + PAD, pairs=need.pairs + 3)
        out = []
        for k, stage in enumerate(config.stages):
            if k:
                recorded = [golden(f"traj_{i:03d}_f64") for i in TRAJECTORIES]
                cases = [
                    (scene, BodyParameters(**{g: z[f"params_stage{k}_{g}"] for g in GROUPS}))
                    for (scene, _), z in zip(cases, recorded)
                ]
            problem, variables = fit_cases.flatten(config, cases, capacity)
            weights = {name: stage.weights.get(name, 0.0) for name in GOLDEN_TERMS}
            out.append(gradient(weights, body, problem, variables))
        yield out


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_gradient_at_the_first_step_of_a_stage(first_gradients, stage):
    config = fit_cases.released_config()
    moving = np.array([not b.startswith(config.frozen_bones) for b in bone_names()])
    ends = by_scene(first_gradients[stage - 1])
    for i, got in enumerate(ends):
        for group in config.stages[stage - 1].lr:
            want = golden(f"traj_{i:03d}_f64")[f"grad_stage{stage}_{group}"]
            have = np.where(moving[:, None], got[group], 0.0) if group == "pose" else got[group]
            assert max_abs(have, want) < 1e-10 * np.abs(want).max(), (i, group)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_padding_has_zero_gradient(first_gradients, stage):
    for group in GROUPS:
        assert not np.asarray(getattr(first_gradients[stage - 1], group))[..., -PAD:].any(), group


def bone_names() -> tuple[str, ...]:
    from body_models import anny

    return anny.load().labels.bones[1:]


# ------------------------------------------------------------------------------------------------ invariances
#
# A short schedule in float64; every case runs in one program (one capacity), but for the exact-length one.

ROOM = Capacity(people=12, pairs=20, scenes=4)
TIGHT = 1e-9
"""Adam divides by the size of the gradient, so rounding of 1e-16 may grow; measured below 1e-12."""


@pytest.fixture(scope="module")
def short() -> FitConfig:
    return fit_cases.short_config()


Fitter = Callable[..., adam.BatchFit]


@pytest.fixture(scope="module")
def fit_short(make_body, short) -> Fitter:
    """`fit_short(cases, capacity=ROOM)`."""

    def fit(cases, capacity: Capacity | None = ROOM) -> adam.BatchFit:
        return fit_cases.fit(short, make_body(short, "float64"), cases, capacity)[2]

    return fit


@pytest.fixture(scope="module")
def three_scenes() -> list[fit_cases.Case]:
    """Seven people: one, three (an equal and a ranked pair), three (one without an age word)."""
    return [fit_cases.trajectory(i) for i in (0, 1, 2)]


@pytest.fixture(scope="module")
def together(fit_short, three_scenes) -> Iterator[adam.BatchFit]:
    with jax.enable_x64(True):
        yield fit_short(three_scenes)


def people(variables: Variables, index) -> Variables:
    return jax.tree.map(lambda x: np.asarray(x)[..., index], variables)


def assert_same(actual: Variables, expected: Variables, tolerance: float = TIGHT) -> None:
    for group in GROUPS:
        assert max_abs(getattr(actual, group), getattr(expected, group)) < tolerance, group


def assert_finite(out: adam.BatchFit) -> None:
    chex.assert_tree_all_finite((out.variables, out.losses))


def test_the_short_schedule_moves_everybody(together, three_scenes, x64):
    _, start = fit_cases.flatten(fit_cases.short_config(), three_scenes)
    for group in GROUPS:
        moved = np.abs(np.asarray(getattr(together.variables, group))[..., :7] - getattr(start, group))
        assert moved.reshape(-1, 7).max(0).min() > 1e-3, group


@pytest.mark.slow
def test_padding_changes_nothing(fit_short, three_scenes, together, x64):
    exact = fit_short(three_scenes, None)
    assert exact.variables.transl.shape == (3, 7)
    assert_same(people(together.variables, slice(7)), exact.variables)
    np.testing.assert_allclose(total(together.losses)[:, :3], total(exact.losses), rtol=1e-10)
    assert not total(together.losses)[:, 3:].any()


def test_a_batch_is_its_scenes_one_by_one(fit_short, three_scenes, together, x64):
    first = 0
    for k, (scene, start) in enumerate(three_scenes):
        alone = fit_short([(scene, start)])
        n = len(scene)
        assert_same(people(together.variables, slice(first, first + n)), people(alone.variables, slice(n)))
        np.testing.assert_allclose(total(together.losses)[:, k], total(alone.losses)[:, 0], rtol=1e-10)
        first += n


def test_the_order_of_scenes_does_not_matter(fit_short, three_scenes, together, x64):
    out = fit_short([three_scenes[k] for k in (2, 0, 1)])
    assert_same(people(out.variables, slice(7)), people(together.variables, [4, 5, 6, 0, 1, 2, 3]))
    np.testing.assert_allclose(total(out.losses)[:, :3], total(together.losses)[:, [2, 0, 1]], rtol=1e-10)


def test_the_order_of_people_does_not_matter(fit_short, three_scenes, together, x64):
    shuffled = [three_scenes[0], *(fit_cases.select(scene, start, (2, 0, 1)) for scene, start in three_scenes[1:])]
    out = fit_short(shuffled)
    assert_same(people(out.variables, slice(7)), people(together.variables, [0, 3, 1, 2, 6, 4, 5]))
    np.testing.assert_allclose(total(out.losses), total(together.losses), rtol=1e-10)


def test_people_of_different_scenes_are_never_ranked(fit_short, three_scenes, x64):
    scene, start = three_scenes[1]
    split = [fit_cases.select(scene, start, [i]) for i in range(3)]
    out = fit_short(split)
    for stage in out.losses:
        assert not np.asarray(stage.get("depth_order", 0.0)).any()
    assert np.asarray(fit_short([(scene, start)]).losses[0]["depth_order"]).any()


# ------------------------------------------------------------------------------------------------ stages


def test_frozen_groups_keep_their_bits(together, three_scenes, short, x64):
    _, start = fit_cases.flatten(short, three_scenes, ROOM)
    before = start
    for stage, after in zip(short.stages, together.stage_variables):
        for group in GROUPS:
            same = np.array_equal(getattr(before, group), getattr(after, group))
            assert same == (group not in stage.lr), (stage.name, group)
        before = after


def test_frozen_bones_keep_their_bits(together, three_scenes, short, x64):
    _, start = fit_cases.flatten(short, three_scenes, ROOM)
    moving = np.array([not b.startswith(short.frozen_bones) for b in bone_names()])
    moved = (np.asarray(together.variables.pose) != start.pose)[..., :7].any(axis=(0, 2))
    assert moving.sum() == 37
    np.testing.assert_array_equal(moved, moving)


def translation_stages(*steps: int) -> FitConfig:
    """Stages that move the translation with a mesh regulariser: the reference matters, and it compiles fast."""
    first = fit_cases.short_config().stages[0]
    stages = tuple(
        dataclasses.replace(first, name=f"s{k}", steps=s, weights=first.weights.copy({"mesh_prior": 1.0}))
        for k, s in enumerate(steps)
    )
    return dataclasses.replace(fit_cases.short_config(), stages=stages)


@pytest.mark.slow
def test_a_stage_starts_afresh(make_body, three_scenes, x64):
    """Two stages are the second applied to the result of the first: new Adam state, new references."""
    body = make_body(translation_stages(4), "float64")
    both = fit_cases.fit(translation_stages(4, 4, 0), body, three_scenes)[2]
    problem, _, once = fit_cases.fit(translation_stages(4), body, three_scenes)
    twice = adam.fit_batch(translation_stages(4), body, problem, once.variables)
    assert_same(both.stage_variables[1], twice.variables)
    np.testing.assert_allclose(total(both.losses[1:2]), total(twice.losses), rtol=1e-10)
    # A stage without steps changes nothing.
    chex.assert_trees_all_equal(both.variables, both.stage_variables[1])
    assert both.losses[2]["keypoints"].shape == (0, 3)


@pytest.mark.slow
def test_one_trace_per_capacity(make_body, three_scenes, load_anny):
    """Other values, an equal config and an equal body do not trace again; another capacity does."""
    untraced = adam.fit_batch.__wrapped__  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]
    traced = jax.jit(chex.assert_max_traces(untraced, n=1), static_argnames=("config",))
    chex.clear_trace_counter()

    def fit(body: FitBody, cases, capacity: Capacity | None) -> None:
        config = translation_stages(0)
        problem, start = fit_cases.flatten(config, cases, capacity, np.float32)
        traced(config, body, problem, start)

    fit(make_body(translation_stages(0), "float32"), three_scenes, ROOM)
    body = anny_body(load_anny("float32"), translation_stages(0))
    fit(body, three_scenes[:1], ROOM)
    with pytest.raises(AssertionError, match="traced"):
        fit(body, three_scenes, None)


# ------------------------------------------------------------------------------------------------ missing cues


def test_one_person_is_not_ranked(fit_short, three_scenes, x64):
    out = fit_short(three_scenes[:1])
    assert_finite(out)
    assert not np.asarray(out.losses[0]["depth_order"]).any()


def test_no_usable_word(fit_short, three_scenes, x64):
    scene, start = three_scenes[1]
    silent = dataclasses.replace(scene, age=np.full(3, -1.0), gender=np.full(3, -1.0))
    out = fit_short([(silent, start)])
    assert_finite(out)
    assert not any(np.asarray(stage["words"]).any() for stage in out.losses)


def without_evidence(scene: Scene) -> Scene:
    """The scene with every cue missing."""
    n = len(scene)
    return fit_cases.make_scene(scene.name, np.zeros((n, 17, 3)), intrinsics=scene.intrinsics)


def test_no_keypoint_at_all(fit_short, three_scenes, x64):
    """Only the ranking moves anybody."""
    scene, start = three_scenes[1]
    blind = dataclasses.replace(without_evidence(scene), median_depth=scene.median_depth)
    out = fit_short([(blind, start)])
    assert_finite(out)
    first = people(out.stage_variables[0], slice(3)).transl
    assert (first[2] != start.transl[:, 2]).any()
    np.testing.assert_array_equal(first[:2], start.transl[:, :2].T)
    assert np.isnan(out.reprojection_px[:3]).all()


def test_no_evidence_at_all(fit_short, three_scenes, x64):
    """Nothing moves while the only terms are evidence; a mesh regulariser at its own minimum has a gradient of rounding
    size, which Adam scales to at most about a step."""
    scene, start = three_scenes[1]
    out = fit_short([(without_evidence(scene), start)])
    assert_finite(out)
    _, unmoved = fit_cases.flatten(fit_cases.short_config(), [(scene, start)])
    chex.assert_trees_all_equal(people(out.stage_variables[0], slice(3)), unmoved)
    for group, bound in {"transl": 0.02, "root_rotvec": 0.02, "shape": 2e-3, "pose": 2e-3}.items():
        assert max_abs(getattr(people(out.variables, slice(3)), group), getattr(unmoved, group)) < bound, group


def test_people_behind_the_camera(fit_short, three_scenes, x64):
    scene, start = three_scenes[1]
    transl = start.transl * np.array([1.0, 1.0, -1.0], np.float32)
    out = fit_short([(scene, dataclasses.replace(start, transl=transl))])
    assert_finite(out)
    assert (np.asarray(out.variables.transl)[2, :3] < 0).all()
    assert np.isfinite(out.reprojection_px[:3]).all()


def test_another_scene_may_fail_without_harm(fit_short, three_scenes, together, x64):
    """A scene whose start is not finite stays alone with it."""
    scene, start = three_scenes[1]
    broken = dataclasses.replace(start, transl=np.full_like(start.transl, np.nan))
    out = fit_short([three_scenes[0], (scene, broken), three_scenes[2]])
    index = [0, 4, 5, 6]
    assert np.isnan(out.variables.transl[:, 1:4]).all()
    assert_same(people(out.variables, index), people(together.variables, index))
