"""Rigid chains, shortest arcs and their written-out gradients against plain forms in float64."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs
from scipy.spatial.transform import Rotation
from slopes import assert_same_function

from body_models import kinematics, rotations, skeleton

pytestmark = pytest.mark.usefixtures("x64")
PARENTS = (-1, 0, 1, 1, 0, 4, 5, 5, 7)


def random(*shape: int, seed: int = 0) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def turns(bones: int, people: int, seed: int = 0) -> np.ndarray:
    """Rotation matrices (bone, 3, 3, person)."""
    matrices = Rotation.random(bones * people, rng=np.random.default_rng(seed)).as_matrix()
    return np.moveaxis(matrices.reshape(people, bones, 3, 3), 0, -1)


# ------------------------------------------------------------------------------------------------ rotations


def test_rotation_matrices_are_those_of_scipy():
    rotvec = random(3, 4, 5)
    expected = Rotation.from_rotvec(np.moveaxis(np.array(rotvec), 0, -1).reshape(-1, 3)).as_matrix()
    got = np.asarray(skeleton.rotation_matrices(rotvec)).transpose(0, 3, 1, 2).reshape(-1, 3, 3)
    assert max_abs(got, expected) < 1e-14


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-4, 1.0, 3.0])
def test_gradient_of_rotation_matrices(size):
    def plain(rotvec):
        return jnp.moveaxis(rotations.rotvec_to_matrix(jnp.moveaxis(rotvec, 0, -1)), (0, 1), (0, 3))

    direction = np.array(random(3, 4, 2, seed=1))
    rotvec = jnp.asarray(size * direction / np.linalg.norm(direction, axis=0))
    assert_same_function(skeleton.rotation_matrices, plain, rotvec, atol=1e-10)


def test_rotation_by_a_constant():
    matrices, vectors = random(3, 3, 4), random(3, 4, 5, seed=1)
    plain = lambda v: jnp.einsum("ijb,jbn->ibn", matrices, v)  # noqa: E731
    assert_same_function(lambda v: skeleton.rotate_by_constant(matrices, v), plain, vectors)


def test_roll_turns_about_y():
    angles = np.array([0.0, 0.3, -2.0])
    got = skeleton.roll_matrices(jnp.asarray([np.cos(angles), np.sin(angles)]))
    assert max_abs(np.moveaxis(np.asarray(got), -1, 0), Rotation.from_euler("y", angles[:, None]).as_matrix()) < 1e-15


# ------------------------------------------------------------------------------------------------ the shortest arc


def plain_aim(axes, vectors):
    """Rodrigues' formula about Y x axis, by the angle between them."""
    unit = axes / jnp.sqrt((axes**2).sum(0))
    normal = jnp.stack([unit[2], jnp.zeros_like(unit[0]), -unit[0]])  # Y x unit, of length sin
    across = jnp.cross(normal, vectors, axis=0)
    return vectors + across + jnp.cross(normal, across, axis=0) / (1.0 + unit[1])


def test_aim_takes_y_to_the_axis_by_the_shortest_arc():
    axes, vectors = random(3, 6, 4), random(3, 6, 4, seed=1)
    assert_same_function(skeleton.aim, plain_aim, axes, vectors, atol=1e-9)
    y = jnp.zeros_like(axes).at[1].set(1.0)
    assert max_abs(skeleton.aim(axes, y), axes / np.linalg.norm(axes, axis=0)) < 1e-14


@pytest.mark.parametrize("height", [1.0, -1.0])
def test_aim_at_the_poles_is_no_turn_or_a_half_turn_about_x(height):
    axes = jnp.zeros((3, 1, 1)).at[1].set(2.5 * height)
    vectors = random(3, 1, 1)
    expected = np.asarray(vectors) * np.array([1.0, height, height])[:, None, None]
    assert max_abs(skeleton.aim(axes, vectors), expected) < 1e-15


@pytest.mark.parametrize("tilt", [1e-3, 1e-6])
def test_aim_downwards_does_not_cancel(tilt):
    """Close to -Y the two vectors stay perpendicular and of length 1, where 1 + y_1 has lost its digits."""
    axes = jnp.asarray([tilt, -1.0, 0.5 * tilt]).reshape(3, 1, 1)
    columns = np.stack(
        [np.asarray(skeleton.aim(axes, jnp.asarray(np.eye(3)[i]).reshape(3, 1, 1))).ravel() for i in range(3)]
    )
    assert max_abs(columns @ columns.T, np.eye(3)) < 1e-13


# ------------------------------------------------------------------------------------------------ products and the chain


def test_products():
    a, b, x = (random(4, *shape, 3, seed=i) for i, shape in enumerate([(3, 3), (3, 3), (3,)]))
    assert max_abs(skeleton.times(a, b), jnp.einsum("kijn,kjln->kiln", a, b)) < 1e-14
    assert max_abs(skeleton.apply(a, x), jnp.einsum("kijn,kjn->kin", a, x)) < 1e-14
    assert max_abs(skeleton.apply_transposed(a, x), jnp.einsum("kjin,kjn->kin", a, x)) < 1e-14


@pytest.mark.parametrize(
    "parents", [PARENTS, (-1, 0), (-1, 0, 0, 0), (-1, 0, 1, 2)], ids=["tree", "pair", "fan", "line"]
)
def test_chain_against_walking_up_the_tree(parents):
    """A bone's transform: the turns of the bones from the root to it, each about its head."""
    tree = kinematics.bone_tree(parents)
    place = {bone: slot for slot, bone in enumerate(tree.order)}

    def plain(turns, heads):
        rotation, shift = {0: jnp.eye(3)[..., None] * jnp.ones(turns.shape[-1])}, {0: jnp.zeros((3, turns.shape[-1]))}
        for bone in tree.order[1:]:
            parent, slot = parents[bone], place[bone]
            head = heads[:, slot]
            rotation[bone] = jnp.einsum("ijn,jkn->ikn", rotation[parent], turns[slot - 1])
            about = head - jnp.einsum("ijn,jn->in", turns[slot - 1], head)
            shift[bone] = jnp.einsum("ijn,jn->in", rotation[parent], about) + shift[parent]
        return jnp.stack([rotation[b] for b in tree.order]), jnp.stack([shift[b] for b in tree.order])

    bones = len(parents)
    arguments = jnp.asarray(turns(bones - 1, 3)), random(3, bones, 3)
    assert_same_function(lambda t, h: skeleton.chain(tree, t, h), plain, *arguments)


def test_a_single_bone_stays():
    tree = kinematics.bone_tree((-1,))
    moved: Any = skeleton.chain(tree, jnp.zeros((0, 3, 3, 2)), random(3, 1, 2))
    rotation, shift = moved
    assert max_abs(rotation[0], np.eye(3)[..., None] * np.ones(2)) == 0
    assert not np.asarray(shift).any()
