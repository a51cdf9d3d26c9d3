"""The whole network: images and their padding in, the outputs of six layers out.

    variables = init(config, jax.random.key(0))
    outputs = apply(config, variables, images, padding)
    outputs.layers[-1].boxes

Variables are a pytree of arrays (`nnx.State`); `config` decides everything that is static.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from annyfit_jax.regressors.aios import tokens
from annyfit_jax.regressors.aios.aios_config import AiosConfig
from annyfit_jax.regressors.aios.backbone import InputLevels, ResNet
from annyfit_jax.regressors.aios.decoder import Decoded, Decoder, Denoising, LayerTokens
from annyfit_jax.regressors.aios.encoder import Encoder, Levels, Selection, TwoStage, flatten_levels
from annyfit_jax.regressors.aios.heads import BodyHeads, BodyPrediction, RefinementHeads
from annyfit_jax.regressors.aios.positions import level_mask
from annyfit_jax.regressors.aios.relative_boxes import refine
from annyfit_jax.regressors.layers import NORMAL, HostRandom


class LayerOutput(NamedTuple):
    """The outputs of one decoder layer. Boxes and joints in shares of the unpadded image; None: not in this stage.

    `query` is 900 in the first two layers and the number of people after them.
    """

    logits: Float[Array, "batch query 2"]
    boxes: Float[Array, "batch query 4"]
    denoising_logits: Float[Array, "batch denoising 2"] | None = None
    denoising_boxes: Float[Array, "batch denoising 4"] | None = None
    left_hand_boxes: Float[Array, "batch query 4"] | None = None
    right_hand_boxes: Float[Array, "batch query 4"] | None = None
    face_boxes: Float[Array, "batch query 4"] | None = None
    body_joints: Float[Array, "batch query 17 2"] | None = None
    left_hand_joints: Float[Array, "batch query 6 2"] | None = None
    right_hand_joints: Float[Array, "batch query 6 2"] | None = None
    face_joints: Float[Array, "batch query 6 2"] | None = None
    body: BodyPrediction | None = None


class Outputs(NamedTuple):
    """All layers, and the encoder's own proposals."""

    layers: tuple[LayerOutput, ...]
    proposals: LayerOutput
    """Logits and boxes only."""


class Aios(nnx.Module):
    """AiOS or Naive AiOS."""

    def __init__(self, config: AiosConfig, *, rngs: HostRandom):
        dtype = config.compute_dtype
        self.config = config
        self.backbone = ResNet(config.backbone, rngs=rngs, dtype=dtype)
        self.input_levels = InputLevels(config.backbone, config.width, rngs=rngs, dtype=dtype)
        self.level_embedding = nnx.Param(NORMAL(rngs.params(), (config.levels, config.width)))
        self.encoder = Encoder(config, rngs=rngs)
        self.two_stage = TwoStage(config, rngs=rngs)
        self.label_embedding = nnx.Param(NORMAL(rngs.params(), (config.denoising_labels + 1, config.width)))
        """Content of denoising queries by label."""
        self.decoder = Decoder(config, rngs=rngs)
        self.heads = RefinementHeads(config, rngs=rngs)
        layouts = tokens.layouts(config)
        self.first_body_layer = 0 if config.all_stages else tokens.STAGES.index(1)
        self.body_heads = nnx.List(
            BodyHeads(config, layouts[stage], rngs=rngs) for stage in tokens.STAGES[self.first_body_layer :]
        )

    def __call__(
        self,
        images: Float[Array, "batch H W 3"],
        padding: Bool[Array, "batch H W"],
        denoising: Denoising | None = None,
    ) -> Outputs:
        levels = self.levels(images, padding)
        memory = self.encoder(levels)
        selection = self.two_stage(memory, levels)
        decoded = self.decoder(memory, levels, selection, self.heads, denoising)
        return self.read(decoded, selection, 0 if denoising is None else denoising.content.shape[1])

    def levels(self, images: Float[Array, "batch H W 3"], padding: Bool[Array, "batch H W"]) -> Levels:
        """Input of the encoder."""
        maps = self.input_levels(self.backbone(images))
        paddings = [level_mask(padding, (x.shape[1], x.shape[2])) for x in maps]
        return flatten_levels(maps, paddings, self.level_embedding[...])

    def read(self, decoded: Decoded, selection: Selection, denoising: int) -> Outputs:
        """All outputs from the decoder's tokens, the first `denoising` of which are denoising queries."""
        layers = tuple(self._read_layer(index, layer, denoising) for index, layer in enumerate(decoded.layers))
        return Outputs(layers, LayerOutput(selection.logits, selection.boxes))

    def _read_layer(self, index: int, layer: LayerTokens, first: int) -> LayerOutput:
        layout = tokens.layouts(self.config)[tokens.STAGES[index]]
        boxes = refine(layer.reference, layer.moves)
        people, places = (
            part[:, first:].reshape(part.shape[0], -1, tokens.size(layout), part.shape[-1])
            for part in (layer.hidden, boxes)
        )
        groups = {name: places[:, :, span[0] : span[-1] + 1] for name, span in tokens.spans(layout).items()}
        output = LayerOutput(logits=self.heads.classes[index](people[:, :, 0]), boxes=groups["person"][:, :, 0])
        if first:
            output = output._replace(
                denoising_logits=self.heads.classes[index](layer.hidden[:, :first]), denoising_boxes=boxes[:, :first]
            )
        for name in ("left_hand", "right_hand", "face"):
            if name in groups:
                output = output._replace(**{f"{name}_boxes": groups[name][:, :, 0]})
        for name in ("body_joints", "left_hand_joints", "right_hand_joints", "face_joints"):
            if name in groups:
                output = output._replace(**{name: groups[name][..., :2]})
        if index >= self.first_body_layer:
            output = output._replace(body=self.body_heads[index - self.first_body_layer](people))
        return output


@functools.cache
def graph_and_shapes(config: AiosConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """The static part of the network, and its variables as shapes without values."""
    return nnx.split(nnx.eval_shape(lambda: Aios(config, rngs=HostRandom.of(None))))


def init(config: AiosConfig, key: jax.Array) -> nnx.State:
    """Variables to train from scratch."""

    return nnx.state(Aios(config, rngs=HostRandom.of(key)))


def bind(config: AiosConfig, variables: nnx.State) -> Aios:
    """The network with these variables, to call parts of it (inside a jitted function)."""
    return nnx.merge(graph_and_shapes(config)[0], variables)


def apply(
    config: AiosConfig,
    variables: nnx.State,
    images: Float[Array, "batch H W 3"],
    padding: Bool[Array, "batch H W"],
    denoising: Denoising | None = None,
) -> Outputs:
    """Runs the network.

    Args:
      images: normalised RGB (`picture_preprocess.normalise`), zero where padded.
      padding: True on padding, which is at the right and bottom.
      denoising: training only; see `denoising.make`.

    Raises: ValueError if the image has fewer encoder tokens than `config.queries`.
    """
    return bind(config, variables)(images, padding, denoising)


def parameter_count(config: AiosConfig) -> int:
    """Trained numbers: everything but frozen statistics."""
    shapes = graph_and_shapes(config)[1]
    return sum(int(jnp.prod(jnp.array(x.shape))) for x in jax.tree.leaves(nnx.filter_state(shapes, nnx.Param)))
