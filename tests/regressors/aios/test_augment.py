"""Mirroring, completion, crops: what must hold of an augmented picture and its targets."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aios_examples import HEIGHT, WIDTH, example, png
from helpers import max_abs
from hypothesis import given, settings
from hypothesis import strategies as st

from annyfit_jax.people.anatomy import other_side
from annyfit_jax.people.scene import SceneError
from annyfit_jax.regressors.aios import augment, body_points, examples
from annyfit_jax.regressors.aios.aios_config import ANNY, SMPLX
from annyfit_jax.regressors.aios.augment import Augmentation
from annyfit_jax.regressors.aios.examples import Example
from annyfit_jax.regressors.aios.targets import SMPLX_POINTS, Targets
from body_models import anny


@jax.jit
def completed_anny(body: anny.AnnyModel, targets: Targets) -> Targets:
    layout = body_points.ANNY_POINTS
    return body_points.completed(targets, layout, lambda prediction: body_points.anny_points(body, prediction))


# ------------------------------------------------------------------------------------------------ mirroring


@pytest.mark.parametrize("head", [SMPLX, ANNY], ids=["smplx", "anny"])
def test_mirroring_twice_changes_nothing(head):
    before = example(head=head)
    after = augment.mirrored(augment.mirrored(before, head), head)
    for name in ("boxes", "part_boxes", "body_joints", "part_joints", "points", "image_points", "transl", "intrinsics"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), atol=1e-9, err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, after.body, before.body)


def test_a_mirrored_pose_is_the_mirrored_body():
    """Anny: the points of the mirrored parameters are the mirror image of the points, left and right exchanged."""
    body = anny.load("all")
    before = example(head=ANNY, n=2)
    before = before._replace(body=before.body._replace(rotvecs=jax.tree.map(lambda x: 0.3 * x, before.body.rotvecs)))
    after = augment.mirrored(before, ANNY)

    def points(found: Example) -> np.ndarray:
        fields: Any = dict.fromkeys(Targets._fields)
        fields |= {
            "people": jnp.ones((1, 2), bool), "body": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32)[None], found.body),
            "points": jnp.zeros((1, 2, 0, 4)), "relative_points": jnp.zeros((1, 2, 0, 4)),
            "image_points": jnp.zeros((1, 2, 0, 3)), "transl": jnp.asarray(found.transl, jnp.float32)[None],
            "intrinsics": jnp.asarray(found.intrinsics, jnp.float32)[None], "image_size": jnp.array([[WIDTH, HEIGHT]]),
        }  # fmt: skip
        done = completed_anny(body, Targets(**fields))
        assert (np.asarray(done.points)[..., 3] == 1).all()
        return np.asarray(done.points)[0, ..., :3]

    names = body_points._ANNY_NAMES
    order = [names.index(other_side(name)) for name in names]
    # The base mesh is not quite symmetric: bones lie up to a centimetre off, most of them within a millimetre or two.
    distance = np.linalg.norm(points(after) - points(before)[:, order] * [-1, 1, 1], axis=-1)
    assert distance.max() < 1.5e-2
    assert np.median(distance) < 4e-3


def test_completed_targets_project_with_the_true_camera():
    body, layout = anny.load("all"), body_points.ANNY_POINTS
    drawn = example(head=ANNY, n=2)
    row = augment.prepare(drawn, np.random.default_rng(0), Augmentation.none(HEIGHT, 200), ANNY, 4)
    batched = augment.batch([row]).targets
    assert batched is not None
    done = completed_anny(body, batched)
    xyz = np.asarray(done.points)[0, :2, :, :3]
    pixel = xyz @ drawn.intrinsics.T
    share = pixel[..., :2] / pixel[..., 2:] / [WIDTH, HEIGHT]
    got = np.asarray(done.image_points)[0]
    inside = ((share >= 0) & (share < 1)).all(-1) & (xyz[..., 2] > 0.1)
    np.testing.assert_array_equal(got[:2, :, 2] > 0, inside)
    assert np.abs(got[:2, :, :2] - share)[inside].max() < 1e-4
    assert not got[2:].any()  # people who are not there
    relative = np.asarray(done.relative_points)[0, :2]
    left = layout.span("left_hand")
    wrist = np.asarray(done.points)[0, :2, layout.left_wrist, None, :3]
    assert max_abs(relative[:, left, :3], xyz[:, left] - wrist) < 1e-5


def test_given_points_are_kept():
    """Annotated points with confidence stay, the body's fill the rest."""
    drawn = example(head=SMPLX)
    confidence = np.arange(137) % 2
    drawn = drawn._replace(points=np.concatenate([drawn.points[..., :3], np.tile(confidence, (3, 1))[..., None]], -1))
    row = augment.prepare(drawn, np.random.default_rng(0), Augmentation.none(HEIGHT, 200), SMPLX, 3)
    batched = augment.batch([row]).targets
    assert batched is not None
    own = np.random.default_rng(3).normal(size=(1, 3, 137, 3)).astype(np.float32)
    done = body_points.completed(batched, SMPLX_POINTS, lambda p: jnp.asarray(own))
    got, given = np.asarray(done.points)[0], confidence > 0
    assert max_abs(got[:, given, :3], drawn.points[:, given, :3]) < 1e-6
    assert max_abs(got[:, ~given, :3], own[0][:, ~given] + drawn.transl[:, None]) < 1e-5


# ------------------------------------------------------------------------------------------------ rows


def test_a_flip_mirrors_picture_and_targets_alike():
    """A white pixel stays under the joint that marks it."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[10, 20] = 255
    drawn = example()
    body_joints = drawn.body_joints.copy()
    body_joints[0, 9] = 20, 10, 1  # left wrist
    drawn = drawn._replace(photo=png(pixels), body_joints=body_joints, boxes=np.tile([0.0, 0, WIDTH, HEIGHT], (3, 1)))
    for flip, joint in ((0.0, 9), (1.0, 10)):
        config = Augmentation(flip=flip, colour=0.0, short_sides=(HEIGHT,), long_limit=200)
        row = augment.prepare(drawn, np.random.default_rng(1), config, SMPLX, 3)
        y, x = np.unravel_index(row.image.sum(-1).argmax(), row.image.shape[:2])
        found = np.asarray(row.targets.body_joints)[0, joint]
        np.testing.assert_allclose(found[:2] * [WIDTH, HEIGHT], [x, y], atol=1e-4)
        assert found[2] == 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), crop=st.booleans())
def test_rows_are_sound_whatever_is_drawn(seed, crop):
    config = Augmentation(short_sides=(24, 32, 48), long_limit=64)
    drawn = example(seed % 7)
    row = augment.prepare(drawn, np.random.default_rng(seed), config, SMPLX, 2, crop=float(crop))
    again = augment.prepare(drawn, np.random.default_rng(seed), config, SMPLX, 2, crop=float(crop))
    jax.tree.map(np.testing.assert_array_equal, row, again)
    height, width = row.image.shape[:2]
    assert max(height, width) <= 64
    targets = row.targets
    np.testing.assert_array_equal(targets.image_size, [width, height])
    corners = np.asarray(targets.boxes)[np.asarray(targets.people)]
    assert (corners[:, :2] - corners[:, 2:] / 2 > -1e-6).all()
    assert (corners[:, :2] + corners[:, 2:] / 2 < 1 + 1e-6).all()
    assert (corners[:, 2:] > 0).all()
    for leaf in jax.tree.leaves(targets):
        assert np.isfinite(leaf).all()
    seen = np.asarray(targets.body_joints)
    assert ((seen[..., :2] >= 0) & (seen[..., :2] < 1)).all()


def test_the_largest_people_stay():
    drawn = example(n=3)._replace(boxes=np.array([[0.0, 0, 5, 5], [0, 0, 30, 30], [0, 0, 10, 10]]))
    row = augment.prepare(drawn, np.random.default_rng(0), Augmentation.none(HEIGHT, 200), SMPLX, 2)
    np.testing.assert_allclose(np.asarray(row.targets.boxes)[:, 2] * WIDTH, [30, 10], rtol=1e-5)


def test_pictures_of_another_size_are_refused():
    with pytest.raises(SceneError, match=r"drawn: a picture of \(60, 40\) pixels, annotated for \(61, 40\)"):
        examples.pixels(example()._replace(size=(61, 40)))
