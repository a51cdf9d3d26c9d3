"""Points of a part and their derivatives by its motions; the body that it hangs on stays. People are the last axis.

A turn of bone c by the rotation vector v moves what hangs below it about its posed joint x_c, as in `second_order.jacobian`:
dp_k / dv = (A_p R_c J(v)) x (P_ck - Omega_ck x_c). Of SMPL-X, pose correctives and joints that move with the face are in the
derivatives too: without them, exact points would not be fitted exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from annyfit_jax.fit.parts.part_body import FixedFrames, PartBody, PartLayout
from annyfit_jax.fit.second_order.jacobian import cross, left_jacobian, parent_slots
from body_models import anny, kinematics, linear, rotations


class PartRest(NamedTuple):
    """What of a part does not change during its fit."""

    outer: Float[Array, "3 4 N"]
    """Skinning transform of the bone that the part hangs on, from the resting body to the camera's axes."""
    heads: Float[Array, "3 B N"]
    frames: Float[Array, "3 3 B N"]
    """Rest orientations."""
    back: Float[Array, "3 3 B N"]
    """A bone's turn by v is frames exp(v) back^T."""
    moments: Float[Array, "3 Q N"]
    still: Float[Array, "3 B N"]
    """Rotation vectors of the bones that no motion turns; zero for the others."""
    outside: Float[Array, "3 K N"] | None = None
    """What of the points hangs on bones outside the part, in the camera's axes; None where it moves with the part."""


def rest_of(
    body: PartBody, z: Float[Array, "rank N"], outer: Float[Array, "3 4 N"], own: Float[Array, "3 B N"]
) -> PartRest:
    """The part of bodies with coefficients z (`BodyMotion.posed`), its bones in a pose of which only those count that no motion
    turns."""
    moves = np.isin(np.arange(own.shape[1]), body.layout.moved)
    moments = linear.evaluate(body.moments, z)
    if body.fixed is None:
        assert body.axes is not None and body.roll is not None  # one of the two kinds
        frames = back = anny.rest_orientations(linear.evaluate(body.axes, z), body.roll)
    else:
        wide = lambda m: jnp.broadcast_to(m[..., None], (*m.shape, own.shape[-1]))  # noqa: E731
        frames, back = wide(body.fixed.left), wide(jnp.swapaxes(body.fixed.right, 0, 1))
        # Those of the part's own bones are added as the bones turn.
        moments = moments - _corrections(body.fixed, _turns(frames, own, back))
    return PartRest(
        outer=outer,
        heads=linear.evaluate(body.heads, z[: body.heads.rank]),
        frames=frames,
        back=back,
        moments=moments,
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
    return _placed(body, rest, _pieces(body, _posed(body, rest, motions)))


def points_and_slopes(
    body: PartBody, rest: PartRest, motions: Float[Array, "D N"]
) -> tuple[Float[Array, "3 K N"], Float[Array, "3 D K N"]]:
    """Camera points and their derivatives by the motions."""
    layout = body.layout
    posed = _posed(body, rest, motions)
    transforms, vectors = posed.transforms, posed.vectors
    pieces = _pieces(body, posed)
    placed = _placed(body, rest, pieces)
    joints = kinematics.matvec(transforms[:, :3], posed.heads) + transforms[:, 3]
    parents_of = kinematics.gather(
        jnp.concatenate([rest.outer[:, :, None], transforms], axis=2),
        (0, *(1 + s for s in parent_slots(layout.tree))),
        2,
    )
    parents = parents_of[:, :3]
    # A turn's own rotation vector adds to those of the bone's other turns: all share the bone's left Jacobian.
    frame = kinematics.matmul(kinematics.matmul(parents, rest.frames), left_jacobian(vectors))
    turn = jnp.broadcast_to(body.turn[:, :, None], (*body.turn.shape, vectors.shape[-1]))
    axis = kinematics.matvec(kinematics.gather(frame, layout.turn_bone, 2), turn)
    pivots = kinematics.gather(joints, layout.turn_bone, 1)[:, :, None]
    lever = (pieces[:, None] - body.omega[:, None] * pivots) * body.hangs[:, :, None]
    slopes = cross(axis[:, :, None], lever)
    if body.fixed is not None:
        slopes = slopes + _corrections_by_turn(body, rest, posed, turn)
    by_turn = kinematics.sum_taken(slopes, layout.pair_point, 2, len(body.collect))
    by_motion = kinematics.sum_taken(by_turn, layout.turn_motion, 1, len(body.sd))
    if body.fixed is not None and layout.expression:
        maps = kinematics.gather(transforms[:, :3], layout.pair_bone, 2)
        # (3, E, Q, N): a moment that slides is turned by its bone.
        moved = (maps[:, :, None] * jnp.moveaxis(body.fixed.slides, 2, 1)[None, ..., None]).sum(1)
        # A joint that moves at rest by dh shifts what hangs on it by (A_parent - A) dh, as in `second_order.jacobian`.
        difference = parents - transforms[:, :3]
        shift = (difference[:, :, None] * jnp.moveaxis(body.fixed.head_slides, 2, 1)[None, ..., None]).sum(1)
        below = _below(layout) * body.omega
        moved = moved + jnp.einsum("iebn,bq->ieqn", shift, below, precision=linear.PRECISION)
        by_face = kinematics.sum_taken(moved, layout.pair_point, 2, len(body.collect))
        by_motion = by_motion.at[:, np.asarray(layout.expression)].add(by_face)
    return placed, by_motion


def _placed(body: PartBody, rest: PartRest, pieces: Array) -> Float[Array, "3 K N"]:
    placed = jnp.einsum("kq,iqn->ikn", body.collect, pieces, precision=linear.PRECISION)
    return placed if rest.outside is None else placed + rest.outside


def _below(layout: PartLayout) -> np.ndarray:
    """(B, Q) 1 where the bone of a pair is a bone, or hangs on it."""
    above = (-1, *parent_slots(layout.tree))
    found = np.zeros((len(above), len(layout.pair_bone)))
    for pair, bone in enumerate(layout.pair_bone):
        while bone >= 0:
            found[bone, pair] = 1.0
            bone = above[bone]
    return found


class _Posed(NamedTuple):
    transforms: Float[Array, "3 4 B N"]
    """Skinning transforms into the camera's axes."""
    vectors: Float[Array, "3 B N"]
    heads: Float[Array, "3 B N"]
    moments: Float[Array, "3 Q N"]
    delta: Float[Array, "3 3 B N"]
    """Each bone's own turn."""


def _posed(body: PartBody, rest: PartRest, motions: Array) -> _Posed:
    vectors = rotvecs(body, rest, motions)
    delta = _turns(rest.frames, vectors, rest.back)
    heads, moments = rest.heads, rest.moments
    if body.fixed is not None:
        moments = moments + _corrections(body.fixed, delta)
        if body.layout.expression:
            face = kinematics.take(motions, body.layout.expression, 0)
            slide = lambda basis: jnp.einsum("iqe,en->iqn", basis, face, precision=linear.PRECISION)  # noqa: E731
            heads, moments = heads + slide(body.fixed.head_slides), moments + slide(body.fixed.slides)
    local = kinematics.rotations_about(delta, heads)
    first = kinematics.compose(rest.outer[:, :, None], local[:, :, :1])
    transforms = kinematics.chain(body.layout.tree, jnp.concatenate([first, local[:, :, 1:]], axis=2))
    return _Posed(transforms, vectors, heads, moments, delta)


def _turns(frames: Array, vectors: Array, back: Array) -> Float[Array, "3 3 B N"]:
    turned = kinematics.matmul(frames, rotations.rotvec_to_matrix_axes_first(vectors))
    return kinematics.matmul_transposed(turned, back)


def _corrections(fixed: FixedFrames, delta: Float[Array, "3 3 B N"]) -> Float[Array, "3 Q N"]:
    """What turns of the part's own bones do to the moments."""
    change = delta - jnp.eye(3, dtype=delta.dtype)[:, :, None, None]
    flat = change.reshape(-1, change.shape[-1])
    return jnp.einsum("iqf,fn->iqn", fixed.correctives, flat, precision=linear.PRECISION)


def _corrections_by_turn(body: PartBody, rest: PartRest, posed: _Posed, turn: Array) -> Float[Array, "3 E Q N"]:
    """What the correctives add to the derivatives of the pieces: dR / dv = [left J(v) turn]x R."""
    assert body.fixed is not None  # the caller has looked
    bones, count = body.layout.turn_bone, len(body.layout.turn_bone)
    frame = kinematics.matmul(rest.frames, left_jacobian(posed.vectors))
    axis = kinematics.matvec(kinematics.gather(frame, bones, 2), turn)
    turned = kinematics.gather(posed.delta, bones, 2)
    change = cross(axis[:, None], turned).reshape(9, count, -1)
    own = body.fixed.correctives.reshape(*body.fixed.correctives.shape[:2], 9, -1)
    own = jnp.take(own, np.asarray(bones, np.int32), axis=3)
    moments = jnp.einsum("iqfe,fen->ieqn", own, change, precision=linear.PRECISION)
    maps = kinematics.gather(posed.transforms[:, :3], body.layout.pair_bone, 2)
    return (maps[:, :, None] * moments[None]).sum(1)


def _pieces(body: PartBody, posed: _Posed) -> Float[Array, "3 Q N"]:
    """What of each point hangs on one bone, posed."""
    maps = kinematics.gather(posed.transforms, body.layout.pair_bone, 2)
    return kinematics.matvec(maps[:, :3], posed.moments) + maps[:, 3] * body.omega[:, None]
