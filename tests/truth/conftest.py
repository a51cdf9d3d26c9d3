"""SMPL-X files and people that several readers of truth are given."""

# The fields of `TruthPeople` are optional: which reader fills which is what is tested here.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
from __future__ import annotations

import numpy as np
import pytest
import smplx_synthetic

# ------------------------------------------------------------------------------------------------ SMPL-X data sets


@pytest.fixture(scope="module")
def smplx_arrays():
    return smplx_synthetic.arrays()


@pytest.fixture(scope="module")
def smplx_file(smplx_arrays, tmp_path_factory):
    return str(smplx_synthetic.save(tmp_path_factory.mktemp("smplx"), smplx_arrays))


@pytest.fixture(scope="module")
def ubody_people(smplx_arrays):
    """Official parameters with eyes at rest, and the meshes they give."""
    people = smplx_synthetic.parameters(3)
    people["translation"][:] = [-2.8, 0.0, 4.0]  # partly outside the picture
    people["pose_rotvec"][:, 22:24] = 0.0  # eyes
    rows = [{key: value[i] for key, value in people.items()} for i in range(3)]
    means = smplx_arrays["hands_meanl"].reshape(15, 3), smplx_arrays["hands_meanr"].reshape(15, 3)
    for row in rows:
        row["pose_rotvec"] = row["pose_rotvec"].copy()
        row["pose_rotvec"][24:39] += means[0]
        row["pose_rotvec"][39:] += means[1]
    found = [smplx_synthetic.reference(smplx_arrays, row) for row in rows]
    people["transl"] = np.stack([one["transl"] for one in found])
    return people, [one["vertices"] for one in found]
