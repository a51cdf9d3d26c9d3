"""From picture to input and from outputs to people, against the recordings of the released program."""

from __future__ import annotations

import aios_golden as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs
from hypothesis import given, settings
from hypothesis import strategies as st

from annyfit_jax.regressors.aios import picture_preprocess, postprocess
from annyfit_jax.regressors.aios.aios_model import LayerOutput
from annyfit_jax.regressors.aios.heads import BodyPrediction, PartRotations
from body_models.rotations import rotvec_to_matrix


def recorded() -> dict[str, np.ndarray]:
    return golden.arrays("prep_post")


def test_output_sizes():
    for width, height, short, limit, *expected in recorded()["resize_w_h_size_max_ow_oh"]:
        got = picture_preprocess.output_size((float(width), float(height)), int(short), int(limit))
        assert got == tuple(expected), (width, height, short)


def test_crop_windows():
    for width, height, *rest in recorded()["crop_W_H_xywh_in_xywh_out"]:
        got = picture_preprocess.crop_window(np.array([rest[:4]]), (int(width), int(height)))
        np.testing.assert_array_equal(got, rest[4:])


def test_boxes_are_cleaned():
    found = recorded()
    for function, key in (
        (picture_preprocess.clip_box, "sanitize_out"),
        (picture_preprocess.enlarged_box, "process_out"),
    ):
        for box, expected in zip(found["sanitize_in"], found[key]):
            got = function(box, (640, 480))
            np.testing.assert_allclose(np.full(4, -1.0) if got is None else got, expected, atol=1e-4)


@pytest.mark.parametrize("case", range(4))
def test_warp(case):
    """OpenCV interpolates at 1/32 pixel, and so do we."""
    found = recorded()
    height, width = found[f"warp{case}_out_hw"]
    window = tuple(float(v) for v in found[f"warp{case}_bbox"])
    got = picture_preprocess.warp(found["warp_img"], window, (int(width), int(height)), bool(found[f"warp{case}_flip"]))  # pyright: ignore
    difference = np.abs(got - found[f"warp{case}_out"])
    assert difference.max() < 2e-3  # of 255


def test_normalisation():
    found = recorded()
    np.testing.assert_allclose(picture_preprocess.MEAN, found["norm_mean_rgb"])
    np.testing.assert_allclose(picture_preprocess.STD, found["norm_std_rgb"])
    image = np.full((1, 1, 3), 200.0, np.float32)
    bright = picture_preprocess.normalise(image, (1.2, 1.0, 2.0))[0, 0]
    np.testing.assert_allclose(
        bright, (np.array([240, 200, 255]) - picture_preprocess.MEAN) / picture_preprocess.STD, rtol=1e-6
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4))
def test_padding_is_at_the_right_and_bottom(sizes):
    images = [np.full((h, w, 3), k + 1.0, np.float32) for k, (h, w) in enumerate(sizes)]
    batch, padding = picture_preprocess.pad_batch(images)
    assert batch.shape[1:3] == (max(h for h, _ in sizes), max(w for _, w in sizes))
    for k, (h, w) in enumerate(sizes):
        np.testing.assert_array_equal(batch[k, :h, :w], images[k])
        assert not padding[k, :h, :w].any()
        assert (~padding[k]).sum() == h * w
        assert not batch[k][padding[k]].any()


def test_images_larger_than_the_bucket_are_refused():
    with pytest.raises(ValueError, match="5 x 4 do not fit the padded size 4 x 4"):
        picture_preprocess.pad_batch([np.zeros((4, 5, 3), np.float32)], (4, 4))


def test_people_of_the_recorded_outputs():
    """Choice, boxes, rotations and translation of the recorded last layer."""
    found = golden.under("post_in/", recorded())
    full = found["pred_smpl_fullpose"].reshape(2, 9, 53, 3)
    parts = (full[:, :, :22], full[:, :, 22:37], full[:, :, 37:52], full[:, :, 52:])
    rotations = PartRotations(*(rotvec_to_matrix(jnp.asarray(part)) for part in parts))
    shape, camera, expression = (jnp.asarray(found[f"pred_smpl_{key}"]) for key in ("beta", "cam", "expr"))
    body = BodyPrediction(rotations, shape, camera, expression)
    sides = {f"{name}_boxes": jnp.asarray(found[f"pred_{side}_boxes"]) for name, side in
             (("left_hand", "lhand"), ("right_hand", "rhand"), ("face", "face"))}  # fmt: skip
    output = LayerOutput(jnp.asarray(found["pred_logits"]), jnp.asarray(found["pred_boxes"]), **sides, body=body)
    size = jnp.asarray(found["img_hw"][:, ::-1].astype(np.float32))
    count = int(recorded()["post_num_select"])
    got = jax.jit(postprocess.people, static_argnums=(3, 4))(output, size, jnp.ones((2, 2)), 0.0, count)
    for image in range(2):
        expected = golden.under(f"post_out{image}/", recorded())
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
            theirs = rotvec_to_matrix(jnp.asarray(expected[key]).reshape(ours.shape))
            assert max_abs(rotvec_to_matrix(ours), theirs) < 1e-4, key
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
    got = postprocess.people(output, jnp.array([[400.0, 300.0]]), jnp.array([[0.5, 0.25]]))
    point = np.asarray(got.intrinsics[0] @ got.transl[0, 0])
    pixel = point[:2] / point[2]
    resized = np.array([5000 * 0.02 + 200, 5000 * -0.03 + 150])
    np.testing.assert_allclose(pixel, resized / [0.5, 0.25], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(got.boxes[0, 0], [320, 360, 480, 840], rtol=1e-5)
    assert got.valid[0].tolist() == [True, False]
