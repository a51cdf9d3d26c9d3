"""From outputs to people, against the recordings of the released program."""

from __future__ import annotations

import aios_golden as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs

from annyfit_jax.regressors.aios import postprocess
from annyfit_jax.regressors.aios.aios_model import LayerOutput
from annyfit_jax.regressors.aios.heads import BodyPrediction, PartRotations
from body_models.rotations import rotvec_to_matrix

pytestmark = pytest.mark.unoptimised


PEOPLE, MATRICES = jax.jit(postprocess.people, static_argnums=(3, 4)), jax.jit(rotvec_to_matrix)


def test_people_of_the_recorded_outputs():
    """Choice, boxes, rotations and translation of the recorded last layer."""
    found = golden.under("post_in/", golden.arrays("prep_post"))
    full = found["pred_smpl_fullpose"].reshape(2, 9, 53, 3)
    parts = (full[:, :, :22], full[:, :, 22:37], full[:, :, 37:52], full[:, :, 52:])
    rotations = PartRotations(*(MATRICES(part) for part in parts))
    shape, camera, expression = (jnp.asarray(found[f"pred_smpl_{key}"]) for key in ("beta", "cam", "expr"))
    body = BodyPrediction(rotations, shape, camera, expression)
    sides = {f"{name}_boxes": jnp.asarray(found[f"pred_{side}_boxes"]) for name, side in
             (("left_hand", "lhand"), ("right_hand", "rhand"), ("face", "face"))}  # fmt: skip
    output = LayerOutput(jnp.asarray(found["pred_logits"]), jnp.asarray(found["pred_boxes"]), **sides, body=body)
    size = jnp.asarray(found["img_hw"][:, ::-1].astype(np.float32))
    count = int(golden.arrays("prep_post")["post_num_select"])
    got = jax.device_get(PEOPLE(output, size, np.ones((2, 2), np.float32), 0.0, count))
    for image in range(2):
        expected = golden.under(f"post_out{image}/", golden.arrays("prep_post"))
        np.testing.assert_allclose(got.scores[image], expected["scores"], rtol=1e-5)
        np.testing.assert_array_equal(got.valid[image], expected["labels"] == 1)
        assert max_abs(got.boxes[image], expected["body_bbox"]) < 1e-2
        for part, key in enumerate(("lhand_bbox", "rhand_bbox", "face_bbox")):
            assert max_abs(got.part_boxes[image, :, part], expected[key]) < 1e-2
        for ours, key in (
            (got.rotvecs.body[image, :, 0], "smplx_root_pose"), (got.rotvecs.body[image, :, 1:], "smplx_body_pose"),
            (got.rotvecs.left_hand[image], "smplx_lhand_pose"), (got.rotvecs.right_hand[image], "smplx_rhand_pose"),
            (got.rotvecs.face[image], "smplx_jaw_pose"),
        ):  # fmt: skip
            assert max_abs(MATRICES(ours), MATRICES(expected[key].reshape(ours.shape))) < 1e-4, key
        assert max_abs(got.shape[image], expected["smplx_shape"]) < 1e-5
        np.testing.assert_allclose(got.transl[image], expected["cam_trans"], rtol=1e-4)


def test_the_camera_is_that_of_the_original_picture():
    """A resized picture: what projects to a pixel there projects to the same place here."""
    body = BodyPrediction(
        PartRotations(*(jnp.broadcast_to(jnp.eye(3), (1, 1, n, 3, 3)) for n in (22, 15, 15, 1))),
        jnp.zeros((1, 1, 10)), jnp.array([[[0.1, 0.02, -0.03]]]), jnp.zeros((1, 1, 10)),
    )  # fmt: skip
    box = jnp.array([[[0.5, 0.5, 0.2, 0.4]]])
    output = LayerOutput(
        jnp.array([[[-9.0, 3.0]]]), box, left_hand_boxes=box, right_hand_boxes=box, face_boxes=box, body=body
    )
    got = jax.device_get(PEOPLE(output, jnp.array([[400.0, 300.0]]), jnp.array([[0.5, 0.25]])))
    point = np.asarray(got.intrinsics[0] @ got.transl[0, 0])
    pixel = point[:2] / point[2]
    resized = np.array([5000 * 0.02 + 200, 5000 * -0.03 + 150])
    np.testing.assert_allclose(pixel, resized / [0.5, 0.25], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(got.boxes[0, 0], [320, 360, 480, 840], rtol=1e-5)
    assert got.valid[0].tolist() == [True, False]
