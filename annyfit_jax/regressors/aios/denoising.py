"""Denoising queries: noisy copies of the true boxes that the decoder must bring back (Li et al., "DN-DETR", CVPR 2022)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from annyfit_jax.regressors.aios.aios_config import AiosConfig
from annyfit_jax.regressors.aios.aios_losses import DenoisingTargets
from annyfit_jax.regressors.aios.decoder import Denoising
from annyfit_jax.regressors.aios.encoder import CLASSES, PERSON
from annyfit_jax.regressors.aios.relative_boxes import inverse_sigmoid

NOBODY = CLASSES
"""Label of queries in images without people."""


class Draws(NamedTuple):
    """All that is random, for `count` queries per image."""

    remainder: Int[Array, "batch denoising"]
    """Person of the queries that are left over when people share them evenly."""
    keep_label: Float[Array, "batch denoising"]
    """Uniform in [0, 1); below the label noise the label is replaced."""
    label: Int[Array, "batch denoising"]
    """The replacement."""
    box: Float[Array, "batch denoising 4"]
    """Uniform in [0, 1); 1/2 leaves the number as it is."""
    made_up: Float[Array, "batch denoising 4"]
    """Boxes for images without people."""


def draw(key: jax.Array, config: AiosConfig, people: Bool[Array, "batch person"]) -> Draws:
    """Random numbers for one batch."""
    keys = jax.random.split(key, 5)
    shape = (people.shape[0], config.denoising)
    present = jnp.maximum(people.sum(-1, keepdims=True), 1)
    return Draws(
        jax.random.randint(keys[0], shape, 0, present),
        jax.random.uniform(keys[1], shape),
        jax.random.randint(keys[2], shape, 0, config.denoising_labels),
        jax.random.uniform(keys[3], (*shape, 4)),
        jax.random.uniform(keys[4], (*shape, 4)),
    )


def make(
    config: AiosConfig,
    draws: Draws,
    label_embedding: Float[Array, "label width"],
    people: Bool[Array, "batch person"],
    boxes: Float[Array, "batch person 4"],
) -> tuple[Denoising, DenoisingTargets]:
    """Denoising queries and what they should become.

    The people of an image take turns; every round of n queries is a group. An image without people gets made-up boxes,
    whose box terms do not count.
    """
    count = draws.box.shape[1]
    present = people.sum(-1, keepdims=True)
    safe = jnp.maximum(present, 1)
    position = jnp.arange(count)
    turn = jnp.where(position < count // safe * safe, position % safe, draws.remainder)
    order = jnp.argsort(~people, axis=-1, stable=True)  # those who are there first
    person = jnp.take_along_axis(order, turn, axis=1)
    real = jnp.broadcast_to(present > 0, person.shape)
    clean = jnp.where(real[..., None], jnp.take_along_axis(boxes, person[..., None], axis=1), draws.made_up)
    labels = jnp.where(real, PERSON, NOBODY)

    noisy_labels = jnp.where(draws.keep_label < config.label_noise, draws.label, labels)
    size = clean[..., 2:]
    reach = jnp.concatenate([0.5 * size, size], axis=-1)
    noisy = jnp.clip(clean + (2.0 * draws.box - 1.0) * reach * config.box_noise, 0.0, 1.0)
    queries = Denoising(label_embedding[noisy_labels], inverse_sigmoid(noisy), position // safe)
    return queries, DenoisingTargets(clean, labels, real)
