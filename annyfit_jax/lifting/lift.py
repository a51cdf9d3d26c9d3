"""Keypoints of people in, hypotheses of their bodies out: the trained lifter as one pure function on a pytree."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array, Float, Int

from annyfit_jax.lifting import lifter_features, lifter_network, lifter_rig
from annyfit_jax.lifting.lifter_config import LifterConfig
from annyfit_jax.lifting.lifter_features import Told
from annyfit_jax.lifting.lifter_network import Lifted
from annyfit_jax.lifting.lifter_rig import LifterRig


@struct.dataclass
class Lifter:
    """A trained network and the rig that its numbers are about: a pytree, passed into compiled functions."""

    rig: LifterRig
    variables: nnx.State
    config: LifterConfig = struct.field(pytree_node=False)


class Reading(NamedTuple):
    """What the network says of n people, and of which axes."""

    lifted: Lifted
    """Likeliest hypothesis first."""
    view: Float[Array, "n 3 3"]
    """From camera axes to those of the line of sight."""

    @property
    def age_class(self) -> Int[Array, "n"]:
        """The likeliest class of age (`people.words.AGE_CLASSES`)."""
        return self.lifted.age_logits.argmax(-1)


class Hypotheses(NamedTuple):
    """K bodies of each of n people, likeliest first."""

    root: Float[Array, "n K 3 3"]
    """From the body's axes to the camera's."""
    pose: Float[Array, "n K B 3 3"]
    """Rotations of `lifter_rig.BONES` in their own rest frames."""
    keypoints: Float[Array, "n K 17 3"]
    """About the middle of the hips, camera axes, metres."""
    log_probability: Float[Array, "n K"]
    log_spread: Float[Array, "n K"]
    """Log of how far off each hypothesis is where it is the right one, as a share of height."""


def read(lifter: Lifter, rays: Float[Array, "n 17 2"], confidence: Float[Array, "n 17"], told: Told) -> Reading:
    """What the network says of n people.

    Args:
      rays: keypoints as (x / z, y / z), COCO's order; those of a confidence below `lifter_features.SEEN` do not count.
    """
    seen = lifter_features.see(rays, confidence, told)
    lifted = lifter_network.bind(lifter.config, lifter.variables)(seen.features)
    order = jnp.argsort(-lifted.log_probability, axis=1)
    take = lambda x: jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)  # noqa: E731
    of_hypotheses = ("root", "turns", "log_probability", "log_spread")
    sorted_ones = {name: take(getattr(lifted, name)) for name in of_hypotheses}
    return Reading(lifted._replace(**sorted_ones), seen.view)


def bodies(lifter: Lifter, reading: Reading, shape: Float[Array, "n 6"]) -> Hypotheses:
    """The hypotheses for bodies of these phenotypes."""
    lifted = reading.lifted
    root = jnp.swapaxes(reading.view, -1, -2)[:, None] @ lifted.root
    return Hypotheses(
        root=root,
        pose=lifter_rig.local_rotations(lifter.rig, shape, lifted.turns),
        keypoints=lifter_rig.keypoints(lifter_rig.segments(lifter.rig, shape), root, lifted.turns),
        log_probability=lifted.log_probability,
        log_spread=lifted.log_spread,
    )


def whole_pose(rotvec: Float[Array, "*n B 3"], rest: Float[Array, "162 3"], rows: tuple[int, ...]) -> Array:
    """Rotation vectors of all 162 posed bones: those of `lifter_rig.BONES` in their `rows`, the others as at `rest`."""
    whole = jnp.broadcast_to(jnp.asarray(rest, rotvec.dtype), (*rotvec.shape[:-2], *np.shape(rest)))
    return whole.at[..., np.array(rows), :].set(rotvec)


DEGREES_OF_FREEDOM = 8.0
"""What the 17 keypoints of a body count for, which move together, in the density over their mean distance."""


def log_density(
    distance: Float[Array, "*n K"], log_probability: Float[Array, "*n K"], log_spread: Float[Array, "*n K"]
) -> Float[Array, "*n"]:
    """Log density, up to a constant, of a pose whose keypoints lie at mean distances (shares of height) from the hypotheses.

    A mixture of Laplace distributions over `DEGREES_OF_FREEDOM`.
    """
    each = log_probability - DEGREES_OF_FREEDOM * (distance * jnp.exp(-log_spread) + log_spread)
    return jax.nn.logsumexp(each, axis=-1)
