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

from annyfit_jax.fit.second_order import contacts, jacobian, map_objective, small_linear
from annyfit_jax.fit.second_order import frozen as estimates
from annyfit_jax.fit.second_order.columns import FOCAL, GROUND, PITCH, ROLL, pack
from annyfit_jax.fit.second_order.linear_plan import NUM_RIGID
from annyfit_jax.fit.second_order.map_body import body_height, population_mean
from annyfit_jax.fit.second_order.map_cues import age_log_probabilities
from annyfit_jax.fit.second_order.placement import refit_translation
from annyfit_jax.people.scene import COCO17
from annyfit_jax.people.words import AGE_CLASSES
from body_models.rotations import rotvec_to_matrix

pytestmark = [pytest.mark.slow, pytest.mark.unoptimised]

LENGTH = 14
PEOPLE = 12
EVERYTHING = ("map.depth_order=always", "map.estimate_depth_noise=false")
GENDER, AGE, HEIGHT = 6, 7, 10
"""Columns."""
TOLERANCE = 1e-9
J = {name: i for i, name in enumerate(COCO17)}


def scenes() -> list:
    """Twelve people of four scenes; one without words, one without depth, one from behind, one scene without dense points."""
    found = [scene(index) for index in range(4)]
    found[1].age[0], found[1].gender[0] = -1, -1
    found[3].median_depth[2] = np.nan
    behind = np.array(found[3].keypoints)
    behind[1, :3, 2], behind[1, 3:7, 2] = 0.0, 0.9
    found[3] = dataclasses.replace(found[3], keypoints=behind)
    found[2] = dataclasses.replace(
        found[2],
        dense_keypoints=np.zeros_like(found[2].dense_keypoints),
        heights=np.array([[1.7, 0.02], [np.nan] * 2, [1.2, 0.1]]),
    )
    found[3] = dataclasses.replace(
        found[3], keypoint_convention="coco", distances=np.array([[3.0, 0.2], *[[np.nan] * 2] * 4]),
        camera={"pitch_degrees": (10.0, 3.0)}, notes=["intrinsics: 60 degree field of view"],
    )  # fmt: skip
    return found


def estimates_from_keypoints(cues: Any) -> Any:
    """As if the poses of the people of the last two scenes were not known: the mixture of poses speaks for them."""
    known = np.ones(LENGTH)
    known[4:PEOPLE] = 0.0
    return cues._replace(from_cue=jnp.asarray(known, cues.from_cue.dtype))


@pytest.fixture(scope="module")
def case(load_anny) -> dict[str, Any]:
    """The objective with all terms at some point away from the start: one compiled program, float64."""
    config = plus_config(*EVERYTHING)
    with jax.enable_x64(True):
        body = map_body(load_anny("float64"), config)
        problem, start = on_device(scenes(), config, LENGTH, np.float64)
        start = start._replace(shape=jnp.clip(start.shape, 0.03, 0.97))
        problem = problem.replace(cues=estimates_from_keypoints(problem.cues))
        ctx = context(config, body, problem, start)
        rng = np.random.default_rng(7)
        x = np.array(pack(body.plan.layout, start))
        x += 0.1 * rng.normal(size=x.shape)
        x[NUM_RIGID : NUM_RIGID + 6] = x[NUM_RIGID : NUM_RIGID + 6].clip(0.02, 0.98)
        x[2, 7:] = x[2, 7] + 0.1 * np.arange(LENGTH - 7)  # people of one scene who stand in each other
        x[0, 7:] = x[0, 7]
        scene_x = np.array(problem.cues.scene_mean)
        scene_x += 0.05 * rng.normal(size=scene_x.shape)
        scene_x[:3, FOCAL] = 0.0  # given: held by a precision beside which nothing else counts
        blank = estimates.nothing_frozen(body, jnp.asarray(np.where(np.arange(LENGTH) < 4, 0.0, np.pi)))

        def run(ctx, x, scene_x):
            model = map_objective.evaluate(config.map, ctx, blank, x, scene_x)
            lin = model.tangents.lin
            slopes = [jacobian.dense_jacobian(ctx.body.plan, lin, kind) for kind in (0, 1)]
            again = map_objective.energy(config.map, ctx, model.frozen, x, scene_x, lin.points)
            return model, slopes, again

        model, slopes, again = jax.jit(run)(ctx, jnp.asarray(x), jnp.asarray(scene_x))
    return {
        "config": config, "context": ctx, "x": x, "scene_x": scene_x, "model": model, "jacobian": slopes, "again": again,
    }  # fmt: skip


def test_a_face_is_seen_hidden_or_neither(case):
    """A nose and eyes that are not marked say something where an ear and the shoulders are."""
    seen, hidden = (
        np.asarray(getattr(case["context"].cues, name))[:PEOPLE] for name in ("face_visible", "face_hidden")
    )
    assert hidden.tolist() == [0.0] * 8 + [1.0] + [0.0] * 3
    assert seen.any() and not (seen * hidden).any()


# ------------------------------------------------------------------------------------------------ an independent energy


def gm(squared, width):
    return 0.5 * width**2 * squared / (width**2 + squared)


def rotation_left(rotvec, other):
    """log(R R_other^T) from the skew part of the product."""
    m = rotvec_to_matrix(rotvec) @ rotvec_to_matrix(other).T
    skew = 0.5 * jnp.stack([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    sine = jnp.sqrt((skew**2).sum() + 1e-30)
    return skew * jnp.arctan2(sine, 0.5 * (jnp.trace(m) - 1.0)) / sine


def plain_energy(case: dict[str, Any], x, scene_x, keypoints, dense):
    """The module's formula for one person after the other and one pair after the other; sum over all people and scenes."""
    settings, ctx, fz = case["config"].map, case["context"], case["model"].frozen
    scene_of, pairs = ctx.problem.scene, ctx.problem.pairs
    total = 0.5 * (ctx.cues.scene_precision * (scene_x - ctx.cues.scene_mean) ** 2)[:4].sum()

    def up(scene, mode):
        pitch, roll = scene[PITCH], scene[ROLL] + mode
        return jnp.stack([jnp.sin(roll) * jnp.cos(pitch), -jnp.cos(roll) * jnp.cos(pitch), -jnp.sin(pitch)])

    def one_person(x, keypoints, dense, cues, more, facts, fz, reference, scene):
        energy = 0.0
        for points, px, confidence, noise, count in (
            (keypoints + fz.keypoint_shift, cues.keypoints_px, cues.keypoint_confidence, fz.keypoint_noise, 1.0),
            (dense, cues.dense_px, cues.dense_confidence, fz.dense_noise, fz.dense_weight),
        ):
            k = cues.intrinsics * jnp.ones((3, 3)).at[:2, :2].set(jnp.exp(scene[FOCAL]))
            image = k @ points
            error = (image[:2] / image[2] - px) * confidence / noise
            seen = confidence >= settings.min_confidence
            energy += count * jnp.where(seen, gm((error**2).sum(0), settings.robust_sigmas), 0.0).sum()
        off = (x - reference.mean).at[3:6].set(rotation_left(x[3:6], reference.mean[3:6]))
        energy += 0.5 * (reference.precision * off**2).sum()
        prior, pose = ctx.body.pose_prior, x[12:]
        off = pose - prior.mean
        squared = settings.pose_prior_precision * jnp.einsum("ci,cij,cj->c", off, prior.precision, off)
        weight = more["posture_log_weight"] + prior.log_scale
        energy -= (1 - more["from_cue"]) * jax.nn.logsumexp(weight - 0.5 * squared)
        likelihood = 0.0
        for c, name in enumerate(AGE_CLASSES):
            low, high, soft = settings.age_low[name], settings.age_high[name], settings.age_soft
            beyond = jnp.maximum(low - x[AGE], 0) + jnp.maximum(x[AGE] - high, 0)
            density = jnp.exp(-0.5 * (beyond / soft) ** 2) / (high - low + np.sqrt(2 * np.pi) * soft)
            likelihood += jnp.exp(more["age_log_prob"][c]) * density
        energy -= jnp.log(likelihood)
        knots, by_sex = ctx.body.population_age, ctx.body.population_height
        male, female = (jnp.interp(x[AGE], knots, by_sex[sex]) for sex in (0, 1))
        expected = male + x[GENDER] * (female - male)
        energy += 0.5 * ((x[HEIGHT] - expected) / settings.height_sd) ** 2
        height = fz.height + fz.height_slope @ (x[6:12] - fz.height_at)
        energy += 0.5 * facts.height_precision * (height - facts.height_m) ** 2
        energy += 0.5 * facts.distance_precision * (jnp.sqrt((x[:3] ** 2).sum() + 1e-6) - facts.distance_m) ** 2
        angles = jnp.einsum("caf,fc->af", ctx.body.limit_axes, x[12:].reshape(-1, 3))
        over = jnp.maximum(ctx.body.limit_low - angles, 0) + jnp.maximum(angles - ctx.body.limit_high, 0)
        energy += 0.5 * (over**2).sum() / settings.limit_sd**2
        z = (jnp.log(x[2] + fz.visible_offset) - more["log_depth"] - scene[0]) / settings.depth_sd
        energy += more["depth_known"] * gm(z**2, settings.depth_robust_sigmas)
        g = up(scene, fz.roll_mode)
        off = (g @ (x[:3] + fz.foot_offset) + scene[GROUND]) / settings.ground_sd_m
        energy += gm(more["grounded"] * off**2, 3.0)
        middle = lambda part: 0.5 * (keypoints[:, J[f"left_{part}"]] + keypoints[:, J[f"right_{part}"]])  # noqa: E731
        upright = (1 - settings.standing_share - settings.trunk_share) / (4 * np.pi)
        for lower, share, sd in (
            ("ankle", settings.standing_share, settings.standing_sd), ("hip", settings.trunk_share, settings.trunk_sd),
        ):  # fmt: skip
            axis = middle("shoulder") - middle(lower)
            axis = axis / jnp.sqrt((axis**2).sum() + 1e-6)
            upright += share / (2 * np.pi * sd**2) * jnp.exp(-0.5 * ((axis - g) ** 2).sum() / sd**2)
        energy -= jnp.log(upright)
        ears = middle("ear")
        forward = keypoints[:, J["nose"]] - ears
        away = (forward / jnp.sqrt((forward**2).sum() + 1e-6)) @ (ears / jnp.sqrt((ears**2).sum() + 1e-6))
        energy += gm(more["face_visible"] * jnp.log1p(jnp.exp(away / 0.25)) ** 2, 2.5)
        return energy + gm(more["face_hidden"] * jnp.log1p(jnp.exp(-away / 0.25)) ** 2, 2.5)

    names = (
        "age_log_prob", "log_depth", "depth_known", "posture_log_weight", "from_cue", "grounded", "face_visible",
        "face_hidden",
    )  # fmt: skip
    more = {name: getattr(ctx.cues, name) for name in names}
    of_people = (x, keypoints, dense, ctx.problem.cues, more, ctx.cues.facts, fz, ctx.reference, scene_x[scene_of].T)
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
        argument = tuple(jnp.asarray(a) for a in (case["x"], case["scene_x"], *case["model"].tangents.lin.points))
        energy = jax.jit(jax.value_and_grad(lambda *a: plain_energy(case, *a), argnums=(0, 1, 2, 3)))
        value, slopes = energy(*argument)
    return float(value), *(np.asarray(s) for s in slopes)


def test_the_energy_is_the_sum_of_its_terms(case, independent):
    cues, scene_x = case["context"].cues, case["scene_x"]
    prior = 0.5 * (np.asarray(cues.scene_precision) * (scene_x - np.asarray(cues.scene_mean)) ** 2)[:4].sum()
    ours = np.asarray(case["model"].system.energy)[:PEOPLE].sum() + prior
    assert abs(ours - independent[0]) < 1e-9 * abs(independent[0])
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
    assert max_abs(ours_scene, by_scene[used]) < TOLERANCE * np.abs(by_scene).max()
    assert (np.abs(by_scene[used])[3] > 1e-3).all()  # every unknown of a scene whose focal length was guessed is felt


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
        image = np.asarray(cues.intrinsics)[:, :, n] @ np.asarray(model.tangents.lin.points[1])[..., n]
        c = np.asarray(cues.dense_confidence)[:, n]
        seen = c >= settings.min_confidence
        prior = settings.noise_share * float(ctx.cues.size_px[n])
        length = np.linalg.norm((image[:2] / image[2] - np.asarray(cues.dense_px)[..., n]) * c, axis=0)[seen]
        expected = prior
        if len(length):
            found = max(np.sort(length)[(len(length) - 1) // 2] / 1.17741, 0.15 * prior)
            share = max(len(length) - 25, 0.0)
            share /= share + settings.noise_prior_points
            expected = prior ** (1 - share) * found**share
        assert abs(float(model.frozen.dense_noise[n]) - expected) < 1e-8 * expected, n
        by_both = np.sqrt(prior * expected) if len(length) else prior
        assert abs(float(model.frozen.keypoint_noise[n]) - by_both) < 1e-8 * by_both, n


def test_depth_of_the_visible_surface_is_nearer_than_the_root_for_people_seen_from_the_front(case):
    offset = np.asarray(case["model"].frozen.visible_offset)[:PEOPLE]
    dense, x = np.asarray(case["model"].tangents.lin.points[1]), case["x"]
    relative = dense[2, :, :PEOPLE] - x[2, :PEOPLE]
    assert (offset >= relative.min(0)).all() and (offset <= relative.max(0)).all()
    assert (offset < np.median(relative, axis=0) + 0.02).all()
    assert offset.mean() < -0.05


def test_correlated_errors_make_dense_points_count_less(load_anny, case):
    """One shift of all points against independent errors of the same size."""
    settings, ctx, points = case["config"].map, case["context"], case["model"].tangents.lin.points
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
        more = ctx.cues._replace(size_px=jnp.full((2,), 250.0))
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
    "pose_prior": ({"pose_prior": False}, set(range(12, 400))),
    "gravity": ({"gravity": False}, set(range(400))),
    "visible_face": ({"visible_face": False}, set(range(400))),
    "known_facts": ({"known_facts": False}, set(range(12))),
    "interpenetration": ({"interpenetration": False}, set(range(400))),
    "anthropometry": ({"anthropometry": False}, {GENDER, AGE, HEIGHT}),
    "joint_limits": ({"joint_limits": False}, set(range(12, 400))),
    "depth_order": ({"depth_order": "never"}, {2}),
    "ground_plane": ({"ground_plane": False}, {0, 1, 2}),
}
"""Change, and the columns that may feel it."""


@pytest.fixture(scope="module")
def switched(case) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Energy (N,) and gradient (D, N) with everything and with each switch off: of the costs that the switch turns off, and
    of what it changes in the Gaussian priors."""
    settings = case["config"].map

    def run(ctx, model, x, scene_x):
        def slope(part):
            rows = 0.0 if part.rows is None else (part.rows.by_x * part.rows.value[:, None]).sum(0)
            return rows + (jnp.zeros_like(x) if part.gradient is None else part.gradient)

        def found(changed, cost):
            here = ctx._replace(reference=map_objective.reference_of(changed, ctx.body, ctx.cues, ctx.base))
            part = cost.model(
                map_objective._view(changed, here, model.frozen, x, scene_x, model.tangents.lin.points), model.tangents
            )
            return part.energy, slope(part)

        costs = {c.name: c for c in map_objective.active_costs(settings) if c.name not in ("keypoints", "dense")}
        everything = {name: found(settings, cost) for name, cost in costs.items()}

        def of(changes):
            changed = dataclasses.replace(settings, **changes)
            kept = {name: everything[name] for name, cost in costs.items() if cost.on(changed)}
            kept["reference"] = found(changed, costs["reference"])
            return sum(energy for energy, _ in kept.values()), sum(push for _, push in kept.values())

        return {name: of(changes) for name, (changes, _) in SWITCHES.items()} | {"": of({})}

    with jax.enable_x64(True):
        arguments = jnp.asarray(case["x"]), jnp.asarray(case["scene_x"])
        return jax.tree.map(np.asarray, jax.jit(run)(case["context"], case["model"], *arguments))


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_changes_the_energy_and_only_its_own_variables(switched, name):
    (energy, gradient), (without, slopes) = switched[""], switched[name]
    difference = np.abs(gradient - slopes)[:, :PEOPLE].max(1)
    assert difference.max() > 1e-3
    assert set(np.flatnonzero(difference > 1e-12)) <= SWITCHES[name][1]
    assert np.abs(energy - without)[:PEOPLE].max() > 1e-3


def test_interpenetration_is_felt_by_those_who_touch(switched):
    """People 7 to 11 were put into each other; a person alone in an image touches nobody."""
    energy = switched[""][0] - switched["interpenetration"][0]
    assert (energy[7:12] > 0.5).sum() >= 2
    assert abs(energy[0]) < 1e-9


def test_forces_are_the_slope_of_interpenetration(case):
    settings, ctx, model = case["config"].map, case["context"], case["model"]
    with jax.enable_x64(True):
        points = model.tangents.lin.points[0]
        energy = lambda p: contacts.energy(settings, ctx.body, ctx.cues, model.frozen.radii, p).sum()  # noqa: E731
        slope = jax.jit(jax.grad(energy))(points)
        _, push, stiff = jax.jit(lambda p: contacts.forces(settings, ctx.body, ctx.cues, model.frozen.radii, p))(points)
    assert np.abs(np.asarray(slope)).max() > 1.0
    assert max_abs(push, slope) < 1e-9 * np.abs(np.asarray(slope)).max()
    assert np.linalg.eigvalsh(np.moveaxis(np.asarray(stiff), -1, 0)).min() > -1e-9


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
    anchors, settings = list(AGE_CLASSES.values()), plus_config().map
    probability = np.exp(age_log_probabilities(np.array([0.0, 0.33, 0.999, -1.0]), settings))
    np.testing.assert_allclose(probability.sum(1), 1.0)
    assert [row.argmax() for row in probability[:3]] == [0, anchors.index(0.33), 5]
    np.testing.assert_allclose(probability[[0, 1, 2], [0, 2, 5]], 0.85)
    np.testing.assert_allclose(probability[0, 1], 0.12)
    np.testing.assert_allclose(probability[1, [1, 3]], 0.06)
    assert probability[3].argmax() == anchors.index(0.66)


@pytest.mark.parametrize("size", [1, 24, 25, 60])
def test_factors_are_those_of_lapack(x64, size):
    rng = np.random.default_rng(size)
    root = rng.normal(size=(3, size, size))
    matrix = root @ np.swapaxes(root, 1, 2) + np.eye(size)
    right = rng.normal(size=(3, size, 2))
    factor = small_linear.cholesky(jnp.asarray(np.tril(matrix)))
    lower = np.linalg.cholesky(matrix)
    assert max_abs(small_linear.forward(factor, jnp.asarray(right)), np.linalg.solve(lower, right)) < 1e-9
    assert (
        max_abs(small_linear.solve(jnp.asarray(np.tril(matrix)), jnp.asarray(right)), np.linalg.solve(matrix, right))
        < 1e-9
    )
    indefinite = matrix - 2.0 * np.linalg.eigvalsh(matrix).max() * np.eye(size)
    assert not np.isfinite(np.asarray(small_linear.solve(jnp.asarray(indefinite), jnp.asarray(right)))).all()


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
