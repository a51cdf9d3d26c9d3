"""Keypoints of people in, hypotheses of their bodies out: the trained lifter as one pure function on a pytree."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Int

from annyfit_jax.lifting import lifter_features, lifter_network, lifter_rig
from annyfit_jax.lifting.lifter_config import LifterConfig
from annyfit_jax.lifting.lifter_features import Told
from annyfit_jax.lifting.lifter_network import Lifted
from annyfit_jax.lifting.lifter_rig import MIRRORED_BONES, LifterRig, mirror_rotations


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


def read(
    lifter: Lifter, rays: Float[Array, "n 17 2"], confidence: Float[Array, "n 17"], told: Told, *, mirror: bool = False
) -> Reading:
    """What the network says of n people.

    Args:
      rays: keypoints as (x / z, y / z), COCO's order; those of a confidence below `lifter_features.SEEN` do not count.
      mirror: it is asked about every person's mirror image too, which is as likely a picture as the person is: twice as many
        hypotheses, and mirrored people get mirrored bodies. Alone it is nearer then; in a fit that made no difference.
    """
    network = lifter_network.bind(lifter.config, lifter.variables)
    seen = lifter_features.see(rays, confidence, told)
    if not mirror:
        return Reading(_sorted(network(seen.features)), seen.view)
    other = lifter_features.see(*lifter_features.mirrored(rays, confidence, told))
    both = network(jnp.concatenate([seen.features, other.features]))
    here, there = (jax.tree.map(lambda x, part=part: jnp.split(x, 2)[part], both) for part in range(2))
    there = there._replace(root=mirror_rotations(there.root), turns=mirror_rotations(there.turns[:, :, MIRRORED_BONES]))
    joined = Lifted(*(_joined(name, a, b) for name, a, b in zip(Lifted._fields, here, there, strict=True)))
    return Reading(_sorted(joined), seen.view)


def _sorted(lifted: Lifted) -> Lifted:
    """Likeliest hypothesis first."""
    order = jnp.argsort(-lifted.log_probability, axis=1)
    take = lambda x: jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)  # noqa: E731
    return lifted._replace(**{name: take(getattr(lifted, name)) for name in _OF_HYPOTHESES})


_OF_HYPOTHESES = ("root", "turns", "log_probability", "log_spread")


def _joined(name: str, here: Array, there: Array) -> Array:
    """Hypotheses of both sides of the mirror beside each other, the rest as their mean."""
    if name not in _OF_HYPOTHESES:
        return 0.5 * (here + there)
    joined = jnp.concatenate([here, there], axis=1)
    return joined - jnp.log(2.0) if name == "log_probability" else joined


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


ALIKE = 0.15
"""Mean distance of two bodies' keypoints, as a share of height, up to which they count as much the same hypothesis.

Chosen on held-out poses (`experiments/results/lifter.md`), where anything from .1 to .3 does as well."""


def averaged(
    hypotheses: Hypotheses, cost: Float[Array, "n K"], span: Float[Array, "n"], together: Bool[np.ndarray, "K K"]
) -> Hypotheses:
    """Roots and poses at the mean of the hypotheses like them, weighted by `cost` (nats) and likeness: nearest on average.

    The nearest of them are farther from the truth than before, so this is for whoever takes one body and no other.

    Args:
      span: `lifter_rig.span` of the bodies.
      together: which hypotheses may be averaged at all.
    """
    at = hypotheses.keypoints[:, :, lifter_rig.BODY]  # (n, K, 12, 3)
    apart = jnp.sqrt(((at[:, :, None] - at[:, None]) ** 2).sum(-1) + 1e-9).mean(-1) / span[:, None, None]
    logits = jnp.where(together, -cost[:, None] - (apart / ALIKE) ** 2, -jnp.inf)
    weight = jax.nn.softmax(logits, axis=-1)
    mean = lambda x: lifter_network.from_six(jnp.einsum("nkl,nl...->nk...", weight, lifter_network.to_six(x)))  # noqa: E731
    return hypotheses._replace(root=mean(hypotheses.root), pose=mean(hypotheses.pose))


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
