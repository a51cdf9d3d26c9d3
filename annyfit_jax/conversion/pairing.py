"""Which points and bones of Anny and SMPL-X correspond, from the two resting meshes alone.

There is no table of corresponding vertices that could be shipped: SMPL-X's mesh comes with the user's file. So the pairing is
made when it is needed. SMPL-X is laid upon Anny's average adult at rest, first by the heads of bones that lie at the same
place, then by the nearest points of the surface that look the same way, found anew several times. Where they lie upon each
other then, points correspond, and how a bone of one is turned against its counterpart stays the same in every pose.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from annyfit_jax.conversion import matching
from annyfit_jax.conversion.closest_points import Closest, closest_points
from annyfit_jax.conversion.convertible import Convertible, all_heads, faces, posed
from annyfit_jax.conversion.matching import BATCH
from annyfit_jax.people.scene import BodyParameters
from body_models import body_pairs

HIPS = [body_pairs.SAME_PLACE.index(joint) for joint in ("left_hip", "right_hip")]
"""Rows of the heads at the same place whose middle is the origin of a person's own frame."""
_FAR_M = (0.08, 0.05, 0.03, 0.03, 0.03, 0.03)
"""A nearest point farther away than this does not correspond, by round."""
_SAME_WAY = 0.3
"""Cosine between normals from which two points look the same way."""
_BY_HEADS = 3
"""How often the iterations of `matching` are made for the heads alone."""


@dataclass(frozen=True)
class Pairing:
    """From a source body to a target body."""

    places: Closest
    """For each of the target's chosen points the place on the source's surface that corresponds."""
    weight: Float[np.ndarray, "K"]
    """1 / spread in metres, 0 where nothing corresponds."""
    turns: Float[np.ndarray, "55 3 3"]
    """C with T_source = T_target C, of each pair of bones turned by T from rest."""


@dataclass(frozen=True)
class Laid:
    """SMPL-X laid upon Anny's average adult at rest, in the axes of SMPL-X, metres."""

    anny: Float[np.ndarray, "A 3"]
    """Anny's vertices."""
    anny_keypoints: Float[np.ndarray, "17 3"]
    """COCO-17 of Anny."""
    smplx: Float[np.ndarray, "V 3"]
    """Vertices of SMPL-X."""
    smplx_keypoints: Float[np.ndarray, "17 3"]
    """COCO-17 of SMPL-X."""
    turns: Float[np.ndarray, "55 3 3"]
    """C with T_anny = T_smplx C, of each pair of bones turned by T from the rest of its own body."""
    axes: Float[np.ndarray, "3 3"]
    """A point p of Anny's resting body is p @ axes here."""
    anny_heads: Float[np.ndarray, "B 3"]
    """Heads of Anny's bones, the root first."""
    smplx_joints: Float[np.ndarray, "55 3"]
    """Joints of SMPL-X."""


def pair(anny_body: Convertible, smplx_body: Convertible) -> tuple[Pairing, Pairing]:
    """The pairings from Anny to SMPL-X and from SMPL-X to Anny."""
    laid = lay(anny_body, smplx_body)
    return (
        _places(smplx_body, laid.smplx, laid.anny, faces(anny_body), laid.turns),
        _places(anny_body, laid.anny, laid.smplx, faces(smplx_body), np.swapaxes(laid.turns, 1, 2)),
    )


def lay(anny_body: Convertible, smplx_body: Convertible) -> Laid:
    """SMPL-X in the pose and shape in which it lies best upon Anny at rest."""
    source = _at_rest(anny_body)
    rest = posed(anny_body, source)
    start = np.array(anny_body.facts.axes).T @ np.array(smplx_body.facts.axes)
    # Solved in the axes of SMPL-X, so that its root is hardly turned.
    local = rest.vertices[0] @ start
    heads = rest.heads[0] @ start
    origin = heads[HIPS].mean(0)
    dtype = smplx_body.dtype
    last = lambda a: jnp.asarray(np.repeat(np.asarray(a).T[..., None], BATCH, -1), dtype)  # noqa: E731
    one = jnp.ones(BATCH, dtype)
    evidence = matching.blank(smplx_body, BATCH)._replace(heads=last(heads - origin), head_weight=one)
    x = jnp.zeros((smplx_body.num_variables, BATCH), dtype)
    for _ in range(_BY_HEADS):
        x, _ = matching.fitted(smplx_body, evidence, x)
    triangles = faces(anny_body)
    chosen = np.array(smplx_body.facts.chosen)
    sd = matching.surface_sd(smplx_body)
    for far in _FAR_M:
        laid = posed(smplx_body, _people(smplx_body, x[:, :1])).vertices[0] + origin
        found = closest_points(laid[chosen], local, triangles)
        good = _corresponds(found, vertex_normals(laid, faces(smplx_body))[chosen], far)
        points = np.einsum("kci,kc->ki", local[found.corners], found.shares) - origin
        weight = jnp.asarray(np.repeat(np.where(good, 1.0 / sd, 0.0)[:, None], BATCH, 1), dtype)
        evidence = evidence._replace(surface=last(points), surface_weight=weight, head_weight=0.3 * one)
        x, _ = matching.fitted(smplx_body, evidence, x)
    person = _people(smplx_body, x[:, :1])
    there = posed(smplx_body, person)
    # In the axes of SMPL-X, Anny at rest is turned by the axes alone.
    turns = np.swapaxes(there.turns[0], 1, 2) @ (start.T @ rest.turns[0])
    return Laid(
        local, rest.keypoints[0] @ start, there.vertices[0] + origin, there.keypoints[0] + origin, turns, start,
        all_heads(anny_body, source)[0] @ start, all_heads(smplx_body, person)[0] + origin,
    )  # fmt: skip


def _places(
    target: Convertible, own: np.ndarray, other: np.ndarray, triangles: np.ndarray, turns: np.ndarray
) -> Pairing:
    """Places on the other's surface for the target's chosen points, the two lying upon each other."""
    chosen = np.array(target.facts.chosen)
    found = closest_points(own[chosen], other, triangles)
    good = _corresponds(found, vertex_normals(own, faces(target))[chosen], _FAR_M[-1])
    return Pairing(found, np.where(good, 1.0 / matching.surface_sd(target), 0.0), turns)


def _corresponds(found: Closest, normals: np.ndarray, far: float) -> np.ndarray:
    return (found.distance < far) & ((found.normal * normals).sum(1) > _SAME_WAY)


def vertex_normals(vertices: Float[np.ndarray, "V 3"], triangles: np.ndarray) -> Float[np.ndarray, "V 3"]:
    """Smooth unit normals."""
    import trimesh

    return np.asarray(trimesh.Trimesh(vertices, triangles, process=False).vertex_normals)


def _at_rest(body: Convertible) -> BodyParameters:
    zeros = np.zeros((1, 3))
    pose = np.zeros((1, len(body.facts.bones) - 1, 3))
    return BodyParameters(zeros, zeros, pose, np.asarray(body.shape_mean)[None])


def _people(body: Convertible, x: object) -> BodyParameters:
    transl, root, shape, pose = (np.asarray(part, np.float64) for part in body.unpack(jnp.asarray(x)))
    return BodyParameters(root.T, transl.T, pose.transpose(2, 1, 0), shape.T)


def people_of(
    body: Convertible, x: object, turned: Float[np.ndarray, "n 3 3"], origin: Float[np.ndarray, "n 3"]
) -> BodyParameters:
    """Variables found in frames of their own, as people in space: a point p of the frame is turned p + origin there."""
    people = _people(body, x)
    root = turned @ Rotation.from_rotvec(people.root_rotvec).as_matrix()
    transl = np.einsum("nij,nj->ni", turned, people.transl) + origin
    return BodyParameters(Rotation.from_matrix(root).as_rotvec(), transl, people.pose, people.shape)
