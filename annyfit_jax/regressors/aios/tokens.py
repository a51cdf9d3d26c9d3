"""What a person's tokens are in each stage, and which of them see other people.

A layout is a tuple of (group, count) in the order of the tokens of one person. People follow each other, all tokens of the
first, then of the second, ...; denoising queries stand before them.
"""

from __future__ import annotations

from typing import NamedTuple

from annyfit_jax.regressors.aios.aios_config import AiosConfig

BODY_JOINTS = 17
"""COCO order."""
PART_JOINTS = 6
"""Hand: wrist and finger tips from thumb to little finger. Face: nose, upper lip, jaw, right contour, chin, left contour."""

Layout = tuple[tuple[str, int], ...]

LOCATION: Layout = (("person", 1),)
BOXES: Layout = (("person", 1), ("left_hand", 1), ("right_hand", 1), ("face", 1))
BODY: Layout = (("person", 1), ("body_joints", BODY_JOINTS), ("left_hand", 1), ("right_hand", 1), ("face", 1))
WHOLE_BODY: Layout = (
    ("person", 1),
    ("body_joints", BODY_JOINTS),
    ("left_hand", 1),
    ("left_hand_joints", PART_JOINTS),
    ("right_hand", 1),
    ("right_hand_joints", PART_JOINTS),
    ("face", 1),
    ("face_joints", PART_JOINTS),
)
_BOX_GROUPS = tuple(name for name, _ in BOXES)

STAGES = (0, 0, 1, 1, 2, 2)
"""Stage of each of the six decoder layers."""


def layouts(config: AiosConfig) -> tuple[Layout, Layout, Layout]:
    """The layout of each stage."""
    return (LOCATION, BODY, WHOLE_BODY) if config.joints else (LOCATION, BOXES, BOXES)


def size(layout: Layout) -> int:
    """Tokens per person."""
    return sum(count for _, count in layout)


def spans(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Group -> indices of its tokens within a person."""
    indices, start = {}, 0
    for name, count in layout:
        indices[name] = tuple(range(start, start + count))
        start += count
    return indices


class Visibility(NamedTuple):
    """Which tokens see other people: allowed(q, k) = same person, or `q in queries and k in keys`."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]


def visibility(config: AiosConfig, layout: Layout) -> Visibility:
    """The attention pattern of the configuration on a layout.

    Naive AiOS: every token sees the person boxes of all. In `LOCATION` all patterns are the same.
    """
    groups = spans(layout)
    everything = tuple(range(size(layout)))
    if not config.joints:
        return Visibility(everything, groups["person"])
    if config.attention == "full":
        return Visibility(everything, everything)
    names = ("person",) if config.attention == "inter_human" else _BOX_GROUPS
    shared = tuple(sorted(index for name in names for index in groups.get(name, ())))
    return Visibility(shared, shared)


BODY_FEATURES: dict[str, dict[str, tuple[str, ...]]] = {
    "location": {"body": ("person",)},
    "boxes": {
        "body": _BOX_GROUPS,
        "left_hand": ("person", "left_hand"),
        "right_hand": ("person", "right_hand"),
        "face": ("person", "face"),
    },
    "body": {
        "body": tuple(name for name, _ in BODY),
        "left_hand": ("left_hand",),
        "right_hand": ("right_hand",),
        "face": ("face",),
    },
    "whole_body": {
        "body": tuple(name for name, _ in BODY),
        # Each hand reads the other's box as well; the right hand's tokens follow in the order of the layout.
        "left_hand": ("person", "left_hand", "left_hand_joints", "right_hand"),
        "right_hand": ("person", "left_hand", "right_hand", "right_hand_joints"),
        "face": ("person", "face", "face_joints"),
    },
}
"""Token groups that the parametric heads of each layout read, concatenated in the order of the layout."""


def body_features(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Part of the body -> tokens that its parametric heads read (empty: not predicted in this stage)."""
    name = {LOCATION: "location", BOXES: "boxes", BODY: "body", WHOLE_BODY: "whole_body"}[layout]
    groups = spans(layout)
    return {
        part: tuple(sorted(index for group in wanted for index in groups[group]))
        for part, wanted in BODY_FEATURES[name].items()
    }
