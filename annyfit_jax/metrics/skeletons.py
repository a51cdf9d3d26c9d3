"""Which joint is which: joint sets by name, and which joints of two sets are compared.

A protocol compares the joints that both sides name alike. Names say the place, so two sets share a name only where their joints
mean the same point; that the definitions still differ by centimetres (a COCO hip is a mark on the surface's projection, a
SMPL hip a joint centre) is part of every figure across body models.

| set | joints | source |
|---|---|---|
| `COCO17` | nose .. ankles | COCO keypoints; what Anny's regressor gives |
| `ANNY` | COCO17, `neck_base`, `mid_shoulder`, `head_top`, `pelvis` | COCO regressor; head of bone `neck01`; middle of the shoulders; crown vertex; middle of the hips |
| `RH14` | limbs left/right, `head_top`, `neck_base` | CrowdPose order, Relative Human's evaluator |
| `LSP14` | right ankle .. left wrist, `mid_shoulder`, `pelvis` | BEV's Panoptic evaluation, ground truth after preparation; its neck comes from Panoptic's |
| `PANOPTIC19` | `mid_shoulder`, nose, `pelvis`, ... | toolbox of the CMU Panoptic Studio, `joints19` |
| `SMPL24`, `SMPLX22` | pelvis, hips, ... | joint order of the body models |

| fit against truth | compared | root |
|---|---|---|
| Anny against Relative Human | `RH14` | - (2D) |
| Anny against Panoptic, Anny-Fit's columns | `COCO17` through `PANOPTIC19` | middle of the hips |
| Anny against Panoptic, BEV's protocol | `LSP14` | `pelvis` |
| Anny against SMPL, SMPL-X (AGORA, EHF, UBody, ARCTIC, EgoBody) | `LIMBS12` | middle of the hips |
| SMPL-X against SMPL-X | `SMPLX22`, meshes and their parts | middle of joints 1 and 2 (AGORA), pelvis (AiOS) |
"""  # noqa: E501 (table rows)

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from annyfit_jax.people.scene import COCO17

_LIMBS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
LIMBS12 = tuple(f"{side}_{joint}" for joint in _LIMBS for side in ("left", "right"))
"""COCO-17 without the face: the joints that COCO, SMPL and SMPL-X all have."""
ANNY = (*COCO17, "neck_base", "mid_shoulder", "head_top", "pelvis")
RH14 = (*LIMBS12, "head_top", "neck_base")
LSP14 = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
    "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "mid_shoulder", "pelvis",
)  # fmt: skip
PANOPTIC19 = (
    "mid_shoulder", "nose", "pelvis", "left_shoulder", "left_elbow", "left_wrist", "left_hip", "left_knee",
    "left_ankle", "right_shoulder", "right_elbow", "right_wrist", "right_hip", "right_knee", "right_ankle", "left_eye",
    "left_ear", "right_eye", "right_ear",
)  # fmt: skip
SMPL24 = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
)  # fmt: skip
SMPLX22 = SMPL24[:22]
HIPS = ("left_hip", "right_hip")


def shared(ours: Sequence[str], theirs: Sequence[str], wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names that both sets have, in the order of `wanted` (default: of `theirs`)."""
    return tuple(name for name in (theirs if wanted is None else wanted) if name in ours and name in theirs)


def pick(
    points: Shaped[np.ndarray, "*batch J D"], names: Sequence[str], wanted: Sequence[str]
) -> Shaped[np.ndarray, "*batch K D"]:
    """The wanted joints of an array whose joints are called `names`. Raises ValueError naming those that are not there."""
    absent = [name for name in wanted if name not in names]
    if absent or np.shape(points)[-2] != len(names):
        raise ValueError(
            f"joints: expected {', '.join(absent) or len(names)} among {np.shape(points)} named {', '.join(names)}"
        )
    return np.asarray(points)[..., [tuple(names).index(name) for name in wanted], :]
