"""Rigs: our own skinning of the bones gives back the body, and pruned weights stay weights."""

from __future__ import annotations

import compiled_bodies
import jax.numpy as jnp
import numpy as np
import pytest
import smplx_synthetic
from fitted_people import make_fit
from helpers import max_abs

from annyfit_jax.exports import rigs
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.scene import BodyParameters
from body_models import smplx


@pytest.fixture(scope="module")
def meshes(load_anny):
    return BodyMeshes(load_anny())


@pytest.fixture(scope="module")
def people():
    return make_fit().parameters.select(np.arange(2))


def test_bones_and_weights_make_the_fitted_mesh(meshes, people):
    rig = rigs.anny_rig(meshes.model, rigs.MOST_INFLUENCES)
    for person, vertices in zip(rigs.rigged_anny(meshes.model, people), meshes.vertices(people)):
        world = rigs.world_poses(rig, rigs.local_poses(rig, person, np.eye(4)))
        assert max_abs(rigs.skinned(rig, person, world), vertices) < 1e-5


def test_the_bind_pose_stands_in_gltf_axes(meshes, people):
    """Metres, y up, looking along +z, the left at +x; an upright person's root is not turned."""
    person = next(rigs.rigged_anny(meshes.model, people))
    bones = meshes.model.labels.bones
    height = np.ptp(person.vertices[:, 1])
    assert 1.9 < height < 2.1  # a tall one
    toes, heel = person.tips[bones.index("toe1-2.L")], person.bind[bones.index("foot.L"), :, 3]
    assert toes[2] > heel[2] + 0.05
    assert person.bind[bones.index("wrist.L"), 0, 3] > 0.3
    np.testing.assert_allclose(np.diag([1, -1, -1]) @ person.root[:, :3], np.eye(3), atol=1e-6)
    np.testing.assert_array_equal(person.bind[0, :, :3], np.eye(3))
    along = person.tips - person.bind[:, :, 3]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    assert (np.einsum("bi,bi->b", along, person.bind[:, :, 1])[1:] > 0.9999).all()  # y runs along the bone


def test_pruned_weights_are_the_largest_and_sum_to_one():
    weights = np.array([[0.5, 0.1, 0.4], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
    joints, kept = rigs.largest_weights(weights, 2)
    np.testing.assert_array_equal(joints, [[0, 2], [1, 0], [2, 1]])
    np.testing.assert_allclose(kept, [[5 / 9, 4 / 9], [1, 0], [5 / 8, 3 / 8]], rtol=1e-6)
    assert kept.dtype == np.float32
    assert np.abs(kept.astype(np.float64).sum(1) - 1).max() < 1e-7


@pytest.mark.parametrize("influences", [0, 13])
def test_a_number_that_no_mesh_holds_is_refused(influences):
    with pytest.raises(ValueError, match="influences must be 1 to 12"):
        rigs.largest_weights(np.ones((2, 3)) / 3, influences)


def test_twelve_influences_leave_nothing_out(meshes):
    most = (np.asarray(meshes.model.skin) > 0).sum(0).max()
    assert most <= rigs.MOST_INFLUENCES


def test_joints_and_weights_of_smplx_make_its_mesh(tmp_path):
    """The correctives of the pose are in the bind mesh."""
    model = smplx.load(smplx_synthetic.save(tmp_path))
    drawn = smplx_synthetic.parameters(2)
    people = BodyParameters(drawn["root_rotvec"], drawn["translation"], drawn["pose_rotvec"], drawn["betas"])
    rig = rigs.smplx_rig(model, 4)  # no vertex of it has more
    arrays = (people.shape, people.root_rotvec, people.pose, people.transl)
    expected = compiled_bodies.smplx_forward(model, smplx.Params(*(jnp.asarray(x, "float32") for x in arrays))).vertices
    for person, vertices in zip(rigs.rigged_smplx(model, people), expected):
        world = rigs.world_poses(rig, rigs.local_poses(rig, person, np.eye(4)))
        assert max_abs(rigs.skinned(rig, person, world), vertices) < 1e-5
