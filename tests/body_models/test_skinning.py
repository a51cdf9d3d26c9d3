"""Skinning in blocks against the product with the whole table, values and gradients in float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs
from slopes import assert_same_function

from body_models import skinning

pytestmark = pytest.mark.usefixtures("x64")
BONES, VERTICES, PEOPLE = 7, 60, 3
PARENTS = (-1, 0, 1, 1, 0, 4, 5)


def weights(seed: int = 0) -> np.ndarray:
    """(vertex, bone) skinning weights: one to three bones each, and a vertex that all bones move."""
    rng = np.random.default_rng(seed)
    table = np.zeros((VERTICES, BONES))
    for row in table[1:]:
        row[rng.choice(BONES, rng.integers(1, 4), replace=False)] = rng.uniform(0.1, 1)
    table[0] = 1.0
    return table / table.sum(1, keepdims=True)


def transforms(seed: int = 0) -> tuple[jnp.ndarray, jnp.ndarray, jnp.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = (BONES, 3, 3, PEOPLE), (BONES, 3, PEOPLE), (3, VERTICES, PEOPLE)
    rotation, shift, vertices = (jnp.asarray(rng.normal(size=shape)) for shape in shapes)
    return rotation, shift, vertices


@pytest.mark.parametrize(("block", "most_bones"), [(24, 16), (1, 1), (7, 3), (100, 7)])
def test_blocks_equal_the_whole_table(block, most_bones):
    table = weights()
    blocks = skinning.blocked(table, PARENTS, np.float64, block, most_bones)

    def plain(rotation, shift, vertices):
        placed = jnp.einsum("bijn,jvn->vbin", rotation, vertices) + shift[None]
        return jnp.einsum("vb,vbin->vin", table, placed)

    assert_same_function(lambda *a: skinning.skin(blocks, *a), plain, *transforms())


@pytest.mark.parametrize(("block", "most_bones"), [(24, 16), (7, 3)])
def test_blocks_keep_their_bounds(block, most_bones):
    """Every vertex has its place; a block has no more vertices and bones than asked for, but for what one vertex needs."""
    table = weights()
    skin = skinning.blocked(table, PARENTS, np.float64, block, most_bones)
    number, height, width = skin.table.shape
    assert height <= block
    assert sorted(set(skin.blocks.vertices)) == list(range(VERTICES))
    assert [skin.blocks.vertices[place] for place in skin.blocks.position] == list(range(VERTICES))
    vertices = np.asarray(skin.blocks.vertices).reshape(number, height)
    for row, entries in zip(vertices, np.asarray(skin.table)):
        members = row[entries.any(1)]
        assert (table[members] != 0).any(0).sum() <= max(most_bones, (table[members] != 0).sum(1).max())
    assert width <= max(most_bones, (table != 0).sum(1).max())


def test_sums_of_pairs_equal_loops():
    """Points with one and with three bones: A m + omega a, added up by point."""
    rng = np.random.default_rng(1)
    groups, pair_point = ((2, 1), (2, 3)), [0, 1, 2, 3, 2, 3, 2, 3]
    pair_bone = (4, 0, 1, 2, 5, 6, 3, 3)
    omega = jnp.asarray(rng.normal(size=8))
    rotation, shift, _ = transforms(2)
    moments = jnp.asarray(rng.normal(size=(3, 8, PEOPLE)))

    def plain(rotation, shift, moments):
        points = [jnp.zeros((3, PEOPLE))] * 4
        for pair, (point, bone) in enumerate(zip(pair_point, pair_bone)):
            moved = jnp.einsum("ijn,jn->in", rotation[bone], moments[:, pair]) + omega[pair] * shift[bone]
            points[point] = points[point] + moved
        return jnp.stack(points)

    assert_same_function(lambda *a: skinning.sum_pairs(pair_bone, groups, omega, *a), plain, rotation, shift, moments)


def test_padded_rows_move_nothing():
    """Rows that fill a block repeat vertex 0 and have no weight: vertex 0 appears once in the result."""
    skin = skinning.blocked(weights(), PARENTS, np.float64, block=24)
    assert len(skin.blocks.vertices) > VERTICES
    rotation, shift, vertices = transforms()
    moved = skinning.skin(skin, rotation, shift, vertices.at[:, 0].add(1.0))
    still = skinning.skin(skin, rotation, shift, vertices)
    assert max_abs(moved[1:], still[1:]) == 0
    assert max_abs(moved[0], still[0]) > 0.1
