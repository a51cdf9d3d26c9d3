"""Metrics against recorded numbers of public evaluators (`goldens/metrics`): the part a clone has, or all where it is."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from helpers import SHARED
from metric_recordings import KEPT

# ------------------------------------------------------------------------------------------------ what is kept


@pytest.mark.parametrize("name", ["match_2d.json", "relative_human.json", "panoptic_bev.json"])
def test_kept_cases_are_recorded_ones(name):
    whole = SHARED / "golden" / "metrics" / name
    if not whole.exists():
        pytest.skip("the whole recording is not beside the repository")
    kept, cases = json.loads((KEPT / name).read_text())["cases"], json.loads(whole.read_text())["cases"]
    assert kept
    assert all(case in cases for case in kept)


@pytest.mark.parametrize("name", ["joint_pa.npz", "pve.npz", "procrustes.npz", "pckh.npz"])
def test_kept_arrays_are_recorded_ones(name):
    whole = SHARED / "golden" / "metrics" / name
    if not whole.exists():
        pytest.skip("the whole recording is not beside the repository")
    kept, arrays = np.load(KEPT / name), np.load(whole)
    for key in kept.files:
        if key != "n":
            value = kept[key]
            np.testing.assert_array_equal(value, arrays[key][: len(value)] if value.ndim else arrays[key])


def test_kept_agora_images_are_the_recorded_ones():
    whole = SHARED / "golden" / "metrics" / "agora_protocol.json"
    if not whole.exists():
        pytest.skip("the whole recording is not beside the repository")
    kept = json.loads(gzip.decompress((KEPT / "agora_protocol.json.gz").read_bytes()))
    assert kept == json.loads(whole.read_text())
