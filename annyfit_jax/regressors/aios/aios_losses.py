"""The training loss: matching, all terms of all layers, and their weighted sum.

    total, terms = loss(outputs, targets, loss_config, point_layout, body_points, denoising_targets)

Every term is computed for matched people only, in the order of the true people; sums over the batch are sums over all
devices when the batch is sharded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from annyfit_jax.regressors.aios import loss_terms, weak_perspective
from annyfit_jax.regressors.aios.aios_config import LossConfig
from annyfit_jax.regressors.aios.aios_model import LayerOutput, Outputs
from annyfit_jax.regressors.aios.encoder import CLASSES, PERSON
from annyfit_jax.regressors.aios.heads import BodyPrediction, PartRotations
from annyfit_jax.regressors.aios.hungarian_matching import match
from annyfit_jax.regressors.aios.relative_boxes import generalised_iou
from annyfit_jax.regressors.aios.targets import PARTS, PointLayout, Targets
from annyfit_jax.regressors.aios.tokens import STAGES
from body_models.rotations import rotvec_to_matrix

Terms = dict[str, Float[Array, ""]]
BodyPoints = Callable[[BodyPrediction], Float[Array, "batch person point 3"]]
"""Points of the body model in the order of the `PointLayout`, before translation, metres."""

_SIDES = ("left_hand", "right_hand", "face")


class DenoisingTargets(NamedTuple):
    """What the denoising queries were made from."""

    boxes: Float[Array, "batch denoising 4"]
    """Clean."""
    labels: Int[Array, "batch denoising"]
    """Clean; anything but 0 and 1 is no object."""
    real: Bool[Array, "batch denoising"]
    """False where the image has nobody and the boxes are made up."""


class Supervised(NamedTuple):
    """Which terms a layer gets."""

    body: bool
    parts: bool


def supervised(config: LossConfig, layer: int) -> Supervised:
    """Whether the body's and the parts' terms apply to a decoder layer (0 to 5)."""
    first_body, first_parts = {"all": (0, 1), "second_third": (1, 2), "third_only": (2, 2)}[config.supervision]
    return Supervised(STAGES[layer] >= first_body, STAGES[layer] >= first_parts)


_FIELD_OF_PART = {"body": "body", "left_hand": "hands", "right_hand": "hands", "face": "face"}
_FIFTH_LAYER = {f"points3d_{part}" for part in _SIDES} | {"points2d_left_hand", "points2d_right_hand"}

WEIGHT_OF_TERM: dict[str, str] = {
    **{name: name for name in ("classes", "rotation_root", "shape", "expression")},
    **{name: name for name in ("denoising_classes", "denoising_l1", "denoising_giou")},
    **{f"{term}_{box}": term for term in ("box_l1", "box_giou") for box in ("person", *_SIDES)},
    **{f"joints_l1_{part}": "joints_l1" for part in _FIELD_OF_PART},
    **{
        f"{term}_{part}": f"{term}_{field}"
        for term in ("oks", "rotation", "points3d", "points3d_relative", "points2d")
        for part, field in _FIELD_OF_PART.items()
    },
}
"""Term of the loss -> field of `LossConfig` with its weight."""


def weight(config: LossConfig, term: str, layer: int | None) -> float:
    """Weight of a term in a decoder layer (None: the encoder's proposals)."""
    factor = config.fifth_layer_parts if layer == len(STAGES) - 2 and term in _FIFTH_LAYER else 1.0
    return factor * getattr(config, WEIGHT_OF_TERM[term])


def loss(
    outputs: Outputs,
    targets: Targets,
    config: LossConfig,
    layout: PointLayout,
    body_points: BodyPoints,
    denoising: DenoisingTargets | None = None,
    focal: float = weak_perspective.FOCAL_PX,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The weighted sum, and every unweighted term under `layer<k>/<term>` or `proposals/<term>`.

    `focal`: of the network's camera (`AiosConfig.focal`).
    """
    # What is alike in several layers is one computation: less to compile, and their matchings run side by side.
    named: Terms = {}
    weighted: list[Array] = []

    def add(layers: Sequence[int | None], terms: Mapping[str, Float[Array, "layer"]]) -> None:
        weights = np.array([[weight(config, term, layer) for layer in layers] for term in terms], np.float32)
        weighted.append((jnp.stack(list(terms.values())) * weights).sum())
        for index, layer in enumerate(layers):
            named.update({_term_name(layer, term): values[index] for term, values in terms.items()})

    groups = []
    for (_, wanted), layers in _alike(outputs, config).items():
        terms_of = functools.partial(_layer_terms, targets=targets, wanted=wanted, slips=config.slips)
        terms, matched, body = jax.vmap(terms_of)(_stacked([output for _, output in layers]))
        add([layer for layer, _ in layers], terms)
        if body is not None:
            groups.append(([layer for layer, _ in layers], wanted, matched, body))
    if groups:
        points = body_points(_joined([body for *_, body in groups]))
        ends = np.cumsum([len(layers) for layers, *_ in groups])[:-1]
        for (layers, wanted, matched, body), part in zip(groups, jnp.split(points, ends)):
            point_terms = functools.partial(_point_terms, targets=targets, layout=layout, wanted=wanted, focal=focal)
            add(layers, jax.vmap(point_terms)(part, body.camera, matched))
    if denoising is not None:
        queries = _stacked([(output.denoising_logits, output.denoising_boxes) for output in outputs.layers])
        add(
            range(len(outputs.layers)), jax.vmap(lambda query: _denoising_terms(query[0], query[1], denoising))(queries)
        )
    return sum(weighted, start=jnp.zeros(())), named


def _stacked(trees: Sequence[Any]) -> Any:
    """Pytrees of arrays of one structure as one with a leading axis."""
    return jax.tree.map(lambda *parts: jnp.stack(parts), *trees)


def _joined(bodies: Sequence[BodyPrediction]) -> BodyPrediction:
    """Predictions of several layers along the leading axis; parts that some layers do not have are at rest there."""

    def join(parts: Sequence[Array | None], rest: Array) -> Array | None:
        known = next((part for part in parts if part is not None), None)
        if known is None:
            return None
        first = len(bodies[0].shape.shape) - 1  # axis after layer, picture and person
        of_layers = [(body.shape.shape[:first], part) for body, part in zip(bodies, parts)]
        return jnp.concatenate(
            [jnp.broadcast_to(rest, (*batch, *known.shape[first:])) if x is None else x for batch, x in of_layers]
        )

    rotations = [join(parts, jnp.eye(3)) for parts in zip(*(body.rotations for body in bodies))]
    return BodyPrediction(
        PartRotations(*rotations),  # pyright: ignore[reportArgumentType]
        jnp.concatenate([body.shape for body in bodies]),
        jnp.concatenate([body.camera for body in bodies]),
        join([body.expression for body in bodies], jnp.zeros(())),
    )


def _term_name(layer: int | None, term: str) -> str:
    return f"proposals/{term}" if layer is None else f"layer{layer}/{term}"


def _alike(outputs: Outputs, config: LossConfig) -> dict[tuple, list[tuple[int | None, LayerOutput]]]:
    """Layers (None: the encoder's proposals) by shapes of their outputs and by the terms that they get."""
    groups: dict[tuple, list[tuple[int | None, LayerOutput]]] = {}
    for layer, output in [(None, outputs.proposals), *enumerate(outputs.layers)]:
        wanted = Supervised(False, False) if layer is None else supervised(config, layer)
        output = output._replace(denoising_logits=None, denoising_boxes=None)
        if output.body is None:
            wanted = Supervised(False, False)
        shapes = jax.tree.map(jnp.shape, output)
        groups.setdefault((shapes, wanted), []).append((layer, output))
    return groups


def _layer_terms(
    output: LayerOutput,
    targets: Targets,
    wanted: Supervised,
    slips: bool,
) -> tuple[Terms, Float[Array, "batch person"], BodyPrediction | None]:
    """The terms of one layer but those of its denoising queries and of the points of bodies.

    Also: 1 for people who have a query, and their bodies, where the layer has them and they count.
    """
    query = match(output, targets)
    matched = (query >= 0).astype(jnp.float32)
    people = jnp.maximum(targets.people.sum(), 1)

    def pick(x: Array) -> Array:
        index = jnp.maximum(query, 0).reshape(*query.shape, *(1,) * (x.ndim - 2))
        return jnp.take_along_axis(x, index, axis=1)

    # Only matched queries are used from here on: the body model is evaluated for true people, not for every query.
    ours = jax.tree.map(pick, output)
    terms = {"classes": _class_loss(output.logits, query) / people}
    terms |= _box_terms(ours.boxes, targets.boxes, matched, people.astype(jnp.float32), "person")
    terms |= _part_box_terms(ours, targets, matched)
    terms |= _joint_terms(ours, targets, matched, wanted, slips)
    body = ours.body if wanted.body else None
    if body is not None:
        terms |= _parameter_terms(body, targets, matched, wanted, slips)
    return terms, matched, body


# ------------------------------------------------------------------------------------------------ classes and boxes


def _class_loss(logits: Float[Array, "batch query 2"], query: Int[Array, "batch person"]) -> Float[Array, ""]:
    """Focal loss over all queries; the matched ones are people, the others nothing."""
    is_person = (jnp.arange(logits.shape[1]) == query[:, :, None]).any(1)
    return loss_terms.focal(logits, jax.nn.one_hot(jnp.where(is_person, PERSON, -1), CLASSES)).sum()


def _box_terms(
    ours: Float[Array, "batch person 4"],
    theirs: Float[Array, "batch person 4"],
    counted: Float[Array, "batch person"],
    normaliser: Float[Array, ""],
    name: str,
) -> Terms:
    """Sums over boxes by `normaliser`, zero where that is zero."""
    share = counted / jnp.maximum(normaliser, 1.0)
    return {
        f"box_l1_{name}": (jnp.abs(ours - theirs).sum(-1) * share).sum(),
        f"box_giou_{name}": ((1.0 - generalised_iou(ours, theirs)) * share).sum(),
    }


def _part_box_terms(ours: LayerOutput, targets: Targets, matched: Float[Array, "batch person"]) -> Terms:
    boxes = [x for x in (ours.left_hand_boxes, ours.right_hand_boxes, ours.face_boxes) if x is not None]
    if not boxes:  # a layer has all of them or none
        return {}
    counted = matched[..., None] * targets.part_boxes_valid
    terms_of = functools.partial(_box_terms, name="part")
    terms = jax.vmap(terms_of, in_axes=(0, 2, 2, 0))(jnp.stack(boxes), targets.part_boxes, counted, counted.sum((0, 1)))
    return {
        term.replace("part", name): values[index] for term, values in terms.items() for index, name in enumerate(_SIDES)
    }


def _denoising_terms(
    logits: Float[Array, "batch denoising 2"], boxes: Float[Array, "batch denoising 4"], denoising: DenoisingTargets
) -> Terms:
    """Sums over all denoising queries by their number per image, as released."""
    queries = logits.shape[1]
    classes = loss_terms.focal(logits, jax.nn.one_hot(denoising.labels, CLASSES)).sum() / queries
    real = denoising.real.astype(jnp.float32)
    box = _box_terms(boxes, denoising.boxes, real, jnp.float32(queries), "denoising")
    return {
        "denoising_classes": classes, "denoising_l1": box["box_l1_denoising"], "denoising_giou": box["box_giou_denoising"],
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ joints


def _joint_terms(
    ours: LayerOutput, targets: Targets, matched: Float[Array, "batch person"], wanted: Supervised, slips: bool
) -> Terms:
    """L1 and OKS of the 2D joints that the layer has. Parts use the person's area and need a valid box."""
    area = targets.boxes[..., 2] * targets.boxes[..., 3]

    def of(
        name: str, xy: Array, true: Array, sigmas: np.ndarray, used: Array, counted_by: Array | None = None
    ) -> Terms:
        visible = true[..., 2] * used[..., None]
        count = loss_terms.any_of(visible if counted_by is None else counted_by * used[..., None])
        l1 = (jnp.abs(xy - true[..., :2]).sum(-1) * visible).sum(-1)
        oks = loss_terms.oks_loss(xy, true[..., :2], visible, area, sigmas)
        return {f"joints_l1_{name}": loss_terms.mean_over(l1, count), f"oks_{name}": loss_terms.mean_over(oks, count)}

    terms = {}
    if ours.body_joints is not None and wanted.body:
        terms |= of("body", ours.body_joints, targets.body_joints, loss_terms.BODY_SIGMAS, matched)
    sides = (ours.left_hand_joints, ours.right_hand_joints, ours.face_joints)
    if wanted.parts:
        for index, (name, xy) in enumerate(zip(_SIDES, sides)):
            if xy is not None:
                counted_by = targets.part_joints[:, :, 0, :, 2] if slips and name == "face" else None
                used = matched * targets.part_boxes_valid[:, :, index]
                terms |= of(name, xy, targets.part_joints[:, :, index], loss_terms.PART_SIGMAS, used, counted_by)
    return terms


# ------------------------------------------------------------------------------------------------ the body model


def _parameter_terms(
    body: BodyPrediction, targets: Targets, matched: Float[Array, "batch person"], wanted: Supervised, slips: bool
) -> Terms:
    """Rotations (sum over the nine entries of each matrix), shape and expression."""

    def masked(difference: Array, valid: Array) -> Array:
        return loss_terms.mean_over(jnp.abs(difference).sum(-1) * valid * matched, valid * matched)

    terms = {"shape": masked(body.shape - targets.body.shape, targets.body.shape_valid)}
    for part in PARTS if wanted.parts else ("body",):
        ours = getattr(body.rotations, part)
        if ours is None:
            continue
        valid = getattr(targets.body.rotvec_valid, part) * matched[..., None]
        error = jnp.abs(ours - rotvec_to_matrix(getattr(targets.body.rotvecs, part))).sum((-2, -1)) * valid
        counted = loss_terms.any_of(valid)
        if part == "body":
            terms["rotation_root"] = loss_terms.mean_over(error[..., 0], counted)
            terms["rotation_body"] = loss_terms.mean_over(error[..., 1:], counted)
        elif part == "face" and slips:
            terms["rotation_face"] = error.sum()
        else:
            terms[f"rotation_{part}"] = loss_terms.mean_over(error, counted)
    if wanted.parts and body.expression is not None:
        terms["expression"] = masked(body.expression - targets.body.expression, targets.body.expression_valid)
    return terms


def _point_terms(
    points: Float[Array, "batch person point 3"],
    camera_: Float[Array, "batch person 3"],
    matched: Float[Array, "batch person"],
    *,
    targets: Targets,
    layout: PointLayout,
    wanted: Supervised,
    focal: float,
) -> Terms:
    """L1 of 3D points from the pelvis and from the root of each part, and of projected points."""
    size = jnp.broadcast_to(targets.image_size[:, None], (*camera_.shape[:2], 2))
    projected = weak_perspective.project(points, camera_, size, focal) / size[..., None, :]
    has_3d = targets.has_3d[:, None, None]
    terms = {}
    for part in PARTS if wanted.parts else ("body",):
        span = layout.span(part)

        def of(difference: Array, confidence: Array, span: slice = span) -> Array:
            confidence = confidence[:, :, span] * matched[..., None]
            error = jnp.abs(difference[:, :, span]).sum(-1) * confidence
            return loss_terms.mean_over(error, loss_terms.any_of(confidence))

        for name, true, root in (
            ("points3d", targets.points, layout.pelvis),
            ("points3d_relative", targets.relative_points, layout.root(part)),
        ):
            # The target's own root is the pelvis in both: relative targets have it at zero and hands and face from theirs.
            ours_from, true_from = (
                points - points[:, :, root, None],
                true[..., :3] - true[:, :, layout.pelvis, None, :3],
            )
            terms[f"{name}_{part}"] = of(ours_from - true_from, true[..., 3] * has_3d)
        terms[f"points2d_{part}"] = of(projected - targets.image_points[..., :2], targets.image_points[..., 2])
    return terms
