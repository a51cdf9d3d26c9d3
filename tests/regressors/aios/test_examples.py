"""From annotated pictures to batches: HumanData and fits, mirroring, crops, targets in shares of the result.

The recordings of preprocessing are compared in `test_picture_preprocess.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aios_examples import png
from export_cases import make_job

from annyfit_jax.exports.humandata_export import write_entries
from annyfit_jax.exports.training_set import write_training_set
from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.people.scene import SceneError
from annyfit_jax.regressors.aios import examples
from annyfit_jax.regressors.aios.aios_config import ANNY, SMPLX
from annyfit_jax.regressors.aios.examples import FitsSource, HumanDataSource

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


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> None:
    """The photos that the annotations name, in `pictures` and in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png"):
        for folder in (tmp_path, tmp_path / "pictures"):
            (folder / name).touch()


@pytest.mark.usefixtures("pictures")
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


@pytest.mark.usefixtures("pictures")
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
