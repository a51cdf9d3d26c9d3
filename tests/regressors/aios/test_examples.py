"""From annotated pictures to batches: HumanData and fits, mirroring, crops, targets in shares of the result.

The recordings of preprocessing are compared in `test_picture_preprocess.py`.
"""

from __future__ import annotations

import io
from typing import Any

import aios_golden as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from export_cases import make_job
from helpers import max_abs
from hypothesis import given, settings
from hypothesis import strategies as st

from annyfit_jax.exports.humandata_export import write_entries
from annyfit_jax.exports.training_set import write_training_set
from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.people.scene import SceneError
from annyfit_jax.regressors.aios import augment, body_points, examples
from annyfit_jax.regressors.aios.aios_config import ANNY, SMPLX
from annyfit_jax.regressors.aios.augment import Augmentation
from annyfit_jax.regressors.aios.examples import Example, FitsSource, HumanDataSource
from annyfit_jax.regressors.aios.targets import SMPLX_POINTS, PartArrays, Targets
from body_models import anny

WIDTH, HEIGHT = 60, 40


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def example(seed: int = 0, head=SMPLX, n: int = 3) -> Example:
    """People inside the picture, everything known."""
    rng = np.random.default_rng(seed)
    full = np.array([WIDTH, HEIGHT])

    def joints(*shape: int) -> np.ndarray:
        return np.concatenate([rng.uniform(0, full - 1, (*shape, 2)), np.ones((*shape, 1))], -1)

    low, high = np.sort(rng.uniform(0, 1, (2, n, 2)), axis=0) * full
    rotvecs = PartArrays(*(rng.normal(size=(n, len(bones), 3)).astype(np.float32) for bones in head.parts.values()))
    valid = PartArrays(*(np.ones(x.shape[:2], np.float32) for x in rotvecs))
    points = 137 if head is SMPLX else 0
    body: Any = (
        rotvecs,
        valid,
        rng.uniform(size=(n, head.shape)),
        np.ones(n),
        np.zeros((n, head.expression)),
        np.ones(n),
    )
    return Example(
        name="drawn", photo=png(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)), size=(WIDTH, HEIGHT),
        boxes=np.concatenate([low, high - low], 1), part_boxes=rng.uniform(5, 15, (n, 3, 4)), body_joints=joints(n, 17),
        part_joints=joints(n, 3, 6), body=examples._body(*body), points=rng.normal(size=(n, points, 4)),
        image_points=joints(n, points), transl=rng.normal(size=(n, 3)) + np.array([0, 0, 5]),
        intrinsics=np.array([[70.0, 0, 31], [0, 72, 19], [0, 0, 1]]), has_3d=1.0,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ tables


def test_tables_are_the_recorded_ones():
    maps = golden.table("keypoint_maps")
    assert list(examples.COCO_FROM_137) == maps["coco_17_from_137"]
    sides = [maps[f"{side}_6_from_137"] for side in ("lhand", "rhand", "face")]
    assert [list(part) for part in examples.PARTS_FROM_137] == sides
    assert list(examples.TRUE_FROM_144) == maps["smplx_137_from_144_used_for_ground_truth"]
    mirror = list(range(137))
    for a, b in maps["flip_pairs_137"]:
        mirror[a], mirror[b] = b, a
    assert list(body_points.SMPLX_MIRROR) == mirror
    bones = (*SMPLX.body, *SMPLX.left_hand, *SMPLX.right_hand, *SMPLX.face)
    pairs = {tuple(sorted((k, bones.index(augment.other_side(name))))) for k, name in enumerate(bones)}
    assert {pair for pair in pairs if pair[0] != pair[1]} == {tuple(pair) for pair in maps["flip_pairs_53_pose"]}


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
    order = [names.index(augment.other_side(name)) for name in names]
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


# ------------------------------------------------------------------------------------------------ HumanData


def smplx_file(path, **changes) -> None:
    """Two pictures with one and two people, official layout."""
    rng = np.random.default_rng(0)
    size = {"width": np.array([60, 60, 60]), "height": np.array([40, 40, 40])}
    parts = {"global_orient": 1, "body_pose": 21, "jaw_pose": 1, "left_hand_pose": 15, "right_hand_pose": 15}
    content: dict[str, Any] = {
        "image_path": np.array(["a.png", "b.png", "b.png"]),
        "frame_range": np.array([[0, 1], [1, 3]]),
        "bbox_xywh": np.array([[1, 2, 30, 20, 1], [3, 4, 20, 20, 1], [0, 0, 9, 9, 1]], np.float32),
        "lhand_bbox_xywh": np.array([[1, 2, 3, 4, 1], [1, 2, 3, 4, 0], [1, 2, 3, 4, 1]], np.float32),
        "keypoints2d_original": np.concatenate([rng.uniform(0, 40, (3, 190, 2)), np.ones((3, 190, 1))], -1),
        "keypoints2d_original_mask": (np.arange(190) != 16).astype(np.uint8),
        "keypoints3d_original": rng.normal(size=(3, 190, 4)),
        "smplx": {
            **{name: rng.normal(size=(3, bones, 3)) for name, bones in parts.items()},
            "betas": rng.normal(size=(3, 10)), "expression": rng.normal(size=(3, 10)), "transl": rng.normal(size=(3, 3)),
        },
        "meta": size,
        **changes,
    }  # fmt: skip
    write_entries(path, {name: value for name, value in content.items() if value is not None})


def test_official_annotations(tmp_path):
    smplx_file(tmp_path / "x.npz")
    source = HumanDataSource((str(tmp_path / "x.npz"),), "pictures", SMPLX, has_3d=False)
    assert len(source) == 2
    found = source[1]
    assert str(found.photo) == "pictures/b.png"
    assert found.has_3d == 0
    np.testing.assert_array_equal(found.boxes, [[3, 4, 20, 20], [0, 0, 9, 9]])
    assert not found.part_boxes[0, 0].any() and found.part_boxes[1, 0, 2] == 3
    from annyfit_jax.exports.humandata_export import read_humandata

    content = read_humandata(tmp_path / "x.npz")
    keypoints = content["keypoints2d_original"][1:]
    # COCO: nose is joint 55 of the 144, the left shoulder (16) is not in this file.
    np.testing.assert_allclose(found.body_joints[:, 0], keypoints[:, 55])
    assert not found.body_joints[:, 5, 2].any() and found.body_joints[:, 6, 2].all()
    np.testing.assert_allclose(found.body.rotvecs.body[:, 1:], content["smplx"]["body_pose"][1:], rtol=1e-6)
    np.testing.assert_allclose(found.body.rotvecs.right_hand, content["smplx"]["right_hand_pose"][1:], rtol=1e-6)
    assert found.body.rotvec_valid.face.all() and found.body.expression_valid.all()
    other = HumanDataSource((str(tmp_path / "x.npz"),), "pictures", ANNY)[1]
    assert not other.body.rotvec_valid.body.any() and not other.body.shape_valid.any()
    np.testing.assert_array_equal(other.body_joints, found.body_joints)
    assert len(HumanDataSource((str(tmp_path / "x.npz"),), "pictures", SMPLX, every=2)) == 1


def test_annotations_without_what_is_needed(tmp_path):
    smplx_file(tmp_path / "x.npz", bbox_xywh=None)
    with pytest.raises(SceneError, match=r"x\.npz: bbox_xywh: missing"):
        HumanDataSource((str(tmp_path / "x.npz"),), "", SMPLX)
    smplx_file(tmp_path / "y.npz", meta={"width": np.array([1, 1, 1])})
    with pytest.raises(SceneError, match=r"y\.npz: meta: height: missing"):
        HumanDataSource((str(tmp_path / "y.npz"),), "", SMPLX)
    smplx_file(tmp_path / "z.npz", smplx=None, keypoints3d_original=None)
    found = HumanDataSource((str(tmp_path / "z.npz"),), "", SMPLX)[0]
    assert not found.body.shape_valid.any() and not found.points.any()


# ------------------------------------------------------------------------------------------------ fits


def test_fits_with_their_photos(tmp_path):
    """A dataset written by the export: people with a fit, their parameters by bone, boxes around their keypoints."""
    fits = open_fits(make_job(tmp_path / "job"))
    stored = {fit.name: fit for fit in fits if fit.ok.any()}

    def photo(outcome) -> bytes:
        width, height = outcome.fit.image_size
        return png(np.full((height, width, 3), 7, np.uint8))

    write_training_set(fits, tmp_path / "set", photo=photo)
    source = FitsSource(str(tmp_path / "set"), ANNY)
    assert len(source) == len(stored)
    for found, fit in zip((source[k] for k in range(len(source))), stored.values()):
        assert found.name.endswith(fit.name)
        assert examples.pixels(found).shape == (fit.image_size[1], fit.image_size[0], 3)
        own = np.flatnonzero(fit.ok)
        np.testing.assert_array_equal(found.transl, fit.transl[own])
        np.testing.assert_array_equal(found.body.rotvecs.body[:, 0], fit.root_rotvec[own])
        bones = list(fit.bone_labels)
        wrist = ANNY.body.index("wrist.L")
        np.testing.assert_array_equal(found.body.rotvecs.body[:, wrist], fit.pose[own, bones.index("wrist.L")])
        assert found.body.rotvec_valid.left_hand.all() and found.body.shape_valid.all()
        np.testing.assert_allclose(found.body.shape[:, :6], np.clip(fit.shape[own], 0, 1))
        assert (np.asarray(found.body.shape)[:, 6:] == 0.5).all()
        for box, joints in zip(found.boxes, found.body_joints):
            inside = joints[joints[:, 2] > 0, :2]
            inside = np.clip(inside, 0, found.size)
            assert (inside >= box[:2] - 1e-3).all() and (inside <= box[:2] + box[2:] + 1e-3).all()
    other = FitsSource(str(tmp_path / "set"), SMPLX)[0]
    assert not other.body.rotvec_valid.body.any() and not other.transl.any()
    with pytest.raises(SceneError, match="expected a dataset of fits"):
        FitsSource(str(tmp_path), ANNY)
