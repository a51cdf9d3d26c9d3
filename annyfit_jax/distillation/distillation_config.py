"""What decides a distillation, as frozen dataclasses: scenes, labels made of them, networks trained on the labels.

config = load_config("experiments/configs/distill.py", ["stream.path=data/cues", "train.steps=100000"])
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from annyfit_jax.fit import trust
from annyfit_jax.records.settings import apply_overrides, run_get_config, to_json
from annyfit_jax.synthetic.world_config import WorldConfig
from annyfit_jax.training.training_config import TrainConfig

LABELS = "labels"
"""Set of the feed that gets the labels of a student; see `DistillConfig.train`."""
SYNTHETIC = "synthetic"
CUES = ("words", "depth")
"""Cues that can be taken away from a stream before it is fitted."""


@dataclass(frozen=True)
class Scenes:
    """Scenes with pictures: a cue dataset that is there, or one to be rendered."""

    path: str = ""
    """A cue dataset with its photos; empty: rendered."""
    world: WorldConfig = field(default_factory=WorldConfig)
    seed: int = 0
    count: int = 0
    """Scenes to render; 0 and no path: there are none."""

    @property
    def wanted(self) -> bool:
        """Whether there are such scenes."""
        return bool(self.path) or self.count > 0


@dataclass(frozen=True)
class Labels:
    """One way to label the stream."""

    name: str
    source: Literal["fits", "teacher", "truth"] = "fits"
    """`fits`: fitted from the teacher's predictions; `teacher`: the predictions as they are; `truth`: of synthetic scenes."""
    config: str = "experiments/configs/annyfit_plus.py"
    """Of the fits; relative to the repository or to the working directory."""
    set: tuple[str, ...] = ()
    """`path=value` changes of it."""
    cues: tuple[str, ...] = CUES
    """Cues that the fits are given besides 2D points."""
    threshold: float = trust.THRESHOLD
    """Fits: people of a lower trust score are not learned from; they stay in the picture."""

    def __post_init__(self) -> None:
        if self.source not in ("fits", "teacher", "truth"):
            raise ValueError(f"labels.{self.name}.source: expected fits, teacher or truth, got {self.source!r}")
        if not set(self.cues) <= set(CUES):
            raise ValueError(f"labels.{self.name}.cues: expected some of {CUES}, got {self.cues}")


@dataclass(frozen=True)
class Student:
    """One network trained on labels, from the teacher's weights."""

    name: str
    labels: str
    """Name of the labels."""
    every: int = 1
    """n: only every n-th labelled scene is used, which is less data of the same quality."""
    uncertainty: bool = False
    """Weigh people by the spread of their fits."""
    title: str = ""
    """In the report; default: the name."""


@dataclass(frozen=True)
class DistillConfig:
    """Everything that decides a distillation."""

    train: TrainConfig
    """Students: network, loss, optimiser, steps; paths of the feed's sets `labels` and `synthetic` are filled in."""
    teacher: TrainConfig
    """The network that labels start from, with the feed's set `synthetic`. Not trained where `checkpoint` is given."""
    synthetic: Scenes
    """Scenes with exact truth that the teacher has seen and students see again."""
    stream: Scenes
    """Scenes to label."""
    held_out: Scenes
    """Scenes with exact truth that nobody has seen."""
    labels: tuple[Labels, ...]
    students: tuple[Student, ...]
    checkpoint: str = ""
    """Weights of the teacher in PyTorch's format."""
    ceiling: str = ""
    """Student whose labels are exact. The gap between it and the teacher is what other students can close."""
    main: str = ""
    """Student that the report shows in pictures."""
    batch: int = 8
    """Pictures at once when a network predicts."""
    bootstrap: int = 500
    """Draws of the held-out scenes for confidence intervals."""

    def __post_init__(self) -> None:
        known = {labels.name for labels in self.labels}
        for student in self.students:
            if student.labels not in known:
                raise ValueError(
                    f"students.{student.name}.labels: no labels {student.labels!r}; there are {sorted(known)}"
                )
        names = [student.name for student in self.students]
        if len(set(names)) < len(names) or len(known) < len(self.labels):
            raise ValueError("students and labels need names of their own")
        for role in ("ceiling", "main"):
            if getattr(self, role) and getattr(self, role) not in names:
                raise ValueError(f"{role}: no student {getattr(self, role)!r}; there are {names}")


MAY_CHANGE = ("students", "ceiling", "main", "bootstrap", "batch")
"""Fields that may differ when a distillation is continued in its folder."""


def load_config(path: str | Path, assignments: Iterable[str] = ()) -> DistillConfig:
    """The `DistillConfig` of a file's `get_config()`, with `path=value` assignments applied. Raises ValueError."""
    return cast(DistillConfig, apply_overrides(cast(Any, run_get_config(path, DistillConfig)), assignments))


def describe(config: DistillConfig) -> dict[str, Any]:
    """The config as plain JSON data."""
    return to_json(cast(Any, config))
