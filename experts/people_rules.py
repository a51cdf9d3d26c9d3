"""Which detected people are kept: rules that hold for every detector and every source of keypoints.

Everybody who is set aside is listed with a reason; people without enough keypoints still count as occluders.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from annyfit_jax.people.boxes import pairwise_iou
from experts.interfaces import Detections

DUPLICATE = "duplicate"
"""How the reasons begin for which somebody is another person once more."""


@dataclass(frozen=True)
class Rules:
    """Limits; `--set=people.max_people=50` changes one."""

    min_score: float = 0.3
    """Detections below this score are ignored (not listed: they are the detector's noise)."""
    min_side_px: float = 12.0
    """A box with a shorter longer side shows no body."""
    max_people: int = 30
    """A photo with more people is a crowd and set aside as a whole."""
    duplicate_iou: float = 0.85
    """Of two boxes that overlap more, the one with the lower score is a duplicate."""
    keypoint_confidence: float = 0.3
    """A keypoint counts as seen from this confidence on."""
    min_keypoints: int = 7
    """People with fewer seen keypoints (of the 17) are set aside."""
    duplicate_keypoints: float = 0.05
    """Two people whose common seen keypoints differ on average by less than this share of the box are one."""
    duplicate_mask: float = 0.85
    """So are two whose masks overlap by more than this (IoU), and whose keypoints differ by less than `duplicate_pose`."""
    duplicate_pose: float = 0.25
    """Share of the box, as for `duplicate_keypoints`: half a body that was found twice, with legs in another place."""


def match_boxes(
    wanted: Float[np.ndarray, "n 4"], offered: Float[np.ndarray, "m 4"], minimum: float = 0.5
) -> list[int | None]:
    """For each wanted box the offered one that overlaps it most, each used once, best pairs first; None below `minimum`."""
    overlap = pairwise_iou(wanted, offered)
    result: list[int | None] = [None] * len(overlap)
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = divmod(int(flat), overlap.shape[1])
        if overlap[i, j] < minimum:
            break
        if result[i] is None and j not in result:
            result[i] = j
    return result


def select_detections(detections: Detections, size: tuple[int, int], rules: Rules) -> Detections:
    """Detections clipped to the photo of `size` (width, height), highest score first, without noise and duplicates."""
    width, height = size
    boxes = np.asarray(detections.boxes, np.float64).reshape(-1, 4)
    scores = np.asarray(detections.scores, np.float64).reshape(-1)
    ids = list(detections.ids) or [str(i) for i in range(len(boxes))]
    boxes = np.clip(np.where(np.isfinite(boxes), boxes, 0.0), 0.0, [width, height, width, height])
    skipped = list(detections.skipped)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if not scores[i] >= rules.min_score:
            continue
        sides = boxes[i, 2:] - boxes[i, :2]
        if sides.min() <= 0 or sides.max() < rules.min_side_px:
            skipped.append((ids[i], f"too small: box of {sides[0]:.0f} x {sides[1]:.0f} pixels"))
            continue
        overlap = pairwise_iou(boxes[i : i + 1], boxes[kept])[0]
        if len(kept) and overlap.max() > rules.duplicate_iou:
            skipped.append((ids[i], f"duplicate of person {ids[kept[int(overlap.argmax())]]} (box)"))
            continue
        kept.append(int(i))
    keypoints = None if detections.keypoints is None else np.asarray(detections.keypoints, np.float64)[kept]
    if not detections.ids:  # numbered anew, so that ids count the people who are looked at
        numbers = [str(k) for k in range(len(kept))]
        return Detections(boxes[kept], scores[kept], numbers, _renumbered(skipped, kept), keypoints)
    return Detections(boxes[kept], scores[kept], [ids[i] for i in kept], skipped, keypoints)


def _renumbered(skipped: list[tuple[str, str]], kept: list[int]) -> list[tuple[str, str]]:
    """Ids of detections that were numbered by position: the kept ones come first, duplicates refer to them."""
    new = {str(i): str(k) for k, i in enumerate(kept)}
    out = []
    for number, (_, reason) in enumerate(skipped, len(kept)):
        words = reason.split(" ")
        if words[:3] == ["duplicate", "of", "person"]:
            words[3] = new[words[3]]
        out.append((str(number), " ".join(words)))
    return out


def confident(keypoints: Float[np.ndarray, "n k 3"], size: tuple[int, int]) -> Float[np.ndarray, "n k 3"]:
    """Keypoints with confidence 0 where they lie outside the photo of `size` (width, height) or are not finite."""
    points = np.array(keypoints, np.float64)
    with np.errstate(invalid="ignore"):
        inside = (points[..., :2] >= 0).all(-1) & (points[..., :2] <= np.asarray(size)).all(-1)
    usable = inside & np.isfinite(points).all(-1) & (points[..., 2] > 0)
    points[..., 2] = np.where(usable, points[..., 2], 0.0)
    points[..., :2] = np.where(np.isfinite(points[..., :2]), points[..., :2], 0.0)
    return points


def reasons_to_skip(
    keypoints: Float[np.ndarray, "n k 3"],
    boxes: Float[np.ndarray, "n 4"],
    ids: list[str],
    rules: Rules,
    masks: Bool[np.ndarray, "n height width"] | None = None,
) -> dict[int, str]:
    """Person -> why nobody can be fitted there: too few keypoints, or a duplicate of somebody kept before (`DUPLICATE`)."""
    points = np.asarray(keypoints, np.float64)[:, :17]
    seen = points[..., 2] >= rules.keypoint_confidence
    reasons: dict[int, str] = {}
    order = np.argsort(-(points[..., 2] * seen).sum(1), kind="stable")
    kept: list[int] = []
    for i in order:
        if seen[i].sum() < rules.min_keypoints:
            reasons[int(i)] = f"{seen[i].sum()} confident keypoints, expected at least {rules.min_keypoints}"
            continue
        side = max(float((boxes[i, 2:] - boxes[i, :2]).max()), 1.0)
        for j in kept:
            common = seen[i] & seen[j]
            apart = np.linalg.norm(points[i, :, :2] - points[j, :, :2], axis=-1)[common]
            if common.sum() < rules.min_keypoints:
                continue
            if apart.mean() < rules.duplicate_keypoints * side:
                reasons[int(i)] = f"{DUPLICATE} of person {ids[j]} (keypoints)"
                break
            if masks is None or apart.mean() >= rules.duplicate_pose * side:
                continue
            if (masks[i] & masks[j]).sum() > rules.duplicate_mask * (masks[i] | masks[j]).sum():
                reasons[int(i)] = f"{DUPLICATE} of person {ids[j]} (mask)"
                break
        else:
            kept.append(int(i))
    return reasons
