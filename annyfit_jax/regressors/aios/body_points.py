"""The points of a body model that losses compare, from what the parametric heads predict.

Before translation: Anny stands with its root bone's head, SMPL-X with the origin of the official model, at zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from annyfit_jax.records.npz import open_npz
from annyfit_jax.regressors.aios.aios_config import ANNY, BodyHead
from annyfit_jax.regressors.aios.heads import BodyPrediction, PartRotations
from annyfit_jax.regressors.aios.targets import PARTS, PointLayout, Targets
from annyfit_jax.regressors.rotation_layers import rotvec_from_matrix
from body_models import anny, smplx
from body_models.rotations import rotvec_to_matrix

# ------------------------------------------------------------------------------------------------ Anny

_ANNY_FACE = ("jaw", "eye.L", "eye.R", "oris01", "oris05", "temporalis01.L", "temporalis01.R")
_ANNY_NAMES = (*ANNY.body, *ANNY.left_hand, *ANNY.right_hand, *_ANNY_FACE)
_ANNY_COUNTS = (len(ANNY.body), len(ANNY.left_hand), len(ANNY.right_hand), len(_ANNY_FACE))
_ANNY_ENDS = tuple(int(n) for n in np.cumsum([0, *_ANNY_COUNTS]))

ANNY_POINTS = PointLayout(
    *itertools.pairwise(_ANNY_ENDS), pelvis=0, neck=_ANNY_NAMES.index("neck01"),
    left_wrist=_ANNY_NAMES.index("wrist.L"), right_wrist=_ANNY_NAMES.index("wrist.R"),
)  # fmt: skip
"""Heads of Anny's bones: 36 of the body, 19 of each hand, 7 of the face."""


def complete_rotations(
    head: BodyHead, prediction: BodyPrediction, bones: tuple[str, ...]
) -> Float[Array, "*batch bone 3 3"]:
    """Rotations of all bones of a body model: predicted where there is a prediction, else the identity."""
    index, matrices = [], []
    for part, names in head.parts.items():
        of_part = getattr(prediction.rotations, part)
        if of_part is not None:
            index += [bones.index(name) for name in names]
            matrices.append(of_part)
    predicted = jnp.concatenate(matrices, axis=-3)
    rest = jnp.broadcast_to(jnp.eye(3, dtype=predicted.dtype), (*predicted.shape[:-3], len(bones), 3, 3))
    return rest.at[..., np.array(index), :, :].set(predicted)


def anny_points(model: anny.AnnyModel, prediction: BodyPrediction) -> Float[Array, "*batch point 3"]:
    """The points of `ANNY_POINTS`, metres. `model` has 11 phenotypes (`anny.load("all")`)."""
    bones = model.labels.bones
    rotations = complete_rotations(ANNY, prediction, bones)
    deltas = jnp.pad(rotations, [(0, 0)] * (rotations.ndim - 2) + [(0, 1), (0, 1)]).at[..., 3, 3].set(1.0)
    # Vertices of the output are not used, so none is computed under `jit`.
    heads = anny.forward_transforms(model, prediction.shape, deltas).bone_poses[..., :3, 3]
    return heads[..., np.array([bones.index(name) for name in _ANNY_NAMES]), :]


# ------------------------------------------------------------------------------------------------ SMPL-X


@struct.dataclass
class SmplxPointModel:
    """SMPL-X and where its face landmarks lie: corners and barycentric weights of their triangles."""

    model: smplx.SmplxModel
    landmark_corners: Int[Array, "51 3"]
    landmark_weights: Float[Array, "51 3"]
    contour_corners: Int[Array, "79 17 3"]
    """Of the face's outline, by the turn of the head."""
    contour_weights: Float[Array, "79 17 3"]


_EXTRA_VERTICES = (
    9120, 9929, 9448, 616, 6, 5770, 5780, 8846, 8463, 8474, 8635, 5361, 4933, 5058, 5169, 5286, 8079, 7669, 7794, 7905, 8022
)  # fmt: skip
"""Nose, eyes, ears, toes and heels, finger tips: joints 55 to 75 of the official model's 144."""
_CONTOUR = 17
_BODY_FROM_144 = (
    0, 1, 2, 4, 5, 7, 8, 12, 16, 17, 18, 19, 20, 21, 60, 61, 62, 63, 64, 65, 59, 58, 57, 56, 55
)  # fmt: skip
_FINGERS = tuple((k, k + 1, k + 2) for k in (12, 0, 3, 9, 6))  # thumb, index, middle, ring, pinky within a hand


def _hand_from_144(first: int, tip: int) -> list[int]:
    return [index for n, finger in enumerate(_FINGERS) for index in (*(first + k for k in finger), tip + n)]


SMPLX_FROM_144 = (
    *_BODY_FROM_144, *_hand_from_144(25, 66), *_hand_from_144(40, 71), 22, 15, 57, 56, *range(76, 144),
)  # fmt: skip
"""HumanData's 137 points among the official model's 144. Ground truth has entries 67 and 68, the eyeballs, swapped."""


_FACE_PAIRS = (
    *((69 + k, 78 - k) for k in range(5)), (83, 87), (84, 86), *((88 + k, 97 - k) for k in range(4)), (92, 99), (93, 98),
    (100, 106), (101, 105), (102, 104), (107, 111), (108, 110), (112, 116), (113, 115), (117, 119),
    *((120 + k, 136 - k) for k in range(8)),
)  # fmt: skip
_PAIRS = (
    (1, 2), (3, 4), (5, 6), (8, 9), (10, 11), (12, 13), (14, 17), (15, 18), (16, 19), (20, 21), (22, 23),
    *((25 + k, 45 + k) for k in range(20)), (67, 68), *_FACE_PAIRS,
)  # fmt: skip
SMPLX_MIRROR = tuple({**dict(_PAIRS), **{b: a for a, b in _PAIRS}}.get(k, k) for k in range(137))
"""The point on the other side of each of the 137."""


def smplx_point_model(model: smplx.SmplxModel, landmarks: dict[str, np.ndarray]) -> SmplxPointModel:
    """Adds the landmarks of the official model.

    Args:
      landmarks: entries of the model file: `lmk_faces_idx` (51,), `lmk_bary_coords` (51, 3),
        `dynamic_lmk_faces_idx` (79, 17), `dynamic_lmk_bary_coords` (79, 17, 3).

    Raises: ValueError naming the entry that is absent or of another shape.
    """
    shapes = {
        "lmk_faces_idx": (51,), "lmk_bary_coords": (51, 3), "dynamic_lmk_faces_idx": (79, _CONTOUR),
        "dynamic_lmk_bary_coords": (79, _CONTOUR, 3),
    }  # fmt: skip
    for name, shape in shapes.items():
        actual = None if name not in landmarks else np.shape(landmarks[name])
        if actual != shape:
            raise ValueError(f"SMPL-X landmarks: {name} must have shape {shape}, got {actual}")
    faces = np.asarray(model.faces)
    return SmplxPointModel(
        model,
        jnp.asarray(faces[landmarks["lmk_faces_idx"]], jnp.int32),
        jnp.asarray(landmarks["lmk_bary_coords"], model.dtype),
        jnp.asarray(faces[landmarks["dynamic_lmk_faces_idx"]], jnp.int32),
        jnp.asarray(landmarks["dynamic_lmk_bary_coords"], model.dtype),
    )


def load_smplx(path: str) -> SmplxPointModel:
    """The user's SMPL-X file with 10 betas and 10 expressions, and its face landmarks. Raises ValueError without a path."""
    if not path:
        raise ValueError("SMPL-X heads need the model file: give body_file='SMPLX_NEUTRAL.npz'")
    names = ("lmk_faces_idx", "lmk_bary_coords", "dynamic_lmk_faces_idx", "dynamic_lmk_bary_coords")
    with open_npz(path) as archive:
        landmarks = {name: np.asarray(archive.read(name)) for name in names}
    body = smplx.load(path)
    return jax.tree.map(jnp.asarray, smplx_point_model(body, landmarks))


def smplx_points(body: SmplxPointModel, prediction: BodyPrediction) -> Float[Array, "*batch point 3"]:
    """The 137 points, metres. Absent hands are the mean hand, an absent face and expression at rest, eyes at rest.

    The axis-angles of the hands are those of the prediction plus the mean hand, as in the official model.
    """
    rotations, batch = prediction.rotations, prediction.shape.shape[:-1]

    def rotvecs(matrices: Array | None, bones: int) -> Array:
        return jnp.zeros((*batch, bones, 3)) if matrices is None else rotvec_from_matrix(matrices)

    hands = [
        rotvecs(part, 15) + mean.reshape(15, 3)
        for part, mean in zip((rotations.left_hand, rotations.right_hand), body.model.hand_means)
    ]
    whole = rotvecs(rotations.body, 22)
    pose = jnp.concatenate([whole[..., 1:, :], rotvecs(rotations.face, 1), rotvecs(None, 2), *hands], axis=-2)
    expression = prediction.expression
    if expression is None:
        expression = jnp.zeros((*batch, body.model.labels.num_expression))
    origin = smplx.translation_from_transl(body.model, prediction.shape, jnp.zeros((*batch, 3)), expression)
    # The whole mesh: its vertices cost far less than the network, and the outline picks other ones for each person.
    params = smplx.Params(prediction.shape, whole[..., 0, :], pose, origin, expression)
    posed = smplx.forward(body.model, params)
    landmarks = jnp.einsum("...kvc,kv->...kc", posed.vertices[..., body.landmark_corners, :], body.landmark_weights)
    row = contour_row(rotations.body)
    corners = body.contour_corners[row].reshape(*batch, 3 * _CONTOUR, 1)
    outline = jnp.take_along_axis(posed.vertices, corners, axis=-2).reshape(*batch, _CONTOUR, 3, 3)
    contour = jnp.einsum("...kvc,...kv->...kc", outline, body.contour_weights[row])
    extra = posed.vertices[..., np.array(_EXTRA_VERTICES), :]
    all_144 = jnp.concatenate([posed.joints, extra, landmarks, contour], axis=-2)
    return all_144[..., np.array(SMPLX_FROM_144), :]


def contour_row(body: Float[Array, "*batch 22 3 3"]) -> Array:
    """Which of the 79 face contours is seen: by the head's turn about -y in camera axes, one row per degree.

    Rows 0..39 are turns of 0..39 degrees, 40..78 of -1..-39 degrees; beyond, the last one. As in the official model.
    """
    turn = body[..., 0, :, :]
    for bone in (3, 6, 9, 12):  # spine and neck
        turn = turn @ body[..., bone, :, :]
    angle = jnp.arctan2(turn[..., 2, 0], jnp.hypot(turn[..., 0, 0], turn[..., 1, 0]))
    degrees = jnp.round(jnp.clip(jnp.degrees(angle), -39.0, 39.0)).astype(jnp.int32)
    return jnp.where(degrees < 0, 39 - degrees, degrees)


# ------------------------------------------------------------------------------------------------ targets


def completed(targets: Targets, layout: PointLayout, body_points: Callable[[BodyPrediction], Array]) -> Targets:
    """Fills in what the true parameters say and annotations do not: 3D points, relative points, projections.

    Points of the body model take the place of points without confidence. Projections use the true camera and translation,
    where they are known, and count inside the picture only.
    """
    body = targets.body
    rotations = PartRotations(*(rotvec_to_matrix(jnp.asarray(part)) for part in body.rotvecs))
    expression = body.expression if body.expression.shape[-1] else None
    unused = jnp.zeros((*body.shape.shape[:-1], 3), body.shape.dtype)
    own = jax.lax.stop_gradient(body_points(BodyPrediction(rotations, body.shape, unused, expression)))
    count = own.shape[-2]
    known = jnp.zeros((*body.shape.shape[:-1], count), own.dtype)
    relative = own
    for part in PARTS:
        span, valid = layout.span(part), getattr(body.rotvec_valid, part).min(-1) * body.shape_valid
        # Hands and face hang on the body: without its pose theirs says nothing in camera axes.
        valid = valid * body.rotvec_valid.body.min(-1) * targets.people
        known = known.at[..., span].set(valid[..., None])
        root = own[..., layout.root(part), None, :]
        relative = relative.at[..., span, :].set(own[..., span, :] - root)

    def filled(given: Array, made: Array, confidence: Array) -> Array:
        made = jnp.concatenate([jnp.where(confidence[..., None] > 0, made, 0.0), confidence[..., None]], -1)
        return made if given.shape[-2] == 0 else jnp.where(given[..., -1:] > 0, given, made)

    placed, image_points = own, targets.image_points
    if targets.transl is not None and targets.intrinsics is not None:
        placed = own + targets.transl[..., None, :]
        depth = placed[..., 2]
        seen = (targets.transl[..., None, 2] > 0) & (depth > 0.1) & (targets.intrinsics[:, None, None, 0, 0] > 0)
        pixels = jnp.einsum("bij,bpkj->bpki", targets.intrinsics, placed / jnp.where(seen, depth, 1.0)[..., None])[
            ..., :2
        ]
        share = pixels / targets.image_size[:, None, None]
        inside = seen & ((share >= 0) & (share < 1)).all(-1)
        image_points = filled(image_points, share, known * inside)
    elif image_points.shape[-2] == 0:
        image_points = jnp.zeros((*own.shape[:-1], 3), own.dtype)
    return targets._replace(
        points=filled(targets.points, placed, known),
        relative_points=filled(targets.relative_points, relative, known),
        image_points=image_points,
    )
