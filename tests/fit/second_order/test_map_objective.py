"""The MAP objective against an independently written energy, its estimates against numpy, and what every switch does."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs
from second_order_cases import context, map_body, on_device, plus_config, scene

from annyfit_jax.fit.second_order import contacts, jacobian, map_objective, robust, small_terms
from annyfit_jax.fit.second_order import frozen as estimates
from annyfit_jax.fit.second_order.columns import pack
from annyfit_jax.fit.second_order.linear_plan import NUM_RIGID
from annyfit_jax.fit.second_order.map_body import body_height, population_mean
from annyfit_jax.fit.second_order.map_cues import age_log_probabilities
from annyfit_jax.fit.second_order.placement import refit_translation
from annyfit_jax.people.words import AGE_CLASSES

LENGTH = 14
PEOPLE = 12
EVERYTHING = ("map.ground_plane=true", "map.depth_order=always")
GENDER, AGE, HEIGHT = 6, 7, 10
"""Columns."""
TOLERANCE = 1e-9


def scenes() -> list:
    """Twelve people of four scenes; one without words, one without depth, one scene without dense points."""
    found = [scene(index) for index in range(4)]
    found[1].age[0], found[1].gender[0] = -1, -1
    found[3].median_depth[2] = np.nan
    found[2] = dataclasses.replace(found[2], dense_keypoints=np.zeros_like(found[2].dense_keypoints))
    return found


@pytest.fixture(scope="module")
def case(load_anny) -> dict[str, Any]:
    """The objective with all terms at some point away from the start: one compiled program, float64."""
    config = plus_config(*EVERYTHING)
    with jax.enable_x64(True):
        body = map_body(load_anny("float64"), config)
        problem, start = on_device(scenes(), config, LENGTH, np.float64)
        start = start._replace(shape=jnp.clip(start.shape, 0.03, 0.97))
        ctx = context(config, body, problem, start)
        rng = np.random.default_rng(7)
        x = np.array(pack(body.plan.layout, start))
        x += 0.1 * rng.normal(size=x.shape)
        x[NUM_RIGID : NUM_RIGID + 6] = x[NUM_RIGID : NUM_RIGID + 6].clip(0.02, 0.98)
        x[2, 7:] = x[2, 7] + 0.1 * np.arange(LENGTH - 7)  # people of one scene who stand in each other
        x[0, 7:] = x[0, 7]
        scene_x = np.array(map_objective.scene_start(config.map, problem.problem.num_scenes, np.float64))
        scene_x += 0.05 * rng.normal(size=scene_x.shape)

        def run(ctx, x, scene_x):
            model = map_objective.evaluate(config.map, ctx, None, x, scene_x)
            slopes = [jacobian.dense_jacobian(ctx.body.plan, model.lin, kind) for kind in (0, 1)]
            again = map_objective.energy(config.map, ctx, model.frozen, x, scene_x, model.lin.points)
            return model, slopes, again

        model, slopes, again = jax.jit(run)(ctx, jnp.asarray(x), jnp.asarray(scene_x))
    return {
        "config": config, "context": ctx, "x": x, "scene_x": scene_x, "model": model, "jacobian": slopes, "again": again,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ an independent energy


def gm(squared, width):
    return 0.5 * width**2 * squared / (width**2 + squared)


def plain_energy(case: dict[str, Any], x, scene_x, keypoints, dense):
    """The module's formula for one person after the other and one pair after the other; sum over all people and scenes."""
    settings, ctx, fz = case["config"].map, case["context"], case["model"].frozen
    scene_of, pairs = ctx.problem.scene, ctx.problem.pairs
    total = 0.5 * (scene_x[:, 0] ** 2).sum() / settings.depth_scale_sd**2
    total += 0.5 * ((scene_x[:, 1] / 0.1) ** 2 + (scene_x[:, 2] / 0.4) ** 2 + ((scene_x[:, 3] - 1.4) / 1.5) ** 2).sum()

    def one_person(x, keypoints, dense, cues, more, fz, reference, scene):
        energy = 0.0
        for points, px, confidence, noise, count in (
            (keypoints, cues.keypoints_px, cues.keypoint_confidence, fz.keypoint_noise, 1.0),
            (dense, cues.dense_px, cues.dense_confidence, fz.dense_noise, fz.dense_weight),
        ):
            image = cues.intrinsics @ points
            error = (image[:2] / image[2] - px) * confidence / noise
            seen = confidence >= settings.min_confidence
            energy += count * jnp.where(seen, gm((error**2).sum(0), settings.robust_sigmas), 0.0).sum()
        energy += 0.5 * (reference.precision * (x - reference.mean) ** 2).sum()
        likelihood = 0.0
        for c, (name, anchor) in enumerate(AGE_CLASSES.items()):
            sd = settings.age_sd[name]
            likelihood += jnp.exp(more["age_log_prob"][c] - 0.5 * ((x[AGE] - anchor) / sd) ** 2) / sd
        energy -= more["age_known"] * jnp.log(likelihood)
        knots, by_sex = ctx.body.population_age, ctx.body.population_height
        male, female = (jnp.interp(x[AGE], knots, by_sex[sex]) for sex in (0, 1))
        expected = male + x[GENDER] * (female - male)
        energy += 0.5 * ((x[HEIGHT] - expected) / settings.height_sd) ** 2
        angles = jnp.einsum("caf,fc->af", ctx.body.limit_axes, x[12:].reshape(-1, 3))
        over = jnp.maximum(ctx.body.limit_low - angles, 0) + jnp.maximum(angles - ctx.body.limit_high, 0)
        energy += 0.5 * (over**2).sum() / settings.limit_sd**2
        z = (jnp.log(x[2] + fz.visible_offset) - more["log_depth"] - scene[0]) / settings.depth_sd
        energy += more["depth_known"] * gm(z**2, settings.depth_robust_sigmas)
        foot = x[:3] + fz.foot_offset
        off = (foot[1] - scene[1] * foot[0] - scene[2] * foot[2] - scene[3]) / settings.ground_sd_m
        return energy + gm(off**2, 2.0)

    more = {name: getattr(ctx.cues, name) for name in ("age_log_prob", "age_known", "log_depth", "depth_known")}
    of_people = (x, keypoints, dense, ctx.problem.cues, more, fz, ctx.reference, scene_x[scene_of].T)
    people = jax.tree.map(lambda a: a[..., :PEOPLE], of_people)
    total += jax.vmap(one_person, in_axes=-1)(*people).sum()

    def touching(i, j):
        first, second = (jnp.asarray(ctx.body.layout.spheres) @ keypoints[..., n].T for n in (i, j))
        distance = jnp.sqrt(((first[:, None] - second[None]) ** 2).sum(-1))
        inside = jnp.maximum(fz.radii[:, i][:, None] + fz.radii[:, j][None] - distance, 0)
        return gm((inside / settings.contact_sd_m) ** 2, 3.0).sum()

    def ranked(i, j, cue):
        gap = x[2, i] + fz.visible_offset[i] - x[2, j] - fz.visible_offset[j]
        equal = jnp.maximum(jnp.abs(gap) - 0.1, 0)
        wrong = jnp.maximum(0.05 * jnp.abs(cue) - jnp.sign(cue) * gap, 0)
        excess = jnp.where(jnp.abs(cue) <= 0.1, equal, wrong)
        return gm((excess / settings.order_sd_m) ** 2, settings.depth_robust_sigmas)

    i, j = np.triu_indices(PEOPLE, 1)
    same = np.asarray(scene_of)[i] == np.asarray(scene_of)[j]
    total += jax.vmap(touching)(i[same], j[same]).sum()
    kept = np.flatnonzero(np.asarray(pairs.weight))
    return total + jax.vmap(ranked)(pairs.first[kept], pairs.second[kept], pairs.gap[kept]).sum()


@pytest.fixture(scope="module")
def independent(case) -> tuple[Any, ...]:
    """Value and gradients (by x, scene unknowns, keypoints, dense points) of the independent energy."""
    with jax.enable_x64(True):
        argument = tuple(jnp.asarray(a) for a in (case["x"], case["scene_x"], *case["model"].lin.points))
        energy = jax.jit(jax.value_and_grad(lambda *a: plain_energy(case, *a), argnums=(0, 1, 2, 3)))
        value, slopes = energy(*argument)
    return float(value), *(np.asarray(s) for s in slopes)


def test_the_energy_is_the_sum_of_its_terms(case, independent):
    settings, scene_x = case["config"].map, case["scene_x"]
    mean, precision = map_objective._scene_prior(settings, np.float32)
    prior = 0.5 * (np.asarray(precision, np.float64) * (scene_x - np.asarray(mean, np.float64)) ** 2).sum()
    # An age word's classes are normalised by their spread, which adds the same constant on both sides.
    ours = np.asarray(case["model"].system.energy)[:PEOPLE].sum() + prior
    assert abs(ours - independent[0]) < 1e-6 * independent[0]
    assert (np.asarray(case["model"].system.energy)[PEOPLE:] == 0).all()


def test_the_energy_alone_is_that_of_the_quadratic_model(case):
    assert max_abs(case["again"], case["model"].system.energy) < 1e-9 * np.abs(case["again"]).max()


def test_gradients_are_those_of_the_independent_energy(case, independent):
    _, by_x, by_scene, by_keypoints, by_dense = independent
    total = by_x.copy()
    for slope, jac in zip((by_keypoints, by_dense), case["jacobian"], strict=True):
        total += np.einsum("ikn,ikdn->dn", slope, np.asarray(jac))
    system = case["model"].system
    ours = np.asarray(system.gradient)
    scale = np.abs(total[:, :PEOPLE]).max(1, keepdims=True)
    assert max_abs(ours[:, :PEOPLE] / scale, total[:, :PEOPLE] / scale) < TOLERANCE
    used = np.unique(np.asarray(case["context"].problem.scene))
    ours_scene = np.asarray(system.scene_gradient)[used]
    assert max_abs(ours_scene, by_scene[used]) < 1e-6 * np.abs(by_scene).max()


def test_padding_pulls_at_nothing(case):
    system = case["model"].system
    assert (np.asarray(system.gradient)[:, PEOPLE:] == 0).all()
    assert (np.asarray(system.cross)[..., PEOPLE:] == 0).all()


def test_the_curvature_is_positive(case):
    lower = np.tril(np.asarray(case["model"].system.matrix))
    whole = lower + np.swapaxes(np.tril(lower, -1), 1, 2)
    scale = np.sqrt(np.diagonal(whole, axis1=1, axis2=2))
    scaled = whole / scale[:, :, None] / scale[:, None, :]
    assert np.linalg.eigvalsh(scaled).min() > -1e-12
    assert np.linalg.eigvalsh(np.asarray(case["model"].system.scene_matrix)).min() > 0


# ------------------------------------------------------------------------------------------------ estimates of a round


def test_noise_is_the_median_residual_shrunk_to_the_size_of_the_person(case):
    settings, ctx, model = case["config"].map, case["context"], case["model"]
    cues = ctx.problem.cues
    for n in range(PEOPLE):
        for kind, (points, px, confidence, freedom, prior_points, got) in enumerate(
            (
                (
                    model.lin.points[0],
                    cues.keypoints_px,
                    cues.keypoint_confidence,
                    12,
                    20.0,
                    model.frozen.keypoint_noise,
                ),
                (model.lin.points[1], cues.dense_px, cues.dense_confidence, 25, 40.0, model.frozen.dense_noise),
            )
        ):
            image = np.asarray(cues.intrinsics)[:, :, n] @ np.asarray(points)[..., n]
            c = np.asarray(confidence)[:, n]
            seen = c >= settings.min_confidence
            prior = max(settings.noise_share * float(ctx.cues.extent_px[n]), settings.noise_floor_px)
            length = np.linalg.norm((image[:2] / image[2] - np.asarray(px)[..., n]) * c, axis=0)[seen]
            expected = prior
            if len(length):
                found = max(np.sort(length)[(len(length) - 1) // 2] / 1.17741, 0.3 * settings.noise_floor_px)
                share = max(len(length) - freedom, 0.0)
                share /= share + prior_points
                expected = prior ** (1 - share) * found**share
            assert abs(float(got[n]) - expected) < 1e-8 * expected, (n, kind)


def test_depth_of_the_visible_surface_is_nearer_than_the_root_for_people_seen_from_the_front(case):
    offset = np.asarray(case["model"].frozen.visible_offset)[:PEOPLE]
    dense, x = np.asarray(case["model"].lin.points[1]), case["x"]
    relative = dense[2, :, :PEOPLE] - x[2, :PEOPLE]
    assert (offset >= relative.min(0)).all() and (offset <= relative.max(0)).all()
    assert (offset < np.median(relative, axis=0) + 0.02).all()
    assert offset.mean() < -0.05


def test_correlated_errors_make_dense_points_count_less(load_anny, case):
    """One shift of all points against independent errors of the same size."""
    settings, ctx, points = case["config"].map, case["context"], case["model"].lin.points
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        keypoints, dense = (p[..., :2] for p in points)
        k = ctx.problem.cues.intrinsics[:, :, :1].repeat(2, -1)
        image = jnp.einsum("ijn,jkn->ikn", k, dense)
        errors = rng.normal(size=(2, 138, 2)) * 5.0
        errors[..., 1] = errors[:, :1, 1]
        cues = jax.tree.map(lambda a: a[..., :2], ctx.problem.cues)._replace(
            intrinsics=k, dense_px=image[:2] / image[2] + errors, dense_confidence=jnp.ones((138, 2))
        )
        problem = ctx.problem.replace(cues=cues)
        more = ctx.cues._replace(extent_px=jnp.full((2,), 250.0))
        off = dataclasses.replace(settings, correlated_noise=False)
        fixed = dataclasses.replace(settings, estimate_noise=False)

        def noises(body, problem, more, *points):
            return [estimates._noise(s, body, problem, more, *points) for s in (settings, off, fixed)]

        found = jax.tree.map(np.asarray, jax.jit(noises)(ctx.body, problem, more, keypoints, dense))
    (_, noise, weight), (_, _, one), (_, plain, _) = found
    assert weight[0] > 0.6 and weight[1] < 0.1
    assert (np.asarray(one) == 1).all()
    assert 3.5 < noise[0] < 6.5
    np.testing.assert_allclose(plain, settings.noise_share * 250.0)


def test_heights_and_the_population(case, load_anny):
    """A population's mean is read between the rows of the table, and slopes are those of the segment."""
    ctx = case["context"]
    with jax.enable_x64(True):
        age, gender = jnp.array([0.0, 0.21, 0.47, 0.71, 1.0]), jnp.array([0.0, 1.0, 0.4, 0.9, 0.2])
        mean, by_age, by_gender = population_mean(ctx.body, age, gender)
        knots, table = np.asarray(ctx.body.population_age), np.asarray(ctx.body.population_height)
        expected = [
            (1 - g) * np.interp(a, knots, table[0]) + g * np.interp(a, knots, table[1]) for a, g in zip(age, gender)
        ]
        assert max_abs(mean, np.array(expected)) < 1e-9
        step = 1e-6
        inner = age[1:4]
        slope = (
            population_mean(ctx.body, inner + step, gender[1:4])[0]
            - population_mean(ctx.body, inner - step, gender[1:4])[0]
        ) / (2 * step)
        assert max_abs(by_age[1:4], slope) < 1e-5
        assert max_abs(by_gender, population_mean(ctx.body, age, gender + 1)[0] - mean) < 1e-9
        shape = jnp.full((6, 2), 0.5).at[1].set(jnp.array([0.1, 0.66]))
        child, adult = np.asarray(body_height(ctx.body, shape))
        assert 0.6 < child < 1.0 and 1.5 < adult < 1.9
        assert max_abs(ctx.body.fit.height(shape), np.array([child, adult])) < 1e-12


# ------------------------------------------------------------------------------------------------ switches


SWITCHES: dict[str, tuple[dict[str, Any], set[int]]] = {
    "metric_depth": ({"metric_depth": False}, {2}),
    "class_words": ({"class_words": False}, {AGE}),
    "anthropometry": ({"anthropometry": False}, {GENDER, AGE, HEIGHT}),
    "joint_limits": ({"joint_limits": False}, set(range(12, 400))),
    "depth_order": ({"depth_order": "never"}, {2}),
    "ground_plane": ({"ground_plane": False}, {0, 1, 2}),
}
"""Change, and the columns that may feel it."""


@pytest.fixture(scope="module")
def switched(case) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Energy (N,) and gradient (D, N) of the terms that read the variables, with everything and with each switch off; and
    `interpenetration`: what that term adds."""
    settings = case["config"].map

    def terms_of(changes, ctx, fz, x, scene_x):
        changed = dataclasses.replace(settings, **changes)
        scene_x = scene_x[:, : map_objective.scene_unknowns(changed)]
        reference = map_objective.reference_of(changed, ctx.body, ctx.cues, ctx.base)
        found = small_terms.small_terms(changed, ctx.body, ctx.problem, ctx.cues, reference, fz, x, scene_x)
        return found.energy, found.gradient

    def run(ctx, fz, x, scene_x, points):
        out = {name: terms_of(changes, ctx, fz, x, scene_x) for name, (changes, _) in SWITCHES.items()}
        touch = contacts.energy(settings, ctx.body, ctx.cues, fz.radii, points)
        return out | {"": terms_of({}, ctx, fz, x, scene_x), "interpenetration": (touch, jnp.zeros_like(x))}

    model = case["model"]
    with jax.enable_x64(True):
        arguments = jnp.asarray(case["x"]), jnp.asarray(case["scene_x"]), model.lin.points[0]
        return jax.tree.map(np.asarray, jax.jit(run)(case["context"], model.frozen, *arguments))


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_changes_the_energy_and_only_its_own_variables(switched, name):
    (energy, gradient), (without, slopes) = switched[""], switched[name]
    difference = np.abs(gradient - slopes)[:, :PEOPLE].max(1)
    assert difference.max() > 1e-3
    assert set(np.flatnonzero(difference > 1e-12)) <= SWITCHES[name][1]
    assert np.abs(energy - without)[:PEOPLE].max() > 1e-3


def test_interpenetration_is_felt_by_those_who_touch(switched):
    """People 7 to 11 were put into each other; a person alone in an image touches nobody."""
    energy, _ = switched["interpenetration"]
    assert (energy[7:12] > 0.5).sum() >= 2
    assert energy[0] == 0 and (energy[PEOPLE:] == 0).all()


def test_ranking_is_for_scenes_without_metric_depth(load_anny):
    """`auto`: scenes that have metric depth are not ranked, scenes with layers are; `never` and `always` say so."""
    layers = scene(3, median_depth=np.full(5, np.nan), depth_layer=np.array([0, 1, 2, 3, 3]))
    for order, expected in (("auto", (0.0, 1.0)), ("never", (0.0, 0.0)), ("always", (1.0, 1.0))):
        problem, _ = on_device([scene(1), layers], plus_config(f"map.depth_order={order}"), 8)
        ranked, pairs = np.asarray(problem.cues.ranked), problem.problem.pairs
        kept = np.asarray(pairs.weight) > 0
        for k in range(2):
            mine = kept & (np.asarray(pairs.scene) == k)
            assert mine.any() and (ranked[mine] == expected[k]).all(), (order, k)
    off, _ = on_device([scene(1)], plus_config("map.metric_depth=false"), 8)
    assert (np.asarray(off.cues.depth_known) == 0).all()
    assert (np.asarray(off.cues.ranked)[:3] == 1).all()


# ------------------------------------------------------------------------------------------------ small parts


def test_words_are_right_with_the_stated_probability():
    anchors = list(AGE_CLASSES.values())
    probability = np.exp(age_log_probabilities(np.array([0.0, 0.33, 0.999, -1.0]), 0.85))
    np.testing.assert_allclose(probability.sum(1), 1.0)
    assert [row.argmax() for row in probability[:3]] == [0, anchors.index(0.33), 5]
    np.testing.assert_allclose(probability[[0, 1, 2], [0, 2, 5]], 0.85)
    np.testing.assert_allclose(probability[0, 1], 0.12)
    np.testing.assert_allclose(probability[1, [1, 3]], 0.06)
    np.testing.assert_allclose(probability[3], 1 / 6)


@pytest.mark.parametrize("width", [0.5, 3.0])
def test_the_robust_weight_is_twice_the_derivative_and_majorises(x64, width):
    s = jnp.array([0.0, 0.1, 1.0, 30.0])
    value, weight = robust.geman_mcclure(s, width)
    slope = jax.vmap(jax.grad(lambda t: robust.geman_mcclure(t, width)[0]))(s)
    assert max_abs(weight, 2 * slope) < 1e-12
    other = jnp.linspace(0, 50, 101)[:, None]
    assert (robust.geman_mcclure(other, width)[0] <= value + 0.5 * weight * (other - s) + 1e-12).all()


def test_weighted_medians(x64):
    rng = np.random.default_rng(1)
    values, weight = rng.normal(size=(9, 20)), rng.integers(0, 3, (9, 20)).astype(float)
    got = np.asarray(robust.weighted_median(jnp.asarray(values), jnp.asarray(weight)))
    for n in range(20):
        repeated = np.sort(np.repeat(values[:, n], weight[:, n].astype(int)))
        assert got[n] == (repeated[(len(repeated) - 1) // 2] if len(repeated) else 0.0)


def test_the_translation_is_found_in_closed_form_in_spite_of_wild_points(x64):
    """A fifth of the points is wrong by a person's size, and the start is metres off."""
    rng = np.random.default_rng(2)
    k = np.array([[900.0, 0.0, 500.0], [0.0, 950.0, 400.0], [0, 0, 1.0]])
    points = rng.normal(size=(3, 100, 3)) * 0.4
    true = np.array([[0.3, -1.0, 0.1], [0.2, 0.4, -0.5], [3.0, 5.0, 8.0]])
    image = np.einsum("ij,jkn->ikn", k, points + true[:, None])
    px = image[:2] / image[2]
    px[:, :20] += rng.normal(size=(2, 20, 3)) * 150.0
    confidence = np.ones((100, 3))
    confidence[:, 2] = 0.0
    start = true + np.array([[0.0], [0.0], [4.0]])
    found = jax.jit(refit_translation)(points, px, confidence, np.repeat(k[:, :, None], 3, -1), start, np.full(3, 2.0))
    got = np.asarray(found)
    assert max_abs(got[:, :2], true[:, :2]) < 2e-3
    np.testing.assert_array_equal(got[:, 2], start[:, 2])  # nobody saw this one: the start stays
