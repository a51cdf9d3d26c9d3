"""What the lifter sees of a person: keypoints as rays about the line of sight, confidences, and what else was told.

The line of sight goes through the middle of the box around the seen keypoints. In its axes a person looks the same wherever in
the picture they stand, so the network answers in these axes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from annyfit_jax.lifting.lifter_rig import MIRRORED_KEYPOINTS, mirror_vectors
from annyfit_jax.people.scene import COCO17
from annyfit_jax.people.words import AGE_CLASSES

NUM_POINTS = len(COCO17)
NUM_AGES = len(AGE_CLASSES)
SEEN = 0.05
"""Confidence from which a keypoint is seen."""
NUM_FEATURES = 4 * NUM_POINTS + 3 + NUM_AGES + 2 + 1 + 2 + 4
_LARGE = 1e3
_NEAREST = 0.05
"""Least cosine of a ray with the line of sight."""
_SMALLEST = 1e-3
_USUAL_HEIGHT_M, _HEIGHT_SCALE_M = 1.6, 0.3


class Told(NamedTuple):
    """What is known of n people besides their keypoints; zeros where it is not known."""

    age: Float[Array, "n C"]
    """1 at the class of the word (`AGE_CLASSES`)."""
    gender: Float[Array, "n 2"]
    """1 at male or female."""
    focal_guessed: Float[Array, "n"]
    """1 where the focal length is a guess."""
    height_m: Float[Array, "n"]
    height_known: Float[Array, "n"]
    up: Float[Array, "n 3"]
    """The world's up in camera axes."""
    up_known: Float[Array, "n"]


class Seen(NamedTuple):
    """Features of n people, and the axes that the answer is in."""

    features: Float[Array, "n F"]
    view: Float[Array, "n 3 3"]
    """From camera axes to those of the line of sight."""


def nothing_told(people: int) -> Told:
    """Of people of whom nothing else is known."""
    zero = jnp.zeros((people,))
    return Told(jnp.zeros((people, NUM_AGES)), jnp.zeros((people, 2)), zero, zero, zero, jnp.zeros((people, 3)), zero)


def line_of_sight(centre: Float[Array, "n 2"]) -> Float[Array, "n 3 3"]:
    """The shortest rotations that take the rays (x, y, 1) of `centre` to the optical axis."""
    ray = jnp.concatenate([centre, jnp.ones_like(centre[:, :1])], -1)
    x, y, z = (ray / jnp.sqrt((ray**2).sum(-1, keepdims=True))).T
    f = 1.0 / (1.0 + z)
    return jnp.stack(
        [
            jnp.stack([1.0 - x * x * f, -x * y * f, -x], -1),
            jnp.stack([-x * y * f, 1.0 - y * y * f, -y], -1),
            jnp.stack([x, y, z], -1),
        ],
        -2,
    )


def see(rays: Float[Array, "n 17 2"], confidence: Float[Array, "n 17"], told: Told) -> Seen:
    """Features of people whose keypoints are `rays` (x / z, y / z) with confidences in [0, 1]; below `SEEN` none is seen."""
    seen = (confidence >= SEEN).astype(rays.dtype)
    confidence = jnp.clip(confidence, 0.0, 1.0) * seen
    rays = jnp.where(seen[..., None] > 0, rays, 0.0)
    low, high = _box(rays, seen)
    centre = jnp.where(seen.sum(1, keepdims=True) > 0, 0.5 * (low + high), 0.0)
    view = line_of_sight(centre)
    turned = jnp.concatenate([rays, jnp.ones_like(rays[..., :1])], -1) @ jnp.swapaxes(view, -1, -2)
    flat = turned[..., :2] / jnp.maximum(turned[..., 2:], _NEAREST)
    low, high = _box(flat, seen)
    size = jnp.clip((high - low).max(-1), _SMALLEST, _LARGE)
    flat = (flat - 0.5 * (low + high)[:, None]) / size[:, None, None] * 2.0 * seen[..., None]
    tall = jnp.where(told.height_known > 0, (told.height_m - _USUAL_HEIGHT_M) / _HEIGHT_SCALE_M, 0.0)
    up = jnp.einsum("nij,nj->ni", view, told.up) * told.up_known[:, None]
    features = [
        flat.reshape(len(flat), 2 * NUM_POINTS), seen, confidence, 2.0 * centre, jnp.log(size)[:, None] + 1.0, told.age,
        told.gender, told.focal_guessed[:, None], tall[:, None], told.height_known[:, None], up, told.up_known[:, None],
    ]  # fmt: skip
    return Seen(jnp.concatenate(features, -1), view)


def mirrored(
    rays: Float[Array, "n 17 2"], confidence: Float[Array, "n 17"], told: Told
) -> tuple[Float[Array, "n 17 2"], Float[Array, "n 17"], Told]:
    """The same people in a mirror: x points the other way, and left is right."""
    other = rays[:, MIRRORED_KEYPOINTS] * jnp.asarray([-1.0, 1.0], rays.dtype)
    return other, confidence[:, MIRRORED_KEYPOINTS], told._replace(up=mirror_vectors(told.up))


def _box(points: Float[Array, "n 17 2"], seen: Float[Array, "n 17"]) -> tuple[Array, Array]:
    away = _LARGE * (1.0 - seen[..., None])
    return (points + away).min(1), (points - away).max(1)
