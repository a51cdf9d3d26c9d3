"""SMPL's pose on Anny."""

from __future__ import annotations

from typing import Any

import compiled_bodies
import numpy as np
import pytest
from plain_photos import photo
from scipy.spatial.transform import Rotation

from annyfit_jax.people.scene import SceneError
from experts.adapters import start_files
from experts.interfaces import People

# ------------------------------------------------------------------------------------------------ SMPL's pose on Anny


@pytest.mark.slow
def test_smpl_limbs_point_the_same_way_on_anny(load_anny, tmp_path):
    """Through files and Anny's own forward pass: limbs point to where SMPL's joints turn them."""
    from body_models import anny
    from experts.retarget import SMPL_PARENTS

    rng = np.random.default_rng(0)
    root = Rotation.from_rotvec([[np.pi, 0, 0], [2.5, 0.4, -0.3]]).as_matrix()  # facing the camera, and turned
    joints = Rotation.from_rotvec(rng.normal(scale=0.5, size=(2, 23, 3))).as_matrix()
    joints[0] = np.eye(3)
    pelvis = np.array([[0.3, 0.2, 3.0], [-0.5, 0.1, 5.0]])
    boxes = np.array([[0.0, 0, 50, 90], [60, 0, 110, 90]])
    np.savez(tmp_path / "p.npz", global_orient=root, body_pose=joints, pelvis=pelvis, boxes=boxes)
    expert = start_files.CameraHmrFiles(str(tmp_path))
    expert.load()
    (bodies,) = expert.start([photo()], [People(boxes, ["0", "1"])])
    assert not expert.card.commercial
    parts: Any = (
        np.asarray(part, np.float32) for part in (bodies.shape, bodies.root_rotvec, bodies.pose, bodies.transl)
    )
    model = load_anny()
    heads = np.asarray(compiled_bodies.anny_bones(model, anny.Params(*parts)))[..., :3, 3]
    at = {name: heads[:, k] for k, name in enumerate(model.labels.bones)}
    for person in range(2):
        space = [root[person]]
        for joint in range(1, 24):
            space.append(space[SMPL_PARENTS[joint]] @ joints[person, joint - 1])
        for start, end, joint, rest in (
            ("upperleg01.L", "lowerleg01.L", 1, [0, -1, 0]), ("lowerleg01.R", "foot.R", 5, [0, -1, 0]),
            ("upperarm01.L", "lowerarm01.L", 16, [1, 0, 0]), ("lowerarm01.R", "wrist.R", 19, [-1, 0, 0]),
        ):  # fmt: skip
            limb = at[end][person] - at[start][person]
            assert limb / np.linalg.norm(limb) @ space[joint] @ rest > np.cos(np.radians(0.2)), (person, start)
        middle = (at["upperleg01.L"][person] + at["upperleg01.R"][person]) / 2
        np.testing.assert_allclose(middle, pelvis[person], atol=1e-3)
    # Upright and facing the camera: head up (y down), left hand to the right of the picture.
    assert at["head"][0, 1] < pelvis[0, 1] - 0.3
    assert at["wrist.L"][0, 0] > pelvis[0, 0] + 0.4
    np.savez(tmp_path / "p.npz", global_orient=root, body_pose=joints[:, :21], pelvis=pelvis, boxes=boxes)
    with pytest.raises(
        SceneError, match=r"body_pose.*expected shape \(2, 23, 3\) or \(2, 23, 3, 3\), got \(2, 21, 3, 3\)"
    ):
        expert.start([photo()], [People(boxes, ["0", "1"])])
