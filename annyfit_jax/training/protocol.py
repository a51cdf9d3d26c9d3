"""What a trainer and a predictor may expect of a network: a model, a loss and a config.

    variables = regressor.init(key)
    constants = regressor.constants()
    (value, metrics), gradient = jax.value_and_grad(regressor.loss, has_aux=True)(variables, constants, batch, key)
    fit = regressor.predictor(variables).fit("photo_17", pixels)

Everything static is in the regressor (hashable, a static argument of `jit`); everything else is an argument. `loss` and
`predict` are pure and know nothing of devices: sums over the batch are over the global batch when it is sharded.

A network is a subclass of `Regressor`. What it must have ends in `...` below; the other methods refuse with a clear error
until a network overrides them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from annyfit_jax.people.scene import Scene
from annyfit_jax.records.fit_files import SceneFit

Group = Literal["frozen", "backbone", "rest"]
"""How a variable is trained: not at all, with the (smaller) step size of the backbone, or with the full one."""

Variables = Any
"""A pytree of arrays: parameters and frozen statistics."""
Constants = Any
"""A pytree of arrays that are no variables: the body model."""

Batch_contra = TypeVar("Batch_contra", contravariant=True)
Prediction_co = TypeVar("Prediction_co", covariant=True)


@dataclass(frozen=True)
class PredictOptions:
    """Choices of a predictor. A network that does not know a choice refuses it."""

    threshold: float | None = None
    """People of a lower score are left out; None: the threshold of the network."""
    single_person: bool = False
    """Keep the best person of each photo only."""
    save_vertices: bool = False
    """Store posed meshes in the fits."""
    short_side: int | None = None
    """Pixels that the short side of a photo is resized to; None: as the network is tested."""
    long_side: int | None = None
    """Pixels that the long side may then have."""


class Predictor(Protocol):
    """A network at work: a photo in, its people out."""

    def fit(self, name: str, image: UInt8[np.ndarray, "h w 3"], image_path: str = "") -> SceneFit:
        """The people of a photo in the format of fits."""
        ...


class ScenePredictor(Protocol):
    """A network at work on keypoints: a scene in, its people out."""

    def fit(self, scene: Scene) -> SceneFit:
        """The people of a scene in the format of fits. Raises SceneError where nobody can be told."""
        ...


class Regressor(Protocol[Batch_contra, Prediction_co]):
    """A network that regresses people from an image, with the loss it is trained on."""

    @property
    def score_threshold(self) -> float:
        """The score from which on a person counts, where nobody says otherwise. Scores of two networks are not comparable."""
        ...

    def init(self, key: jax.Array) -> Variables:
        """Variables to train from scratch."""
        ...

    def constants(self) -> Constants:
        """Arrays that `loss` needs besides the variables; loaded once, passed to every step."""
        ...

    def loss(
        self, variables: Variables, constants: Constants, batch: Batch_contra, key: jax.Array
    ) -> tuple[Float[Array, ""], Mapping[str, Float[Array, ""]]]:
        """The training loss of a batch and its unweighted terms. `key` decides everything random in it."""
        ...

    def predict(self, variables: Variables, batch: Batch_contra, threshold: float) -> Prediction_co:
        """People of a batch, scored; targets in the batch are not looked at."""
        ...

    def groups(self, variables: Variables) -> Any:
        """The `Group` of every variable, as a pytree of the same structure."""
        ...

    # -------------------------------------------------------------------------------------------- optional

    def predictor(self, variables: Variables, options: PredictOptions | None = None) -> Predictor:
        """The network at work on photos. Raises ValueError where it cannot be, or does not know one of the options."""
        raise ValueError(f"{type(self).__name__} makes no predictions from photos")

    @property
    def reads_scenes(self) -> bool:
        """Whether the network predicts from the keypoints of scenes (`scene_predictor`), not from photos."""
        return type(self).scene_predictor is not Regressor.scene_predictor

    def scene_predictor(self, variables: Variables, options: PredictOptions | None = None) -> ScenePredictor:
        """The network at work on scenes. Raises ValueError where it cannot be, or does not know one of the options."""
        raise ValueError(f"{type(self).__name__} makes no predictions from keypoints")

    def shipped_variables(self) -> Variables:
        """The weights that come with the installation. Raises ValueError where there are none of this network."""
        raise ValueError(f"no weights of {type(self).__name__} are shipped; give --run or --checkpoint")

    @property
    def draws_pictures(self) -> bool:
        """Whether the network has `pictures`."""
        return type(self).pictures is not Regressor.pictures

    def pictures(self, variables: Variables, batch: Batch_contra) -> list[UInt8[np.ndarray, "h w 3"]]:
        """What the network sees in a batch of host arrays, drawn beside the truth."""
        raise ValueError(f"{type(self).__name__} draws no pictures")

    def start_from(self, variables: Variables, path: str) -> Variables:
        """The variables with those replaced that a checkpoint of a related network has. Raises ValueError."""
        raise ValueError(f"{type(self).__name__} reads no PyTorch checkpoints")

    def read_checkpoint(self, path: str | Path) -> tuple[Variables, tuple[str, ...]]:
        """Variables of a PyTorch checkpoint of this very network, and its entries that are no part of it. Raises ValueError."""
        raise ValueError(f"{type(self).__name__} reads no PyTorch checkpoints")

    def write_checkpoint(self, path: str | Path, variables: Variables) -> None:
        """The inverse of `read_checkpoint`."""
        raise ValueError(f"{type(self).__name__} writes no PyTorch checkpoints")
