"""Points of the bodies: tables against recordings."""

from __future__ import annotations

import aios_golden as golden

from annyfit_jax.people.anatomy import other_side
from annyfit_jax.regressors.aios import body_points, examples
from annyfit_jax.regressors.aios.aios_config import SMPLX

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
    pairs = {tuple(sorted((k, bones.index(other_side(name))))) for k, name in enumerate(bones)}
    assert {pair for pair in pairs if pair[0] != pair[1]} == {tuple(pair) for pair in maps["flip_pairs_53_pose"]}
