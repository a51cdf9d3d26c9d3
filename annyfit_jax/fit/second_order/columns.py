"""Unknowns of people as the columns of a Jacobian (`linear_plan.Layout` has their order), and unknowns of scenes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from annyfit_jax.fit.fit_body import FitBody
from annyfit_jax.fit.problem import Variables
from annyfit_jax.fit.second_order.linear_plan import NUM_RIGID, Layout

ROOT = slice(3, NUM_RIGID)
"""Columns of the root's rotation vector."""
DEPTH = 2
"""Column of the camera z of the root."""
DEPTH_SCALE, FOCAL, PITCH, ROLL, GROUND = range(5)
"""Unknowns of a scene: log scale of its metric depths; log of the focal length over the given one; pitch (down is positive)
and roll of the camera, radians; height of the camera above the ground, metres."""
NUM_SCENE = 5


def up(pitch: Float[Array, "*batch"], roll: Float[Array, "*batch"]) -> Float[Array, "3 *batch"]:
    """The world's up in camera axes (x right, y down, z forward) of a camera that looks down by `pitch`."""
    return jnp.stack([jnp.sin(roll) * jnp.cos(pitch), -jnp.cos(roll) * jnp.cos(pitch), -jnp.sin(pitch)])


def pack(layout: Layout, variables: Variables) -> Float[Array, "D N"]:
    """Translation, root rotation, shape, then the free bones; other bones are left out."""
    transl, root, shape, pose = (jnp.asarray(v) for v in variables)
    free = pose[:, np.asarray(layout.bones, np.int32)]
    return jnp.concatenate([transl, root, shape, jnp.swapaxes(free, 0, 1).reshape(-1, free.shape[-1])])


def unpack(layout: Layout, x: Float[Array, "D N"], base: Variables) -> Variables:
    """The inverse; bones that are no columns are taken from `base`."""
    first = NUM_RIGID + layout.num_shape
    pose = jnp.swapaxes(x[first:].reshape(-1, 3, x.shape[-1]), 0, 1)
    order = np.arange(base.pose.shape[1], dtype=np.int32)
    order[np.asarray(layout.bones, np.int32)] = base.pose.shape[1] + np.arange(len(layout.bones))
    whole = jnp.concatenate([jnp.asarray(base.pose), pose], axis=1)[:, order]
    return Variables(x[:3], x[3:NUM_RIGID], x[NUM_RIGID:first], whole)


def bounds(layout: Layout, body: FitBody) -> tuple[Float[Array, "D 1"], Float[Array, "D 1"]]:
    """Lowest and highest value of every column: the body's ranges of shape and pose, infinite elsewhere."""
    rigid = jnp.full((NUM_RIGID,), jnp.inf, body.shape_low.dtype)
    pose = jnp.full((3 * len(layout.bones),), 1.0, body.shape_low.dtype) * body.pose_limit
    low = jnp.concatenate([-rigid, body.shape_low, -pose])
    high = jnp.concatenate([rigid, body.shape_high, pose])
    return low[:, None], high[:, None]
