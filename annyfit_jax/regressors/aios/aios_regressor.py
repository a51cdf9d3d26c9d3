"""AiOS as a `Regressor`: network, loss and config together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import nnx
from jaxtyping import Array, Float, UInt8

from annyfit_jax.records.torch_files import read_state_dict, write_state_dict
from annyfit_jax.regressors.aios import (
    aios_checkpoint,
    aios_losses,
    aios_model,
    aios_pictures,
    aios_predictions,
    body_points,
    denoising,
)
from annyfit_jax.regressors.aios.aios_batch import Batch
from annyfit_jax.regressors.aios.aios_config import AiosConfig, LossConfig
from annyfit_jax.regressors.aios.backbone import Frozen
from annyfit_jax.regressors.aios.postprocess import People
from annyfit_jax.regressors.aios.targets import SMPLX_POINTS, PointLayout
from annyfit_jax.training.protocol import Constants, Group, PredictOptions, Regressor
from body_models import anny

_STEM = ("backbone", "stem")


@dataclass(frozen=True)
class AiosRegressor(Regressor[Batch, People]):
    """See `annyfit_jax.training.protocol.Regressor`."""

    config: AiosConfig
    loss_config: LossConfig
    body_file: str = ""
    """The user's SMPL-X model file (`.npz`); Anny comes with the package."""

    def __post_init__(self) -> None:
        if self.loss_config.supervision == "all" and not self.config.all_stages:
            raise ValueError("supervision='all' needs parametric heads on stage 1: set all_stages=True in the network")

    @property
    def score_threshold(self) -> float:
        """As in the paper's tables."""
        return aios_predictions.SCORE_THRESHOLD

    @property
    def points(self) -> PointLayout:
        """The 3D points that the loss compares."""
        return body_points.ANNY_POINTS if self.config.body.name == "anny" else SMPLX_POINTS

    def init(self, key: jax.Array) -> nnx.State:
        """Variables to train from scratch."""
        return aios_model.init(self.config, key)

    def constants(self) -> Constants:
        """The body model. Raises ValueError without a SMPL-X file where one is needed."""
        if self.config.body.name == "anny":
            return anny.load("all")
        return body_points.load_smplx(self.body_file)

    def loss(
        self, variables: nnx.State, constants: Constants, batch: Batch, key: jax.Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """See `aios_losses.loss`. `key` draws the denoising queries."""
        if batch.targets is None:
            raise ValueError("a training batch needs targets")
        queries = clean = None
        if self.config.denoising:
            draws = denoising.draw(key, self.config, batch.targets.people)
            table = aios_model.bind(self.config, variables).label_embedding[...]
            queries, clean = denoising.make(self.config, draws, table, batch.targets.people, batch.targets.boxes)
        outputs = aios_model.apply(self.config, variables, batch.images, batch.padding, queries)
        is_anny = self.config.body.name == "anny"
        to_points: Callable[..., Any] = body_points.anny_points if is_anny else body_points.smplx_points
        points_of = functools.partial(to_points, constants)
        targets = body_points.completed(batch.targets, self.points, points_of)
        return aios_losses.loss(outputs, targets, self.loss_config, self.points, points_of, clean, self.config.focal)

    def predict(
        self, variables: nnx.State, batch: Batch, threshold: float = aios_predictions.SCORE_THRESHOLD
    ) -> People:
        """See `aios_predictions.predict`."""
        return aios_predictions.predict(self.config, variables, batch, threshold)

    def predictor(self, variables: nnx.State, options: PredictOptions | None = None) -> aios_predictions.Predictor:
        """See `aios_predictions.Predictor`."""
        return aios_predictions.Predictor(self.config, variables, options, body_file=self.body_file)

    def pictures(self, variables: nnx.State, batch: Batch) -> list[UInt8[np.ndarray, "h w 3"]]:
        """See `aios_pictures.draw`."""
        return aios_pictures.draw(self.config, variables, batch, body_file=self.body_file)

    def start_from(self, variables: nnx.State, path: str) -> nnx.State:
        """Takes over what a PyTorch checkpoint has under the same names (AiOS, ED-Pose, torchvision ResNet-50).

        Raises CheckpointError if the file cannot be read or nothing fits.
        """
        started, taken, unused = aios_checkpoint.start_from(variables, read_state_dict(path))
        logging.info("%s: %d tensors taken over, %d not used", path, len(taken), len(unused))
        return started

    def read_checkpoint(self, path: str | Path) -> tuple[nnx.State, tuple[str, ...]]:
        """Variables of an official state dict. Raises CheckpointError."""
        return aios_checkpoint.from_torch(self.config, read_state_dict(path))

    def write_checkpoint(self, path: str | Path, variables: nnx.State) -> None:
        """An official state dict. Raises CheckpointError for a network that the official program does not have."""
        write_state_dict(path, aios_checkpoint.to_torch(self.config, variables))

    def groups(self, variables: nnx.State) -> nnx.State:
        """Frozen statistics and the first convolution are not trained; the rest of the backbone is a group of its own."""

        def group(path: tuple, variable: nnx.Variable) -> Group:
            if isinstance(variable, Frozen) or path[:2] == _STEM:
                return "frozen"
            return "backbone" if path[0] == "backbone" else "rest"

        flat = [(path, variable.replace(group(path, variable))) for path, variable in nnx.to_flat_state(variables)]
        return nnx.from_flat_state(flat)
