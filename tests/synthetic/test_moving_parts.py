"""Hands, faces and feet of synthetic people: exact points, who is seen, noise by size."""

from __future__ import annotations

import numpy as np
import pytest

from annyfit_jax.inputs.point_sets import WHOLE_BODY
from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import Scene
from annyfit_jax.synthetic.moving_parts import PartNoise, WholeBodies
from annyfit_jax.synthetic.plain import Generator, Recipe
from body_models import anny

NAMES = WHOLE_BODY[17:]
FACE = [i for i, name in enumerate(NAMES) if name.startswith("face")]


@pytest.fixture(scope="module")
def bodies() -> WholeBodies:
    return WholeBodies(anny.load())


@pytest.fixture(scope="module")
def plain() -> list[Scene]:
    return list(Generator(Recipe(seed=2, people=(1,))).scenes(range(12)))


def test_detections_are_near_the_truth_and_hidden_points_are_worse(bodies: WholeBodies, plain: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    noise = PartNoise(share=0.02, floor_px=0.0, missed_hidden=0.0, missed=0.0, wild=0.0, smallest_px=0.0)
    errors: dict[bool, list[float]] = {True: [], False: []}
    for scene in plain:
        made = bodies.add(scene, rng, noise)
        whole, at, seen = (made.extra[name] for name in ("keypoints_133", "gt_parts3d", "gt_parts_seen"))
        np.testing.assert_array_equal(whole[:, :17], scene.keypoints)
        size = made.intrinsics[0, 0] / at[..., 2]
        off = np.linalg.norm(whole[:, 17:, :2] - project(at, made.intrinsics), axis=-1) / size
        detected = whole[:, 17:, 2] > 0
        for own in (True, False):
            errors[own] += off[detected & (seen == own)].tolist()
    spread = {own: float(np.sqrt(np.mean(np.square(e)) / 2)) for own, e in errors.items()}
    # 2 % of a part of some 20 cm are 4 mm for an adult; children are smaller.
    assert 0.001 < spread[True] < 0.006
    assert spread[False] > 1.8 * spread[True]


def test_a_face_is_seen_from_the_front_alone(bodies: WholeBodies, plain: list[Scene]) -> None:
    scene = plain[0]
    assert scene.truth is not None
    shares = []
    for turn in ((np.pi / 2, 0.0, 0.0), (0.0, np.pi / np.sqrt(2), -np.pi / np.sqrt(2))):  # towards the camera, and away
        truth = scene.truth.select(np.array([0]))
        truth.root_rotvec[:], truth.transl[:], truth.pose[:] = turn, (0.0, 0.0, 4.0), 0.0
        vertices, at = bodies.place(truth)
        seen, inside = bodies.visible(scene, vertices, at, project(at, scene.intrinsics))
        assert inside[0, FACE].all()
        shares.append(seen[0, FACE].mean())
    assert shares[0] > 0.85 and shares[1] < 0.15


def test_fingers_and_faces_move_and_nothing_else(bodies: WholeBodies, plain: list[Scene]) -> None:
    scene = plain[1]
    assert scene.truth is not None
    made = bodies.add(scene, np.random.default_rng(1))
    assert made.truth is not None
    moved = np.abs(made.truth.pose - scene.truth.pose).max((0, 2)) > 0
    bones = np.array(anny.load().labels.bones[1:])
    stems = ("finger", "metacarpal", "jaw", "oris", "eye", "risorius", "oculi", "orbicularis")
    assert set(bones[moved]) <= {bone for bone in bones if bone.startswith(stems)}
    assert all(moved[list(bones).index(f"finger{f}-2.{side}")] for f in (2, 3, 4, 5) for side in "LR")
    with pytest.raises(ValueError, match="truth"):
        bodies.observe(Scene(**{**vars(scene), "truth": None}), np.random.default_rng(0))
