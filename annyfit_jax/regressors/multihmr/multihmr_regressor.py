"""Multi-HMR (Anny variant) as a `Regressor`: network, loss and config together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx, struct
from jaxtyping import Array, Bool, Float

from annyfit_jax.people import dense_points
from annyfit_jax.people.camera import project
from annyfit_jax.records.torch_files import read_state_dict, write_state_dict
from annyfit_jax.regressors.multihmr import (
    head_detection,
    multihmr_checkpoint,
    multihmr_losses,
    multihmr_model,
    multihmr_people,
    multihmr_predictions,
    rig,
)
from annyfit_jax.regressors.multihmr.head_detection import Patches
from annyfit_jax.regressors.multihmr.multihmr_batch import Batch, People, Targets
from annyfit_jax.regressors.multihmr.multihmr_config import LossConfig, MultiHmrConfig
from annyfit_jax.regressors.multihmr.multihmr_losses import Body
from annyfit_jax.regressors.multihmr.multihmr_people import Bodies
from annyfit_jax.training.protocol import Group, PredictOptions, Regressor
from body_models import anny
from body_models.rotations import rotvec_to_matrix

_NEAREST_M = 0.01
"""People nearer than this are not learned from (the released training code)."""


@struct.dataclass
class AnnyBodies:
    """The body model, and the surface points that losses compare."""

    model: anny.AnnyModel
    points: anny.AnnyPoints


@dataclass(frozen=True)
class MultiHmrRegressor(Regressor[Batch, People]):
    """See `annyfit_jax.training.protocol.Regressor`."""

    config: MultiHmrConfig = field(default_factory=MultiHmrConfig)
    loss_config: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        if self.config.body != "anny":
            raise ValueError("only the Anny variant is trained; the SMPL-X variant is for imported weights")

    @property
    def score_threshold(self) -> float:
        """Of the config."""
        return self.config.threshold

    def init(self, key: jax.Array) -> nnx.State:
        """Variables to train from scratch."""
        return multihmr_model.init(self.config, key)

    def constants(self) -> AnnyBodies:
        """The body model."""
        body = anny.load()
        dense = anny.vertex_regressor(body, dense_points.dense_vertex_indices())
        return AnnyBodies(body, anny.contract(body, dense))

    def loss(
        self, variables: nnx.State, constants: AnnyBodies, batch: Batch, key: jax.Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The terms of `multihmr_losses.terms`, and the field of view. Nothing in it is random: `key` is not used."""
        if batch.targets is None or batch.intrinsics is None:
            raise ValueError("a training batch needs targets and intrinsics")
        config, targets, K = self.config, batch.targets, batch.intrinsics
        network = multihmr_model.bind(config, variables)
        seen = network.see(batch.images)
        true, heads, in_front = _true_bodies(config, constants, targets, K)
        inside = ((heads >= 0) & (heads < config.size)).all(-1)
        patches = head_detection.pinned(seen.scores, heads, targets.people & in_front & inside, config.vit.patch)
        patches = patches._replace(valid=patches.valid & _first_in_patch(patches, config.grid))
        middle = jnp.stack([patches.column, patches.row], -1) + 0.5
        true = true._replace(offset=heads / config.vit.patch - middle)
        reading = network.read(seen, patches, K)
        bodies = multihmr_people.anny_bodies(constants.model, reading)
        predicted = _compared(constants, bodies, reading.matrices, K)._replace(
            offset=reading.offset, raw_distance=reading.raw_distance, transl=reading.transl,
            shape=reading.shape[..., : rig.NUM_USED_SHAPE],
        )  # fmt: skip
        positive = jnp.zeros_like(seen.scores)
        row = jnp.where(patches.valid, patches.row, config.grid)  # padding writes nowhere
        positive = positive.at[jnp.arange(len(row))[:, None], row, patches.column].set(1.0, mode="drop")
        values = multihmr_losses.terms(
            seen.scores, positive, predicted, true, patches.valid, config.size, targets.weight
        )
        fov = 2.0 * jnp.arctan(config.size / 2 / K[:, 0, 0])
        values["fov"] = jnp.abs(seen.fov - fov).mean()
        return multihmr_losses.total(values, self.loss_config), values

    def predict(
        self, variables: nnx.State, batch: Batch, threshold: float | None = None, body: anny.AnnyModel | None = None
    ) -> People:
        """See `multihmr_predictions.predict`."""
        return multihmr_predictions.predict(self.config, variables, batch, threshold, body)

    def predictor(self, variables: nnx.State, options: PredictOptions | None = None) -> multihmr_predictions.Predictor:
        """See `multihmr_predictions.Predictor`."""
        return multihmr_predictions.Predictor(self.config, variables, options)

    def start_from(self, variables: nnx.State, path: str) -> nnx.State:
        """Takes over what a PyTorch checkpoint has under the same names (Multi-HMR, DINOv2).

        Raises CheckpointError if the file cannot be read or nothing fits.
        """
        started, taken, unused = multihmr_checkpoint.start_from(self.config, variables, read_state_dict(path))
        logging.info("%s: %d tensors taken over, %d not used", path, len(taken), len(unused))
        return started

    def read_checkpoint(self, path: str | Path) -> tuple[nnx.State, tuple[str, ...]]:
        """Variables of an official state dict. Raises CheckpointError."""
        return multihmr_checkpoint.from_torch(self.config, read_state_dict(path, multihmr_checkpoint.ENTRY))

    def write_checkpoint(self, path: str | Path, variables: nnx.State) -> None:
        """An official state dict."""
        write_state_dict(path, multihmr_checkpoint.to_torch(self.config, variables), multihmr_checkpoint.ENTRY)

    def groups(self, variables: nnx.State) -> nnx.State:
        """The vision transformer is the backbone; its mask token belongs to another training."""

        def group(path: tuple) -> Group:
            if path[-1] == "mask_token":
                return "frozen"
            return "backbone" if path[0] == "vit" else "rest"

        flat = [(path, variable.replace(group(path))) for path, variable in nnx.to_flat_state(variables)]
        return nnx.from_flat_state(flat)


def _true_bodies(
    config: MultiHmrConfig, constants: AnnyBodies, targets: Targets, K: Float[Array, "batch 3 3"]
) -> tuple[Body, Float[Array, "batch P 2"], Bool[Array, "batch P"]]:
    """What is compared (offset left blank), pixels of the heads, and who is in front of the camera."""
    rotvecs = jnp.concatenate([targets.root_rotvec[..., None, :], targets.pose], -2)
    matrices = rotvec_to_matrix(rotvecs)
    deltas = jnp.pad(matrices, [(0, 0)] * 3 + [(0, 1), (0, 1)]).at[..., 3, 3].set(1.0)
    joints = anny.forward_transforms(constants.model, targets.phenotypes, deltas).bone_poses[..., :3, 3]
    joints = joints + (targets.transl - joints[..., 0, :])[..., None, :]
    kept = jnp.asarray(rig.predicted())[:, None, None]
    bodies = Bodies(targets.root_rotvec, targets.transl, targets.pose, targets.phenotypes, joints)
    body = _compared(constants, bodies, jnp.where(kept, matrices, jnp.eye(3, dtype=matrices.dtype)), K)
    head = joints[..., rig.head(), :]
    in_front = head[..., 2] > _NEAREST_M
    depth = jnp.maximum(head[..., 2:], _NEAREST_M)
    raw = jnp.log(K[:, None, :1, 0] / depth)
    heads = project(head.at[..., 2:].set(depth), K[:, None])
    return body._replace(raw_distance=raw, transl=head), heads, in_front


def _compared(
    constants: AnnyBodies, bodies: Bodies, matrices: Float[Array, "batch P 163 3 3"], K: Float[Array, "batch 3 3"]
) -> Body:
    """Joints and surface points in space and in the picture; the rest is filled in by the caller."""
    params = anny.Params(bodies.phenotypes, bodies.root_rotvec, bodies.pose, bodies.transl)
    surface = anny.points(constants.points, params)

    def pixels(points: Array) -> Array:
        # A body that reaches behind the camera would have pixels without bound.
        return project(points.at[..., 2].max(_NEAREST_M), K[:, None, None])

    blank = jnp.zeros_like(bodies.transl)
    return Body(
        offset=blank[..., :2], matrices=matrices, shape=bodies.phenotypes, raw_distance=blank[..., :1], transl=blank,
        pelvis=bodies.transl, j3d=bodies.joints, v3d=surface, j2d=pixels(bodies.joints), v2d=pixels(surface),
    )  # fmt: skip


def _first_in_patch(patches: Patches, side: int) -> Bool[Array, "batch P"]:
    """Of several heads in one patch the first, which is the nearest, is kept."""
    index = jnp.where(patches.valid, patches.row * side + patches.column, -1 - jnp.arange(patches.row.shape[1]))
    same = index[:, :, None] == index[:, None, :]
    earlier = np.tri(index.shape[1], k=-1, dtype=bool)
    return ~(same & earlier).any(-1)
