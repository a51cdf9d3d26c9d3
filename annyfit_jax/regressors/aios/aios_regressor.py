"""AiOS as a `Regressor`: network, loss and config together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt8

from annyfit_jax.records.npz import open_npz
from annyfit_jax.records.torch_files import read_state_dict
from annyfit_jax.regressors.aios import aios_checkpoint, aios_losses, aios_model, body_points, denoising, postprocess
from annyfit_jax.regressors.aios.aios_config import AiosConfig, LossConfig
from annyfit_jax.regressors.aios.backbone import Frozen
from annyfit_jax.regressors.aios.postprocess import People
from annyfit_jax.regressors.aios.targets import SMPLX_POINTS, PointLayout, Targets
from annyfit_jax.training.protocol import Constants, Group
from body_models import anny, smplx

_STEM = ("backbone", "stem")


class Batch(NamedTuple):
    """Pictures of one padded size, and in training their people."""

    images: Float[Array, "batch H W 3"]
    """Normalised RGB (`picture_preprocess.normalise`), zero where padded."""
    padding: Bool[Array, "batch H W"]
    image_size: Float[Array, "batch 2"]
    """(width, height) without padding, pixels."""
    resize_factor: Float[Array, "batch 2"]
    """(x, y) resized pixels per pixel of the picture."""
    targets: Targets | None = None


@dataclass(frozen=True)
class AiosRegressor:
    """See `annyfit_jax.training.protocol.Regressor`."""

    config: AiosConfig
    loss_config: LossConfig
    body_file: str = ""
    """The user's SMPL-X model file (`.npz`); Anny comes with the package."""

    def __post_init__(self) -> None:
        if self.loss_config.supervision == "all" and not self.config.all_stages:
            raise ValueError("supervision='all' needs parametric heads on stage 1: set all_stages=True in the network")

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
        if not self.body_file:
            raise ValueError("SMPL-X heads need the model file: give body_file='SMPLX_NEUTRAL.npz'")
        return load_smplx(self.body_file)

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

    def predict(self, variables: nnx.State, batch: Batch, threshold: float = 0.5) -> People:
        """See `postprocess.people`."""
        outputs = aios_model.apply(self.config, variables, batch.images, batch.padding)
        return postprocess.people(
            outputs.layers[-1], batch.image_size, batch.resize_factor, threshold, focal=self.config.focal
        )

    def pictures(self, variables: nnx.State, batch: Batch) -> list[UInt8[np.ndarray, "h w 3"]]:
        """See `aios_pictures.draw`."""
        from annyfit_jax.regressors.aios import aios_pictures

        return aios_pictures.draw(self, variables, batch)

    def start_from(self, variables: nnx.State, path: str) -> nnx.State:
        """Takes over what a PyTorch checkpoint has under the same names (AiOS, ED-Pose, torchvision ResNet-50).

        Raises CheckpointError if the file cannot be read or nothing fits.
        """
        started, taken, unused = aios_checkpoint.start_from(variables, read_state_dict(path))
        logging.info("%s: %d tensors taken over, %d not used", path, len(taken), len(unused))
        return started

    def groups(self, variables: nnx.State) -> nnx.State:
        """Frozen statistics and the first convolution are not trained; the rest of the backbone is a group of its own."""

        def group(path: tuple, variable: nnx.Variable) -> Group:
            if isinstance(variable, Frozen) or path[:2] == _STEM:
                return "frozen"
            return "backbone" if path[0] == "backbone" else "rest"

        flat = [(path, variable.replace(group(path, variable))) for path, variable in nnx.to_flat_state(variables)]
        return nnx.from_flat_state(flat)


def load_smplx(path: str) -> body_points.SmplxPointModel:
    """The user's SMPL-X file with 10 betas and 10 expressions, and its face landmarks."""
    names = ("lmk_faces_idx", "lmk_bary_coords", "dynamic_lmk_faces_idx", "dynamic_lmk_bary_coords")
    with open_npz(path) as archive:
        landmarks = {name: np.asarray(archive.read(name)) for name in names}
    body = smplx.load(path)
    return jax.tree.map(jnp.asarray, body_points.smplx_point_model(body, landmarks))
