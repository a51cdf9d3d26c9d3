"""The dense set and its detections against the recorded tables."""

import json

import numpy as np
import pytest
from helpers import GOLDENS

from annyfit_jax.people.dense_points import crop_to_image, dense_vertex_indices

GOLDEN = GOLDENS / "annyfit"


def test_dense_detections_move_from_the_crop_to_the_image():
    with np.load(GOLDEN / "unit_preprocess.npz") as golden:
        for case in ("case0", "case1", "case2"):
            image = crop_to_image(golden[f"{case}_norm"], golden[f"{case}_bbox_xyxy"])
            np.testing.assert_allclose(image, golden[f"{case}_image"], rtol=1e-12)
    with pytest.raises(ValueError, match=r"\(n, 138, 3\) and \(n, 4\)"):
        crop_to_image(np.zeros((2, 138, 3)), np.zeros((3, 4)))


def test_the_dense_set_has_138_different_vertices():
    indices = dense_vertex_indices()
    assert indices.shape == (138,)
    assert len(set(indices.tolist())) == 138
    assert indices.min() >= 0
    assert indices.max() < 13718


def test_the_dense_set_is_the_one_of_the_goldens():
    recorded = json.loads((GOLDEN / "dense138_vertices.json").read_text())["vertex_indices"]
    assert dense_vertex_indices().tolist() == recorded
