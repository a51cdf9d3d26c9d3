"""Named points of a body beyond COCO's 17: feet, face and hands in the order of COCO-WholeBody, and the two pupils.

Each is the head of a bone, or a point between the heads of two, or a point of Anny's surface, given by a triangle of vertices
and barycentric weights. The table
`data/named_points.json` is made by `experiments.builders.build_named_points`, which chooses the points by geometry; the page
docs/parts.md shows them. Names are those of `inputs.point_sets`; `ALIASES` leads the names that other programs use for the same
places to them. MediaPipe's and OpenPose's 21 points of a hand are these in the same order.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources

import numpy as np
from jaxtyping import Float, Int

from body_models import anny

FINGER_BONES: dict[str, tuple[str, ...]] = {
    name: tuple(f"finger{row}-{joint}" for joint in (1, 2, 3))
    for row, name in enumerate(("thumb", "index", "middle", "ring", "little"), 1)
}
"""Bones of each finger from its root, without their side."""

ALIASES: dict[str, str] = {
    "left_eye_inner": "face_42", "left_eye_outer": "face_45", "right_eye_inner": "face_39", "right_eye_outer": "face_36",
    "left_mouth": "face_54", "right_mouth": "face_48", "left_pinky": "left_little_1", "right_pinky": "right_little_1",
    "left_index": "left_index_1", "right_index": "right_index_1", "left_thumb": "left_thumb_2",
    "right_thumb": "right_thumb_2", "left_foot_index": "left_big_toe", "right_foot_index": "right_big_toe", "chin": "face_8",
}  # fmt: skip
"""BlazePose's names of points that COCO-WholeBody has under another name, and the chin."""


@dataclass(frozen=True)
class NamedPoints:
    """K points of Anny's body: sums of the heads of up to two bones, or of up to three vertices."""

    names: tuple[str, ...]
    bones: Int[np.ndarray, "K 2"]
    bone_weights: Float[np.ndarray, "K 2"]
    """Of the heads of `bones`; zeros for points of the surface."""
    vertices: Int[np.ndarray, "K 3"]
    vertex_weights: Float[np.ndarray, "K 3"]
    """Barycentric; zeros for points between heads of bones."""

    def __len__(self) -> int:
        return len(self.names)

    def of(self, vertices: Float[np.ndarray, "*n V 3"], bone_poses: Float[np.ndarray, "*n J 4 4"]) -> np.ndarray:
        """The points of posed bodies, (..., K, 3), from what `anny.forward` returns, in its frame and unit (metres)."""
        surface = np.asarray(vertices)[..., self.vertices, :] * self.vertex_weights[:, :, None]
        heads = np.asarray(bone_poses)[..., :3, 3][..., self.bones, :] * self.bone_weights[:, :, None]
        return surface.sum(-2) + heads.sum(-2)

    def select(self, names: tuple[str, ...]) -> NamedPoints:
        """Some of the points, in the order of the names. Raises KeyError for a name that is none."""
        place = {name: row for row, name in enumerate(self.names)}
        rows = [place[name] for name in names]
        return NamedPoints(
            tuple(names), self.bones[rows], self.bone_weights[rows], self.vertices[rows], self.vertex_weights[rows]
        )


@functools.cache
def named_points(labels: anny.Labels) -> NamedPoints:
    """All points of the table for the bundled body. Raises ValueError where the table was made for another one."""
    table = json.loads(resources.files("annyfit_jax").joinpath("data/named_points.json").read_text())
    if table["asset_version"] != labels.asset_version:
        raise ValueError(
            f"annyfit_jax/data/named_points.json was made for asset {table['asset_version']}, the model is "
            f"{labels.asset_version}: run `python -m experiments.builders.build_named_points`"
        )
    entries: dict[str, dict] = table["points"]
    rows = {name: i for i, name in enumerate(labels.bones)}
    bones, bone_weights = np.zeros((len(entries), 2), np.int64), np.zeros((len(entries), 2))
    for k, entry in enumerate(entries.values()):
        for slot, (bone, weight) in enumerate(entry.get("bones", {}).items()):
            bones[k, slot], bone_weights[k, slot] = rows[bone], weight
    return NamedPoints(
        names=tuple(entries),
        bones=bones,
        bone_weights=bone_weights,
        vertices=np.array([entry.get("vertices", (0, 0, 0)) for entry in entries.values()]),
        vertex_weights=np.array([entry.get("weights", (0.0, 0.0, 0.0)) for entry in entries.values()]),
    )
