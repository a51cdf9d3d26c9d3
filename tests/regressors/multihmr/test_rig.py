"""The rig of the Anny variant."""

from __future__ import annotations

import numpy as np
from multihmr_golden import table

from annyfit_jax.regressors.multihmr import rig


def test_rig_is_the_official_one():
    found = table("anny_joints")
    assert list(rig.bones()) == found["bone_labels"]
    assert rig.predicted().astype(int).tolist() == [int(x) for x in found["rotation_predicted"]]
    assert rig.head() == found["person_center_index"]
    assert list(rig.SHAPE_ORDER) == found["shape_order_11"]
    six = rig.initial_rotations().reshape(-1, 6)
    np.testing.assert_array_equal(six[0], found["init_root_6d"])
    np.testing.assert_array_equal(six[1:], np.tile(found["init_other_6d"], (162, 1)))
