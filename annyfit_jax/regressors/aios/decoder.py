"""The decoder: six layers in three stages, whose tokens are people, then people with joints, then whole bodies."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from annyfit_jax.regressors import layers
from annyfit_jax.regressors.aios import tokens
from annyfit_jax.regressors.aios.aios_config import AiosConfig
from annyfit_jax.regressors.aios.attention import PeopleAttention
from annyfit_jax.regressors.aios.deformable import DeformableAttention
from annyfit_jax.regressors.aios.encoder import Levels, Selection
from annyfit_jax.regressors.aios.heads import RefinementHeads
from annyfit_jax.regressors.aios.positions import Sizes, box_embedding
from annyfit_jax.regressors.aios.relative_boxes import inverse_sigmoid, refine
from annyfit_jax.regressors.aios.tokens import Layout, Visibility
from annyfit_jax.regressors.layers import XAVIER, FeedForward, HostRandom, Mlp, layer_norm


class Denoising(NamedTuple):
    """Queries made from noisy true boxes, placed before the selected ones (training only)."""

    content: Float[Array, "batch denoising width"]
    reference: Float[Array, "batch denoising 4"]
    """Box logits."""
    group: Int[Array, "batch denoising"]
    """Queries of the same group see each other."""


class DecoderLayer(nnx.Module):
    """Self-attention among tokens, deformable attention to the memory, feed-forward; a norm after each."""

    def __init__(self, config: AiosConfig, *, rngs: HostRandom):
        width, dtype = config.width, config.compute_dtype
        self.self_attention = PeopleAttention(width, config.heads, rngs=rngs, dtype=dtype)
        self.self_norm = layer_norm(width, rngs)
        self.cross_attention = DeformableAttention(
            width, config.heads, config.levels, config.points, rngs=rngs, dtype=dtype, step_bytes=config.sampling_bytes
        )
        self.cross_norm = layer_norm(width, rngs)
        self.feedforward = FeedForward(width, config.feedforward, rngs=rngs, dtype=dtype)
        self.feedforward_norm = layer_norm(width, rngs)

    def __call__(
        self,
        x: Float[Array, "batch query width"],
        positions: Float[Array, "batch query width"],
        references: Float[Array, "batch query level 4"],
        memory: Float[Array, "batch token width"],
        padding: Bool[Array, "batch token"],
        denoising_groups: Int[Array, "batch denoising"] | None,
        *,
        sizes: Sizes,
        tokens_per_person: int,
        visibility: Visibility,
    ) -> Float[Array, "batch query width"]:
        attended = self.self_attention(
            x, positions, denoising_groups, tokens_per_person=tokens_per_person, visibility=visibility
        )
        x = self.self_norm(x + attended)
        x = self.cross_norm(x + self.cross_attention(x + positions, references, memory, padding, sizes))
        return self.feedforward_norm(x + self.feedforward(x))


class LayerTokens(NamedTuple):
    """What one layer was given and what it made of it."""

    output: Float[Array, "batch query width"]
    """Before the shared norm; denoising queries first."""
    hidden: Float[Array, "batch query width"]
    """After it: what all outputs are read from."""
    reference: Float[Array, "batch query 4"]
    """Boxes that entered the layer, not detached: the outputs refine these."""
    moves: Float[Array, "batch query 4"]
    """Moves of these boxes, read from `hidden`."""


class Decoded(NamedTuple):
    """All layers, and who was kept after the first stage."""

    layers: tuple[LayerTokens, ...]
    kept: Int[Array, "batch person"]
    """Index among the queries of each person of the later stages."""


class Decoder(nnx.Module):
    """Layers, the embeddings of new tokens, and the position of references."""

    def __init__(self, config: AiosConfig, *, rngs: HostRandom):
        width = config.width
        self.layers = nnx.List(DecoderLayer(config, rngs=rngs) for _ in tokens.STAGES)
        self.norm = layer_norm(width, rngs)
        self.position = Mlp((2 * width, width, width), rngs=rngs, dtype=config.compute_dtype, kernel_init=XAVIER)
        self.layouts = tokens.layouts(config)
        new = {name: count for layout in self.layouts for name, count in layout if name != "person"}
        self.token_content = nnx.Dict({n: nnx.Param(XAVIER(rngs.params(), (count, width))) for n, count in new.items()})
        """Added to the content of the token that a new token grows from."""
        self.token_size = nnx.Dict({n: nnx.Param(XAVIER(rngs.params(), (count, 2))) for n, count in new.items()})
        """Logit of a new token's size as a share of that token's box."""
        self.config = config

    def __call__(
        self,
        memory: Float[Array, "batch token width"],
        levels: Levels,
        selection: Selection,
        heads: RefinementHeads,
        denoising: Denoising | None,
    ) -> Decoded:
        x, reference = selection.content, jax.nn.sigmoid(selection.reference)
        first, groups = 0, None
        if denoising is not None:
            first, groups = denoising.content.shape[1], denoising.group
            x = jnp.concatenate([denoising.content, x], axis=1)
            reference = jnp.concatenate([jax.nn.sigmoid(denoising.reference), reference], axis=1)
        ratios = jnp.tile(levels.valid_ratios, 2)[:, None]
        done: list[LayerTokens] = []
        kept = None
        for index, (layer, stage) in enumerate(zip(self.layers, tokens.STAGES)):
            layout = self.layouts[stage]
            attended = jax.lax.stop_gradient(reference)
            scaled = attended[:, :, None] * ratios
            positions = self.position(box_embedding(scaled[:, :, 0], self.config.width))
            output = layers.call(
                layer, x, positions, scaled, memory, levels.padding, groups, remat=self.config.remat, sizes=levels.sizes,
                tokens_per_person=tokens.size(layout), visibility=tokens.visibility(self.config, layout),
            )  # fmt: skip
            # The next references are read before the norm, outputs after it: by the same heads, in one computation.
            hidden = self.norm(output)
            last = index + 1 == len(self.layers)
            read = jnp.stack([hidden] if last else [hidden, output])
            moves = jax.vmap(functools.partial(heads.deltas, layer=index, layout=layout, first=first))(read)
            done.append(LayerTokens(output, hidden, reference, moves[0]))
            if last:
                break
            x, reference = output, refine(attended, moves[1])
            if index == 1:
                kept = self._best(heads.classes[index](x[:, first:]))
                x, reference = (
                    jnp.concatenate([part[:, :first], jnp.take_along_axis(part[:, first:], kept[..., None], 1)], axis=1)
                    for part in (x, reference)
                )
            following = self.layouts[tokens.STAGES[index + 1]]
            if following != layout:
                x, reference = self._grow(x, reference, heads, layout, following, first)
        assert kept is not None
        return Decoded(tuple(done), kept)

    def _best(self, logits: Float[Array, "batch query 2"]) -> Int[Array, "batch person"]:
        return jax.lax.top_k(logits.max(-1), self.config.people)[1]

    def _grow(
        self, x: Array, reference: Array, heads: RefinementHeads, layout: Layout, following: Layout, first: int
    ) -> tuple[Array, Array]:
        """New tokens for the groups of `following` that `layout` lacks; the others are carried over."""

        def by_group(part: Array) -> tuple[Array, dict[str, Array]]:
            people = part[:, first:].reshape(part.shape[0], -1, tokens.size(layout), part.shape[-1])
            return part[:, :first], {name: people[:, :, span] for name, span in spans.items()}

        spans = {name: jnp.array(span) for name, span in tokens.spans(layout).items()}
        (x_first, contents), (reference_first, boxes) = by_group(x), by_group(reference)
        for name, _ in following:
            if name in contents:
                continue
            part = name.removesuffix("_joints")
            source = (
                part if part in spans else "person"
            )  # joints of a part grow from its box, all else from the person's
            content = contents[source] + self.token_content[name][...]
            box = boxes[source]
            centre = jax.nn.sigmoid(inverse_sigmoid(box[..., :2]) + heads.new_token_centre(name)(content))
            size = jax.nn.sigmoid(self.token_size[name][...]) * box[..., 2:]
            contents[name] = content
            boxes[name] = jnp.concatenate([centre, size], axis=-1)

        def join(start: Array, groups: dict[str, Array]) -> Array:
            people = jnp.concatenate([groups[name] for name, _ in following], axis=2)
            return jnp.concatenate([start, people.reshape(start.shape[0], -1, start.shape[-1])], axis=1)

        return join(x_first, contents), join(reference_first, boxes)
