"""The people of one image as a protocol sees them: predicted on one side, labelled on the other. Plain numpy.

Frame: camera axes (x right, y down, z forward), metres, pixels of the original image. What a data set does not label is
absent (None) or -1 per person, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(kw_only=True)
class PredictedPeople:
    """p predicted people of one image."""

    names: tuple[str, ...]
    """Names of the J joints (`skeletons`)."""
    joints_2d: Float[np.ndarray, "p J 2"]
    joints_3d: Float[np.ndarray, "p J 3"]
    depth: Float[np.ndarray, "p"]
    """Camera z of the root: for Anny the root bone, which lies in the pelvis."""
    age: Float[np.ndarray, "p"] | None = None
    """Phenotype in [0, 1]."""
    gender: Float[np.ndarray, "p"] | None = None
    """Phenotype, 0 male .. 1 female."""
    vertices: Float[np.ndarray, "p V 3"] | None = None
    joints_smplx: Float[np.ndarray, "p K 3"] | None = None
    """Joints as the body model orders them: SMPL-X K >= 22 (127 with hands and face), SMPL 24."""

    def __len__(self) -> int:
        return len(self.depth)

    def select(self, index: np.ndarray) -> PredictedPeople:
        """The people named by an integer or boolean index."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return replace(self, **{name: x[index] for name, x in values if isinstance(x, np.ndarray)})


@dataclass(kw_only=True)
class TruthPeople:
    """g labelled people of one image."""

    name: str
    """Scene name: the stem of the image's file, or what the reader documents."""
    names: tuple[str, ...]
    """Names of the J joints."""
    joints_2d: Float[np.ndarray, "g J 2"]
    """Pixels; -2, -2 where a joint has no label (its box matters in published matching)."""
    labelled: Bool[np.ndarray, "g J"]
    """Joints with a 2D label."""
    joints_3d: Float[np.ndarray, "g J 3"] | None = None
    labelled_3d: Bool[np.ndarray, "g J"] | None = None
    vertices: Float[np.ndarray, "g V 3"] | None = None
    joints_smplx: Float[np.ndarray, "g K 3"] | None = None
    counted: Bool[np.ndarray, "g"] | None = None
    """AGORA: valid and not occluded too far; None = everybody."""
    valid: Bool[np.ndarray, "g"] | None = None
    """AGORA: flagged valid, whatever the occlusion; None = everybody."""
    kid: Bool[np.ndarray, "g"] | None = None
    age: Int[np.ndarray, "g"] | None = None
    """Relative Human: 0 adult, 1 teen, 2 kid, 3 baby, -1 unknown."""
    gender: Int[np.ndarray, "g"] | None = None
    """0 male, 1 female, -1 unknown."""
    layer: Int[np.ndarray, "g"] | None = None
    """Depth layer, smaller is nearer, -1 unlabelled."""
    inside: Bool[np.ndarray, "g V"] | None = None
    """Vertices whose projection lies inside the picture (UBody); None = all count."""
    intrinsics: Float[np.ndarray, "3 3"] | None = None
    image_size: tuple[int, int] | None = None
    group: str = ""
    """Action or sequence, for figures per group."""
    aliases: tuple[str, ...] = field(default=())
    """Other names that a fit of this image may have."""

    def __len__(self) -> int:
        return len(self.joints_2d)

    def select(self, index: np.ndarray) -> TruthPeople:
        """The people named by an integer or boolean index."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "intrinsics")
        return replace(self, **{name: x[index] for name, x in values if isinstance(x, np.ndarray)})


def check_people(predicted: PredictedPeople, where: str) -> None:
    """Raises ValueError naming `where` and the field unless the arrays of a prediction belong together."""
    p, j = len(predicted), len(predicted.names)
    shapes = {"joints_2d": (p, j, 2), "joints_3d": (p, j, 3), "depth": (p,), "age": (p,), "gender": (p,)}
    for name, shape in shapes.items():
        value = getattr(predicted, name)
        if value is not None and np.shape(value) != shape:
            raise ValueError(f"{where}: {name}: expected shape {shape}, got {np.shape(value)}")
