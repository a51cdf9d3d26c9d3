"""Named points of SMPL-X's body: feet, face, pupils and hands under the names of `people.named_points`.

Fingers and wrists are joints. Tips of fingers, toes and heels are vertices of SMPL-X's template, whose numbers are public; the
68 points of the face are those of the user's file. Where the file has no such points, or they lie elsewhere (another topology),
a point is the place of SMPL-X's surface that is nearest to Anny's, the two bodies lying upon each other. So is a pupil.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from annyfit_jax.conversion.closest_points import closest_points
from annyfit_jax.conversion.pairing import Laid
from annyfit_jax.inputs.point_sets import FACE, FEET, LEFT_HAND, RIGHT_HAND
from annyfit_jax.people.named_points import NamedPoints, named_points
from body_models import anny, body_pairs, smplx

_FINGERS = ("thumb", "index", "middle", "ring", "little")
_TIPS = {"left": (5361, 4933, 5058, 5169, 5286), "right": (8079, 7669, 7794, 7905, 8022)}
VERTICES: dict[str, int] = {
    **{f"{side}_{f}_tip": v for side, tips in _TIPS.items() for f, v in zip(_FINGERS, tips, strict=True)},
    "left_big_toe": 5770, "left_small_toe": 5780, "left_heel": 8846,
    "right_big_toe": 8463, "right_small_toe": 8474, "right_heel": 8634,
}  # fmt: skip
"""Named points that are vertices of SMPL-X's template (numbers as the `smplx` package publishes them)."""
_FAR_M = {"hand": 0.02, "foot": 0.04, "face": 0.03}
"""How far the points of a set may lie from Anny's, in the median, to be taken for the same ones."""
_KNUCKLE = (0.6, 1.1)
"""Where a knuckle may lie between the wrist and the joint of its finger."""


def smplx_points(laid: Laid, anny_model: anny.AnnyModel, model: smplx.SmplxModel) -> NamedPoints:
    """The points of `named_points`, by joints (`smplx.JOINTS`) and vertices of SMPL-X.

    Args:
      laid: the body of `model` laid upon that of `anny_model`.
    """
    named = named_points(anny_model.labels)
    at = named.vertex_weights[:, :, None] * laid.anny[named.vertices]
    at = at.sum(1) + (named.bone_weights[:, :, None] * laid.anny_heads[named.bones]).sum(1)
    count = len(named)
    place = {name: row for row, name in enumerate(named.names)}
    bones, bone_weights = np.zeros((count, 2), np.int64), np.zeros((count, 2))
    surface = np.flatnonzero(named.bone_weights.sum(1) == 0)
    found = closest_points(at[surface], laid.smplx, np.asarray(model.faces))
    vertices, weights = np.zeros((count, 3), np.int64), np.zeros((count, 3))
    vertices[surface], weights[surface] = found.corners, found.shares
    for kind, names in (
        ("hand", tuple(name for name in VERTICES if name.endswith("tip"))),
        ("foot", tuple(name for name in VERTICES if not name.endswith("tip"))),
        ("face", FACE if model.landmarks is not None else ()),
    ):
        if not names:
            continue
        rows = np.array([place[name] for name in names])
        own, share = _of_the_file(model, names)
        off = np.linalg.norm((share[:, :, None] * laid.smplx[own]).sum(1) - at[rows], axis=1)
        if np.median(off) < _FAR_M[kind]:
            vertices[rows], weights[rows] = own, share
    joints = {bone: smplx.JOINTS.index(joint) for joint, bone in body_pairs.ANNY_BONES.items()}
    labels = anny_model.labels.bones
    for row in np.flatnonzero(named.bone_weights.sum(1) > 0):
        joint = next(
            joints[labels[b]] for b, w in zip(named.bones[row], named.bone_weights[row]) if w and labels[b] in joints
        )
        bones[row], bone_weights[row] = (joint, joint), (1.0, 0.0)
        if np.count_nonzero(named.bone_weights[row]) > 1:
            # A knuckle, as annotators see it, lies on the way from the wrist to the joint of the finger.
            wrist = smplx.JOINTS.index(f"{smplx.JOINTS[joint].partition('_')[0]}_wrist")
            start, way = laid.smplx_joints[wrist], laid.smplx_joints[joint] - laid.smplx_joints[wrist]
            share = float(np.clip((at[row] - start) @ way / max(way @ way, 1e-12), *_KNUCKLE))
            bones[row], bone_weights[row] = (joint, wrist), (share, 1.0 - share)
    return NamedPoints(named.names, bones, bone_weights, vertices, weights)


def _of_the_file(model: smplx.SmplxModel, names: tuple[str, ...]) -> tuple[np.ndarray, Float[np.ndarray, "K 3"]]:
    """Corners and shares of points that the file, or its template, tells."""
    if names == FACE:
        assert model.landmarks is not None  # the caller has looked
        return np.asarray(model.landmarks.corners), np.asarray(model.landmarks.shares, np.float64)
    own = np.array([VERTICES[name] for name in names])
    return np.repeat(own[:, None], 3, 1), np.tile([1.0, 0.0, 0.0], (len(own), 1))


assert set(VERTICES) <= {*LEFT_HAND, *RIGHT_HAND, *FEET}
