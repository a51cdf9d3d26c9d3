"""What decides a training run, as frozen dataclasses: the same mechanics as `annyfit_jax.fit.config`.

config = load_config("experiments/configs/aios.py", ["optimiser.lr=2e-5", "feed.sets.agora.path=agora/*.npz"])
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from annyfit_jax.records.settings import apply_overrides, run_get_config, to_json
from annyfit_jax.training.protocol import Regressor
from annyfit_jax.training.training_data import Feed


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with two step sizes, a step schedule and an average of the weights (the released training of AiOS)."""

    lr: float = 1e-4
    backbone: float = 0.1
    """Step size of the group `backbone`, as a share of `lr`."""
    weight_decay: float = 1e-4
    b1: float = 0.9
    b2: float = 0.999
    clip: float = 0.1
    """Largest norm of the gradient over all variables."""
    warmup_steps: int = 0
    milestones: tuple[int, ...] = ()
    """Steps after which the step size drops."""
    drop: float = 0.1
    """What it is multiplied by at each milestone."""
    cosine_steps: int = 0
    """Steps over which the step size falls to a hundredth along half a cosine; 0: it falls at the milestones alone."""
    ema: float = 0.9997
    """The averaged variables keep this much of themselves in each step."""

    def __post_init__(self) -> None:
        if not self.lr > 0 or not self.clip > 0 or not 0 <= self.ema < 1:
            raise ValueError(f"optimiser: expected lr > 0, clip > 0 and 0 <= ema < 1, got {self}")
        if tuple(sorted(self.milestones)) != self.milestones:
            raise ValueError(f"optimiser.milestones must ascend, got {self.milestones}")


@dataclass(frozen=True)
class TrainConfig:
    """Network, loss, data and schedule."""

    regressor: Regressor
    feed: Feed
    optimiser: OptimiserConfig = OptimiserConfig()
    steps: int = 100_000
    batch: int = 32
    """Images per step, over all devices and processes."""
    seed: int = 0
    start_from: str = ""
    """Checkpoint to start from where the regressor knows how to read one (`start_from`): of PyTorch, or weights that ship."""
    log_every: int = 50
    checkpoint_every: int = 1000
    pictures_every: int = 0
    """Steps between pictures of the batch with the people that the averaged network predicts; 0: no pictures."""
    pictures: int = 4
    """How many pictures are drawn."""
    keep_checkpoints: int = 3
    stop_after_skipped: int = 20
    """Steps in a row whose loss or gradient is not finite, after which the run ends. Single ones are skipped."""
    reader_threads: int = 8

    def __post_init__(self) -> None:
        least = dict.fromkeys(
            (
                "steps",
                "batch",
                "log_every",
                "checkpoint_every",
                "keep_checkpoints",
                "reader_threads",
                "pictures",
                "stop_after_skipped",
            ),
            1,
        )
        for name, bound in {**least, "pictures_every": 0}.items():
            if getattr(self, name) < bound:
                raise ValueError(f"config.{name} must be at least {bound}, got {getattr(self, name)}")


MAY_CHANGE = (
    "steps", "log_every", "checkpoint_every", "keep_checkpoints", "reader_threads", "pictures_every", "pictures",
    "stop_after_skipped",
)  # fmt: skip
"""Fields that may differ when a run is continued."""


def load_config(path: str | Path, assignments: Iterable[str] = ()) -> TrainConfig:
    """The `TrainConfig` of a file's `get_config()`, with `path=value` assignments applied. Raises ValueError."""
    return override(run_get_config(path, TrainConfig), assignments)


def override(config: TrainConfig, assignments: Iterable[str]) -> TrainConfig:
    """The config with `path=value` assignments applied. Raises ValueError naming the first that cannot be."""
    return cast(TrainConfig, apply_overrides(cast(Any, config), assignments))


def describe(config: TrainConfig) -> dict[str, Any]:
    """The config as plain JSON data."""
    return to_json(cast(Any, config))
