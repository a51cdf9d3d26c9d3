"""Starting bodies from files of predictions."""

from __future__ import annotations

import numpy as np
import pytest
from plain_photos import photo

from annyfit_jax.inputs.official import bone_order
from annyfit_jax.people.scene import SceneError
from experts.adapters import start_files
from experts.interfaces import ExpertError, People, Photo

# ------------------------------------------------------------------------------------------------ start files


def test_multihmr_predictions_go_to_the_person_they_cover(tmp_path):
    rng = np.random.default_rng(0)
    order = rng.permutation(163)
    labels = np.array(bone_order())[order]

    def prediction(centre, depth):
        rotvec = rng.normal(size=(163, 3)).astype(np.float32)
        return {
            "rotvec": rotvec[order], "shape": np.array([0.9, 0.2], np.float32), "transl": np.array([0, 0, depth], np.float32),
            "transl_pelvis": np.array([[0, 1, depth]], np.float32), "bone_labels": labels.astype(str),
            "shape_keys": np.array(["age", "gender"]),
            "j2d": (np.array(centre) + rng.uniform([-10, -35], [10, 35], (163, 2))).astype(np.float16),
        }, rotvec  # fmt: skip

    (far, far_rotvec), (near, _) = prediction((150, 50), 7.0), prediction((50, 50), 3.0)
    np.savez(tmp_path / "p.npz", multihmr_pred=np.array([near, far], object))
    people = People(np.array([[135.0, 10, 165, 90], [90, 0, 110, 20], [38, 12, 62, 88]]), ["0", "1", "2"])
    expert = start_files.MultiHmrFiles(str(tmp_path))
    expert.load()
    (bodies,) = expert.start([photo()], [people])
    assert bodies.transl[[0, 2]].tolist() == [[0, 1, 7], [0, 1, 3]]
    assert np.isnan(bodies.pose[1]).all()
    np.testing.assert_array_equal(bodies.root_rotvec[0], far_rotvec[0])
    np.testing.assert_array_equal(bodies.pose[0], far_rotvec[1:])
    np.testing.assert_allclose(bodies.shape[0], [0.2, 0.9, 0.5, 0.5, 0.5, 0.5])
    assert not expert.card.commercial
    head = start_files.MultiHmrFiles(str(tmp_path), translation="head").start([photo()], [people])[0]
    assert head.transl[0].tolist() == [0, 0, 7]
    with pytest.raises(SceneError, match="no such file"):
        expert.start([Photo("q", "q.jpg", photo().pixels)], [people])
    with pytest.raises(ExpertError, match=r"--set=start\.path=FOLDER"):
        start_files.MultiHmrFiles().load()
