"""The Anny body against the official numbers, and what must hold of any posed body."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import anny_golden, max_abs, max_relative, stored_error
from scipy.spatial.transform import Rotation

from body_models import anny, linear, rotations

POSITION = {"float64": 1e-9, "float32": 1e-5}
"""Largest error against the goldens in metres; gradients in float64: 1e-8 of the largest entry of a person."""
GRADIENT = 1e-8
ORIENTATION = {"float64": 1e-9, "float32": 5e-5}
"""Entries of bone orientations: the shortest bones are 2.4 mm, where 1e-7 m of float32 rounding is 4e-5 rad."""


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return anny_golden()


def golden_params(golden: dict[str, np.ndarray], block: str, dtype) -> anny.Params:
    rotvec = golden[f"{block}_rotvec"]
    return anny.Params(
        jnp.asarray(golden[f"{block}_phenotypes"], dtype),
        jnp.asarray(rotvec[:, 0], dtype),
        jnp.asarray(rotvec[:, 1:], dtype),
        jnp.asarray(golden[f"{block}_translation"], dtype),
        jnp.asarray(golden["b_local_changes"], dtype) if block == "b" else None,
    )


def random_params(people: int | tuple[int, ...], dtype, seed: int = 0, angle: float = 0.3) -> anny.Params:
    """Six phenotypes over the whole range and a little beyond, everything bent, three metres away."""
    rng = np.random.default_rng(seed)
    batch = (people,) if isinstance(people, int) else people
    return anny.Params(
        jnp.asarray(rng.uniform(-0.4, 1.1, (*batch, 6)), dtype),
        jnp.asarray(rng.normal(0, 1.0, (*batch, 3)), dtype),
        jnp.asarray(rng.normal(0, angle, (*batch, 162, 3)), dtype),
        jnp.asarray(rng.normal((0, 0, 3), 0.5, (*batch, 3)), dtype),
    )


def surface_regressor(model: anny.AnnyModel, kind: str) -> np.ndarray:
    rng = np.random.default_rng(8)
    if kind == "keypoints":
        return np.asarray(model.keypoint_regressor)
    if kind == "vertices":
        return anny.vertex_regressor(model, rng.integers(0, 13718, 64))
    rows = np.zeros((64, 13718))
    for row, face in zip(rows, rng.integers(0, 27420, 64)):
        row[np.asarray(model.faces)[face]] = rng.dirichlet(np.ones(3))
    rows[0] *= 0.7  # a row whose sum is not 1 is still linear in the vertices
    return rows


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


forward = jax.jit(anny.forward)
points = jax.jit(anny.points)
rest = jax.jit(anny.rest)
forward_transforms = jax.jit(anny.forward_transforms, static_argnames="pose_mode")


@jax.jit
def keypoint_gradient(model, params, target):
    return jax.value_and_grad(lambda p: jnp.sum((anny.forward(model, p).keypoints - target) ** 2))(params)


@jax.jit
def vertex_gradient(model, params, target):
    def loss(p):
        return jnp.sum(((anny.forward(model, p).vertices - target[:, None]) ** 2).sum(-1).mean(-1))

    return jax.value_and_grad(loss)(params)


# ------------------------------------------------------------------------------------------------ goldens


@pytest.mark.parametrize("block", ["a", "b"])
def test_golden_bodies(golden, load_anny, dtype, block):
    model = load_anny(dtype, extended=block == "b")
    out = forward(model, golden_params(golden, block, dtype))
    tolerance, subset = POSITION[dtype.name], golden["a_vertex_subset"]
    assert out.vertices.dtype == out.keypoints.dtype == out.bone_poses.dtype == dtype
    assert max_abs(out.bone_poses[..., :3, 3], golden[f"{block}_bone_poses"][..., 3]) <= tolerance
    assert max_abs(out.bone_poses[..., :3, :3], golden[f"{block}_bone_poses"][..., :3]) <= ORIENTATION[dtype.name]
    np.testing.assert_array_equal(
        out.bone_poses[..., 3, :], np.broadcast_to([0, 0, 0, 1], (*out.bone_poses.shape[:2], 4))
    )
    assert max_abs(out.keypoints, golden[f"{block}_keypoints"]) <= tolerance
    assert stored_error(out.vertices[:, subset], golden[f"{block}_vertices_subset"]) <= tolerance
    if block == "a":
        assert stored_error(out.vertices[golden["a_full_cases"]], golden["a_vertices_full"]) <= tolerance
    else:
        assert stored_error(out.vertices[0], golden["b_vertices_full_case0"]) <= tolerance


@pytest.mark.parametrize("block", ["a", "b"])
def test_golden_bodies_relative_to_the_root_in_float32(golden, load_anny, block):
    out = forward(load_anny("float32", extended=block == "b"), golden_params(golden, block, jnp.float32))
    root = np.asarray(out.bone_poses[:, None, 0, :3, 3], np.float64)
    official = golden[f"{block}_bone_poses"][:, None, 0, :, 3]
    assert max_abs(out.keypoints - root, golden[f"{block}_keypoints"] - official) <= 5e-6
    subset = np.asarray(out.vertices, np.float64)[:, golden["a_vertex_subset"]]
    assert max_abs(subset - root, golden[f"{block}_vertices_subset"] - official) <= 5e-6
    assert max_abs(out.bone_poses[:, :, :3, 3] - root, golden[f"{block}_bone_poses"][..., 3] - official) <= 5e-6


def test_golden_rest_state(golden, load_anny, dtype):
    vertices, poses = rest(load_anny(dtype), jnp.asarray(golden["a_phenotypes"], dtype))
    assert stored_error(vertices[golden["a_full_cases"]], golden["a_rest_vertices_full"]) <= POSITION[dtype.name]
    assert max_abs(poses[..., 3], golden["a_rest_bone_poses"][..., 3]) <= POSITION[dtype.name]
    assert max_abs(poses[..., :3], golden["a_rest_bone_poses"][..., :3]) <= ORIENTATION[dtype.name]


@pytest.mark.parametrize("block", ["a", "b"])
def test_golden_coefficients(golden, load_anny, x64, block):
    """The official 624 (+ 508) coefficients, before equal rows are merged."""
    model = load_anny("float64", extended=True)
    raw = dataclasses.replace(model.rest, row_map=linear.matrix(np.eye(624), jnp.float32))
    p = golden_params(golden, block, jnp.float64)
    phenotypes = jnp.concatenate([p.phenotypes, jnp.full((16, 5), 0.5)], -1) if block == "a" else p.phenotypes
    local = jnp.zeros((16, 254)) if p.local_changes is None else p.local_changes
    got = np.asarray(anny.coefficients(raw, phenotypes.T, local.T).T)
    assert max_abs(got[:, : golden[f"{block}_coeffs"].shape[1]], golden[f"{block}_coeffs"]) <= 1e-14
    universal = np.array([str(label).startswith("universal") for label in golden["coeff_labels"]])
    assert universal.sum() == 90
    np.testing.assert_allclose(got[:, :624][:, universal].sum(1), 1.0, rtol=0, atol=1e-14)


@pytest.mark.parametrize("block", ["a", "b"])
@pytest.mark.parametrize("scalar", ["keypoints", "vertices"])
def test_golden_gradients(golden, load_anny, x64, block, scalar):
    model = load_anny("float64", extended=block == "b")
    params = golden_params(golden, block, jnp.float64)
    function, target = (
        (keypoint_gradient, golden[f"{block}_target_keypoints"])
        if scalar == "keypoints"
        else (vertex_gradient, golden[f"{block}_target_point"])
    )
    loss, gradient = function(model, params, jnp.asarray(target))
    np.testing.assert_allclose(loss, golden[f"{block}_loss_{scalar}"].sum(), rtol=1e-12)
    name = f"{block}_grad_{scalar}_"
    assert max_relative(gradient.root_rotvec, golden[name + "rotvec"][:, 0]) <= GRADIENT
    assert max_relative(gradient.pose_rotvec, golden[name + "rotvec"][:, 1:]) <= GRADIENT
    assert max_relative(gradient.translation, golden[name + "translation"]) <= GRADIENT
    official = golden[name + "phenotypes"]
    # The release divides 0 by 0 where all three races are 0; we define that gradient as 0.
    undefined = np.isnan(official)
    assert undefined.sum() == (3 if block == "b" else 0)
    np.testing.assert_array_equal(np.asarray(gradient.phenotypes)[undefined], 0.0)
    assert max_relative(gradient.phenotypes, np.where(undefined, 0.0, official)) <= GRADIENT
    if block == "b":
        assert max_relative(gradient.local_changes, golden[name + "local"]) <= GRADIENT


@pytest.mark.parametrize("pose_mode", anny.POSE_MODES)
def test_golden_pose_modes(golden, load_anny, dtype, pose_mode):
    cases, name = golden["c_cases"], pose_mode.replace("-", "_")
    deltas = np.tile(np.eye(4), (2, 163, 1, 1))
    if pose_mode == "world":
        deltas[:, :, :3] = golden["a_bone_poses"][cases]
        deltas[..., 0, 3] += 0.1
    else:
        deltas[..., :3, :3] = (
            Rotation.from_rotvec(golden["a_rotvec"][cases].reshape(-1, 3)).as_matrix().reshape(2, -1, 3, 3)
        )
        deltas[:, 0, :3, 3] = golden["a_translation"][cases]
    out = forward_transforms(
        load_anny(dtype),
        jnp.asarray(golden["a_phenotypes"][cases], dtype),
        jnp.asarray(deltas, dtype),
        pose_mode=pose_mode,
    )
    official = golden[f"c_bone_poses_{name}"]
    assert max_abs(out.bone_poses[:, :, :3, 3], official[..., 3]) <= POSITION[dtype.name]
    assert max_abs(out.bone_poses[:, :, :3, :3], official[..., :3]) <= ORIENTATION[dtype.name]
    assert max_abs(out.keypoints, golden[f"c_keypoints_{name}"]) <= POSITION[dtype.name]


def test_labels_are_the_official_ones(golden, load_anny):
    labels, extended = load_anny().labels, load_anny(extended=True).labels
    assert labels.bones == tuple(golden["bone_labels"])
    assert labels.parents == tuple(golden["bone_parents"])
    assert labels.keypoints == tuple(golden["keypoint_labels"])
    assert labels.phenotypes == anny.PHENOTYPE_LABELS == tuple(golden["phenotype_labels"])
    assert extended.phenotypes == anny.ALL_PHENOTYPE_LABELS == tuple(golden["b_phenotype_labels"])
    assert (labels.local_changes, extended.local_changes) == ((), tuple(golden["b_local_change_labels"]))
    np.testing.assert_array_equal(load_anny().faces, golden["faces"])


# ------------------------------------------------------------------------------------------------ invariances


def test_root_motion_is_rigid(load_anny, x64):
    model, params = load_anny("float64"), random_params(2, jnp.float64)
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
    model, params = load_anny(dtype), random_params(2, dtype, angle=0.0)
    out, (vertices, poses) = forward(model, params), rest(model, params.phenotypes)
    turn = np.asarray(rotations.rotvec_to_matrix(params.root_rotvec))
    head, place = np.asarray(poses[:, 0, :, 3]), np.asarray(params.translation)[:, None]
    expected = np.einsum("nij,nvj->nvi", turn, vertices - head[:, None]) + place
    tolerance = 1e-12 if dtype == jnp.float64 else 2e-6
    assert max_abs(out.vertices, expected) <= tolerance
    assert max_abs(out.bone_poses[:, 0, :3, 3], params.translation) <= tolerance


def test_identity_input_of_local_bone_world_is_the_rest_body(load_anny, x64):
    model, phenotypes = load_anny("float64"), random_params(2, jnp.float64).phenotypes
    identity = jnp.broadcast_to(jnp.eye(4), (2, 163, 4, 4))
    out = forward_transforms(model, phenotypes, identity, pose_mode="local-bone-world")
    vertices, poses = rest(model, phenotypes)
    assert max_abs(out.vertices, vertices) <= 1e-12
    assert max_abs(out.bone_poses[:, :, :3], poses) <= 1e-12


def test_default_extras_of_eleven_phenotypes_are_the_six_phenotype_body(load_anny, x64):
    """The corner basis and the row-by-row sum are two routes to the same body."""
    params = random_params(3, jnp.float64)
    extended = params._replace(phenotypes=jnp.concatenate([params.phenotypes, jnp.full((3, 5), 0.5)], -1))
    few, many = forward(load_anny("float64"), params), forward(load_anny("float64", extended=True), extended)
    assert max_abs(many.vertices, few.vertices) <= 1e-11
    assert max_abs(many.bone_poses, few.bone_poses) <= 1e-9


def test_absent_local_changes_are_zero_and_races_need_no_normalising(load_anny, x64):
    model, rng = load_anny("float64", extended=True), np.random.default_rng(5)
    params = random_params(2, jnp.float64)._replace(phenotypes=jnp.asarray(rng.uniform(0.1, 1, (2, 11))))
    base = forward(model, params).vertices
    assert max_abs(forward(model, params._replace(local_changes=jnp.zeros((2, 254)))).vertices, base) <= 1e-13
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
    model, params = load_anny("float64"), random_params(2, jnp.float64)
    last = [params.phenotypes.T, params.root_rotvec.T, params.pose_rotvec.transpose(2, 1, 0), params.translation.T]
    vertices = jax.jit(anny.vertices_people_last)(model, *last)
    assert max_abs(vertices.transpose(2, 1, 0), forward(model, params).vertices) <= 1e-13
    body = contracted("float64", "keypoints")
    got = jax.jit(anny.points_people_last)(body, *last)
    assert max_abs(got.transpose(2, 1, 0), points(body, params)) <= 1e-13


# ------------------------------------------------------------------------------------------------ contracted points


@pytest.mark.parametrize("kind", ["keypoints", "vertices", "barycentric"])
def test_contracted_points_are_regressed_vertices(load_anny, contracted, dtype, kind):
    model, params = load_anny(dtype), random_params(6, dtype)
    regressor = surface_regressor(model, kind)
    body = contracted(dtype, kind)
    got = points(body, params)
    assert body.num_points == len(regressor)
    vertices = np.asarray(forward(model, params).vertices, np.float64)
    expected = np.einsum("kv,nvi->nki", regressor.astype(np.float64), vertices)
    assert max_abs(got, expected) <= (1e-12 if dtype == jnp.float64 else 2e-6)


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


# ------------------------------------------------------------------------------------------------ programming interface


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phenotypes": (2, 11)}, r"phenotypes must be \(\.\.\., 6\).*gender.*'all'"),
        ({"phenotypes": (2, 5)}, r"phenotypes must be \(\.\.\., 6\)"),
        ({"pose_rotvec": (2, 163, 3)}, r"pose_rotvec must be \(\.\.\., 162, 3\), got \(2, 163, 3\)"),
        ({"pose_rotvec": (2, 162, 4)}, r"pose_rotvec must be \(\.\.\., 162, 3\)"),
        ({"root_rotvec": (2, 4)}, r"root_rotvec must be \(\.\.\., 3\), got \(2, 4\)"),
        ({"translation": (2, 1)}, r"translation must be \(\.\.\., 3\), got \(2, 1\)"),
        ({"local_changes": (2, 254)}, r"local_changes.*local_changes=True"),
        ({"translation": (5, 3)}, r"do not broadcast.*translation \(5,\)"),
    ],
)
@pytest.mark.parametrize("function", ["forward", "points"])
def test_wrong_shapes_are_named(load_anny, change, message, function):
    model = load_anny()
    params = random_params(2, jnp.float32)._replace(**{k: jnp.zeros(shape) for k, shape in change.items()})
    body = model if function == "forward" else anny.contract(model, anny.vertex_regressor(model, np.array([7])))
    with pytest.raises(ValueError, match=message):
        getattr(anny, function)(body, params)


def test_local_changes_of_another_length_are_refused(load_anny):
    model = load_anny(extended=True)
    params = random_params(2, jnp.float32)._replace(
        phenotypes=jnp.full((2, 11), 0.5), local_changes=jnp.zeros((2, 256))
    )
    with pytest.raises(ValueError, match=r"local_changes must be \(\.\.\., 254\), got \(2, 256\)"):
        anny.forward(model, params)


def test_wrong_arguments_are_named(load_anny):
    model = load_anny()
    with pytest.raises(ValueError, match="'default' or 'all', got 'some'"):
        anny.load("some")
    with pytest.raises(ValueError, match=r"pose_mode must be one of.*'root_relative'"):
        anny.forward_transforms(model, jnp.full(6, 0.5), jnp.tile(jnp.eye(4), (163, 1, 1)), pose_mode="root_relative")
    with pytest.raises(ValueError, match=r"regressor must be \(K, 13718\), got \(17, 10475\)"):
        anny.contract(model, np.ones((17, 10475)))
    rows = np.zeros((3, 13718))
    rows[[0, 2], 5] = 1.0
    with pytest.raises(ValueError, match="row 1 has no non-zero weight"):
        anny.contract(model, rows)


def test_model_is_an_argument_and_new_values_do_not_retrace(load_anny, x64):
    traces = []

    @jax.jit
    def keypoints(model, params):
        traces.append(1)
        return anny.forward(model, params).keypoints

    model, params = load_anny("float64"), random_params(2, jnp.float64)
    first = keypoints(model, params)
    again = keypoints(model, random_params(2, jnp.float64, seed=9))
    other = keypoints(jax.tree.map(lambda x: x * 1, model), params)  # another model object of the same layout
    bigger = keypoints(model.replace(vertices=model.vertices.replace(mean=model.vertices.mean + 1.0)), params)
    assert len(traces) == 1
    assert max_abs(first, again) > 0.01
    np.testing.assert_array_equal(first, other)
    assert max_abs(first, bigger) > 0.1
    keypoints(model, random_params(3, jnp.float64))
    assert len(traces) == 2  # another batch size is another program


def test_models_from_two_loads_share_a_program():
    first, second = anny.load(), anny.load()
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert hash(first.labels) == hash(second.labels)
