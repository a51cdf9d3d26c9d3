"""Everything that decides an AiOS model and its loss, as frozen dataclasses (static under `jit`).

    config = AiosConfig()                     # as published, SMPL-X
    config = naive()                          # four tokens per person, no joints
    config = tiny(body=ANNY)                  # for tests and for overfitting small sets

"Paper" is Sun et al., CVPR 2024; "released" is the program of July 2024, whose behaviour imported weights expect.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from body_models import smplx

AttentionPattern = Literal["ours", "full", "inter_human"]
Supervision = Literal["all", "second_third", "third_only"]
Source = Literal["paper", "released"]


@dataclass(frozen=True)
class BodyHead:
    """What the parametric heads predict: rotations by part of the body, shape and expression."""

    name: str
    """`smplx` or `anny`."""
    body: tuple[str, ...]
    """Bones read from all body tokens, the root first."""
    left_hand: tuple[str, ...]
    right_hand: tuple[str, ...]
    """Same order as `left_hand`: both hands share their weights."""
    face: tuple[str, ...]
    shape: int
    """Number of shape coefficients."""
    expression: int
    """Number of expression coefficients; 0: the body has none."""
    shape_in_unit_interval: bool = False
    """Shape passes a logistic function (Anny's phenotypes)."""
    root_6d: tuple[float, ...] = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    """Rotation of the root that training starts from, a 3x2 matrix row by row."""

    def __post_init__(self) -> None:
        if len(self.left_hand) != len(self.right_hand):
            raise ValueError(f"{self.name}: hands of {len(self.left_hand)} and {len(self.right_hand)} bones")

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Part -> its bones."""
        return {"body": self.body, "left_hand": self.left_hand, "right_hand": self.right_hand, "face": self.face}


SMPLX = BodyHead(
    name="smplx",
    body=smplx.JOINTS[:22],
    left_hand=smplx.JOINTS[25:40],
    right_hand=smplx.JOINTS[40:55],
    face=("jaw",),
    shape=10,
    expression=10,
    root_6d=(1.0, 0.0, 0.0, -1.0, 0.0, 0.0),  # (pi, 0, 0): upright, facing the camera
)
"""SMPL-X as in the paper: 53 rotations, eyes at rest."""


def _sided(names: str, side: str) -> tuple[str, ...]:
    return tuple(f"{name}.{side}" for name in names.split())


_LEG = "pelvis upperleg01 upperleg02 lowerleg01 lowerleg02 foot"
_ARM = "clavicle shoulder01 upperarm01 upperarm02 lowerarm01 lowerarm02 wrist"
_METACARPALS = " ".join(f"metacarpal{finger}" for finger in range(1, 5))
_HAND = " ".join(f"finger{finger}-{joint}" for finger in range(1, 6) for joint in range(1, 4)) + f" {_METACARPALS}"

ANNY = BodyHead(
    name="anny",
    body=(
        "root", *_sided(_LEG, "L"), *_sided(_LEG, "R"), "spine05", "spine04", "spine03", "spine02", "spine01",
        *_sided(_ARM, "L"), *_sided(_ARM, "R"), "neck01", "neck02", "neck03", "head",
    ),
    left_hand=_sided(_HAND, "L"),
    right_hand=_sided(_HAND, "R"),
    face=("jaw",),
    shape=11,
    expression=0,
    shape_in_unit_interval=True,
    root_6d=(1.0, 0.0, 0.0, 0.0, 0.0, 1.0),  # +90 degrees about x: Anny is Z-up
)  # fmt: skip
"""Anny with 11 phenotypes. Of its 163 bones the 75 that Multi-HMR's Anny model predicts; the others stay at rest."""


@dataclass(frozen=True)
class ResNetConfig:
    """A residual network with bottleneck blocks; the default is ResNet-50."""

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    """Blocks of each stage."""
    stem: int = 64
    """Channels after the first convolution; stage k has `4 * stem * 2**k` at its end."""


@dataclass(frozen=True)
class AiosConfig:
    """The network."""

    body: BodyHead = SMPLX
    joints: bool = True
    """False: Naive AiOS, whose people are four tokens (box, hands, face) throughout."""
    attention: AttentionPattern = "ours"
    """Who sees whom in stages 2 and 3: `ours` own person and everybody's boxes of body, hands and face; `full` everything;
    `inter_human` own person and, between person boxes, everybody. Naive AiOS has one pattern and takes `ours` only."""
    all_stages: bool = False
    """Parametric heads on stage 1 as well, which the supervision `all` needs (the paper's Table 5)."""
    backbone: ResNetConfig = ResNetConfig()
    width: int = 256
    heads: int = 8
    points: int = 4
    """Sampling points per head and level of deformable attention."""
    feedforward: int = 2048
    encoder_layers: int = 6
    queries: int = 900
    """Encoder tokens that enter the decoder (M_h in the paper)."""
    people: int = 100
    """Queries kept for stages 2 and 3, thus the most people in one image (M_b)."""
    denoising: int = 100
    """Denoising queries in training."""
    denoising_labels: int = 100
    """Labels that the denoising noise draws from; their table has one row more."""
    label_noise: float = 0.5
    box_noise: float = 0.4
    focal: float = 5000.0
    """Of the camera that heads predict for, pixels of the resized picture. Small pictures need a shorter one: a step of the
    camera's (tx, ty) moves a person by focal times as many pixels."""
    compute_dtype: str = "float32"
    """`bfloat16`: matrix products and convolutions in that type; parameters, normalisation, boxes, sampling positions and
    losses stay float32."""
    remat: bool = False
    """Recompute each layer in the backward pass instead of keeping what is inside it."""
    sampling_bytes: int = 128 * 2**20
    """Memory that one step of deformable sampling may gather; longer query lists go in steps."""

    def __post_init__(self) -> None:
        if self.attention not in ("ours", "full", "inter_human"):
            raise ValueError(f"attention must be 'ours', 'full' or 'inter_human', got {self.attention!r}")
        if not self.joints and self.attention != "ours":
            raise ValueError("Naive AiOS (joints=False) has one attention pattern: leave attention at 'ours'")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"compute_dtype must be 'float32' or 'bfloat16', got {self.compute_dtype!r}")
        if self.width % 32 or self.width % self.heads:
            raise ValueError(f"width must be a multiple of 32 and of heads={self.heads}, got {self.width}")
        if self.people > self.queries:
            raise ValueError(f"people={self.people} are chosen among queries={self.queries}")

    @property
    def levels(self) -> int:
        """Feature levels: three of the backbone and one more."""
        return 4


def naive(**changes) -> AiosConfig:
    """Naive AiOS: no joint tokens."""
    return AiosConfig(**{"joints": False, **changes})


def tiny(**changes) -> AiosConfig:
    """A network of the same structure, small enough to overfit a few scenes on a CPU."""
    small = {
        "backbone": ResNetConfig(blocks=(1, 1, 1, 1), stem=16), "width": 64, "feedforward": 128, "encoder_layers": 2,
        "queries": 60, "people": 10, "denoising": 20,
    }  # fmt: skip
    return AiosConfig(**{**small, **changes})


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms, as the released training configuration has them (the defaults).

    Suffixes: `_hands` counts for each hand; `_relative` 3D points relative to wrist, neck or pelvis.
    """

    supervision: Supervision = "second_third"
    """Stages with body terms | with hand and face terms: `second_third` 2, 3 | 3; `third_only` 3 | 3; `all` 1, 2, 3 | 2, 3."""
    classes: float = 2.0
    box_l1: float = 5.0
    box_giou: float = 2.0
    joints_l1: float = 10.0
    oks_body: float = 4.0
    oks_hands: float = 0.5
    oks_face: float = 4.0
    rotation_root: float = 1.0
    rotation_body: float = 0.1
    rotation_hands: float = 0.1
    rotation_face: float = 0.1
    shape: float = 0.01
    expression: float = 0.01
    points3d_body: float = 1.0
    points3d_hands: float = 0.1
    points3d_face: float = 0.1
    points3d_relative_body: float = 1.0
    points3d_relative_hands: float = 0.1
    points3d_relative_face: float = 0.1
    points2d_body: float = 1.0
    points2d_hands: float = 0.5
    points2d_face: float = 0.1
    denoising_classes: float = 0.3
    denoising_l1: float = 2.5
    denoising_giou: float = 1.0
    fifth_layer_parts: float = 0.1
    """Further factor on layer 5 (of 6) for absolute 3D points of hands and face and 2D points of hands."""
    slips: bool = True
    """Normalise as released: face joints by the people with a visible left hand joint, the jaw by 1."""

    def __post_init__(self) -> None:
        if self.supervision not in ("all", "second_third", "third_only"):
            raise ValueError(f"supervision must be 'all', 'second_third' or 'third_only', got {self.supervision!r}")


def loss_config(source: Source, **changes) -> LossConfig:
    """The weights of the paper or of the released training configuration.

    The paper does not mention denoising, the terms on the encoder's proposals or relative 3D points: the first two are as
    released, the last weigh nothing.
    """
    if source == "released":
        return LossConfig(**changes)
    if source != "paper":
        raise ValueError(f"loss weights of 'paper' or 'released', got {source!r}")
    paper = LossConfig(
        oks_face=0.5, rotation_body=1.0, rotation_hands=1.0, rotation_face=1.0, points3d_hands=0.5, points3d_face=0.5,
        points3d_relative_body=0.0, points3d_relative_hands=0.0, points3d_relative_face=0.0, points2d_face=0.5,
        fifth_layer_parts=1.0, slips=False,
    )  # fmt: skip
    return dataclasses.replace(paper, **changes)
