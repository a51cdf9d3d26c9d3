"""People as a skinned mesh with bones: what a program for animation needs to pose them further.

A rig is the part that all people share: bones, skinning weights, triangles. A rigged person has the resting mesh of that very
person (the bind pose), the resting bones in it, and the turn of every bone that makes the fitted pose. With W the pose of a
bone in space and P its resting pose, p the parent,

    W_root = [R | t],    W_c = W_p P_p^-1 P_c D_c,    vertex = sum_b w_b W_b P_b^-1 x.

The bind pose is in glTF's axes whatever the body: metres, y up, the person looks along +z, and its left is at +x. The root bone
of every bind pose is not turned, so that its turn is the identity for an upright person who faces the viewer. Other bones keep
the rest frames of the body: Anny's have their y axis along the bone, as Blender wants it, SMPL-X's are parallel to the axes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from annyfit_jax.people.fit_meshes import smplx_face
from annyfit_jax.people.scene import BodyParameters
from body_models import anny, smplx

FROM_ANNY = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Anny's own axes (z up, looking along -y) to those of the bind pose."""
MOST_INFLUENCES = 12
"""Three sets of four: more than any vertex of Anny has."""


@dataclass(frozen=True)
class Rig:
    """Bones and skinning weights. J bones, V vertices, k influences per vertex."""

    bones: tuple[str, ...]
    """Unique names; the root is the first."""
    parents: tuple[int, ...]
    """-1 for the root; a parent comes before its children."""
    joints: Int[np.ndarray, "V k"]
    """Bones of the k largest weights of each vertex, largest first; 0 where the weight is 0."""
    weights: Float[np.ndarray, "V k"]
    """float32, rows sum to 1."""
    faces: Int[np.ndarray, "F 3"]


@dataclass(frozen=True)
class RiggedPerson:
    """One person for a `Rig`; metres."""

    vertices: Float[np.ndarray, "V 3"]
    """The resting mesh, in the axes of the bind pose."""
    bind: Float[np.ndarray, "J 3 4"]
    """Resting pose of every bone in the same axes: orientation and head."""
    tips: Float[np.ndarray, "J 3"]
    """Where each bone ends at rest; its head where the body does not say."""
    turns: Float[np.ndarray, "J 3 3"]
    """Rotation of every bone in its own rest frame; the identity for the root."""
    root: Float[np.ndarray, "3 4"]
    """Orientation and position of the root bone in camera axes (x right, y down, z forward)."""


# ------------------------------------------------------------------------------------------------ making them


def anny_rig(model: anny.AnnyModel, influences: int) -> Rig:
    """Anny's rig with the given number of influences per vertex, 1 to `MOST_INFLUENCES`."""
    joints, weights = largest_weights(np.asarray(model.skin, np.float64).T, influences)
    return Rig(model.labels.bones, model.labels.parents, joints, weights, np.asarray(model.faces))


def rigged_anny(model: anny.AnnyModel, people: BodyParameters) -> Iterator[RiggedPerson]:
    """Every person with finite parameters given, one after another."""
    for i in range(len(people)):
        vertices, poses, tips = (np.asarray(x, np.float64) for x in _rest(model, jnp.asarray(people.shape[i])))
        turns = np.concatenate([np.eye(3)[None], Rotation.from_rotvec(people.pose[i]).as_matrix()])
        bind = FROM_ANNY @ poses
        bind[0, :, :3] = np.eye(3)
        root = Rotation.from_rotvec(people.root_rotvec[i]).as_matrix() @ FROM_ANNY.T
        yield RiggedPerson(
            vertices=vertices @ FROM_ANNY.T,
            bind=bind,
            tips=tips @ FROM_ANNY.T,
            turns=turns,
            root=np.concatenate([root, np.asarray(people.transl[i], np.float64)[:, None]], 1),
        )


def smplx_rig(model: smplx.SmplxModel, influences: int) -> Rig:
    """SMPL-X's joints as bones, with the given number of influences per vertex."""
    joints, weights = largest_weights(np.asarray(model.skin, np.float64).T, influences)
    return Rig(model.labels.bones, model.labels.parents, joints, weights, np.asarray(model.faces))


def rigged_smplx(model: smplx.SmplxModel, people: BodyParameters) -> Iterator[RiggedPerson]:
    """Every person given. The correctives of the fitted pose are in the resting mesh: they do not change with further posing.

    SMPL-X does not say where a joint's limb ends: `tips` are the heads.
    """
    faces = smplx_face(model, people)
    for i in range(len(people)):
        arrays = (people.shape[i], people.root_rotvec[i], people.pose[i], people.transl[i], faces[i])
        params = smplx.Params(*(jnp.asarray(x, model.dtype) for x in arrays))
        vertices, joints = (np.asarray(x, np.float64) for x in _smplx_rest(model, params))
        pose = Rotation.from_rotvec(np.asarray(people.pose[i], np.float64)).as_matrix()
        root = Rotation.from_rotvec(np.asarray(people.root_rotvec[i], np.float64)).as_matrix()
        yield RiggedPerson(
            vertices=vertices,
            bind=np.concatenate([np.tile(np.eye(3), (len(joints), 1, 1)), joints[:, :, None]], axis=2),
            tips=joints,
            turns=np.concatenate([np.eye(3)[None], pose]),
            root=np.concatenate([root, np.asarray(people.transl[i], np.float64)[:, None]], 1),
        )


_smplx_rest = jax.jit(smplx.at_rest)


@functools.partial(jax.jit)
def _rest(model: anny.AnnyModel, phenotypes: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    vertices, poses = anny.rest(model, phenotypes.astype(model.dtype))
    return vertices, poses, anny.rest_tips(model, phenotypes.astype(model.dtype))


def largest_weights(
    weights: Float[np.ndarray, "V J"], influences: int
) -> tuple[Int[np.ndarray, "V k"], Float[np.ndarray, "V k"]]:
    """Bones and weights of the largest weights of each vertex, scaled to sum to 1 as float32 numbers.

    Raises ValueError for a number of influences that a mesh cannot hold.
    """
    if not 1 <= influences <= MOST_INFLUENCES:
        raise ValueError(f"influences must be 1 to {MOST_INFLUENCES}, got {influences}")
    joints = np.argsort(-weights, axis=1, kind="stable")[:, :influences]
    kept = np.take_along_axis(weights, joints, axis=1)
    kept = (kept / kept.sum(1, keepdims=True)).astype(np.float32)
    # Readers check the sum of what is stored: the largest weight takes the rounding of all.
    kept[:, 0] = (1.0 - kept[:, 1:].astype(np.float64).sum(1)).astype(np.float32)
    return np.where(kept > 0, joints, 0), kept


# ------------------------------------------------------------------------------------------------ using them


def local_poses(rig: Rig, person: RiggedPerson, from_camera: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "J 3 4"]:
    """Pose of every bone relative to its parent; of the root in the axes that `from_camera` leads to."""
    head, frame = person.bind[:, :, 3], person.bind[:, :, :3]
    above = np.maximum(rig.parents, 0)
    to_parent = np.swapaxes(frame[above], 1, 2)
    local = np.concatenate([to_parent @ frame @ person.turns, to_parent @ (head - head[above])[:, :, None]], axis=2)
    local[0] = from_camera[:3, :3] @ person.root
    local[0, :, 3] += from_camera[:3, 3]
    return local


def world_poses(rig: Rig, local: Float[np.ndarray, "J 3 4"]) -> Float[np.ndarray, "J 3 4"]:
    """Pose of every bone in space from those relative to the parents."""
    world = np.array(local)
    for bone, parent in enumerate(rig.parents):
        if parent >= 0:
            world[bone, :, :3] = world[parent, :, :3] @ local[bone, :, :3]
            world[bone, :, 3] = world[parent, :, :3] @ local[bone, :, 3] + world[parent, :, 3]
    return world


def skinned(rig: Rig, person: RiggedPerson, world: Float[np.ndarray, "J 3 4"]) -> Float[np.ndarray, "V 3"]:
    """The mesh that a program makes of the file: vertices under the bones' poses in space."""
    rotation = world[:, :, :3] @ np.swapaxes(person.bind[:, :, :3], 1, 2)
    shift = world[:, :, 3] - (rotation @ person.bind[:, :, 3:])[..., 0]
    out = np.zeros_like(person.vertices)
    for joint, weight in zip(rig.joints.T, rig.weights.T.astype(np.float64)):
        moved = (rotation[joint] @ person.vertices[:, :, None])[..., 0] + shift[joint]
        out += weight[:, None] * moved
    return out
