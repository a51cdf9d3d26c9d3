"""From the last layer's outputs to people: scores, boxes in pixels, rotation vectors, translation."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from annyfit_jax.regressors.aios import weak_perspective
from annyfit_jax.regressors.aios.aios_model import LayerOutput
from annyfit_jax.regressors.aios.encoder import CLASSES, PERSON
from annyfit_jax.regressors.aios.relative_boxes import to_corners
from annyfit_jax.regressors.aios.targets import PartArrays
from annyfit_jax.regressors.rotation_layers import rotvec_from_matrix

CANDIDATES = 50


class People(NamedTuple):
    """Candidates of each image, best first. Keep those with `valid`."""

    scores: Float[Array, "batch person"]
    valid: Bool[Array, "batch person"]
    """Above the threshold, and a person."""
    query: Int[Array, "batch person"]
    boxes: Float[Array, "batch person 4"]
    """(x1, y1, x2, y2), pixels of the picture before resizing."""
    part_boxes: Float[Array, "batch person 3 4"]
    """Left hand, right hand, face."""
    rotvecs: PartArrays
    """Rotation vectors, radians, at most pi long; hands without the mean hand."""
    shape: Float[Array, "batch person coefficient"]
    expression: Float[Array, "batch person coefficient"] | None
    transl: Float[Array, "batch person 3"]
    """Of the body model's origin for `intrinsics`, metres."""
    intrinsics: Float[Array, "batch 3 3"]
    """The focal length of the config, principal point at the centre of the picture; in pixels before resizing."""


def best(logits: Float[Array, "batch query 2"], count: int) -> tuple[Array, Array, Array]:
    """Scores, classes and queries of the best (query, class) pairs, (batch, count) each, best first."""
    scores, flat = jax.lax.top_k(jax.nn.sigmoid(logits).reshape(logits.shape[0], -1), count)
    return scores, flat % CLASSES, flat // CLASSES


def people(
    output: LayerOutput,
    resized: Float[Array, "batch 2"],
    resize_factor: Float[Array, "batch 2"],
    threshold: float = 0.5,
    count: int = CANDIDATES,
    focal: float = weak_perspective.FOCAL_PX,
) -> People:
    """Reads people from the last layer. No suppression of overlapping boxes, as published.

    Args:
      output: of the last layer, with boxes of hands and face.
      resized: (width, height) of the picture that the network saw, without padding.
      resize_factor: (x, y) resized pixels per pixel of the picture.
      threshold: on the score: 0.5 in the paper's tables, 0.3 for AGORA.
      focal: of the network's camera, pixels of the resized picture (`AiosConfig.focal`).
    """
    if output.body is None or output.left_hand_boxes is None or output.body.rotations.face is None:
        raise ValueError("people are read from a layer with parametric heads, boxes of hands and face")
    scores, classes, query = best(output.logits, min(count, output.logits.shape[1] * CLASSES))

    def pick(x: Array) -> Array:
        return jnp.take_along_axis(x, query.reshape(*query.shape, *(1,) * (x.ndim - 2)), axis=1)

    scale = jnp.tile(resized / resize_factor, 2)[:, None]
    body = jax.tree.map(pick, output.body)
    parts = (output.left_hand_boxes, output.right_hand_boxes, output.face_boxes)
    part_boxes = jnp.stack([to_corners(pick(box)) for box in parts if box is not None], axis=2)
    focals, centre = focal / resize_factor, 0.5 * resized / resize_factor
    zero, one = jnp.zeros_like(focals[:, 0]), jnp.ones_like(focals[:, 0])
    intrinsics = jnp.stack([focals[:, 0], zero, centre[:, 0], zero, focals[:, 1], centre[:, 1], zero, zero, one], -1)
    return People(
        scores=scores,
        valid=(scores >= threshold) & (classes == PERSON),
        query=query,
        boxes=to_corners(pick(output.boxes)) * scale,
        part_boxes=part_boxes * scale[:, :, None],
        rotvecs=PartArrays(*(rotvec_from_matrix(part) for part in body.rotations)),
        shape=body.shape,
        expression=body.expression,
        transl=weak_perspective.translation(body.camera),
        intrinsics=intrinsics.reshape(-1, 3, 3),
    )


def single_person(candidates: People) -> People:
    """Keeps the best person only, for data sets with one per image."""
    first = jnp.argmax(candidates.valid, axis=1)
    is_first = np.arange(candidates.valid.shape[1]) == first[:, None]
    return candidates._replace(valid=candidates.valid & is_first)
