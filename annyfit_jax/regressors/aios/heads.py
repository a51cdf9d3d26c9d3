"""Everything that is read from the decoder's tokens: classes, refined references, and the parameters of the body."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from annyfit_jax.regressors.aios import tokens
from annyfit_jax.regressors.aios.aios_config import AiosConfig
from annyfit_jax.regressors.aios.encoder import class_layer
from annyfit_jax.regressors.aios.tokens import Layout
from annyfit_jax.regressors.layers import ZEROS, HostRandom, Mlp
from annyfit_jax.regressors.rotation_layers import matrix_from_6d

LAYERS = len(tokens.STAGES)
_FIRST_BODY_LAYER = tokens.STAGES.index(1)
_FIRST_WHOLE_BODY_LAYER = tokens.STAGES.index(2)
_IDENTITY_6D = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
_CENTRES = {
    "left_hand": "hand_centre",
    "right_hand": "hand_centre",
    "face": "face_centre",
    "body_joints": "body_joint_centre",
    "left_hand_joints": "hand_joint_centre",
    "right_hand_joints": "hand_joint_centre",
    "face_joints": "face_joint_centre",
}
"""Group of tokens -> list of heads that place it."""
_SIZES = {centre: centre.replace("centre", "size") for centre in _CENTRES.values()}
_SHARED_SIZES = ("body_joint_size", "hand_joint_size", "face_joint_size")


class RefinementHeads(nnx.Module):
    """Class logits and moves of references. Both hands share their weights.

    The lists of centre heads have one entry more than layers that use them: it places new tokens.
    """

    def __init__(self, config: AiosConfig, *, rngs: HostRandom):
        width = config.width

        def mlp(outputs: int, zero: bool = True) -> Mlp:
            start = ZEROS if zero else None
            return Mlp((width, width, width, outputs), rngs=rngs, last_kernel_init=start, last_bias_init=start)

        body_layers, whole_layers = LAYERS - _FIRST_BODY_LAYER, LAYERS - _FIRST_WHOLE_BODY_LAYER
        self.classes = nnx.List(class_layer(width, rngs) for _ in range(LAYERS))
        self.person = nnx.List(mlp(4) for _ in range(LAYERS))
        self.hand_centre = nnx.List(mlp(2) for _ in range(body_layers + 1))
        self.hand_size = nnx.List(mlp(2) for _ in range(body_layers))
        self.face_centre = nnx.List(mlp(2) for _ in range(body_layers + 1))
        self.face_size = nnx.List(mlp(2) for _ in range(body_layers))
        if config.joints:
            self.body_joint_centre = nnx.List(mlp(2) for _ in range(body_layers + 1))
            self.hand_joint_centre = nnx.List(mlp(2) for _ in range(whole_layers + 1))
            self.face_joint_centre = nnx.List(mlp(2) for _ in range(whole_layers + 1))
            # One each for all layers, and not started at zero, as released.
            self.body_joint_size, self.hand_joint_size, self.face_joint_size = (mlp(2, zero=False) for _ in range(3))

    def deltas(
        self, x: Float[Array, "batch query width"], layer: int, layout: Layout, first: int
    ) -> Float[Array, "batch query 4"]:
        """Moves of all references after decoder layer `layer`; the first `first` queries are denoising queries."""
        people = x[:, first:].reshape(x.shape[0], -1, tokens.size(layout), x.shape[-1])
        contents = {name: people[:, :, span[0] : span[-1] + 1] for name, span in tokens.spans(layout).items()}
        moves = {"person": self.person[layer](contents["person"])}
        for centre in dict.fromkeys(_CENTRES[name] for name in contents if name != "person"):
            # Left and right hands have one head: one computation.
            names = [name for name in contents if _CENTRES.get(name) == centre]
            ends = np.cumsum([contents[name].shape[2] for name in names])[:-1]
            place, size = self._centre_and_size(names[0], layer)
            content = jnp.concatenate([contents[name] for name in names], axis=2)
            part_moves = jnp.concatenate([place(content), size(content)], axis=-1)
            moves |= dict(zip(names, jnp.split(part_moves, ends, axis=2)))
        moved = jnp.concatenate([moves[name] for name in contents], axis=2).reshape(x.shape[0], -1, 4)
        return jnp.concatenate([self.person[layer](x[:, :first]), moved], axis=1) if first else moved

    def new_token_centre(self, group: str) -> Mlp:
        """The head that places new tokens of a group."""
        return getattr(self, _CENTRES[group])[-1]

    def _centre_and_size(self, group: str, layer: int) -> tuple[Mlp, Mlp]:
        centre, size = _CENTRES[group], _SIZES[_CENTRES[group]]
        first = _FIRST_WHOLE_BODY_LAYER if group.endswith(("hand_joints", "face_joints")) else _FIRST_BODY_LAYER
        sizes = getattr(self, size)
        return getattr(self, centre)[layer - first], sizes if size in _SHARED_SIZES else sizes[layer - first]


class PartRotations(NamedTuple):
    """Rotation matrices by part, in the order of the bones in `BodyHead`. Parts that a stage does not predict are None."""

    body: Float[Array, "*batch bone 3 3"]
    left_hand: Float[Array, "*batch bone 3 3"] | None = None
    right_hand: Float[Array, "*batch bone 3 3"] | None = None
    face: Float[Array, "*batch bone 3 3"] | None = None


class BodyPrediction(NamedTuple):
    """Parameters of the body model for each person."""

    rotations: PartRotations
    """The root in camera axes, every other bone in its own rest frame."""
    shape: Float[Array, "*batch coefficient"]
    """Betas, or phenotypes in [0, 1]."""
    camera: Float[Array, "*batch 3"]
    """(s, tx, ty): the body stands at (tx / s, ty / s, 1 / s) metres, see `weak_perspective`."""
    expression: Float[Array, "*batch coefficient"] | None = None


class BodyHeads(nnx.Module):
    """Parametric heads of one layer, from the concatenated tokens of each part."""

    def __init__(self, config: AiosConfig, layout: Layout, *, rngs: HostRandom):
        body = config.body
        features = tokens.body_features(layout)

        def mlp(part: str, outputs: int, start: tuple[float, ...] | None = None) -> Mlp:
            inputs = len(features[part]) * config.width
            bias = ZEROS if start is None else (lambda *_, **__: jnp.asarray(start, jnp.float32))
            sizes = (inputs, config.width, config.width, outputs)
            return Mlp(sizes, rngs=rngs, dtype=config.compute_dtype, last_kernel_init=ZEROS, last_bias_init=bias)

        def rotations(part: str, bones: tuple[str, ...]) -> Mlp:
            # The published start is all zeros, where the rotation is undefined and its gradient 1e12; the rest pose is not.
            start = _IDENTITY_6D * len(bones)
            return mlp(part, 6 * len(bones), body.root_6d + start[6:] if part == "body" else start)

        self.body = rotations("body", body.body)
        self.shape = mlp("body", body.shape)
        self.camera = mlp("body", 3, (0.1, 0.0, 0.0))
        self.has_parts = "face" in features
        self.has_expression = self.has_parts and body.expression > 0
        if self.has_parts:
            self.hand = rotations("left_hand", body.left_hand)
            self.face = rotations("face", body.face)
        if self.has_expression:
            self.expression = mlp("face", body.expression)
        self.layout = layout
        self.unit_shape = body.shape_in_unit_interval

    def __call__(self, people: Float[Array, "batch person token width"]) -> BodyPrediction:
        inputs = {
            part: people[:, :, np.array(span)].reshape(*people.shape[:2], len(span) * people.shape[-1])
            for part, span in tokens.body_features(self.layout).items()
        }
        turns = [self.body(inputs["body"])]
        if self.has_parts:
            turns += [self.hand(inputs["left_hand"]), self.hand(inputs["right_hand"]), self.face(inputs["face"])]
        ends = np.cumsum([part.shape[-1] // 6 for part in turns])[:-1]
        rotations = PartRotations(*jnp.split(matrix_from_6d(jnp.concatenate(turns, axis=-1)), ends, axis=-3))
        expression = self.expression(inputs["face"]) if self.has_expression else None
        shape = self.shape(inputs["body"])
        return BodyPrediction(
            rotations, jax.nn.sigmoid(shape) if self.unit_shape else shape, self.camera(inputs["body"]), expression
        )
