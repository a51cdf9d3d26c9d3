"""The analytic Jacobian of contracted points against automatic differentiation, and its products against plain numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs
from second_order_cases import map_body, plus_config

from annyfit_jax.fit.problem import Variables
from annyfit_jax.fit.second_order import jacobian
from annyfit_jax.fit.second_order.columns import bounds, pack, unpack
from annyfit_jax.fit.second_order.linear_plan import NUM_RIGID, make_plan
from body_models import anny

PEOPLE = 4
TOLERANCE = 1e-10
ARGUMENTS = ("shape", "root_rotvec", "pose", "transl")
"""Of `anny.points_people_last`, in its order."""


@pytest.fixture(scope="module")
def body(load_anny):
    with jax.enable_x64(True):
        return map_body(load_anny("float64"), plus_config())


@pytest.fixture(scope="module")
def variables() -> Variables:
    """Random people; the first without any rotation, the second on anchors of the shape, the third all but unrotated."""
    rng = np.random.default_rng(3)
    shape = rng.uniform(0.05, 0.95, (6, PEOPLE))
    shape[:, 1] = [0.0, 1.0, 0.5, 1.0, 0.0, 0.5]
    root, pose = rng.normal(size=(3, PEOPLE)), 0.4 * rng.normal(size=(3, 162, PEOPLE))
    root[:, 0], pose[..., 0] = 0.0, 0.0
    root[:, 2], pose[..., 2] = 1e-4 * root[:, 2], 1e-5 * pose[..., 2]
    return Variables(rng.normal(size=(3, PEOPLE)) + np.array([0, 0, 5.0])[:, None], root, shape, pose)


@pytest.fixture(scope="module")
def rows() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Random row functionals, two per keypoint and three per dense point, and their values."""
    rng = np.random.default_rng(4)
    sizes = ((2, 17), (3, 138))
    return (
        [rng.normal(size=(r, 3, k, PEOPLE)) for r, k in sizes],
        [rng.normal(size=(r, k, PEOPLE)) for r, k in sizes],
    )


@pytest.fixture(scope="module")
def computed(body, variables, rows) -> dict[str, np.ndarray]:
    """Everything of one compiled program."""

    def everything(body, variables, rows):
        lin = jacobian.linearize(body.plan, body.points, variables)
        functionals, values = rows
        twice = [jnp.stack([v, 2.0 * v]) for v in values]
        matrix, vectors = jacobian.normal_equations(body.plan, lin, functionals, twice)
        jacobians = [jacobian.dense_jacobian(body.plan, lin, kind) for kind in (0, 1)]
        return {
            "points": jnp.concatenate(lin.points, axis=1),
            "jacobian": jnp.concatenate(jacobians, axis=1),
            "matrix": matrix,
            "vector": vectors[:, 0],
            "twice": vectors[:, 1],
        }

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(everything)(body, Variables(*map(jnp.asarray, variables)), rows))


@pytest.fixture(scope="module")
def autodiff(body, variables) -> tuple[np.ndarray, np.ndarray]:
    """Points (3, K, N) and their derivatives (D, 3, K, N) by reverse mode, all people at once: each moves its own points."""

    def both(body, variables):
        def points(x):
            now = unpack(body.plan.layout, x, variables)
            return anny.points_people_last(body.points, *(getattr(now, name) for name in ARGUMENTS))

        placed, back = jax.vjp(points, pack(body.plan.layout, variables))
        seeds = jnp.eye(placed[..., 0].size).reshape(-1, *placed.shape[:2])
        slopes = jax.lax.map(lambda s: back(jnp.broadcast_to(s[..., None], placed.shape))[0], seeds, batch_size=31)
        return placed, jnp.moveaxis(slopes.reshape(*placed.shape[:2], *slopes.shape[1:]), 2, 0)

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(both)(body, Variables(*map(jnp.asarray, variables))))


def test_points_are_those_of_the_body(computed, autodiff):
    assert max_abs(computed["points"], autodiff[0]) < 1e-12


@pytest.mark.parametrize("part", ["transl", "root", "shape", "pose"])
def test_the_jacobian_is_that_of_automatic_differentiation(computed, autodiff, body, part):
    first = NUM_RIGID + body.plan.layout.num_shape
    columns = {"transl": slice(0, 3), "root": slice(3, 6), "shape": slice(6, first), "pose": slice(first, None)}[part]
    ours = np.moveaxis(computed["jacobian"], 2, 0)[columns]
    theirs = autodiff[1][columns]
    # On an anchor of the shape the two one-sided slopes differ, and autodiff may take the other one.
    people = [0, 2, 3] if part == "shape" else range(PEOPLE)
    assert max_abs(ours[..., people], theirs[..., people]) < TOLERANCE
    assert np.abs(theirs).max() > 0.1


def test_on_an_anchor_the_slope_is_one_of_the_two_sides(body, computed, variables):
    """Inside a segment the points are linear in one phenotype, so a secant into the segment is its slope."""
    with jax.enable_x64(True):
        person = [v[..., 1:2] for v in variables]
        for column in range(6):
            secants = []
            for side in (-1e-3, 1e-3):
                moved = person[2].copy()
                moved[column] += side
                if 0 <= moved[column, 0] <= 1:
                    both = jnp.asarray(np.concatenate([person[2], moved], -1))
                    twice = [jnp.asarray(np.repeat(v, 2, -1)) for v in (person[1], person[3], person[0])]
                    two = np.asarray(_points(body.points, both, *twice))
                    secants.append((two[..., 1] - two[..., 0]) / side)
            ours = computed["jacobian"][:, :, NUM_RIGID + column, 1]
            assert min(np.abs(ours - s).max() for s in secants) < 2e-3 * max(np.abs(s).max() for s in secants)


_points = jax.jit(anny.points_people_last)


def test_normal_equations_are_products_of_the_jacobian(computed, rows):
    functionals, values = rows
    whole = computed["jacobian"]  # (3, K, D, N)
    split = (whole[:, :17], whole[:, 17:])
    by_row = [np.einsum("rikn,ikdn->rkdn", f, j) for f, j in zip(functionals, split, strict=True)]
    matrix = sum(np.einsum("rkdn,rken->nde", j, j) for j in by_row)
    vector = sum(np.einsum("rkdn,rkn->dn", j, v) for j, v in zip(by_row, values, strict=True))
    scale = np.abs(matrix).max()
    assert max_abs(np.tril(computed["matrix"]), np.tril(matrix)) < 1e-12 * scale
    assert max_abs(computed["vector"], vector) < 1e-12 * np.abs(vector).max()
    assert max_abs(computed["twice"], 2.0 * vector) < 1e-12 * np.abs(vector).max()


def test_bones_of_one_limb_do_not_move_the_others(computed, body):
    """The sparsity that the plan uses is there: a good part of the Jacobian is zero, and every column is not."""
    share = (computed["jacobian"] == 0).mean()
    assert 0.2 < share < 0.9
    assert (np.abs(computed["jacobian"]).max((0, 1, 3)) > 1e-4).all()
    assert len(body.plan.layout.groups) > 1


def test_columns_and_variables_are_the_same_numbers(body, variables):
    layout = body.plan.layout
    with jax.enable_x64(True):
        x = pack(layout, variables)
        other = Variables(*(jnp.full_like(jnp.asarray(v), 7.0) for v in variables))
        back = unpack(layout, x, other)
        low, high = bounds(layout, body.fit)
    for name in ("transl", "root_rotvec", "shape"):
        np.testing.assert_array_equal(getattr(back, name), getattr(variables, name))
    free = np.asarray(layout.bones)
    still = np.setdiff1d(np.arange(162), free)
    np.testing.assert_array_equal(np.asarray(back.pose)[:, free], variables.pose[:, free])
    assert (np.asarray(back.pose)[:, still] == 7.0).all()
    assert set(free) <= set(body.fit.layout.free_bones)
    assert x.shape == (*low.shape[:1], PEOPLE) == (layout.num_columns, PEOPLE)
    assert (np.asarray(low)[NUM_RIGID : NUM_RIGID + 6] == 0).all() and (np.asarray(high)[6:12] == 1).all()
    assert np.isinf(np.asarray(low)[:NUM_RIGID]).all()


def test_kinds_must_cover_the_points(body, load_anny):
    with pytest.raises(ValueError, match=r"kinds \(17, 100\) must add up to the 155"):
        make_plan(body.points, load_anny("float64").labels.parents, body.fit.layout.free_bones, (17, 100), 6)


@pytest.mark.parametrize("angle", [0.0, 1e-8, 1e-3, 0.15, 0.25, 1.0, 3.0])
def test_the_left_jacobian(x64, angle):
    """d exp(v) exp(v)^T = [J dv]x, by differences of the rotation of scipy."""
    from scipy.spatial.transform import Rotation

    axis = np.array([0.3, -0.5, 0.8])
    v = angle * axis / np.linalg.norm(axis)
    ours = np.asarray(jacobian.left_jacobian(jnp.asarray(v)[:, None]))[..., 0]
    step = 1e-6
    for k, e in enumerate(np.eye(3)):
        turned = Rotation.from_rotvec(v + step * e) * Rotation.from_rotvec(v - step * e).inv()
        assert max_abs(ours[:, k], turned.as_rotvec() / (2 * step)) < 1e-8


# ------------------------------------------------------------------------------------------------ every length of a list


@pytest.mark.parametrize("people", [8, 64, 160, 4096])
def test_orientations_turn_alike_in_lists_of_every_length(people):
    """Against numpy in float64. A sum over a broadcast product, compiled for CPUs, was wrong from 48 people on."""
    rng = np.random.default_rng(5)
    bones, shapes = (140, 6) if people < 1000 else (20, 6)
    axes = (0.05 * rng.normal(size=(3, bones, people))).astype(np.float32)
    moved = (0.05 * rng.normal(size=(3, shapes, bones, people))).astype(np.float32)
    ours = np.asarray(jax.jit(jacobian.orientation_velocity)(axes, moved))
    e, d = axes.astype(np.float64), moved.astype(np.float64)
    length = np.linalg.norm(e, axis=0)
    y = e / length
    dy = (d - y[:, None] * (y[:, None] * d).sum(0)) / length
    bisector = np.broadcast_to((y + np.array([0, 1.0, 0])[:, None, None])[:, None], dy.shape)
    expected = np.cross(bisector, dy, axis=0) / (1.0 + y[1])
    scale = np.abs(expected).max((0, 1))
    assert (np.abs(ours - expected).max((0, 1)) < 1e-3 * np.maximum(scale, 1.0)).all()


@pytest.mark.slow
def test_the_jacobian_is_the_same_in_every_length_that_is_used(load_anny):
    """The same eight people once, and eight times over, float32: the shortest and the longest list of a CPU."""
    body = map_body(load_anny(), plus_config())
    rng = np.random.default_rng(6)
    eight = (
        rng.normal(size=(3, 8)) + np.array([0, 0, 5.0])[:, None], rng.normal(size=(3, 8)), rng.uniform(0.1, 0.9, (6, 8)),
        0.3 * rng.normal(size=(3, 162, 8)),
    )  # fmt: skip
    found = []
    for times in (1, 8):
        v = Variables(*(jnp.asarray(np.concatenate([part] * times, -1), jnp.float32) for part in eight))
        lin = jax.jit(lambda body, v: jacobian.linearize(body.plan, body.points, v))(body, v)
        found.append((*lin.points, *lin.by_shape, lin.axes, *(x for group in lin.levers for x in group)))
    for short, long in zip(*found, strict=True):
        np.testing.assert_allclose(long, np.concatenate([np.asarray(short)] * 8, -1), rtol=1e-4, atol=1e-5)
