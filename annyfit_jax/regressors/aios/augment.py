"""From an annotated picture to one row of a training batch: crop, flip, size, colour, then targets in shares of the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from annyfit_jax.people.anatomy import other_side
from annyfit_jax.regressors.aios import body_points, picture_preprocess
from annyfit_jax.regressors.aios.aios_batch import Batch
from annyfit_jax.regressors.aios.aios_config import BodyHead
from annyfit_jax.regressors.aios.examples import Example, pixels
from annyfit_jax.regressors.aios.targets import BodyTargets, PartArrays, Targets

COCO_MIRROR = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
FACE_MIRROR = (0, 1, 2, 5, 4, 3)
_PARTS_MIRROR = (1, 0, 2)


@dataclass(frozen=True)
class Augmentation:
    """What is random. Defaults are the released training configuration's; `none()` is none of it."""

    flip: float = 0.5
    """Probability."""
    colour: float = 0.2
    """Each channel is scaled by 1 +- this."""
    short_sides: tuple[int, ...] = picture_preprocess.TRAIN_SHORT_SIDES
    long_limit: int = picture_preprocess.LONG_SIDE_LIMIT
    single: float = 0.6
    """Probability that a subset is one person."""

    @classmethod
    def none(cls, short_side: int, long_limit: int) -> Augmentation:
        """One size, nothing random."""
        return cls(0.0, 0.0, (short_side,), long_limit)


class Row(NamedTuple):
    """One picture of a batch."""

    image: Float[np.ndarray, "h w 3"]
    """Normalised, without padding."""
    resize_factor: Float[np.ndarray, "2"]
    targets: Targets
    """Without batch axis; padded to a fixed number of people."""


def prepare(
    example: Example,
    random: np.random.Generator,
    augmentation: Augmentation,
    head: BodyHead,
    max_people: int,
    crop: float = 0.0,
    subset: float = 0.5,
) -> Row:
    """A training row.

    Args:
      random: decides everything random; the same state gives the same row.
      max_people: rows of the targets; of more people the largest boxes stay.
      crop: probability of a crop around people.
      subset: probability that the crop is around some of them only.

    Raises SceneError for a picture that cannot be read.
    """
    draws = _draw(random, example, augmentation, crop, subset)
    flip, window, size, colour = draws.flip, draws.window, draws.size, draws.colour
    image = picture_preprocess.normalise(picture_preprocess.warp(pixels(example), window, size, flip), colour)
    if flip:
        example = mirrored(example, head)
        window = (example.size[0] - 1 - (window[0] + window[2] / 2) - window[2] / 2, *window[1:])
    scale = np.array([size[0] / window[2], size[1] / window[3]])
    return Row(image, scale.astype(np.float32), _targets(example, np.array(window[:2]), scale, size, max_people))


class _Draws(NamedTuple):
    flip: bool
    window: picture_preprocess.Window
    size: tuple[int, int]
    colour: tuple[float, float, float]


def _draw(random: np.random.Generator, example: Example, config: Augmentation, crop: float, subset: float) -> _Draws:
    """All draws, always as many: what one decides does not shift the others."""
    uniform = random.uniform(size=8)
    order = random.permutation(len(example.boxes))
    flip = bool(uniform[0] < config.flip)
    colour = tuple(1.0 + config.colour * (2.0 * u - 1.0) for u in uniform[1:4])
    short = config.short_sides[int(uniform[4] * len(config.short_sides))]
    window: picture_preprocess.Window = (0.0, 0.0, float(example.size[0]), float(example.size[1]))
    boxes = example.boxes[order]
    real = boxes[(boxes[:, 2:] > 0).all(1)]
    if uniform[5] < crop and len(real):
        if uniform[6] < subset:
            share = uniform[7]
            single = share < config.single
            count = 1 if single else 1 + int((share - config.single) / (1.0 - config.single) * len(real))
            real = real[:count]
        around_people = picture_preprocess.crop_window(real, example.size)
        if min(around_people[2:]) >= 1:
            window = tuple(float(v) for v in around_people)  # pyright: ignore[reportAssignmentType]
    size = picture_preprocess.output_size((window[2], window[3]), short, config.long_limit)
    return _Draws(flip, window, size, colour)  # pyright: ignore[reportArgumentType]


def _targets(example: Example, start: np.ndarray, scale: np.ndarray, size: tuple[int, int], max_people: int) -> Targets:
    """Annotations of a window in shares of the output."""
    full = np.array(size, np.float64)

    def moved(xy: np.ndarray) -> np.ndarray:
        return (xy - start) * scale / full

    def boxes(xywh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = moved(xywh[..., :2]), moved(xywh[..., :2] + xywh[..., 2:])
        low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
        there = np.asarray((high > low).all(-1) & (xywh[..., 2:] > 0).all(-1))
        return np.concatenate([(low + high) / 2, high - low], -1) * there[..., None], there

    def joints(xyv: np.ndarray) -> np.ndarray:
        xy = moved(xyv[..., :2])
        whole = (xyv[..., :2] >= 0).all(-1) & (xyv[..., :2] < np.array(example.size)).all(-1)
        seen = whole & ((xy >= 0) & (xy < 1)).all(-1) & (xyv[..., 2] > 0)
        return np.concatenate([np.where(seen[..., None], xy, 0.0), seen[..., None]], -1)

    person, there = boxes(example.boxes)
    kept = np.flatnonzero(there)
    if len(kept) > max_people:
        area = person[kept, 2] * person[kept, 3]
        kept = np.sort(kept[np.argsort(-area, kind="stable")[:max_people]])

    def fill(rows: np.ndarray) -> np.ndarray:
        out = np.zeros((max_people, *rows.shape[1:]), np.float32)
        out[: len(kept)] = rows[kept]
        return out

    parts, parts_there = boxes(example.part_boxes)
    affine = np.array([[scale[0], 0, -start[0] * scale[0]], [0, scale[1], -start[1] * scale[1]], [0, 0, 1.0]])
    fields: dict[str, Any] = {
        "people": np.arange(max_people) < len(kept),
        "boxes": fill(person),
        "part_boxes": fill(parts),
        "part_boxes_valid": fill(parts_there.astype(np.float32)),
        "body_joints": fill(joints(example.body_joints)),
        "part_joints": fill(joints(example.part_joints)),
        "body": jax.tree.map(fill, example.body),
        "points": fill(example.points),
        "relative_points": np.zeros((max_people, example.points.shape[1], 4), np.float32),
        "image_points": fill(joints(example.image_points)),
        "has_3d": np.float32(example.has_3d),
        "image_size": full.astype(np.float32),
        "transl": fill(example.transl),
        "intrinsics": (affine @ example.intrinsics).astype(np.float32),
    }
    return Targets(**fields)


# ------------------------------------------------------------------------------------------------ mirroring


def mirrored(example: Example, head: BodyHead) -> Example:
    """The annotations of the picture mirrored about its vertical middle (x -> W - 1 - x); people change sides."""
    width = example.size[0]

    def joints(xyv: np.ndarray) -> np.ndarray:
        return np.concatenate([width - 1 - xyv[..., :1], xyv[..., 1:]], -1)

    def boxes(xywh: np.ndarray) -> np.ndarray:
        there = (xywh[..., 2:] > 0).all(-1, keepdims=True)
        x = width - 1 - xywh[..., :1] - xywh[..., 2:3]
        return np.where(there, np.concatenate([x, xywh[..., 1:]], -1), xywh)

    part_joints = joints(example.part_joints)[:, list(_PARTS_MIRROR)]
    part_joints[:, 2] = part_joints[:, 2, list(FACE_MIRROR)]
    points, image_points = example.points, joints(example.image_points)
    if points.shape[1]:
        order = list(body_points.SMPLX_MIRROR)
        points = points[:, order] * np.array([-1.0, 1.0, 1.0, 1.0])
        image_points = image_points[:, order]
    K = example.intrinsics.copy()
    K[0, 2] = width - 1 - K[0, 2]
    return example._replace(
        boxes=boxes(example.boxes),
        part_boxes=boxes(example.part_boxes)[:, list(_PARTS_MIRROR)],
        body_joints=joints(example.body_joints)[:, list(COCO_MIRROR)],
        part_joints=part_joints,
        body=_mirrored_body(example.body, head),
        points=points,
        image_points=image_points,
        transl=example.transl * np.array([-1.0, 1.0, 1.0]),
        intrinsics=K,
    )


def _mirrored_body(body: BodyTargets, head: BodyHead) -> BodyTargets:
    order = [head.body.index(other_side(name)) for name in head.body]
    sense = np.array([1.0, -1.0, -1.0], np.float32)
    rotvecs, valid = body.rotvecs, body.rotvec_valid
    return body._replace(
        rotvecs=PartArrays(
            rotvecs.body[:, order] * sense, rotvecs.right_hand * sense, rotvecs.left_hand * sense, rotvecs.face * sense
        ),
        rotvec_valid=PartArrays(valid.body[:, order], valid.right_hand, valid.left_hand, valid.face),
    )


def batch(rows: Sequence[Row], size: tuple[int, int] | None = None) -> Batch:
    """Rows side by side as a `Batch`, pictures padded to `size` (width, height)."""
    images, padding = picture_preprocess.pad_batch([row.image for row in rows], size)
    targets = jax.tree.map(lambda *parts: np.stack(parts), *(row.targets for row in rows))
    factor = np.stack([row.resize_factor for row in rows])
    fields: dict[str, Any] = {"images": images, "padding": padding, "resize_factor": factor}
    return Batch(**fields, image_size=targets.image_size, targets=targets)
