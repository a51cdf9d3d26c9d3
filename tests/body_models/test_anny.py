"""The Anny body against the official numbers, and its programming interface."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anny_cases import ORIENTATION, POSITION, forward, forward_transforms, golden_params, random_params, rest
from helpers import anny_golden, max_abs, stored_error
from scipy.spatial.transform import Rotation

from body_models import anny, linear


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return anny_golden()


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
