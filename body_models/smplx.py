"""SMPL-X: body, hands and face, as pure functions, from the user's own official model file.

    from body_models import smplx
    model = smplx.load("SMPLX_NEUTRAL.npz")
    out = smplx.forward(model, smplx.Params(betas, root_rotvec, pose_rotvec, translation, expression))
    points = smplx.points(smplx.contract(model, regressor), params)

Body: 55 joints, 10 475 vertices; metres; the resting body stands with Y up and faces +Z, +X is its left. In Anny-Fit's
camera axes (x right, y down, z forward) an upright person facing the camera has root rotation vector (pi, 0, 0).

Two conventions differ from the official package, so that Anny and SMPL-X are the same to a fit:
- `translation` is the position of the pelvis (the root joint) in the target frame. The official `transl` is added after
  a rotation about the rest pelvis: translation = pelvis(betas, expression) + transl; see `translation_from_transl`.
- `pose_rotvec` holds complete rotation vectors, hands included: the mean hand pose is already added.
  `pose_from_official` and `hands_from_pca` make it from official parameters.

Formulas: Pavlakos et al., "Expressive Body Capture: 3D Hands, Face, and Body from a Single Image", CVPR 2019, and
Loper et al., "SMPL: A Skinned Multi-Person Linear Model", 2015:
  x(betas, expression, pose) = template + S [betas; expression] + P vec(R(pose) - I),
  J(betas, expression) = regressor (template + S [betas; expression]),
  T_c = T_parent(c) [R_c | J_c - R_c J_c],   vertex = sum_b S_bv T_b x_v.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from body_models import batching, contraction, kinematics, linear, rotations, skeleton, smplx_file
from body_models.batching import AnyArray
from body_models.kinematics import BoneTree
from body_models.linear import Field
from body_models.smplx_file import NUM_JOINTS, NUM_POSE_FEATURES, NUM_VERTICES

_FINGERS = tuple(f"{finger}{k}" for finger in ("index", "middle", "pinky", "ring", "thumb") for k in (1, 2, 3))
JOINTS = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "jaw", "left_eye", "right_eye",
    *(f"left_{f}" for f in _FINGERS), *(f"right_{f}" for f in _FINGERS),
)  # fmt: skip
# COCO-17: the face from surface points (vertex numbers of the SMPL-X template), the rest from joints.
_FACE_VERTICES = {"nose": 9120, "left_eye": 9448, "right_eye": 9929, "left_ear": 6, "right_ear": 616}
_KEYPOINT_JOINTS = tuple(
    f"{side}_{joint}" for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in ("left", "right")
)
KEYPOINTS = (*_FACE_VERTICES, *_KEYPOINT_JOINTS)


class Params(NamedTuple):
    """Parameters of a batch of bodies; leading dimensions broadcast."""

    betas: Float[Array, "*batch beta"]
    """(..., 10) shape coefficients (as many as the model was loaded with), in standard deviations."""
    root_rotvec: Float[Array, "*batch 3"]
    """Orientation of the body in the target frame (official `global_orient`), radians."""
    pose_rotvec: Float[Array, "*batch 54 3"]
    """Complete rotation of every other joint relative to its parent, radians: 21 body, jaw, left eye, right eye, 15
    left hand, 15 right hand (`JOINTS[1:]`). Zero is a flat hand; the mean hand is not added here."""
    translation: Float[Array, "*batch 3"]
    """Position of the pelvis, metres."""
    expression: Float[Array, "*batch expression"] | None = None
    """(..., 10) facial expression coefficients; None means zero."""


class Output(NamedTuple):
    """Posed bodies."""

    vertices: Float[Array, "*batch 10475 3"]
    """Metres, in the frame of the root rotation and translation."""
    bone_poses: Float[Array, "*batch 55 4 4"]
    """World pose of every joint: orientation (identity at rest) and position."""
    keypoints: Float[Array, "*batch 17 3"]
    """COCO-17 in order."""
    joints: Float[Array, "*batch 55 3"]
    """Joint positions, the last column of `bone_poses`."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """Names and topology that never change during a computation (static under `jit`)."""

    asset_version: str
    """Name of the model file."""
    bones: tuple[str, ...]
    parents: tuple[int, ...]
    keypoints: tuple[str, ...]
    num_betas: int
    num_expression: int
    num_pca: int | None
    """Hand coefficients that `pose_from_official` expects; None: 45 rotation vector entries."""
    kid: bool = False
    """Whether the last beta is a blend between the template (0) and a child (1)."""

    @property
    def shape(self) -> tuple[str, ...]:
        """Names of the betas: `beta0`, ..., and `kid` for the blend with a child."""
        names = tuple(f"beta{i}" for i in range(self.num_betas))
        return (*names[:-1], "kid") if self.kid else names

    @functools.cached_property
    def tree(self) -> BoneTree:
        """The joints in the order in which chains are evaluated."""
        return kinematics.bone_tree(self.parents)


@struct.dataclass
class SmplxModel:
    """The body model as a pytree: pass it to `jit` as an argument (never close over it).

    The basis of `vertices` is betas, expressions, then the 486 pose correctives in (row, column, joint) order.
    """

    vertices: Field
    """(3, vertex), metres."""
    joints: Field
    """(3, bone), of betas and expressions only: pose correctives do not move the joints."""
    skin: Float[Array, "bone vertex"]
    """Skinning weights, columns sum to 1."""
    keypoint_regressor: Float[Array, "17 point"]
    """(17, 10475 + 55): weights over vertices, then joints."""
    hand_means: Float[Array, "2 45"]
    """Left, right; zero when loaded with `flat_hand_mean`."""
    hand_components: Float[Array, "2 45 45"]
    """Left, right; principal components in rows."""
    faces: Array
    """(20908, 3) int32 triangles."""
    labels: Labels = struct.field(pytree_node=False)
    landmarks: smplx_file.Landmarks | None = None
    """The file's 68 points of the face, host arrays; None where it has none."""

    @property
    def dtype(self):
        """Floating type of every array."""
        return self.vertices.mean.dtype


@struct.dataclass
class SmplxPoints:
    """A regressor contracted with the skinning weights (`contraction`): points without forming a vertex.

    The moments are linear in betas, expression and pose feature, so the pose correctives are contracted as well.
    """

    contraction: contraction.Contraction
    joints: Field
    """(3, bone), in the order of `layout.tree`."""
    labels: Labels = struct.field(pytree_node=False)

    @property
    def layout(self) -> contraction.PointLayout:
        """Which joints move which points (static)."""
        return self.contraction.layout

    @property
    def num_points(self) -> int:
        """How many points: K of the regressor."""
        return self.contraction.num_points


# ------------------------------------------------------------------------------------------------ loading


def load(
    path: str | Path,
    *,
    num_betas: int = 10,
    num_expression: int = 10,
    use_pca: bool = False,
    num_pca: int = 6,
    flat_hand_mean: bool = False,
    kid_template: str | Path | None = None,
    dtype=jnp.float32,
) -> SmplxModel:
    """Load the user's official SMPL-X file, `SMPLX_{NEUTRAL,MALE,FEMALE}` as `.npz` or `.pkl`; no pickle is executed.

    Args:
      path: the file. It is not part of this project (own licence, https://smpl-x.is.tue.mpg.de).
      num_betas, num_expression: leading coefficients to keep (a 400-column file has 300 + 100, a 20-column 10 + 10).
      use_pca, num_pca: hand parameters that `pose_from_official` takes: `num_pca` coefficients, or 45 rotation entries.
      flat_hand_mean: official hand parameters are then relative to the flat hand instead of the mean hand.
      kid_template: AGORA's `smplx_kid_template.npy`, (10475, 3); the model then has one more beta, the last, which blends from
        the template (0) to the child (1).
      dtype: floating type of every array; float64 needs `jax_enable_x64`.

    Raises:
      FileNotFoundError: nothing there (says what to download), or a directory (says which files it holds).
      smplx_file.SmplxFileError: not a SMPL-X file; names the file, the key and the expected shape.
    """
    arrays = smplx_file.read(path)
    for name, wanted, directions in (
        ("num_betas", num_betas, arrays.beta_directions),
        ("num_expression", num_expression, arrays.expression_directions),
    ):
        if not 1 <= wanted <= directions.shape[2]:
            raise ValueError(f"{path}: {name} must be 1 to {directions.shape[2]} for this file, got {wanted}")
    if use_pca and not 1 <= num_pca <= 45:
        raise ValueError(f"smplx.load: num_pca must be 1 to 45, got {num_pca}")
    betas = arrays.beta_directions[:, :, :num_betas]
    if kid_template is not None:
        child = smplx_file.read_kid_template(kid_template)
        # As AGORA's parameters are defined: the child about its own mean, less the template.
        toward = child - child.mean(0) - arrays.template
        betas = np.concatenate([betas, toward[:, :, None].astype(betas.dtype)], axis=2)
    shape = np.concatenate([betas, arrays.expression_directions[:, :, :num_expression]], axis=2)
    regressor = arrays.joint_regressor.astype(np.float64)
    # Columns of the file are (joint, row, column); (row, column, joint) is how rotations lie in memory here.
    correctives = arrays.pose_directions.reshape(NUM_VERTICES, 3, NUM_JOINTS - 1, 9).transpose(3, 2, 1, 0)
    cast = lambda x: linear.on_device(x, dtype)  # noqa: E731
    return SmplxModel(
        vertices=linear.field(
            arrays.template.T,
            np.concatenate([shape.transpose(2, 1, 0), correctives.reshape(NUM_POSE_FEATURES, 3, NUM_VERTICES)]),
            dtype,
        ),
        joints=linear.field(
            (regressor @ arrays.template).T, np.einsum("jv,vis->sij", regressor, shape, optimize=True), dtype
        ),
        skin=cast(arrays.skin.T),
        keypoint_regressor=cast(_keypoint_regressor()),
        hand_means=cast(arrays.hand_means * (0.0 if flat_hand_mean else 1.0)),
        hand_components=cast(arrays.hand_components),
        faces=linear.on_device(arrays.faces, np.int32),
        labels=Labels(
            asset_version=Path(path).name,
            bones=JOINTS,
            parents=arrays.parents,
            keypoints=KEYPOINTS,
            num_betas=betas.shape[2],
            num_expression=num_expression,
            num_pca=num_pca if use_pca else None,
            kid=kid_template is not None,
        ),
        landmarks=arrays.landmarks,
    )


def _keypoint_regressor() -> np.ndarray:
    columns = [*_FACE_VERTICES.values(), *(NUM_VERTICES + JOINTS.index(name) for name in _KEYPOINT_JOINTS)]
    rows = np.zeros((len(columns), NUM_VERTICES + NUM_JOINTS))
    rows[np.arange(len(columns)), columns] = 1.0
    return rows


# ------------------------------------------------------------------------------------------------ official parameters


def hands_from_pca(
    model: SmplxModel, left: Float[Array, "*batch pca"], right: Float[Array, "*batch pca"]
) -> tuple[Float[Array, "*batch 15 3"], Float[Array, "*batch 15 3"]]:
    """Complete rotation vectors of the hand joints from principal coefficients (..., k <= 45), mean hand included.

    The mean is zero for a model loaded with `flat_hand_mean`.
    """
    return _hand(model, 0, left), _hand(model, 1, right)


def _hand(model: SmplxModel, side: int, coefficients: Array) -> Array:
    k = coefficients.shape[-1]
    if k > 45:
        raise ValueError(f"hand coefficients must be (..., k <= 45), got {coefficients.shape}")
    offset = coefficients @ model.hand_components[side, :k]
    return (model.hand_means[side] + offset).reshape(*coefficients.shape[:-1], 15, 3)


def pose_from_official(
    model: SmplxModel,
    body_pose: Float[AnyArray, "*#batch 63"] | Float[AnyArray, "*#batch 21 3"],
    *,
    jaw_pose: Float[AnyArray, "*#batch 3"] | None = None,
    leye_pose: Float[AnyArray, "*#batch 3"] | None = None,
    reye_pose: Float[AnyArray, "*#batch 3"] | None = None,
    left_hand_pose: Float[AnyArray, "*#batch hand"] | None = None,
    right_hand_pose: Float[AnyArray, "*#batch hand"] | None = None,
) -> Float[Array, "*batch 54 3"]:
    """`Params.pose_rotvec` from the parameters of the official package; None means zeros there.

    Hands are `num_pca` coefficients for a model loaded with `use_pca`, else 45 rotation entries; both are offsets to
    the mean hand (to the flat hand with `flat_hand_mean`). Body poses may be (..., 63) or (..., 21, 3).
    """
    if body_pose.shape[-2:] == (21, 3):
        body_pose = body_pose.reshape(*body_pose.shape[:-2], 63)
    width = model.labels.num_pca or 45
    parts = {
        "body_pose": (body_pose, 63), "jaw_pose": (jaw_pose, 3), "leye_pose": (leye_pose, 3),
        "reye_pose": (reye_pose, 3),
        "left_hand_pose": (left_hand_pose, width), "right_hand_pose": (right_hand_pose, width),
    }  # fmt: skip
    fields = [
        (name, jnp.zeros(size, model.dtype) if array is None else jnp.asarray(array), (size,))
        for name, (array, size) in parts.items()
    ]
    batch, flat = batching.people_last(fields, "smplx.pose_from_official")
    rows = [part.T for part in flat if part is not None]  # (N, size) each
    for side in (0, 1):
        if model.labels.num_pca is not None:
            rows[4 + side] = _hand(model, side, rows[4 + side]).reshape(-1, 45)
        else:
            rows[4 + side] = rows[4 + side] + model.hand_means[side]
    return jnp.concatenate(rows, axis=1).reshape(*batch, NUM_JOINTS - 1, 3)


def pelvis(
    model: SmplxModel,
    betas: Float[AnyArray, "*#batch beta"],
    expression: Float[AnyArray, "*#batch expression"] | None = None,
) -> Float[Array, "*batch 3"]:
    """Position of the pelvis in the model's own frame at rest, metres."""
    fields = [("betas", betas, (model.labels.num_betas,)), ("expression", expression, (model.labels.num_expression,))]
    batch, (shape, face) = batching.people_last(fields, "smplx.pelvis")
    assert shape is not None
    z = shape_coefficients(model.labels, shape, face)
    return linear.evaluate(model.joints, z)[:, 0].T.reshape(*batch, 3)


def translation_from_transl(
    model: SmplxModel,
    betas: Float[AnyArray, "*#batch beta"],
    transl: Float[AnyArray, "*#batch 3"],
    expression: Float[AnyArray, "*#batch expression"] | None = None,
) -> Float[Array, "*batch 3"]:
    """`Params.translation` from the official package's `transl`."""
    return jnp.asarray(transl) + pelvis(model, betas, expression)


def transl_from_translation(
    model: SmplxModel,
    betas: Float[AnyArray, "*#batch beta"],
    translation: Float[AnyArray, "*#batch 3"],
    expression: Float[AnyArray, "*#batch expression"] | None = None,
) -> Float[Array, "*batch 3"]:
    """The official package's `transl` from `Params.translation`."""
    return jnp.asarray(translation) - pelvis(model, betas, expression)


# ------------------------------------------------------------------------------------------------ posing


def _people_last(labels: Labels, params: Params) -> tuple[tuple[int, ...], list]:
    fields = [
        ("betas", params.betas, (labels.num_betas,)),
        ("root_rotvec", params.root_rotvec, (3,)),
        ("pose_rotvec", params.pose_rotvec, (NUM_JOINTS - 1, 3)),
        ("translation", params.translation, (3,)),
        ("expression", params.expression, (labels.num_expression,)),
    ]
    return batching.people_last(fields, "smplx.Params")


def shape_coefficients(labels: Labels, betas: Array, expression: Array | None) -> Float[Array, "shape person"]:
    """Coefficients of the linear rest state, people last: betas, then expression (None means zero)."""
    if expression is None:
        expression = jnp.zeros((labels.num_expression, betas.shape[-1]), betas.dtype)
    return jnp.concatenate([betas, expression])


def pose_feature(delta: Float[Array, "3 3 54 person"]) -> Float[Array, "486 person"]:
    """vec(R - I) of the joints after the pelvis, in (row, column, joint) order."""
    eye = jnp.eye(3, dtype=delta.dtype)[:, :, None, None]
    return (delta - eye).reshape(NUM_POSE_FEATURES, delta.shape[-1])


def bone_transforms(tree: BoneTree, joints: Array, delta: Array) -> Float[Array, "3 4 bone person"]:
    """Skinning transforms of the unrotated body, in tree order: T_c = T_p [R_c | J_c - R_c J_c], the root the identity.

    Args: joints (3, bone, N) in tree order; delta (3, 3, 54, N) rotations of all joints after the pelvis.
    """
    order = np.asarray(tree.order, np.int32)
    local = kinematics.rotations_about(jnp.take(delta, order[1:] - 1, axis=2), joints[:, 1:])
    root = jnp.broadcast_to(jnp.eye(3, 4, dtype=joints.dtype)[:, :, None, None], (3, 4, 1, joints.shape[-1]))
    return kinematics.chain(tree, jnp.concatenate([root, local], axis=2))


def at_rest(model: SmplxModel, params: Params) -> tuple[Float[Array, "*batch 10475 3"], Float[Array, "*batch 55 3"]]:
    """What is skinned: the resting mesh with the pose's correctives, and the resting joints; the model's own frame, metres."""
    batch, (betas, _, pose, _, expression) = _people_last(model.labels, params)
    z = shape_coefficients(model.labels, betas, expression)
    feature = pose_feature(rotations.rotvec_to_matrix_axes_first(pose))
    vertices = linear.evaluate(model.vertices, jnp.concatenate([z, feature]))
    joints = linear.evaluate(model.joints, z)
    return vertices.transpose(2, 1, 0).reshape(*batch, -1, 3), joints.transpose(2, 1, 0).reshape(*batch, NUM_JOINTS, 3)


def forward(model: SmplxModel, params: Params) -> Output:
    """Full mesh, joint poses and COCO-17 keypoints of a batch of bodies.

    Everything is computed relative to the pelvis and placed last, so float32 keeps micrometres at any camera distance.
    """
    labels = model.labels
    batch, (betas, root, pose, translation, expression) = _people_last(labels, params)
    z = shape_coefficients(labels, betas, expression)
    delta = rotations.rotvec_to_matrix_axes_first(pose)
    rest_joints = linear.evaluate(model.joints, z)
    transforms = bone_transforms(labels.tree, rest_joints[:, np.asarray(labels.tree.order, np.int32)], delta)
    transforms = transforms[:, :, labels.tree.inverse]
    corrected = linear.evaluate(model.vertices, jnp.concatenate([z, pose_feature(delta)]))
    per_vertex = jnp.einsum("ijbn,bv->nijv", transforms, model.skin)
    posed = (per_vertex[:, :, :3] * jnp.moveaxis(corrected, -1, 0)[:, None]).sum(2) + per_vertex[:, :, 3]  # (N, 3, V)
    at_rest = jnp.broadcast_to(jnp.eye(3, dtype=model.dtype)[:, :, None, None], (3, 3, *rest_joints.shape[1:]))
    bones = kinematics.compose(transforms, jnp.concatenate([at_rest, rest_joints[:, None]], axis=1))
    bones = jnp.moveaxis(bones, (2, 3), (1, 0))  # (N, J, 3, 4)
    # From here relative to the pelvis, then rotated and placed.
    pelvis_position = jnp.moveaxis(rest_joints[:, 0], -1, 0)
    posed = posed - pelvis_position[:, :, None]
    bones = bones.at[..., 3].add(-pelvis_position[:, None])
    sources = jnp.concatenate([posed, jnp.swapaxes(bones[..., 3], 1, 2)], axis=2)
    rotation = rotations.rotvec_to_matrix(root.T)
    place = translation.T[:, None]
    vertices = jnp.einsum("nij,njv->nvi", rotation, posed) + place
    keypoints = jnp.einsum("nij,njk->nki", rotation, sources @ model.keypoint_regressor.T) + place
    bones = jnp.einsum("nij,nbjk->nbik", rotation, bones).at[..., 3].add(place)
    bottom = jnp.broadcast_to(jnp.asarray([0.0, 0.0, 0.0, 1.0], bones.dtype), (*bones.shape[:2], 1, 4))
    return Output(
        vertices=vertices.reshape(*batch, NUM_VERTICES, 3),
        bone_poses=jnp.concatenate([bones, bottom], axis=2).reshape(*batch, NUM_JOINTS, 4, 4),
        keypoints=keypoints.reshape(*batch, len(KEYPOINTS), 3),
        joints=bones[..., 3].reshape(*batch, NUM_JOINTS, 3),
    )


# ------------------------------------------------------------------------------------------------ contracted points


def contract(model: SmplxModel, regressor: np.ndarray | Array) -> SmplxPoints:
    """Contract a regressor of points with the skinning weights and the pose correctives, once, on the host in float64.

    Args:
      regressor: (K, 10475) weights over vertices, or (K, 10475 + 55) with weights over joints appended
        (`model.keypoint_regressor`). Rows need not sum to 1. Memory grows with the (point, bone) pairs times 506 x 3:
        meant for hundreds of points; for a whole mesh use `forward`.
    """
    weights = np.asarray(regressor, np.float64)
    width = NUM_VERTICES + NUM_JOINTS
    if weights.ndim != 2 or weights.shape[1] not in (NUM_VERTICES, width):
        raise ValueError(f"regressor must be (K, {NUM_VERTICES}) or (K, {width}), got {weights.shape}")
    weights = np.pad(weights, ((0, 0), (0, width - weights.shape[1])))
    parents = np.asarray(model.labels.parents)
    # A joint moves rigidly with its parent (its own rotation leaves it in place), and has no pose corrective.
    follows = np.zeros((NUM_JOINTS, NUM_JOINTS))
    follows[np.maximum(parents, 0), np.arange(NUM_JOINTS)] = 1.0
    joints_basis = np.pad(np.asarray(model.joints.basis), ((0, NUM_POSE_FEATURES), (0, 0), (0, 0)))
    contracted = contraction.contract(
        weights,
        np.concatenate([np.asarray(model.skin), follows], axis=1),
        model.labels.parents,
        np.concatenate([np.asarray(model.vertices.mean), np.asarray(model.joints.mean)], axis=1),
        np.concatenate([np.asarray(model.vertices.basis), joints_basis], axis=2),
        model.dtype,
    )
    order = np.asarray(contracted.layout.tree.order, np.int32)
    return SmplxPoints(
        contraction=contracted,
        joints=model.joints.select((slice(None), order)),
        labels=model.labels,
    )


def vertex_regressor(vertices: np.ndarray) -> np.ndarray:
    """(K, 10475 + 55) one-hot rows for vertex indices (K,); stacks with `model.keypoint_regressor`."""
    rows = np.zeros((len(vertices), NUM_VERTICES + NUM_JOINTS))
    rows[np.arange(len(vertices)), np.asarray(vertices)] = 1.0
    return rows


def points(model_points: SmplxPoints, params: Params) -> Float[Array, "*batch point 3"]:
    """The contracted points of a batch of bodies, (..., K, 3) metres; equals the regressed `forward` to rounding."""
    batch, (betas, root, pose, translation, expression) = _people_last(model_points.labels, params)
    placed = points_people_last(model_points, betas, root, pose, translation, expression)
    return jnp.moveaxis(placed, (0, 1, 2), (2, 1, 0)).reshape(*batch, model_points.num_points, 3)


def points_people_last(
    mp: SmplxPoints,
    betas: Float[Array, "beta person"],
    root_rotvec: Float[Array, "3 person"],
    pose_rotvec: Float[Array, "3 54 person"],
    translation: Float[Array, "3 person"],
    expression: Float[Array, "expression person"] | None = None,
) -> Float[Array, "3 point person"]:
    """`points` with people as the last axis: the form the solver differentiates."""
    z = shape_coefficients(mp.labels, betas, expression)
    return points_of_rotations(mp, z, root_rotvec, skeleton.rotation_matrices(pose_rotvec), translation)


def points_of_rotations(
    mp: SmplxPoints,
    z: Float[Array, "shape person"],
    root_rotvec: Float[Array, "3 person"],
    delta: Float[Array, "54 3 3 person"],
    translation: Float[Array, "3 person"],
) -> Float[Array, "3 point person"]:
    """`points_people_last` from the coefficients of `shape_coefficients` and rotation matrices."""
    joints = linear.evaluate(mp.joints, z)
    tree = mp.layout.tree
    turns = kinematics.gather(delta, tuple(b - 1 for b in tree.order[1:]), 0)
    transforms: tuple[Array, Array] = skeleton.chain(tree, turns, joints)
    feature = pose_feature(jnp.moveaxis(delta, 0, 2))
    in_body = contraction.evaluate(mp.contraction, *transforms, jnp.concatenate([z, feature]))
    rotation = rotations.rotvec_to_matrix_axes_first(root_rotvec)
    return contraction.place(in_body, mp.contraction.weight_sum, joints[:, 0], rotation, translation)
