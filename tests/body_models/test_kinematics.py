"""Bone trees, chains and rotations against plain numpy loops, einsum and scipy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import anny_golden, max_abs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from body_models import kinematics

pytestmark = pytest.mark.unoptimised


def random_parents(seed: int, bones: int, shuffled: bool) -> list[int]:
    """A random tree; parents come before children unless shuffled."""
    rng = np.random.default_rng(seed)
    parents = [-1] + [int(rng.integers(0, b)) for b in range(1, bones)]
    if not shuffled:
        return parents
    name = rng.permutation(bones)
    out = [-1] * bones
    for bone, parent in enumerate(parents):
        out[name[bone]] = -1 if parent < 0 else int(name[parent])
    return out


def depth(parents: list[int], bone: int) -> int:
    return 0 if parents[bone] < 0 else 1 + depth(parents, parents[bone])


trees = st.builds(random_parents, st.integers(0, 10_000), st.integers(1, 9), st.booleans())


# ------------------------------------------------------------------------------------------------ trees


@given(trees)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_tree_is_cut_into_depth_levels(parents):
    tree = kinematics.bone_tree(parents)
    assert sorted(tree.order) == list(range(len(parents)))
    assert list(np.asarray(tree.order)[tree.inverse]) == list(range(len(parents)))
    levels = np.split(np.asarray(tree.order), np.cumsum(tree.level_sizes)[:-1])
    for d, (level, slots) in enumerate(zip(levels, tree.parent_slots)):
        assert {depth(parents, b) for b in level} == {d}
        if d:
            assert [levels[d - 1][s] for s in slots] == [parents[b] for b in level]
    assert tree.order[0] == parents.index(-1)


def test_the_anny_tree_has_the_official_levels():
    tree = kinematics.bone_tree(anny_golden()["bone_parents"].tolist())
    assert tree.level_sizes == (1, 3, 3, 3, 3, 5, 5, 13, 13, 11, 13, 17, 21, 18, 13, 13, 8)
    assert hash(tree) == hash(kinematics.bone_tree(anny_golden()["bone_parents"].tolist()))


def test_kept_bones_and_their_ancestors():
    parents = [-1, 0, 1, 1, 3, 0, 5]
    assert kinematics.with_ancestors(parents, [4]) == [0, 1, 3, 4]
    assert kinematics.with_ancestors(parents, [6, 2]) == [0, 1, 2, 5, 6]
    tree = kinematics.bone_tree(parents, kinematics.with_ancestors(parents, [4, 5]))
    assert (tree.order, tree.level_sizes) == ((0, 1, 5, 3, 4), (1, 2, 1, 1))
    assert tree.parent_slots == ((), (0, 0), (0,), (0,))


@pytest.mark.parametrize("keep", [[0, 4], [1, 3], [2]])
def test_a_kept_bone_without_its_parent_is_an_error(keep):
    with pytest.raises(ValueError, match="parents of every kept bone"):
        kinematics.bone_tree([-1, 0, 1, 1, 3], keep)


# ------------------------------------------------------------------------------------------------ chains


def numpy_chain(parents: list[int], local: np.ndarray) -> np.ndarray:
    """(J, 4, 4) maps by walking from each bone up to the root."""
    world = []
    for bone in range(len(parents)):
        total, up = local[bone], parents[bone]
        while up >= 0:
            total, up = local[up] @ total, parents[up]
        world.append(total)
    return np.stack(world)


@given(parents=trees, seed=st.integers(0, 10_000))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_chain_against_walking_up_the_tree(parents, seed):
    people = 2
    local = np.random.default_rng(seed).normal(size=(people, len(parents), 4, 4))
    local[..., 3, :] = [0, 0, 0, 1]
    tree = kinematics.bone_tree(parents)
    with jax.enable_x64(True):
        axes_first = local[:, :, :3].transpose(2, 3, 1, 0)[:, :, np.asarray(tree.order)]
        got = np.asarray(jax.jit(lambda maps: kinematics.chain(tree, maps))(axes_first))[:, :, tree.inverse]
    for person in range(people):
        expected = numpy_chain(parents, local[person])[:, :3]
        np.testing.assert_allclose(got[..., person].transpose(2, 0, 1), expected, rtol=1e-12, atol=1e-12)


def test_chain_gradient_against_dense_autodiff(x64):
    parents = random_parents(5, 9, shuffled=True)
    tree = kinematics.bone_tree(parents)
    local = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 9, 2)))
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4, 9, 2)))

    def walked(x):
        bottom = jnp.broadcast_to(jnp.array([0.0, 0, 0, 1])[None, :, None, None], (1, 4, 9, 2))
        maps = jnp.moveaxis(jnp.concatenate([x, bottom]), (0, 1), (2, 3))  # (J, N, 4, 4)
        world = [maps[0]] * 9
        for bone in tree.order:
            world[bone] = maps[bone] if parents[bone] < 0 else world[parents[bone]] @ maps[bone]
        return jnp.sum(jnp.moveaxis(jnp.stack(world)[:, :, :3], (2, 3), (0, 1)) * weights)

    def chained(x):
        order = np.asarray(tree.order, np.int32)
        return jnp.sum(kinematics.chain(tree, x[:, :, order])[:, :, tree.inverse] * weights)

    value, gradient = jax.jit(jax.value_and_grad(chained))(local)
    expected_value, expected = jax.jit(jax.value_and_grad(walked))(local)
    np.testing.assert_allclose(value, expected_value, rtol=1e-12)
    assert max_abs(gradient, expected) <= 1e-12 * np.abs(expected).max()


def test_rotations_about_keep_their_pivot(x64):
    rng = np.random.default_rng(3)
    matrices = Rotation.random(10, np.random.default_rng(1)).as_matrix().reshape(5, 2, 3, 3)
    pivots, points = rng.normal(size=(3, 5, 2)), rng.normal(size=(3, 5, 2))
    maps = np.asarray(kinematics.rotations_about(jnp.asarray(matrices.transpose(2, 3, 0, 1)), jnp.asarray(pivots)))
    apply = lambda x: np.einsum("ijbn,jbn->ibn", maps[:, :3], x) + maps[:, 3]  # noqa: E731
    np.testing.assert_allclose(apply(pivots), pivots, atol=1e-14)
    expected = np.einsum("bnij,jbn->ibn", matrices, points - pivots) + pivots
    np.testing.assert_allclose(apply(points), expected, atol=1e-14)


# ------------------------------------------------------------------------------------------------ products


def affine_product(outer, inner):
    return jnp.einsum("ij...,jk...->ik...", outer[:, :3], inner).at[:, 3].add(outer[:, 3])


PRODUCTS = {
    "matmul": (kinematics.matmul, lambda a, b: jnp.einsum("ij...,jk...->ik...", a, b), (3, 3), (3, 3)),
    "matmul_affine": (kinematics.matmul, lambda a, b: jnp.einsum("ij...,jk...->ik...", a, b), (3, 3), (3, 4)),
    "matmul_column": (kinematics.matmul, lambda a, b: jnp.einsum("ij...,jk...->ik...", a, b), (3, 3), (3, 1)),
    "matmul_transposed": (
        kinematics.matmul_transposed,
        lambda a, b: jnp.einsum("ij...,kj...->ik...", a, b),
        (3, 3),
        (3, 3),
    ),
    "compose": (kinematics.compose, affine_product, (3, 4), (3, 4)),
    "matvec": (kinematics.matvec, lambda a, x: jnp.einsum("ij...,j...->i...", a, x), (3, 3), (3,)),
}


@pytest.mark.parametrize("batch", [(), (5, 4)])
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_and_their_transposes_against_einsum(x64, name, batch):
    product, reference, left, right = PRODUCTS[name]
    rng = np.random.default_rng(7)
    a, b = jnp.asarray(rng.normal(size=(*left, *batch))), jnp.asarray(rng.normal(size=(*right, *batch)))
    got, back = jax.vjp(product, a, b)
    expected, expected_back = jax.vjp(reference, a, b)
    assert max_abs(got, expected) <= 1e-12
    cotangent = jnp.asarray(rng.normal(size=got.shape))
    for mine, theirs in zip(back(cotangent), expected_back(cotangent), strict=True):
        assert max_abs(mine, theirs) <= 1e-12


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_permute_and_its_transpose(x64, axis):
    rng = np.random.default_rng(9)
    x = jnp.asarray(rng.normal(size=(5, 5, 5)))
    permutation = (3, 0, 4, 1, 2)  # not its own inverse
    got, back = jax.vjp(lambda y: kinematics.gather(y, permutation, axis), x)
    np.testing.assert_array_equal(got, np.take(np.asarray(x), permutation, axis=axis))
    cotangent = jnp.asarray(rng.normal(size=(5, 5, 5)))
    one_hot = jnp.eye(5)[np.asarray(permutation, np.int32)]
    _, reference = jax.vjp(lambda y: jnp.moveaxis(jnp.tensordot(one_hot, y, (1, axis)), 0, axis), x)
    assert max_abs(back(cotangent)[0], reference(cotangent)[0]) <= 1e-12


def test_one_process_may_use_both_precisions():
    """Static indices must be int32: JAX caches an int64 one traced under x64 and then fails without it."""
    tree = kinematics.bone_tree([-1, 0, 1, 0, 3])
    function = jax.jit(lambda x: kinematics.gather(kinematics.chain(tree, x)[:, :, tree.inverse], (4, 3, 2, 1, 0), 2))
    local = np.random.default_rng(0).normal(size=(3, 4, 5, 2))
    with jax.enable_x64(True):
        double = np.asarray(function(jnp.asarray(local)))
    single = function(jnp.asarray(local, jnp.float32))
    assert (double.dtype, single.dtype) == (np.float64, np.float32)
    np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-5)
