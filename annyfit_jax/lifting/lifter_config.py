"""Everything that decides a lifter, as a frozen dataclass (static under `jit`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LifterConfig:
    """A residual perceptron over the keypoints of one person."""

    hypotheses: int = 4
    width: int = 512
    blocks: int = 3

    def __post_init__(self) -> None:
        for name in ("hypotheses", "width", "blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"lifter: {name} must be at least 1, got {getattr(self, name)}")
