"""A body as the conversion sees it: some points of its surface, the turns of its bones, its ranges and priors.

Both bodies are posed by the same few lines here, which take forward derivatives; those of `body_models` are made for gradients.
Everything has people last. The variables of a person are stacked: translation (3), turn of the root against that of the start
(3), shape (S), rotation vectors of the free bones (3 each).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from annyfit_jax.fit.fit_body import farthest_points
from annyfit_jax.fit.keypoint_start import calibrated_phenotypes
from annyfit_jax.people import anatomy
from annyfit_jax.people.scene import UNKNOWN_WORD, BodyParameters
from body_models import anny, body_pairs, kinematics, linear, rotations, smplx, smplx_file

_BODY_POINTS, _PART_POINTS = 420, 60
"""Points of the whole surface, and of each hand and the head besides."""
_CHUNK = 8
_BETA_SD = 2.0
"""Spread of betas without evidence. Wider than that of the people they were learned from, so that the surface decides."""
_BETA_LIMIT = 10.0
_BLEND_SD = 1.0
"""The same of the blend with a child."""
_PHENOTYPE_SD = 0.5
_POSE_SD = 0.5
"""Spread of a joint's rotation without evidence, radians; Anny's small bones have their own (`anatomy.pose_spread`)."""
_FIXED = (
    "oris", "levator", "temporalis", "orbicularis", "oculi", "risorius", "tongue", "special", "breast", "metacarpal",
)  # fmt: skip
"""Beginnings of the names of Anny's bones that have no counterpart and no part in a posture."""


class Posed(NamedTuple):
    """A body in a pose, people last."""

    points: Float[Array, "3 K N"]
    turns: Float[Array, "3 3 B N"]
    """How every bone is turned from rest, the root first."""
    heads: Float[Array, "3 B N"]


@struct.dataclass
class Convertible:
    """A body of either kind; a pytree, handed to compiled functions as an argument. K points, B bones with the root."""

    model: Any
    points_mean: Float[Array, "3 K"]
    """The chosen points of the surface at rest, metres: linear in the coefficients of the shape."""
    points_basis: Float[Array, "rank 3 K"]
    correctives: Float[Array, "9 B-1 3 K"] | None
    """Of SMPL-X: by entries of the rotations less the identity."""
    weights: Float[Array, "K B"]
    """Skinning weights of the points."""
    heads_mean: Float[Array, "3 B"]
    heads_basis: Float[Array, "rank 3 B"]
    axes_mean: Float[Array, "3 B"] | None
    """Of Anny: tail minus head of every bone."""
    axes_basis: Float[Array, "rank 3 B"] | None
    shape_low: Float[Array, "S"]
    shape_high: Float[Array, "S"]
    shape_mean: Float[Array, "S"]
    shape_precision: Float[Array, "S"]
    pose_precision: Float[Array, "B-1"]
    facts: Facts = struct.field(pytree_node=False)

    @property
    def num_variables(self) -> int:
        """How many variables a person has."""
        return 6 + self.shape_low.shape[0] + 3 * len(self.facts.free)

    @property
    def dtype(self) -> Any:
        """Floating type of every array."""
        return self.shape_low.dtype

    def unpack(self, x: Float[Array, "D N"]) -> tuple[Array, Array, Array, Array]:
        """Translation (3, N), root (3, N), shape (S, N), pose (3, B - 1, N); bones that are not free are at rest."""
        end = 6 + self.shape_low.shape[0]
        free = np.asarray(self.facts.free, np.int32)
        pose = jnp.zeros((3, len(self.facts.bones) - 1, x.shape[1]), x.dtype)
        pose = pose.at[:, free].set(x[end:].reshape(len(free), 3, -1).transpose(1, 0, 2))
        return x[:3], x[3:6], x[6:end], pose

    def pose(
        self,
        transl: Float[Array, "3 N"],
        root: Float[Array, "3 N"],
        shape: Float[Array, "S N"],
        pose: Float[Array, "3 B-1 N"],
    ) -> Posed:
        """The body in a pose."""
        z = self.facts.coefficients(self.model, shape)
        at = self.heads_mean[..., None] + _sum(self.heads_basis, z)
        rest = self.points_mean[..., None] + _sum(self.points_basis, z)
        local = rotations.rotvec_to_matrix_axes_first(pose)
        if self.correctives is not None:
            change = (local - jnp.eye(3, dtype=local.dtype)[:, :, None, None]).reshape(9, *local.shape[2:])
            rest = rest + jnp.einsum("ebik,ebn->ikn", self.correctives, change, precision=linear.PRECISION)
        if self.axes_mean is not None and self.axes_basis is not None:
            frames = self.facts.frames(self.model, self.axes_mean[..., None] + _sum(self.axes_basis, z))[:, :, 1:]
            local = jnp.einsum("ijbn,jkbn,lkbn->ilbn", frames, local, frames, precision=linear.PRECISION)
        turns, shifts = self._chain(at, local, rotations.rotvec_to_matrix_axes_first(root), transl)
        blended = jnp.einsum("kb,ijbn->ijkn", self.weights, turns, precision=linear.PRECISION)
        moved = jnp.einsum("kb,ibn->ikn", self.weights, shifts, precision=linear.PRECISION)
        return Posed((blended * rest).sum(1) + moved, turns, (turns * at).sum(1) + shifts)

    def _chain(self, at: Array, local: Array, root: Array, transl: Array) -> tuple[Array, Array]:
        """Turns (3, 3, B, N) and shifts (3, B, N) of all bones: A_c = A_p G_c, a_c = a_p + (A_p - A_c) h_c, by depth."""
        tree = kinematics.bone_tree(self.facts.parents)
        turns = [root[:, :, None]]
        shifts = [(transl - (root * at[None, :, 0]).sum(1))[:, None]]
        first = 1
        for size, slots in zip(tree.level_sizes[1:], tree.parent_slots[1:]):
            bones = np.asarray(tree.order[first : first + size], np.int32)
            first += size
            above = turns[-1][:, :, np.asarray(slots, np.int32)]
            mine = (above[:, :, None] * local[None, :, :, bones - 1]).sum(1)
            shifts.append(shifts[-1][:, np.asarray(slots, np.int32)] + ((above - mine) * at[None, :, bones]).sum(1))
            turns.append(mine)
        return jnp.concatenate(turns, 2)[:, :, tree.inverse], jnp.concatenate(shifts, 1)[:, tree.inverse]


def _sum(basis: Float[Array, "rank 3 K"], z: Float[Array, "rank N"]) -> Float[Array, "3 K N"]:
    return jnp.einsum("rik,rn->ikn", basis, z, precision=linear.PRECISION)


@dataclass(frozen=True)
class Facts:
    """Static facts of a body (hashable)."""

    name: str
    """`anny` or `smplx`."""
    version: str
    """Of the body's data."""
    bones: tuple[str, ...]
    """The root first."""
    parents: tuple[int, ...]
    """A parent comes before its children."""
    shape_labels: tuple[str, ...]
    free: tuple[int, ...]
    """Rows of the pose that are found."""
    chosen: tuple[int, ...]
    """Vertices that the points of the surface are."""
    fine: tuple[bool, ...]
    """Whether such a vertex is one of a hand or the head."""
    paired: tuple[int, ...]
    """Bones with a counterpart, in the order of `smplx.JOINTS`."""
    same_place: tuple[int, ...]
    """Those of them that lie at the same place, in the order of `body_pairs.SAME_PLACE`."""
    seen_points: tuple[int, ...]
    """Of SMPL-X: the chosen points that are COCO's of the face, in COCO's order."""
    seen_heads: tuple[int, ...]
    """Of SMPL-X: the bones whose heads are COCO's other keypoints."""
    axes: tuple[tuple[float, ...], ...]
    """The body's own axes to x left, y up, z forward."""
    coefficients: Callable[[Any, Array], Array]
    """(model, shape (S, N)) -> coefficients of the rest state (rank, N)."""
    frames: Callable[[Any, Array], Array]
    """(model, axes (3, B, N)) -> rest orientations (3, 3, B, N)."""
    vertices: Callable[..., tuple[Array, Array]]
    """The whole mesh and COCO-17, people first."""


def convertible_anny(model: anny.AnnyModel) -> Convertible:
    """Anny with six phenotypes. Bones of the expression, of breasts and palm stay at rest.

    Raises ValueError for a model with other phenotypes.
    """
    if model.rest.corner_map is None:
        raise ValueError("conversion uses the six-phenotype Anny: anny.load(phenotypes='default')")
    labels = model.labels
    skin = np.asarray(model.skin).T
    average = calibrated_phenotypes(np.array([UNKNOWN_WORD]), np.array([UNKNOWN_WORD]))[0]
    rest = np.asarray(jax.jit(anny.rest)(model, jnp.asarray(average, model.dtype))[0], np.float64)
    # The tongue is not seen, and SMPL-X has none.
    inner = np.array([bone.startswith("tongue") for bone in labels.bones])[skin.argmax(1)]
    chosen, fine = _chosen(rest, skin, body_pairs.parts(labels.bones, labels.parents), ~inner)
    index = labels.bones.index
    spread = np.minimum(anatomy.pose_spread(labels.bones[1:]), _POSE_SD)
    cast = lambda x: jnp.asarray(np.asarray(x, model.dtype))  # noqa: E731
    return Convertible(
        model=model,
        points_mean=model.vertices.mean[:, chosen],
        points_basis=cast(np.asarray(model.vertices.basis)[:, :, chosen]),
        correctives=None,
        weights=cast(skin[chosen]),
        heads_mean=model.heads.mean,
        heads_basis=model.heads.basis,
        axes_mean=model.axes.mean,
        axes_basis=model.axes.basis,
        shape_low=cast(np.zeros(6)),
        shape_high=cast(np.ones(6)),
        shape_mean=cast(average),
        shape_precision=cast(np.full(6, _PHENOTYPE_SD**-2)),
        pose_precision=cast(spread**-2.0),
        facts=Facts(
            name="anny",
            version=labels.asset_version,
            bones=labels.bones,
            parents=labels.parents,
            shape_labels=labels.phenotypes,
            free=tuple(i for i, bone in enumerate(labels.bones[1:]) if not bone.startswith(_FIXED)),
            chosen=tuple(int(v) for v in chosen),
            fine=fine,
            paired=tuple(index(body_pairs.ANNY_BONES[joint]) for joint in smplx.JOINTS),
            same_place=tuple(index(body_pairs.ANNY_BONES[joint]) for joint in body_pairs.SAME_PLACE),
            seen_points=(),
            seen_heads=(),
            axes=((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0)),
            coefficients=_anny_coefficients,
            frames=_anny_frames,
            vertices=_anny_vertices,
        ),
    )


def convertible_smplx(model: smplx.SmplxModel) -> Convertible:
    """SMPL-X without expression, hands with all their joints."""
    labels = model.labels
    rest = np.asarray(model.vertices.mean, np.float64).T
    chosen, fine = _chosen(rest, np.asarray(model.skin).T, labels.bones, np.ones(len(rest), bool))
    # COCO's points of the face are vertices, the others are joints.
    keypoints = labels.keypoints
    face = np.asarray(model.keypoint_regressor)[:5, : smplx_file.NUM_VERTICES].argmax(1)
    chosen, fine = np.concatenate([chosen, face]), (*fine, *len(face) * (True,))
    count = labels.num_betas
    own = count + labels.num_expression
    blend = labels.kid & (np.arange(count) == count - 1)
    basis = np.asarray(model.vertices.basis)[:, :, chosen]
    cast = lambda x: jnp.asarray(np.asarray(x, model.dtype))  # noqa: E731
    return Convertible(
        model=model,
        points_mean=model.vertices.mean[:, chosen],
        points_basis=cast(basis[:count]),
        correctives=cast(basis[own:].reshape(9, smplx_file.NUM_JOINTS - 1, 3, len(chosen))),
        weights=cast(np.asarray(model.skin).T[chosen]),
        heads_mean=model.joints.mean,
        heads_basis=cast(np.asarray(model.joints.basis)[:count]),
        axes_mean=None,
        axes_basis=None,
        shape_low=cast(np.where(blend, 0.0, -_BETA_LIMIT)),
        shape_high=cast(np.where(blend, 1.0, _BETA_LIMIT)),
        shape_mean=cast(np.zeros(count)),
        shape_precision=cast(np.where(blend, _BLEND_SD, _BETA_SD) ** -2.0),
        pose_precision=cast(np.full(54, _POSE_SD**-2)),
        facts=Facts(
            name="smplx",
            version=labels.asset_version,
            bones=labels.bones,
            parents=labels.parents,
            shape_labels=labels.shape,
            free=tuple(range(54)),
            chosen=tuple(int(v) for v in chosen),
            fine=fine,
            paired=tuple(range(55)),
            same_place=tuple(labels.bones.index(joint) for joint in body_pairs.SAME_PLACE),
            seen_points=tuple(range(len(chosen) - len(face), len(chosen))),
            seen_heads=tuple(labels.bones.index(name) for name in keypoints[len(face) :]),
            axes=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
            coefficients=_smplx_coefficients,
            frames=_no_frames,
            vertices=_smplx_vertices,
        ),
    )


def faces(body: Convertible) -> Int[np.ndarray, "F 3"]:
    """Triangles."""
    return np.asarray(body.model.faces)


def rest_frames(body: Convertible) -> Float[np.ndarray, "B 3 3"]:
    """Rest orientations of the bones of the average body, in which their rotation vectors are given."""
    if body.axes_mean is None or body.axes_basis is None:
        return np.tile(np.eye(3), (len(body.facts.bones), 1, 1))
    z = body.facts.coefficients(body.model, body.shape_mean[:, None])
    frames = body.facts.frames(body.model, body.axes_mean[..., None] + _sum(body.axes_basis, z))
    return np.asarray(frames, np.float64)[..., 0].transpose(2, 0, 1)


class Mesh(NamedTuple):
    """n people of a body; float64, people first."""

    vertices: Float[np.ndarray, "n V 3"]
    keypoints: Float[np.ndarray, "n 17 3"]
    """COCO-17."""
    turns: Float[np.ndarray, "n P 3 3"]
    """Of the bones with a counterpart."""
    heads: Float[np.ndarray, "n H 3"]
    """Of the bones that lie at the same place."""


def posed(body: Convertible, people: BodyParameters) -> Mesh:
    """The meshes, turns and heads of people."""
    found: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(people), _CHUNK):
        part = people.select(np.minimum(np.arange(start, start + _CHUNK), len(people) - 1))
        arrays = (jnp.asarray(x, body.dtype) for x in (part.shape, part.root_rotvec, part.pose, part.transl))
        out = _posed(body, *arrays)
        found.append(tuple(np.asarray(x, np.float64)[: len(people) - start] for x in out))
    return Mesh(*(np.concatenate(parts) for parts in zip(*found)))


def all_heads(body: Convertible, people: BodyParameters) -> Float[np.ndarray, "n B 3"]:
    """Heads of all bones of people, the root first, in the frame of the parameters."""
    arrays = (people.transl, people.root_rotvec, people.shape, people.pose)
    given = (jnp.asarray(np.moveaxis(x, (0, -1), (-1, 0)), body.dtype) for x in arrays)
    return np.asarray(_heads(body, *given), np.float64).transpose(2, 1, 0)


@jax.jit
def _heads(body: Convertible, transl: Array, root: Array, shape: Array, pose: Array) -> Array:
    return body.pose(transl, root, shape, pose).heads


@jax.jit
def _posed(body: Convertible, shape: Array, root: Array, pose: Array, transl: Array) -> tuple[Array, ...]:
    vertices, keypoints = body.facts.vertices(body.model, shape, root, pose, transl)
    here = body.pose(transl.T, root.T, shape.T, pose.transpose(2, 1, 0))
    turns = here.turns[:, :, np.asarray(body.facts.paired)]
    heads = here.heads[:, np.asarray(body.facts.same_place)]
    return vertices, keypoints, turns.transpose(3, 2, 0, 1), heads.transpose(2, 1, 0)


def _anny_coefficients(model: anny.AnnyModel, shape: Array) -> Array:
    assert model.rest.corner_map is not None  # `convertible_anny` has looked
    return jnp.matmul(model.rest.corner_map.rows, anny.corner_weights(shape), precision=linear.PRECISION)


def _smplx_coefficients(model: smplx.SmplxModel, shape: Array) -> Array:
    return shape


def _anny_frames(model: anny.AnnyModel, axes: Array) -> Array:
    return anny.rest_orientations(axes, model.roll)


def _no_frames(model: smplx.SmplxModel, axes: Array) -> Array:
    raise ValueError("the joints of SMPL-X have no frames of their own")


def _anny_vertices(model: anny.AnnyModel, shape: Array, root: Array, pose: Array, transl: Array) -> tuple[Array, Array]:
    out = anny.forward(model, anny.Params(shape, root, pose, transl))
    return out.vertices, out.keypoints[:, :17]


def _smplx_vertices(
    model: smplx.SmplxModel, shape: Array, root: Array, pose: Array, transl: Array
) -> tuple[Array, Array]:
    out = smplx.forward(model, smplx.Params(shape, root, pose, transl))
    return out.vertices, out.keypoints


def _chosen(
    rest: np.ndarray, skin: np.ndarray, parts: tuple[str, ...], usable: np.ndarray
) -> tuple[np.ndarray, tuple[bool, ...]]:
    """Vertices spread over the surface, and more on hands and head, whose details are smaller."""
    part = np.array(parts)[skin.argmax(1)]
    hand = np.array([p.startswith(("left_", "right_")) and p.rstrip("123").endswith(_HAND) for p in part])
    groups = [np.flatnonzero(usable)]
    for mine in (hand & (rest[:, 0] > 0), hand & (rest[:, 0] < 0), np.isin(part, ("head", "jaw"))):
        groups.append(np.flatnonzero(mine & usable))
    found = [
        group[farthest_points(rest[group], min(count, len(group)))]
        for group, count in zip(groups, (_BODY_POINTS, *3 * (_PART_POINTS,)))
    ]
    fine = np.concatenate([hand[found[0]], np.ones(sum(map(len, found[1:])), bool)])
    return np.concatenate(found), tuple(bool(f) for f in fine)


_HAND = ("wrist", "thumb", "index", "middle", "ring", "pinky")
