"""The networks: square pictures in, scores of patches and the people of chosen patches out.

Multi-HMR: Baradel et al., ECCV 2024. The Anny variant: the released `multi_hmr_anny`. `Reading` says what each
number means; `multihmr_people` makes bodies of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from annyfit_jax.regressors.aios.backbone import Frozen
from annyfit_jax.regressors.layers import NORMAL, HostRandom, Mlp, linear
from annyfit_jax.regressors.multihmr import ray_embedding, rig
from annyfit_jax.regressors.multihmr.head_detection import Patches
from annyfit_jax.regressors.multihmr.multihmr_config import (
    NUM_ANNY_ROTATIONS,
    NUM_ANNY_SHAPE,
    NUM_SMPLX_ROTATIONS,
    MultiHmrConfig,
)
from annyfit_jax.regressors.multihmr.people_transformer import PeopleBlock
from annyfit_jax.regressors.rotation_layers import matrix_from_6d
from annyfit_jax.regressors.vit import Vit

_SMPLX_CLIP = 1e-4


class Seen(NamedTuple):
    """What the picture says before people are chosen."""

    scores: Float[Array, "batch n n"]
    """Probability of a head in a patch (row, column)."""
    logits: Float[Array, "batch n n"]
    features: Float[Array, "batch n n width"]
    fov: Float[Array, "batch"]
    """Anny variant: field of view over the side of the square picture, radians; SMPL-X: zero."""


class Reading(NamedTuple):
    """The people of chosen patches. Rows of invalid patches mean nothing."""

    loc: Float[Array, "batch person 2"]
    """Head, pixels of the square picture."""
    offset: Float[Array, "batch person 2"]
    """From the middle of the patch, in patches."""
    raw_distance: Float[Array, "batch person 1"]
    distance: Float[Array, "batch person 1"]
    """Depth of the head, metres."""
    shape: Float[Array, "batch person shape"]
    """11 phenotypes in [0, 1], or betas."""
    matrices: Float[Array, "batch person rotation 3 3"]
    transl: Float[Array, "batch person 3"]
    """Head, camera axes, metres."""
    expression: Float[Array, "batch person 10"] | None = None
    """SMPL-X only."""


class AnnyMultiHmr(nnx.Module):
    """The Anny variant."""

    def __init__(self, config: MultiHmrConfig, *, rngs: HostRandom):
        self.config = config
        width, dim = config.vit.width, config.head.width
        self.vit = Vit(config.vit, rngs=rngs)
        self.detect = Mlp((width, width, 1), rngs=rngs)
        self.view = Mlp((width, width, 1), rngs=rngs)
        self.to_token = linear(width, dim, rngs=rngs)
        self.blocks = nnx.List(PeopleBlock(config.head, dim, rngs=rngs) for _ in range(config.head.depth))
        self.offset = Mlp((dim, dim, 2), rngs=rngs)
        self.pose = Mlp((dim + 6 * NUM_ANNY_ROTATIONS, dim, 6 * NUM_ANNY_ROTATIONS), rngs=rngs)
        self.shape = Mlp((dim, dim, NUM_ANNY_SHAPE), rngs=rngs)
        self.distance = Mlp((dim, dim, 1), rngs=rngs)

    def see(self, images: Float[Array, "batch S S 3"]) -> Seen:
        """First half: features and scores."""
        whole, features = self.vit(images)
        logits = self.detect(features)[..., 0]
        return Seen(jax.nn.sigmoid(logits), logits, features, jnp.pi * jax.nn.sigmoid(self.view(whole)[..., 0]))

    def read(self, seen: Seen, patches: Patches, K: Float[Array, "batch 3 3"]) -> Reading:
        """Second half: the people of the patches."""
        side = seen.features.shape[1]
        table = ray_embedding.sine_table(self.config.head.width, side)
        tokens = self.to_token(seen.features) + jnp.asarray(table, jnp.float32)
        x = _at(tokens, patches)
        context = tokens.reshape(len(tokens), side * side, -1)
        for block in self.blocks:
            x = block(x, patches.valid, context)
        first = jnp.asarray(rig.initial_rotations(), x.dtype)
        first = jnp.broadcast_to(first, (*x.shape[:2], len(first)))
        matrices = matrix_from_6d(first + self.pose(jnp.concatenate([x, first], -1)))
        kept = jnp.asarray(rig.predicted())[:, None, None]
        raw = self.distance(x)
        focal = jnp.broadcast_to(K[:, None, :1, 0], raw.shape)
        return _reading(
            self.config, patches, K, self.offset(x), raw, ray_embedding.nearness_to_depth(raw, focal),
            jax.nn.sigmoid(self.shape(x)), jnp.where(kept, matrices, jnp.eye(3, dtype=matrices.dtype)),
        )  # fmt: skip


class SmplxMultiHmr(nnx.Module):
    """The SMPL-X variant."""

    def __init__(self, config: MultiHmrConfig, *, rngs: HostRandom):
        self.config = config
        width, dim, side = config.vit.width, config.head.width, config.grid
        self.vit = Vit(config.vit, rngs=rngs)
        self.detect = Mlp((width, width, 1), rngs=rngs)
        self.offset = Mlp((width, width, 2), rngs=rngs)
        self.people = SmplxHead(config.head, config.num_betas, width + ray_embedding.CAMERA_CHANNELS, side, rngs=rngs)
        self.dim = dim

    def see(self, images: Float[Array, "batch S S 3"]) -> Seen:
        """First half: features and scores."""
        _, features = self.vit(images)
        logits = self.detect(features)[..., 0]
        scores = jnp.clip(jax.nn.sigmoid(logits), _SMPLX_CLIP, 1.0 - _SMPLX_CLIP)
        return Seen(scores, logits, features, jnp.zeros(len(images), logits.dtype))

    def read(self, seen: Seen, patches: Patches, K: Float[Array, "batch 3 3"]) -> Reading:
        """Second half: the people of the patches."""
        side, size = seen.features.shape[1], self.config.size
        rays = ray_embedding.ray_embedding(K, side, side, self.config.vit.patch)
        context = jnp.concatenate([seen.features, rays], -1)
        rotations, betas, cam, expression = self.people(_at(context, patches), context, patches)
        raw = cam[..., :1]
        focal = jnp.broadcast_to(K[:, None, :1, 0], raw.shape)
        return _reading(
            self.config, patches, K, self.offset(_at(seen.features, patches)), raw,
            ray_embedding.relative_to_depth(raw, focal, size), betas, rotations, expression,
        )  # fmt: skip


class SmplxHead(nnx.Module):
    """Queries with learned positions, blocks over people, linear readouts added to initial values."""

    def __init__(self, config, num_betas: int, channels: int, side: int, *, rngs: HostRandom):
        draw = rngs.params()
        sizes = {"pose": 6 * NUM_SMPLX_ROTATIONS, "shape": num_betas, "cam": 3, "expression": 10}
        # Queries by row and by column, values by row and by column.
        self.query_x, self.query_y, self.value_x, self.value_y = (
            nnx.Param(channels**-0.5 * NORMAL(draw, (side, channels))) for _ in range(4)
        )
        first = np.tile(np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0], np.float32), NUM_SMPLX_ROTATIONS)
        self.initial_pose = Frozen(jnp.asarray(first[None]))
        self.initial_betas = Frozen(jnp.zeros((1, 10)))
        self.initial_betas_kid = Frozen(jnp.zeros((1, 11)))  # for weights with 11 betas
        self.initial_cam = Frozen(jnp.zeros((1, 3)))
        self.initial_expression = Frozen(jnp.zeros((1, 10)))
        self.num_betas = num_betas
        self.position = nnx.Param(NORMAL(draw, (1, 1, config.width)))
        self.to_token = linear(channels + sizes["pose"] + num_betas + sizes["cam"], config.width, rngs=rngs)
        self.blocks = nnx.List(PeopleBlock(config, channels, rngs=rngs) for _ in range(config.depth))
        self.read_pose, self.read_shape, self.read_cam, self.read_expression = (
            linear(config.width, size, rngs=rngs) for size in sizes.values()
        )

    def __call__(
        self,
        queries: Float[Array, "batch person channels"],
        context: Float[Array, "batch r c channels"],
        patches: Patches,
    ) -> tuple[Array, Array, Array, Array]:
        """Rotation matrices (batch, person, 53, 3, 3), betas, camera, expression."""
        row, column = patches.row, patches.column
        x = queries + self.query_x[...][row] + self.query_y[...][column]
        # Padding writes nowhere; two heads in one patch write the same.
        image = jnp.arange(len(context))[:, None]
        there = jnp.where(patches.valid, row, context.shape[1])
        changed = _at(context, patches) + self.value_x[...][row] + self.value_y[...][column]
        context = context.at[image, there, column].set(changed, mode="drop")
        context = context.reshape(len(context), -1, context.shape[-1])
        betas = self.initial_betas if self.num_betas == 10 else self.initial_betas_kid
        initial = [v[...][0] for v in (self.initial_pose, betas, self.initial_cam, self.initial_expression)]
        people = x.shape[:2]
        constants = [jnp.broadcast_to(value, (*people, len(value))) for value in initial]
        x = self.to_token(jnp.concatenate([x, *constants[:3]], -1)) + self.position[...]
        for block in self.blocks:
            x = block(x, patches.valid, context)
        readouts = (self.read_pose, self.read_shape, self.read_cam, self.read_expression)
        pose, shape, cam, expression = (read(x) + value for read, value in zip(readouts, constants, strict=True))
        return smplx_matrices(pose), shape, cam, expression


def _at(grid: Float[Array, "batch n n channels"], patches: Patches) -> Float[Array, "batch person channels"]:
    return grid[jnp.arange(len(grid))[:, None], patches.row, patches.column]


def smplx_matrices(six: Float[Array, "*batch six"]) -> Float[Array, "*batch rotation 3 3"]:
    """Gram-Schmidt of six numbers whose first three are the first column, and last three the second."""
    vectors = six.reshape(*six.shape[:-1], -1, 2, 3)
    return matrix_from_6d(jnp.swapaxes(vectors, -1, -2).reshape(six.shape))


def _reading(
    config: MultiHmrConfig, patches: Patches, K: Array, offset: Array, raw: Array, distance: Array, shape: Array,
    matrices: Array, expression: Array | None = None,
) -> Reading:  # fmt: skip
    middle = jnp.stack([patches.column, patches.row], -1) + 0.5
    loc = (middle + offset) * config.vit.patch
    transl = ray_embedding.unproject(loc, distance, K[:, None])
    return Reading(loc, offset, raw, distance, shape, matrices, transl, expression)


# ------------------------------------------------------------------------------------------------ pure functions


def _network(config: MultiHmrConfig) -> Callable[..., AnnyMultiHmr | SmplxMultiHmr]:
    return AnnyMultiHmr if config.body == "anny" else SmplxMultiHmr


@functools.cache
def graph_and_shapes(config: MultiHmrConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """The static part of the network, and its variables as shapes without values."""
    return nnx.split(nnx.eval_shape(lambda: _network(config)(config, rngs=HostRandom.of(None))))


def init(config: MultiHmrConfig, key: jax.Array) -> nnx.State:
    """Variables to train from scratch."""
    return nnx.state(_network(config)(config, rngs=HostRandom.of(key)))


def bind(config: MultiHmrConfig, variables: nnx.State) -> AnnyMultiHmr | SmplxMultiHmr:
    """The network with these variables, to call parts of it (inside a jitted function)."""
    return nnx.merge(graph_and_shapes(config)[0], variables)


def intrinsics_of(
    config: MultiHmrConfig, seen: Seen, K: Float[Array, "batch 3 3"] | None = None
) -> Float[Array, "batch 3 3"]:
    """The given intrinsics, or those of the predicted field of view (SMPL-X: of 60 degrees)."""
    if K is not None:
        return K
    if config.body == "anny":
        return ray_embedding.intrinsics(ray_embedding.focal_of_fov(seen.fov, config.size), config.size)
    return ray_embedding.intrinsics(jnp.full(len(seen.fov), ray_embedding.reference_focal(config.size)), config.size)


def parameter_count(config: MultiHmrConfig) -> int:
    """Trained numbers."""
    shapes = graph_and_shapes(config)[1]
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(nnx.filter_state(shapes, nnx.Param)))
