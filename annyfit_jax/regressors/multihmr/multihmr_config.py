"""Everything that decides a Multi-HMR network and its loss, as frozen dataclasses (static under `jit`)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from annyfit_jax.regressors.vit import VIT_L, VitConfig

NUM_ANNY_ROTATIONS = 163
NUM_ANNY_SHAPE = 11
NUM_SMPLX_ROTATIONS = 53
"""Root, 21 of the body, 15 of each hand, jaw."""


@dataclass(frozen=True)
class HeadConfig:
    """The transformer over people. Defaults: the Anny variant."""

    width: int = 512
    depth: int = 8
    heads: int = 16
    head_width: int = 32
    hidden: int = 2048


SMPLX_HEAD = HeadConfig(width=1024, depth=2, heads=8, head_width=32, hidden=1024)


@dataclass(frozen=True)
class MultiHmrConfig:
    """A network."""

    body: Literal["anny", "smplx"] = "anny"
    size: int = 672
    """Side of the square picture, pixels; a multiple of the patch."""
    vit: VitConfig = VIT_L
    head: HeadConfig = field(default_factory=HeadConfig)
    max_people: int = 20
    """People of a picture that are read at most."""
    threshold: float = 0.3
    num_betas: int = 10
    """SMPL-X only."""

    def __post_init__(self) -> None:
        if self.size % self.vit.patch:
            raise ValueError(f"size is {self.size}; expected a multiple of {self.vit.patch}")
        if self.body not in ("anny", "smplx"):
            raise ValueError(f"body is {self.body!r}; expected anny or smplx")

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.size // self.vit.patch


def smplx_config(**changes) -> MultiHmrConfig:
    """The SMPL-X variant, ViT-L at 672 unless changed."""
    return dataclasses.replace(MultiHmrConfig(body="smplx", head=SMPLX_HEAD), **changes)


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms, from Multi-HMR's released code. Those of the Anny variant are not published; it uses the same."""

    bce: float = 10.0
    offset: float = 1.0
    rotmat: float = 0.1
    shape: float = 1.0
    dist: float = 1.0
    transl: float = 1.0
    j3d: float = 100.0
    v3d: float = 100.0
    j2d: float = 1.0
    v2d: float = 1.0
    fov: float = 1.0
    """Anny only, radians; not published."""
    start_2d_step: int = 0
    """Pixel terms count from this step on (the released code: from epoch 10)."""
