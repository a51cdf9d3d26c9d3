"""Points of a part and their derivatives by its motions; the body that it hangs on stays. People are the last axis.

A turn of bone c by the rotation vector v moves what hangs below it about its posed joint x_c, as in `second_order.jacobian`:
dp_k / dv = (A_p R_c J(v)) x (P_ck - Omega_ck x_c).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from annyfit_jax.fit.parts.part_body import PartBody
from annyfit_jax.fit.second_order.jacobian import cross, left_jacobian, parent_slots
from body_models import anny, kinematics, linear, rotations


class PartRest(NamedTuple):
    """What of a part does not change during its fit."""

    outer: Float[Array, "3 4 N"]
    """Skinning transform of the bone that the part hangs on, from the resting body to the camera's axes."""
    heads: Float[Array, "3 B N"]
    frames: Float[Array, "3 3 B N"]
    """Rest orientations."""
    moments: Float[Array, "3 Q N"]
    still: Float[Array, "3 B N"]
    """Rotation vectors of the bones that no motion turns; zero for the others."""


def rest_of(
    body: PartBody, z: Float[Array, "rank N"], outer: Float[Array, "3 4 N"], own: Float[Array, "3 B N"]
) -> PartRest:
    """The part of bodies with shape coefficients z, its bones in a pose of which only those count that no motion turns."""
    moves = np.isin(np.arange(own.shape[1]), body.layout.moved)
    return PartRest(
        outer=outer,
        heads=linear.evaluate(body.heads, z),
        frames=anny.rest_orientations(linear.evaluate(body.axes, z), body.roll),
        moments=linear.evaluate(body.moments, z),
        still=jnp.where(jnp.asarray(moves)[:, None], 0.0, own),
    )


def read_motions(body: PartBody, own: Float[Array, "3 B N"]) -> Float[Array, "D N"]:
    """The motions that the body's fit knows, as it has them; 0 for the others."""
    slots = tuple(max(slot, 0) for slot in body.layout.read_bone)
    return (body.read[:, :, None] * kinematics.gather(own, slots, 1)).sum(0)


def rotvecs(body: PartBody, rest: PartRest, motions: Float[Array, "D N"]) -> Float[Array, "3 B N"]:
    """Rotation vectors of the part's bones."""
    size = kinematics.take(motions, body.layout.turn_motion, 0)
    turned = body.turn[:, :, None] * size
    return rest.still + kinematics.sum_taken(turned, body.layout.turn_bone, 1, rest.still.shape[1])


def points(body: PartBody, rest: PartRest, motions: Float[Array, "D N"]) -> Float[Array, "3 K N"]:
    """Camera points, metres."""
    transforms, _ = _transforms(body, rest, motions)
    return jnp.einsum("kq,iqn->ikn", body.collect, _pieces(body, rest, transforms), precision=linear.PRECISION)


def points_and_slopes(
    body: PartBody, rest: PartRest, motions: Float[Array, "D N"]
) -> tuple[Float[Array, "3 K N"], Float[Array, "3 D K N"]]:
    """Camera points and their derivatives by the motions."""
    layout = body.layout
    transforms, vectors = _transforms(body, rest, motions)
    pieces = _pieces(body, rest, transforms)
    placed = jnp.einsum("kq,iqn->ikn", body.collect, pieces, precision=linear.PRECISION)
    joints = kinematics.matvec(transforms[:, :3], rest.heads) + transforms[:, 3]
    parents = kinematics.gather(
        jnp.concatenate([rest.outer[:, :3, None], transforms[:, :3]], axis=2),
        (0, *(1 + s for s in parent_slots(layout.tree))),
        2,
    )
    # A turn's own rotation vector adds to those of the bone's other turns: all share the bone's left Jacobian.
    frame = kinematics.matmul(kinematics.matmul(parents, rest.frames), left_jacobian(vectors))
    turn = jnp.broadcast_to(body.turn[:, :, None], (*body.turn.shape, vectors.shape[-1]))
    axis = kinematics.matvec(kinematics.gather(frame, layout.turn_bone, 2), turn)
    pivots = kinematics.gather(joints, layout.turn_bone, 1)[:, :, None]
    lever = (pieces[:, None] - body.omega[:, None] * pivots) * body.hangs[:, :, None]
    slopes = cross(axis[:, :, None], lever)
    by_turn = kinematics.sum_taken(slopes, layout.pair_point, 2, len(body.collect))
    return placed, kinematics.sum_taken(by_turn, layout.turn_motion, 1, len(body.sd))


def _transforms(body: PartBody, rest: PartRest, motions: Array) -> tuple[Array, Array]:
    """Skinning transforms into the camera's axes (3, 4, B, N), and the rotation vectors."""
    vectors = rotvecs(body, rest, motions)
    turned = kinematics.matmul(rest.frames, rotations.rotvec_to_matrix_axes_first(vectors))
    local = kinematics.rotations_about(kinematics.matmul_transposed(turned, rest.frames), rest.heads)
    first = kinematics.compose(rest.outer[:, :, None], local[:, :, :1])
    return kinematics.chain(body.layout.tree, jnp.concatenate([first, local[:, :, 1:]], axis=2)), vectors


def _pieces(body: PartBody, rest: PartRest, transforms: Array) -> Float[Array, "3 Q N"]:
    """What of each point hangs on one bone, posed."""
    maps = kinematics.gather(transforms, body.layout.pair_bone, 2)
    return kinematics.matvec(maps[:, :3], rest.moments) + maps[:, 3] * body.omega[:, None]
