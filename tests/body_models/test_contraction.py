"""Contracted points against the mesh that they leave out, and placing them, in float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs
from slopes import assert_same_function

from body_models import contraction

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.unoptimised]
BONES, VERTICES, RANK, PEOPLE = 6, 40, 3, 2
PARENTS = (-1, 0, 1, 2, 0, 4)


def body(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(skinning weights (bone, vertex), mean, basis): one or two bones of 0 to 4 move a vertex; bone 5 moves none."""
    rng = np.random.default_rng(seed)
    skin = np.zeros((BONES, VERTICES))
    for vertex in range(VERTICES):
        skin[rng.choice(BONES - 1, rng.integers(1, 3), replace=False), vertex] = rng.uniform(0.1, 1)
    return skin / skin.sum(0), rng.normal(size=(3, VERTICES)), rng.normal(size=(RANK, 3, VERTICES))


def regressor() -> np.ndarray:
    """Points of one vertex, of one vertex with a weight, of the same vertex again, of many; sums are not 1."""
    rng = np.random.default_rng(1)
    rows = np.zeros((6, VERTICES))
    rows[0, 7], rows[1, 7], rows[2, 7], rows[3, 30] = 1.0, 0.9, 1.0, 1.0
    rows[4, [1, 5, 9]], rows[5] = rng.uniform(0.2, 0.5, 3), rng.uniform(0, 0.05, VERTICES)
    return rows[[4, 0, 5, 1, 2, 3]]


def test_points_are_those_of_the_skinned_mesh():
    skin, mean, basis = body()
    weights = regressor()
    contracted = contraction.contract(weights, skin, PARENTS, mean, basis, np.float64)
    rng = np.random.default_rng(2)
    rotation, shift, z = (
        jnp.asarray(rng.normal(size=s)) for s in ((BONES, 3, 3, PEOPLE), (BONES, 3, PEOPLE), (RANK, PEOPLE))
    )
    order = np.asarray(contracted.layout.tree.order)

    def plain(rotation, shift, z):
        vertices = mean[..., None] + jnp.einsum("kiv,kn->ivn", basis, z)
        moved = jnp.einsum("bv,bijn,jvn->ivn", skin, rotation, vertices) + jnp.einsum("bv,bin->ivn", skin, shift)
        return jnp.einsum("kv,ivn->kin", weights, moved)

    def ours(rotation, shift, z):
        return contraction.evaluate(contracted, rotation[order], shift[order], z)

    assert_same_function(ours, plain, rotation, shift, z)
    assert contracted.num_points == len(weights)
    assert max_abs(contracted.weight_sum, weights.sum(1)) < 1e-15


def test_only_bones_that_move_a_point_and_their_ancestors_are_kept():
    skin, mean, basis = body()
    rows = np.zeros((1, VERTICES))
    rows[0, np.flatnonzero(skin[3])[0]] = 1.0
    contracted = contraction.contract(rows, skin, PARENTS, mean, basis, np.float64)
    movers = set(np.flatnonzero(skin[:, np.flatnonzero(rows[0])[0]]))
    assert {0, 1, 2, 3} <= set(contracted.layout.tree.order) <= {0, 1, 2, 3} | movers | {0, 4}
    assert 5 not in contracted.layout.tree.order
    # The same vertex with the same weight is skinned once.
    twice = contraction.contract(np.concatenate([rows, rows]), skin, PARENTS, mean, basis, np.float64)
    assert twice.vertex.mean.shape == (3, 1)
    assert twice.num_points == 2


def test_pairs_are_grouped_by_the_number_of_bones():
    linked = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1]], bool)
    points, bones, groups, order = contraction.group_pairs(linked)
    assert groups == ((2, 1), (2, 2))
    assert points.tolist() == [1, 3, 0, 2, 0, 2]
    assert bones.tolist() == [1, 2, 0, 0, 1, 2]
    assert order == (2, 0, 3, 1)


def test_wrong_regressors_are_named():
    skin, mean, basis = body()
    with pytest.raises(ValueError, match=r"regressor must be \(K, 40\), got \(2, 39\)"):
        contraction.contract(np.ones((2, 39)), skin, PARENTS, mean, basis, np.float64)
    with pytest.raises(ValueError, match="regressor row 1 has no non-zero weight"):
        contraction.contract(np.eye(2, VERTICES) * [[1], [0]], skin, PARENTS, mean, basis, np.float64)


def test_placing_turns_about_the_roots_head():
    rng = np.random.default_rng(3)
    shapes = (5, 3, PEOPLE), (3, PEOPLE), (3, 3, PEOPLE), (3, PEOPLE)
    points, head, rotation, translation = (jnp.asarray(rng.normal(size=shape)) for shape in shapes)
    sums = jnp.asarray(rng.uniform(0.9, 1.1, 5))

    def plain(points, head, rotation, translation):
        turned = jnp.einsum("ijn,kjn->ikn", rotation, points - sums[:, None, None] * head)
        return turned + sums[:, None] * translation[:, None]

    def ours(points, head, rotation, translation):
        return contraction.place(points, sums, head, rotation, translation)

    assert_same_function(ours, plain, points, head, rotation, translation)
