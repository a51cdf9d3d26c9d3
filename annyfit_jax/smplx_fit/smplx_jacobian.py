"""Points of SMPL-X and their derivatives, the pose given in the frames of Anny's bones (`bone_frames`).

The points are the same sums over bones as Anny's, so that `fit.second_order.jacobian` makes the derivatives from them. Two
things are simpler: shape is linear, and rest frames do not turn with it. One is more: pose correctives. They are in the points,
and left out of the derivatives by the pose: a joint's correctives move surface points by a few per cent of what the joint
itself does, and no joint at all, and every step is judged by the exact energy.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from annyfit_jax.fit.problem import Variables
from annyfit_jax.fit.second_order import jacobian
from annyfit_jax.fit.second_order.jacobian import Linearization
from annyfit_jax.fit.second_order.linear_plan import Plan
from annyfit_jax.smplx_fit.bone_frames import BoneFrames
from body_models import contraction, kinematics, linear, rotations, smplx


@struct.dataclass
class FramedPoints:
    """Contracted points whose poses are u of `bone_frames`: a pytree."""

    own: smplx.SmplxPoints
    left: Float[Array, "3 3 54"]
    """SMPL-X's own rotation of a joint is left exp(u) right."""
    right: Float[Array, "3 3 54"]

    @property
    def contraction(self) -> contraction.Contraction:
        """What `second_order.linear_plan` lays out."""
        return self.own.contraction

    @property
    def layout(self) -> contraction.PointLayout:
        """Which joints move which points (static)."""
        return self.own.layout

    @property
    def num_points(self) -> int:
        """How many points."""
        return self.own.num_points

    @property
    def labels(self) -> smplx.Labels:
        """Of the model."""
        return self.own.labels


def framed(points: smplx.SmplxPoints, frames: BoneFrames) -> FramedPoints:
    """Points of SMPL-X in the frames of Anny's bones."""
    dtype = points.joints.mean.dtype
    last = lambda matrices: linear.on_device(np.moveaxis(matrices, 0, -1), dtype)  # noqa: E731
    return FramedPoints(points, last(frames.left), last(frames.right))


def place(
    points: FramedPoints,
    shape: Float[Array, "S N"],
    root_rotvec: Float[Array, "3 N"],
    pose: Float[Array, "3 54 N"],
    translation: Float[Array, "3 N"],
    expression: Float[Array, "E N"] | None = None,
) -> Float[Array, "3 K N"]:
    """The points of N people in camera axes, metres."""
    z = smplx.shape_coefficients(points.labels, shape, expression)
    delta = jnp.moveaxis(_own_rotations(points, pose), 2, 0)
    return smplx.points_of_rotations(points.own, z, root_rotvec, delta, translation)


def transforms_of(
    points: FramedPoints, shape: Float[Array, "S N"], pose: Float[Array, "3 54 N"]
) -> tuple[Float[Array, "Z N"], Float[Array, "3 4 B N"], Float[Array, "3 B N"], Float[Array, "3 3 54 N"]]:
    """Coefficients of the shape without expression, skinning transforms about the root and resting joints in the order of the
    points' tree, and SMPL-X's own rotations of all joints."""
    z = smplx.shape_coefficients(points.labels, shape, None)
    delta = _own_rotations(points, pose)
    heads, tree = linear.evaluate(points.own.joints, z), points.layout.tree
    local = kinematics.rotations_about(
        kinematics.gather(delta, tuple(joint - 1 for joint in tree.order[1:]), 2), heads[:, 1:]
    )
    still = jnp.broadcast_to(jnp.eye(3, 4, dtype=heads.dtype)[:, :, None, None], (3, 4, 1, shape.shape[1]))
    return z, kinematics.chain(tree, jnp.concatenate([still, local], axis=2)), heads, delta


def linearize(plan: Plan, points: FramedPoints, variables: Variables) -> Linearization:
    """The points of all people and their derivatives, as `second_order.jacobian.linearize` of Anny."""
    layout, c, tree = plan.layout, points.contraction, points.layout.tree
    shape, pose = jnp.asarray(variables.shape), jnp.asarray(variables.pose)
    count, people = shape.shape
    z, transforms, heads, delta = transforms_of(points, shape, pose)
    below = tuple(joint - 1 for joint in tree.order[1:])
    # Barriers keep XLA from fusing one stage into the next, which would compute the first again for every use of it.
    transforms, heads, delta = jax.lax.optimization_barrier((transforms, heads, delta))
    joints = kinematics.matvec(transforms[:, :3], heads) + transforms[:, 3]

    def slope(field: linear.Field) -> Float[Array, "3 S K"]:
        return jnp.swapaxes(field.basis[:count], 0, 1)

    # A joint that moves at rest by dh shifts what hangs on it by (A_parent - A) dh; shifts add up along the chain.
    parents = tuple(jacobian.parent_slots(tree))
    difference = kinematics.gather(transforms[:, :3], parents, 2) - transforms[:, :3, 1:]
    d_heads = slope(points.own.joints)
    shift = (difference[:, :, None] * d_heads[None, :, :, 1:, None]).sum(1)  # (3, S, B-1, N)
    shift = jax.lax.optimization_barrier(jnp.moveaxis(shift, 2, 0))
    summed = (plan.ancestors[:, 1:] @ shift.reshape(len(parents), -1)).reshape(-1, *shift.shape[1:])
    summed = jax.lax.optimization_barrier(jnp.moveaxis(summed, 0, 2))  # (3, S, B, N)

    moments = jacobian.moments_of(plan, c, jnp.concatenate([z, smplx.pose_feature(delta)]))
    d_rows = jnp.take(slope(c.vertex), np.asarray(layout.pair_vertex, np.int32), axis=2) * plan.vertex_weight
    d_moments = jnp.concatenate(
        [d_rows, jnp.take(slope(c.moment), np.asarray(layout.pair_moment, np.int32), axis=2)], 2
    )
    maps = kinematics.gather(transforms, layout.pair_bone, 2)
    omega = plan.pair_weight[:, None]
    parts = kinematics.matvec(maps[:, :3], moments) + maps[:, 3] * omega
    turned = (maps[:, :3, None] * d_moments[None, ..., None]).sum(1)
    d_parts = kinematics.gather(summed, layout.pair_bone, 2) * omega + turned
    parts, d_parts = jax.lax.optimization_barrier((parts, d_parts))
    frames = jnp.take(points.left, np.asarray(below, np.int32), axis=2)[..., None]
    posed = jacobian.Posed(
        transforms=transforms,
        heads=heads,
        d_heads=jnp.broadcast_to(d_heads[..., None], (*d_heads.shape, people)),
        frames=jnp.broadcast_to(frames, (*frames.shape[:3], people)),
        joints=joints,
        parts=parts,
        d_parts=d_parts,
    )
    return jacobian.assembled(plan, c, variables, posed)


def _own_rotations(points: FramedPoints, pose: Float[Array, "3 54 N"]) -> Float[Array, "3 3 54 N"]:
    turned = rotations.rotvec_to_matrix_axes_first(pose)
    half = _product(points.left[..., None], turned)
    return _product(half, points.right[..., None])


def _product(a: Float[Array, "3 3 *#batch"], b: Float[Array, "3 3 *#batch"]) -> Float[Array, "3 3 *batch"]:
    return jnp.stack([a[:, 0] * b[0, k] + a[:, 1] * b[1, k] + a[:, 2] * b[2, k] for k in range(3)], axis=1)
