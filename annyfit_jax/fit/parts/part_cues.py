"""The points of hands, face and feet that a scene brings, in one order, people first (host-side NumPy)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from annyfit_jax.inputs.point_sets import FACE, FEET, LEFT_HAND, PUPILS, RIGHT_HAND, WHOLE_BODY
from annyfit_jax.people.fitted import PARTS
from annyfit_jax.people.named_points import ALIASES
from annyfit_jax.people.scene import COCO17, Scene, SceneError

PART_POINTS: dict[str, tuple[str, ...]] = dict(
    zip(PARTS, (LEFT_HAND, RIGHT_HAND, (*FACE, *PUPILS), FEET[:3], FEET[3:]), strict=True)
)
"""The named points that show each part."""
POINTS = tuple(name for names in PART_POINTS.values() for name in names)
"""All points of the parts, part after part."""
_FAR_PX = 1e5
"""Points farther out are no points."""
_PLACE = {name: row for row, name in enumerate(POINTS)}
_FROM_WHOLE_BODY = [(row, _PLACE[name]) for row, name in enumerate(WHOLE_BODY) if name in _PLACE]


def part_points(scene: Scene) -> Float[np.ndarray, "n K 3"] | None:
    """x, y in pixels and confidence of the points of all parts, 0 = missing; None where the scene has none.

    They come from `keypoints_133`, and under their own names or those of `named_points.ALIASES` from `other_points`. Raises
    SceneError for arrays of another shape.
    """
    n = len(scene)
    points = np.zeros((n, len(POINTS), 3))
    whole = scene.extra.get("keypoints_133")
    if whole is not None:
        given, placed = zip(*_FROM_WHOLE_BODY, strict=True)
        points[:, list(placed)] = _checked(scene, "keypoints_133", whole, len(WHOLE_BODY))[:, list(given)]
    names = [str(name) for name in scene.extra.get("other_point_names", ())]
    if names:
        others = _checked(scene, "other_points", scene.extra.get("other_points"), len(names))
        for column, name in enumerate(names):
            row = _PLACE.get(ALIASES.get(name, name), -1)
            if row >= 0:
                better = others[:, column, 2] > points[:, row, 2]
                points[better, row] = others[better, column]
    usable = np.isfinite(points).all(-1) & (points[..., 2] > 0) & (np.abs(points[..., :2]).max(-1) < _FAR_PX)
    points[~usable] = 0.0
    return points if points[..., 2].any() else None


def flat_points(scenes: Sequence[Scene], length: int, dtype: np.dtype) -> Float[np.ndarray, "3 K N"]:
    """The points of many scenes as one list of people, people last, padded with nobody's."""
    rows = []
    for scene in scenes:
        points = part_points(scene)
        rows.append(np.zeros((len(scene), len(POINTS), 3)) if points is None else points)
    flat = np.concatenate(rows) if rows else np.zeros((0, len(POINTS), 3))
    padded = np.pad(flat, [(0, length - len(flat)), (0, 0), (0, 0)])
    return np.ascontiguousarray(np.moveaxis(padded, (0, 1, 2), (2, 1, 0)).astype(dtype))


def _checked(scene: Scene, name: str, value: object, count: int) -> np.ndarray:
    array = np.asarray(value, np.float64)
    if array.shape != (len(scene), count, 3):
        raise SceneError(f"{scene.name}: extra.{name}: expected shape {(len(scene), count, 3)}, got {array.shape}")
    return array


assert not set(POINTS) & set(COCO17)
