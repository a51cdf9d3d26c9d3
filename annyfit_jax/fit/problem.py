"""The optimisation problem of many scenes as one flat list of people, and its variables.

Layout: components first, people last (contiguous). Scenes are a per-person index and per-person weights; the ranking is a
list of within-scene pairs. Padding is people and pairs of weight zero, so one scene or ten thousand is the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int
from numpy.typing import DTypeLike

from annyfit_jax.fit.config import FitConfig
from annyfit_jax.people.scene import BodyParameters, Scene

AnyArray = Array | np.ndarray
"""Host arrays while a problem is assembled, device arrays while it is solved."""


class Variables(NamedTuple):
    """What the optimiser moves. N people, S shape values, B bones beside the root."""

    transl: Float[AnyArray, "3 N"]
    """Camera position of the root bone's head, metres."""
    root_rotvec: Float[AnyArray, "3 N"]
    """Root orientation in camera axes, radians."""
    shape: Float[AnyArray, "S N"]
    """Phenotypes (Anny) or betas (SMPL-X), not clamped."""
    pose: Float[AnyArray, "3 B N"]
    """Rotation vectors of the other bones in their own rest frames, not clamped, radians."""


class PersonCues(NamedTuple):
    """2D evidence of N people."""

    keypoints_px: Float[AnyArray, "2 17 N"]
    keypoint_confidence: Float[AnyArray, "17 N"]
    dense_px: Float[AnyArray, "2 138 N"]
    dense_confidence: Float[AnyArray, "138 N"]
    intrinsics: Float[AnyArray, "3 3 N"]


class Pairs(NamedTuple):
    """Unordered pairs of people of one scene whose depth cues are both known."""

    first: Int[AnyArray, "P"]
    second: Int[AnyArray, "P"]
    gap: Float[AnyArray, "P"]
    """Depth cue of the first minus that of the second, metres (or layers x `layer_depth_m`)."""
    weight: Float[AnyArray, "P"]
    """1, or 0 for padding."""
    scene: Int[AnyArray, "P"]


@struct.dataclass
class Problem:
    """Constants of one batch."""

    cues: PersonCues
    person_weight: Float[AnyArray, "N"]
    """1 / (people of the scene); 0 for padding."""
    scene: Int[AnyArray, "N"]
    word_target: Float[AnyArray, "A N"]
    """Anchors of the words, one row per attribute of `FitBody.attributes` (gender, age)."""
    word_weight: Float[AnyArray, "A N"]
    """1 / (usable answers of the scene); 0 where there is no usable answer."""
    pairs: Pairs
    num_scenes: int = struct.field(pytree_node=False)


@dataclass(frozen=True)
class Capacity:
    """Fixed array lengths of a batch: one compilation per capacity."""

    people: int
    pairs: int
    scenes: int


ATTRIBUTES = ("gender", "age")
"""Words that anchor phenotypes, in the order of `Problem.word_target`."""


def count_pairs(num_people: int) -> int:
    """Unordered pairs of one scene."""
    return num_people * (num_people - 1) // 2


def capacity_of(scenes: Sequence[Scene]) -> Capacity:
    """The exact lengths that a list of scenes needs."""
    return Capacity(sum(len(s) for s in scenes), sum(count_pairs(len(s)) for s in scenes), len(scenes))


def depth_reference(scene: Scene, config: FitConfig) -> np.ndarray:
    """(n,) depth per person that ranks a scene: metric median depth, else ordinal layers, NaN = unknown.

    The two are never mixed in one scene: layers serve only where no person has a metric depth.
    """
    metric = np.asarray(scene.median_depth, np.float64)
    if np.isfinite(metric).any():
        return metric
    layer = np.asarray(scene.depth_layer, np.float64)
    return np.where(layer >= 0, layer * config.layer_depth_m, np.nan)


def assemble(
    scenes: Sequence[Scene],
    starts: Sequence[BodyParameters],
    config: FitConfig,
    capacity: Capacity | None = None,
    dtype: DTypeLike = np.float32,
) -> tuple[Problem, Variables]:
    """Flatten scenes and their starts into one problem (host-side numpy).

    Args:
      scenes: validated scenes, at least one person each.
      starts: starting parameters of the same people, words already inserted.
      capacity: lengths to pad to; default exact.
    Raises ValueError when the scenes do not fit the capacity.
    """
    need = capacity_of(scenes)
    capacity = capacity or need
    if need.people > capacity.people or need.pairs > capacity.pairs or need.scenes > capacity.scenes:
        raise ValueError(f"scenes need {need}, which is more than the capacity {capacity}")
    counts = np.array([len(s) for s in scenes])
    pad = capacity.people - need.people

    def people_last(arrays: Sequence[np.ndarray], pad_mode: str = "edge") -> np.ndarray:
        flat = np.concatenate(arrays).astype(dtype)
        moved = np.moveaxis(flat, 0, -1)
        width = [(0, 0)] * (moved.ndim - 1) + [(0, pad)]
        return np.ascontiguousarray(np.pad(moved, width, mode=pad_mode))  # type: ignore[call-overload]

    # Padding repeats the last person: finite everywhere, and of weight zero in every term.
    keypoints = people_last([np.moveaxis(s.keypoints, -1, 1) for s in scenes])
    dense = people_last([np.moveaxis(s.dense_keypoints, -1, 1) for s in scenes])
    cues = PersonCues(
        keypoints_px=keypoints[:2],
        keypoint_confidence=keypoints[2],
        dense_px=dense[:2],
        dense_confidence=dense[2],
        intrinsics=people_last([np.broadcast_to(s.intrinsics, (len(s), 3, 3)) for s in scenes]),
    )
    scene_index = np.pad(np.repeat(np.arange(len(scenes)), counts), (0, pad), mode="edge")
    word_target, word_weight = [], []
    for s in scenes:
        # float32 anchors, as in the release (they are float32 even in its float64 runs).
        words = np.stack([s.gender, s.age], 1).astype(np.float32).astype(dtype)
        usable = words >= 0
        word_target.append(np.where(usable, words, 0.0))
        word_weight.append(usable / max(1, usable.sum()))
    problem = Problem(
        cues=cues,
        person_weight=people_last([np.full(n, 1.0 / n) for n in counts], "constant"),
        scene=scene_index.astype(np.int32),
        word_target=people_last(word_target),
        word_weight=people_last(word_weight, "constant"),
        pairs=_pairs(scenes, counts, config, capacity.pairs, dtype),
        num_scenes=capacity.scenes,
    )
    variables = Variables(
        transl=people_last([p.transl for p in starts]),
        root_rotvec=people_last([p.root_rotvec for p in starts]),
        shape=people_last([p.shape for p in starts]),
        pose=np.ascontiguousarray(np.swapaxes(people_last([p.pose for p in starts]), 0, 1)),
    )
    return problem, variables


def _pairs(scenes: Sequence[Scene], counts: np.ndarray, config: FitConfig, length: int, dtype) -> Pairs:
    first, second, gap, index = [], [], [], []
    offset = 0
    for k, (scene, n) in enumerate(zip(scenes, counts)):
        i, j = np.triu_indices(n, 1)
        depth = depth_reference(scene, config).astype(dtype)
        known = np.isfinite(depth[i]) & np.isfinite(depth[j])
        first.append(i[known] + offset)
        second.append(j[known] + offset)
        gap.append(depth[i[known]] - depth[j[known]])
        index.append(np.full(known.sum(), k))
        offset += n
    num = sum(len(f) for f in first)
    pad = (0, length - num)
    return Pairs(
        first=np.pad(np.concatenate(first), pad).astype(np.int32),
        second=np.pad(np.concatenate(second), pad).astype(np.int32),
        gap=np.pad(np.concatenate(gap), pad).astype(dtype),
        weight=np.pad(np.ones(num), pad).astype(dtype),
        scene=np.pad(np.concatenate(index), pad).astype(np.int32),
    )


def split_people(variables: Variables, scenes: Sequence[Scene]) -> list[BodyParameters]:
    """Undo `assemble`: one `BodyParameters` per scene, people first, padding dropped."""
    ends = np.cumsum([len(s) for s in scenes])
    transl, root, shape = (np.moveaxis(np.asarray(x), -1, 0) for x in variables[:3])
    pose = np.moveaxis(np.asarray(variables.pose), (0, 1, 2), (2, 1, 0))
    return [
        BodyParameters(root[e - len(s) : e], transl[e - len(s) : e], pose[e - len(s) : e], shape[e - len(s) : e])
        for s, e in zip(scenes, ends)
    ]
