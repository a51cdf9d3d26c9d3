"""What must hold of any posed body, and of points whose regressor is contracted with the skinning weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anny_cases import (
    PEOPLE,
    forward,
    forward_transforms,
    golden_params,
    points,
    random_params,
    rest,
    surface_regressor,
)
from helpers import anny_golden, max_abs, max_relative
from scipy.spatial.transform import Rotation

from body_models import anny, rotations

pytestmark = pytest.mark.unoptimised


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return anny_golden()


@pytest.fixture(scope="module")
def contracted(load_anny) -> Callable[[Any, str], anny.AnnyPoints]:
    """`contracted(dtype, kind)`: the regressors above contracted once each (seconds on a busy machine)."""
    made: dict[tuple[str, str], anny.AnnyPoints] = {}

    def get(dtype: Any, kind: str) -> anny.AnnyPoints:
        key = (jnp.dtype(dtype).name, kind)
        if key not in made:
            model = load_anny(dtype)
            made[key] = anny.contract(model, surface_regressor(model, kind))
        return made[key]

    return get


# ------------------------------------------------------------------------------------------------ invariances


def test_root_motion_is_rigid(load_anny, x64):
    model, params = load_anny("float64"), random_params(PEOPLE, jnp.float64)
    turn, shift = Rotation.from_rotvec([0.4, -1.3, 2.0]), np.array([0.3, -2.0, 7.0])
    moved = params._replace(
        root_rotvec=jnp.asarray((turn * Rotation.from_rotvec(np.array(params.root_rotvec))).as_rotvec()),
        translation=jnp.asarray(turn.apply(np.array(params.translation)) + shift),
    )
    before, after = forward(model, params), forward(model, moved)
    matrix = turn.as_matrix()
    assert max_abs(after.vertices, np.asarray(before.vertices) @ matrix.T + shift) <= 1e-12
    # The float32 regressor rows miss a sum of 1 by 1e-7, so a shift of 7 m shows in a point that is a plain weighted sum.
    sums = np.asarray(model.keypoint_regressor).sum(-1)[:, None]
    assert max_abs(after.keypoints, np.asarray(before.keypoints) @ matrix.T + sums * shift) <= 1e-12
    expected = np.asarray(before.bone_poses).copy()
    expected[..., :3, :] = matrix @ expected[..., :3, :]
    expected[..., :3, 3] += shift
    assert max_abs(after.bone_poses, expected) <= 1e-12


def test_unbent_body_is_the_rest_body_turned_about_the_root_head(load_anny, dtype):
    model, params = load_anny(dtype), random_params(PEOPLE, dtype, angle=0.0)
    out, (vertices, poses) = forward(model, params), rest(model, params.phenotypes)
    turn = np.asarray(rotations.rotvec_to_matrix(params.root_rotvec))
    head, place = np.asarray(poses[:, 0, :, 3]), np.asarray(params.translation)[:, None]
    expected = np.einsum("nij,nvj->nvi", turn, vertices - head[:, None]) + place
    tolerance = 1e-12 if dtype == jnp.float64 else 2e-6
    assert max_abs(out.vertices, expected) <= tolerance
    assert max_abs(out.bone_poses[:, 0, :3, 3], params.translation) <= tolerance


def test_identity_input_of_local_bone_world_is_the_rest_body(load_anny, x64):
    model, phenotypes = load_anny("float64"), random_params(PEOPLE, jnp.float64).phenotypes
    identity = jnp.broadcast_to(jnp.eye(4), (2, 163, 4, 4))
    out = forward_transforms(model, phenotypes[:2], identity, pose_mode="local-bone-world")
    vertices, poses = rest(model, phenotypes)
    assert max_abs(out.vertices, vertices[:2]) <= 1e-12
    assert max_abs(out.bone_poses[:, :, :3], poses[:2]) <= 1e-12


def test_default_extras_of_eleven_phenotypes_are_the_six_phenotype_body(load_anny, x64):
    """The corner basis and the row-by-row sum are two routes to the same body."""
    params = random_params(PEOPLE, jnp.float64)
    extended = params._replace(phenotypes=jnp.concatenate([params.phenotypes, jnp.full((PEOPLE, 5), 0.5)], -1))
    few, many = forward(load_anny("float64"), params), forward(load_anny("float64", extended=True), extended)
    assert max_abs(many.vertices, few.vertices) <= 1e-11
    assert max_abs(many.bone_poses, few.bone_poses) <= 1e-9


def test_absent_local_changes_are_zero_and_races_need_no_normalising(load_anny, x64):
    model, rng = load_anny("float64", extended=True), np.random.default_rng(5)
    params = random_params(PEOPLE, jnp.float64)
    params = params._replace(phenotypes=jnp.asarray(rng.uniform(0.1, 1, (PEOPLE, 11))))
    base = forward(model, params).vertices
    assert max_abs(forward(model, params._replace(local_changes=jnp.zeros((PEOPLE, 254)))).vertices, base) <= 1e-13
    scaled = params.phenotypes.at[:, 8:].multiply(0.37)
    assert max_abs(forward(model, params._replace(phenotypes=scaled)).vertices, base) <= 1e-13
    # All three zero: an even mixture.
    none, even = params.phenotypes.at[:, 8:].set(0.0), params.phenotypes.at[:, 8:].set(0.2)
    at_none = forward(model, params._replace(phenotypes=none)).vertices
    assert max_abs(at_none, forward(model, params._replace(phenotypes=even)).vertices) <= 1e-13
    assert max_abs(at_none, base) > 1e-4


def test_leading_dimensions_broadcast(load_anny, contracted, x64):
    model, many = load_anny("float64"), random_params((2, 3), jnp.float64)
    shared = many._replace(phenotypes=many.phenotypes[0, 0], root_rotvec=many.root_rotvec[:, :1])
    out = forward(model, shared)
    assert (out.vertices.shape, out.bone_poses.shape) == ((2, 3, 13718, 3), (2, 3, 163, 4, 4))
    got = points(contracted("float64", "keypoints"), shared)
    for i, j in ((0, 2), (1, 0), (1, 1)):
        one = anny.Params(shared.phenotypes, many.root_rotvec[i, 0], many.pose_rotvec[i, j], many.translation[i, j])
        single = forward(model, one)
        assert max_abs(single.vertices, out.vertices[i, j]) <= 1e-12
        assert max_abs(single.bone_poses, out.bone_poses[i, j]) <= 1e-12
        assert max_abs(single.keypoints, got[i, j]) <= 1e-12
    vertices, poses = rest(model, many.phenotypes)
    assert (vertices.shape, poses.shape) == ((2, 3, 13718, 3), (2, 3, 163, 3, 4))


def test_people_last_forms_agree(load_anny, contracted, x64):
    model, params = load_anny("float64"), random_params(PEOPLE, jnp.float64)
    last = [params.phenotypes.T, params.root_rotvec.T, params.pose_rotvec.transpose(2, 1, 0), params.translation.T]
    vertices = jax.jit(anny.vertices_people_last)(model, *last)
    assert max_abs(vertices.transpose(2, 1, 0), forward(model, params).vertices) <= 1e-13
    body = contracted("float64", "keypoints")
    got = jax.jit(anny.points_people_last)(body, *last)
    assert max_abs(got.transpose(2, 1, 0), points(body, params)) <= 1e-13


# ------------------------------------------------------------------------------------------------ contracted points


@pytest.mark.parametrize("kind", ["keypoints", "vertices", "barycentric"])
def test_contracted_points_are_regressed_vertices(load_anny, contracted, dtype, kind):
    model, params = load_anny(dtype), random_params(PEOPLE, dtype)
    regressor = surface_regressor(model, kind)
    body = contracted(dtype, kind)
    got = points(body, params)
    assert body.num_points == len(regressor)
    vertices = np.asarray(forward(model, params).vertices, np.float64)
    expected = np.einsum("kv,nvi->nki", regressor.astype(np.float64), vertices)
    assert max_abs(got, expected) <= (1e-12 if dtype == jnp.float64 else 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["keypoints", "barycentric"])
def test_gradient_of_contracted_points_is_the_gradient_through_the_mesh(load_anny, contracted, x64, kind):
    model, params = load_anny("float64"), random_params(2, jnp.float64)
    regressor = surface_regressor(model, kind)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, len(regressor), 3)))

    def through_mesh(p, model, regressor):
        return jnp.sum(weights * jnp.einsum("kv,nvi->nki", regressor, anny.forward(model, p).vertices))

    short = jax.jit(jax.grad(lambda p, mp: jnp.sum(weights * anny.points(mp, p))))(params, contracted("float64", kind))
    long = jax.jit(jax.grad(through_mesh))(params, model, jnp.asarray(regressor))
    for name in ("phenotypes", "root_rotvec", "pose_rotvec", "translation"):
        assert max_relative(getattr(short, name), getattr(long, name)) <= 1e-10, name


def test_contracted_points_of_the_extended_body(load_anny, golden, x64):
    model, params = load_anny("float64", extended=True), golden_params(golden, "b", jnp.float64)
    body_and_feet = np.r_[0, 5:23]  # without eyes and ears, whose thousands of vertices make it slow
    got = points(anny.contract(model, model.keypoint_regressor[body_and_feet]), params)
    assert max_abs(got, golden["b_keypoints"][:, body_and_feet]) <= 1e-9
