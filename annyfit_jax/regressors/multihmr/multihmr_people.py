"""From what the Anny variant reads to bodies in the conventions of this package."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from annyfit_jax.regressors.multihmr import rig
from annyfit_jax.regressors.multihmr.multihmr_model import Reading
from annyfit_jax.regressors.rotation_layers import rotvec_from_matrix
from body_models import anny


class Bodies(NamedTuple):
    """Parameters as fits have them; camera axes, metres, radians."""

    root_rotvec: Float[Array, "batch person 3"]
    transl: Float[Array, "batch person 3"]
    """The root bone's head; a reading has the head's."""
    pose: Float[Array, "batch person 162 3"]
    phenotypes: Float[Array, "batch person 6"]
    joints: Float[Array, "batch person 163 3"]
    """Heads of all bones."""


def anny_bodies(model: anny.AnnyModel, reading: Reading) -> Bodies:
    """Bodies whose heads are where the network puts them.

    Args:
      model: with 6 phenotypes (`anny.load()`).
      reading: of the Anny variant.
    """
    phenotypes = reading.shape[..., : rig.NUM_USED_SHAPE]
    matrices = reading.matrices
    deltas = jnp.pad(matrices, [(0, 0)] * (matrices.ndim - 2) + [(0, 1), (0, 1)]).at[..., 3, 3].set(1.0)
    # Vertices of the output are not used, so none is computed under `jit`.
    joints = anny.forward_transforms(model, phenotypes, deltas).bone_poses[..., :3, 3]
    transl = reading.transl - joints[..., rig.head(), :]
    rotvec = rotvec_from_matrix(matrices)
    return Bodies(
        rotvec[..., 0, :], transl + joints[..., 0, :], rotvec[..., 1:, :], phenotypes, joints + transl[..., None, :]
    )
