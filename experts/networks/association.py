"""Whose skeleton is whose: boxes and skeletons of a photo, from crops that often show several people, put together to people.

Every crop gives a few skeletons (`movenet`), every one of them may belong to any box. A pair is worth the more, the surer
the box and the points are, the better the skeleton fills the box and the fewer of its points lie outside. The best pair is
a person; boxes that nearly cover that person's and skeletons that nearly equal it are no others; then comes the next best.
So one box with two people, two boxes on one person, and a skeleton that jumped to the person in front are the same
question.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image, ImageDraw

from annyfit_jax.people.boxes import pairwise_iou

COCO_SIGMAS = np.array(
    [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]
) / 1000  # fmt: skip
"""How far annotators of COCO are apart per keypoint, in units of the root of the person's area (COCO's evaluation code)."""
AREA_OF_BOX = 0.53
"""Share of a person's box that the person covers, on average in COCO."""
_BONES = ((5, 6), (11, 12), (5, 11), (6, 12), (5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16))
_TORSO = (5, 6, 12, 11)


@dataclass(frozen=True)
class Pairing:
    """Limits and weights; chosen on the ten photos that `experiments.studies.photo_networks` reports on."""

    seen: float = 0.2
    """Score from which a point counts towards the extent of a skeleton."""
    margin: float = 0.08
    """Share of a box's longer side by which points may stand out of it."""
    fill_power: float = 0.5
    score_power: float = 0.5
    foreign: float = 0.7
    """Factor for a skeleton of another box's crop."""
    later: float = 0.85
    """Factor for a skeleton that is not the first of its crop."""
    same_box: float = 0.8
    """Boxes that overlap more show one person."""
    same_skeleton: float = 0.3
    """Skeletons that are more alike are one person's."""
    same_place: float = 0.08
    """So are those whose points are apart by less, on average, in longer sides of the box."""
    part_apart: float = 0.16
    """Two boxes with the same top, left and right up to this share of the smaller's longer side are a person and the upper
    part of that person."""
    crowding: float = 0.5
    """How much a box loses that overlaps a chosen one's."""
    least_value: float = 0.07
    least_mean: float = 0.17
    """Of the scores of all points."""
    least_points: int = 5
    """Points of at least `sure`."""
    sure: float = 0.3


@dataclass(frozen=True)
class Pair:
    """A box and a skeleton that make a person."""

    box: int
    skeleton: int
    value: float
    more_boxes: tuple[int, ...] = ()
    """Further boxes of the person: the whole person or the upper part (`wholes_of_parts`)."""


def wholes_of_parts(boxes: Float[np.ndarray, "n 4"], apart: float) -> Bool[np.ndarray, "n n"]:
    """At [a, b] whether b is the upper part of the person in a: detectors like to show the half of a person that is seen well
    as one box and the whole person as another.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).max(-1)
    off = (boxes[:, None] - boxes[None]) / sides[None, :, None]
    return (np.abs(off[..., :3]) < apart).all(-1) & (off[..., 3] > 0.5)


def similarity(
    skeleton: Float[np.ndarray, "17 3"], others: Float[np.ndarray, "n 17 3"], area: float
) -> Float[np.ndarray, "n"]:
    """COCO's object keypoint similarity, points weighted by the lower of the two scores; `area` in square pixels."""
    squared = ((others[..., :2] - skeleton[:, :2]) ** 2).sum(-1)
    weights = np.minimum(others[..., 2], skeleton[:, 2]) + 1e-3
    return (np.exp(-squared / (2 * area * (2 * COCO_SIGMAS) ** 2)) * weights).sum(-1) / weights.sum(-1)


def mean_distance(skeleton: Float[np.ndarray, "17 3"], others: Float[np.ndarray, "n 17 3"]) -> Float[np.ndarray, "n"]:
    """Pixels between corresponding points, weighted by the lower of the two scores."""
    apart = np.linalg.norm(others[..., :2] - skeleton[:, :2], axis=-1)
    weights = np.minimum(others[..., 2], skeleton[:, 2]) + 1e-3
    return (apart * weights).sum(-1) / weights.sum(-1)


def extents(
    skeletons: Float[np.ndarray, "n 17 3"], seen: float, size: tuple[int, int], margin: float = 0.06
) -> Float[np.ndarray, "n 4"]:
    """Boxes around the points of at least `seen` (of the three best where there are fewer than two), with a margin, in
    the photo.
    """
    used = skeletons[..., 2] > seen
    best = np.argsort(np.argsort(-skeletons[..., 2], -1), -1) < 3
    used = np.where(used.sum(-1, keepdims=True) >= 2, used, best)[..., None]
    low = np.where(used, skeletons[..., :2], np.inf).min(-2)
    high = np.where(used, skeletons[..., :2], -np.inf).max(-2)
    grown = (high - low).max(-1, keepdims=True) * margin
    return np.concatenate([low - grown, high + grown], -1).clip(0, [*size, *size])


def pair_values(
    boxes: Float[np.ndarray, "n 4"],
    scores: Float[np.ndarray, "n"],
    skeletons: Float[np.ndarray, "m 17 3"],
    owners: Int[np.ndarray, "m"],
    ranks: Int[np.ndarray, "m"],
    size: tuple[int, int],
    pairing: Pairing,
) -> Float[np.ndarray, "n m"]:
    """What each box with each skeleton is worth. `owners` are the boxes whose crops the skeletons are from, `ranks`
    their places there.
    """
    mean = skeletons[..., 2].mean(-1)
    filled = pairwise_iou(boxes, extents(skeletons, pairing.seen, size))
    inside = points_inside(boxes, skeletons, pairing.margin)
    share = (inside * skeletons[None, ..., 2]).sum(-1) / np.maximum(skeletons[..., 2].sum(-1), 1e-6)
    own = np.where(np.arange(len(boxes))[:, None] == owners, 1.0, pairing.foreign)
    value = scores[:, None] ** pairing.score_power * mean * filled**pairing.fill_power * share * own
    value = value * np.where(ranks == 0, 1.0, pairing.later)
    usable = (mean >= pairing.least_mean) & ((skeletons[..., 2] > pairing.sure).sum(-1) >= pairing.least_points)
    return value * usable


def points_inside(
    boxes: Float[np.ndarray, "n 4"], skeletons: Float[np.ndarray, "m 17 3"], margin: float
) -> Bool[np.ndarray, "n m 17"]:
    """Which points lie in which boxes, each grown by `margin` of its longer side."""
    grown = margin * (boxes[:, 2:] - boxes[:, :2]).max(-1)[:, None, None, None]
    low, high = boxes[:, None, None, :2] - grown, boxes[:, None, None, 2:] + grown
    return ((skeletons[None, ..., :2] > low) & (skeletons[None, ..., :2] < high)).all(-1)


def associate(
    boxes: Float[np.ndarray, "n 4"],
    scores: Float[np.ndarray, "n"],
    skeletons: Float[np.ndarray, "m 17 3"],
    owners: Int[np.ndarray, "m"],
    ranks: Int[np.ndarray, "m"],
    size: tuple[int, int],
    pairing: Pairing,
) -> list[Pair]:
    """The people of a photo, the surest first; the arguments are those of `pair_values`."""
    if not len(boxes) or not len(skeletons):
        return []
    values = pair_values(boxes, scores, skeletons, owners, ranks, size, pairing)
    overlaps = pairwise_iou(boxes, boxes)
    areas = AREA_OF_BOX * (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    related = wholes_of_parts(boxes, pairing.part_apart)
    related |= related.T
    people: list[Pair] = []
    while True:
        box, skeleton = np.unravel_index(int(values.argmax()), values.shape)
        value = float(values[box, skeleton])
        if value < pairing.least_value:
            return people
        people.append(Pair(int(box), int(skeleton), value, tuple(np.flatnonzero(related[box]).tolist())))
        values[(overlaps[box] > pairing.same_box) | related[box]] = 0.0
        values[:, similarity(skeletons[skeleton], skeletons, areas[box]) > pairing.same_skeleton] = 0.0
        side = float((boxes[box, 2:] - boxes[box, :2]).max())
        values[:, mean_distance(skeletons[skeleton], skeletons) < pairing.same_place * side] = 0.0
        values *= np.exp(-pairing.crowding * overlaps[box] ** 2)[:, None]


def body_shape(
    skeleton: Float[np.ndarray, "17 3"], box: Float[np.ndarray, "4"], size: tuple[int, int], seen: float
) -> Bool[np.ndarray, "height width"]:
    """About where the person of a skeleton is: limbs as thick lines, the trunk, a disk for the head."""
    points, sure = skeleton[:, :2], skeleton[:, 2] > seen
    sides = [float(np.linalg.norm(points[a] - points[b])) for a, b in ((5, 11), (6, 12)) if sure[a] and sure[b]]
    trunk = max(sides) if sides else 0.3 * float((box[2:] - box[:2]).max())
    width = max(int(0.3 * trunk), 2)
    picture = Image.new("L", size)
    draw = ImageDraw.Draw(picture)
    for a, b in _BONES:
        if sure[a] and sure[b]:
            draw.line([*points[a], *points[b]], fill=1, width=width)
    if sure[list(_TORSO)].all():
        draw.polygon([tuple(points[k]) for k in _TORSO], fill=1)
    disks = [(points[k], width / 2) for k in range(5, 17) if sure[k]]
    if sure[:5].any():
        disks.append((points[:5][sure[:5]].mean(0), 0.28 * trunk))
    for centre, radius in disks:
        draw.ellipse([*(centre - radius), *(centre + radius)], fill=1)
    return np.asarray(picture) > 0
