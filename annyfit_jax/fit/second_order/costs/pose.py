"""Priors of variables: Gaussians about a start, a mixture of Gaussians over poses, joint limits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from annyfit_jax.fit.config import MapObjective
from annyfit_jax.fit.second_order.columns import NUM_SCENE, ROOT
from annyfit_jax.fit.second_order.costs.base import Model, Rows, Tangents, View
from annyfit_jax.fit.second_order.linear_plan import NUM_RIGID
from body_models import rotations


class _Reference:
    """1/2 sum (x - mu)^2 / sd^2: the pose of a feed-forward estimate, build, words as points.

    The root's difference is the rotation that is left, log(R R_mu^T): rotation vectors jump where they reach half a turn.
    """

    name = "reference"

    def on(self, settings: MapObjective) -> bool:
        return True

    def _off(self, view: View) -> Float[Array, "D N"]:
        mean = view.reference.mean
        return (view.x - mean).at[ROOT].set(rotations.compose(view.x[ROOT], -mean[ROOT]))

    def energy(self, view: View) -> Float[Array, "N"]:
        return 0.5 * (view.reference.precision * self._off(view) ** 2).sum(0)

    def model(self, view: View, tangents: Tangents) -> Model:
        precision, off = view.reference.precision, self._off(view)
        root = jnp.sqrt(precision[ROOT])
        by_x = jnp.zeros((3, *off.shape), off.dtype).at[:, ROOT].set(root[:, None] * tangents.lin.root_axes)
        rows = Rows(by_x, jnp.zeros((3, NUM_SCENE, off.shape[-1]), off.dtype), root * off[ROOT])
        others = precision.at[ROOT].set(0.0)
        return Model(self.energy(view), rows, gradient=others * off, diagonal=others)


class _PoseMixture:
    """-log sum_c w_c N(pose; mu_c, precision scaled by `pose_prior_precision`), for starts that know no pose."""

    name = "pose_prior"

    def on(self, settings: MapObjective) -> bool:
        return settings.pose_prior

    def _parts(self, view: View) -> tuple[Array, Array, Array]:
        prior = view.body.pose_prior
        first = NUM_RIGID + view.body.plan.layout.num_shape
        sharp = view.settings.pose_prior_precision
        off = view.x[first:][None] - prior.mean[:, :, None]
        pulled = sharp * (prior.precision @ off)
        log_joint = jnp.asarray(view.cues.posture_log_weight) + prior.log_scale[:, None] - 0.5 * (off * pulled).sum(1)
        return log_joint, pulled, 1.0 - jnp.asarray(view.cues.from_cue)

    def energy(self, view: View) -> Float[Array, "N"]:
        log_joint, _, on = self._parts(view)
        return -on * jax.nn.logsumexp(log_joint, axis=0)

    def model(self, view: View, tangents: Tangents) -> Model:
        log_joint, pulled, on = self._parts(view)
        share = on * jax.nn.softmax(log_joint, axis=0)
        first, columns = NUM_RIGID + view.body.plan.layout.num_shape, view.x.shape[0]
        precision = view.body.pose_prior.precision
        size = precision.shape[1]
        mixed = view.settings.pose_prior_precision * (share.T @ precision.reshape(len(precision), -1))
        matrix = jnp.pad(mixed.reshape(-1, size, size), ((0, 0), (first, 0), (first, 0)))
        push = jnp.pad((share[:, None] * pulled).sum(0), ((first, 0), (0, 0)))
        assert push.shape[0] == columns
        return Model(-on * jax.nn.logsumexp(log_joint, axis=0), gradient=push, matrix=matrix)


class _JointLimits:
    """Angles beyond anatomical limits, 1/2 (excess / limit_sd)^2."""

    name = "joint_limits"

    def on(self, settings: MapObjective) -> bool:
        return settings.joint_limits

    def _over(self, view: View) -> Float[Array, "3 F N"]:
        body, first = view.body, NUM_RIGID + view.body.plan.layout.num_shape
        pose = view.x[first:].reshape(-1, 3, view.x.shape[-1])
        angle = jnp.einsum("caf,fcn->afn", body.limit_axes, pose)
        return angle - jnp.clip(angle, body.limit_low[..., None], body.limit_high[..., None])

    def energy(self, view: View) -> Float[Array, "N"]:
        return 0.5 / view.settings.limit_sd**2 * (self._over(view) ** 2).sum((0, 1))

    def model(self, view: View, tangents: Tangents) -> Model:
        axes, over, precision = view.body.limit_axes, self._over(view), 1.0 / view.settings.limit_sd**2
        push = precision * jnp.einsum("caf,afn->fcn", axes, over).reshape(-1, over.shape[-1])
        active = precision * (over != 0).astype(over.dtype)
        first = NUM_RIGID + view.body.plan.layout.num_shape
        return Model(
            0.5 * precision * (over**2).sum((0, 1)),
            gradient=jnp.pad(push, ((first, 0), (0, 0))),
            bones=jnp.einsum("caf,daf,afn->fcdn", axes, axes, active),
        )


REFERENCE = _Reference()
POSE_MIXTURE = _PoseMixture()
JOINT_LIMITS = _JointLimits()
