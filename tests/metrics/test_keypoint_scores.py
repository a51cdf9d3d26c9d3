"""PCKh against recorded numbers."""

from __future__ import annotations

import numpy as np
from helpers import max_abs
from metric_recordings import read_npz

from annyfit_jax import metrics

# ------------------------------------------------------------------------------------------------ keypoints, classes


def test_pckh_equals_the_public_one():
    golden = read_npz("pckh.npz")
    shares = metrics.pckh(golden["pred"], golden["gt"], np.all(golden["gt"] > -1, axis=-1))
    assert max_abs(shares, golden["pckh"]) <= 1e-6
    assert shares.dtype == np.float32
    assert (golden["pckh"] == -1).any()
