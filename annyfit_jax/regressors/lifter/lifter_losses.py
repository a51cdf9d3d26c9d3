"""What a lifter is trained on: the nearest hypothesis learns the pose, all of them learn how probable they are."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from annyfit_jax.lifting import lifter_rig
from annyfit_jax.lifting.lifter_network import Lifted
from annyfit_jax.regressors.lifter.lifter_views import View

DEGREES_OF_FREEDOM = 8.0
"""What 17 keypoints of a body count for: they move together. Of the density over the mean distance of the keypoints."""
_BODY = slice(5, None)
"""Keypoints below the face."""


@dataclass(frozen=True)
class LifterLoss:
    """Weights of the terms."""

    keypoints: float = 10.0
    """Mean distance of the keypoints, metres of an adult; nearest hypothesis, as the next two."""
    root: float = 0.25
    """Squared difference of rotation matrices."""
    bones: float = 0.5
    """Its mean over the bones."""
    probability: float = 0.1
    """Negative log density of the mixture of hypotheses."""
    age: float = 0.1
    gender: float = 0.05
    build: float = 0.1
    losers: float = 0.05
    """Share of the lesson that all hypotheses get alike, so that none falls out of use."""


def distances(lifted: Lifted, view: View) -> tuple[Float[Array, "n K"], Float[Array, "n K"]]:
    """Mean distance of each hypothesis' keypoints from the true ones, hips aligned, as shares of height: of all 17, of the body's."""
    found = lifter_rig.keypoints(view.segment, lifted.root, lifted.turns)
    true = lifter_rig.keypoints(view.segment, view.root[:, None], view.turns[:, None])
    off = jnp.sqrt(((found - true) ** 2).sum(-1) + 1e-6) / view.height_m[:, None, None]
    return off.mean(-1), off[..., _BODY].mean(-1)


def log_density(distance: Float[Array, "*n K"], lifted: Lifted) -> Float[Array, "*n"]:
    """Log density of poses at mean distances (shares of height) from the hypotheses: a mixture of Laplace distributions over
    `DEGREES_OF_FREEDOM`, up to a constant."""
    each = lifted.log_probability - DEGREES_OF_FREEDOM * (distance * jnp.exp(-lifted.log_spread) + lifted.log_spread)
    return jax.nn.logsumexp(each, axis=-1)


def terms(
    lifted: Lifted, view: View, loss: LifterLoss
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of a batch and what is logged of it."""
    every, body = distances(lifted, view)
    root = ((lifted.root - view.root[:, None]) ** 2).sum((-1, -2))
    bones = ((lifted.turns - view.turns[:, None]) ** 2).sum((-1, -2)).mean(-1)
    adult = 1.7
    lesson = loss.keypoints * adult * every + loss.root * root + loss.bones * bones
    count = lesson.shape[1]
    nearest = jax.nn.one_hot(lesson.argmin(1), count)
    weight = jax.lax.stop_gradient(nearest * (1.0 - loss.losers) + loss.losers / count)
    density = log_density(jax.lax.stop_gradient(every), lifted)
    age = -jnp.take_along_axis(jax.nn.log_softmax(lifted.age_logits), view.age[:, None], axis=1).mean()
    female = (view.shape[:, 0] > 0.5).astype(every.dtype)
    gender = jnp.maximum(lifted.gender_logit, 0) - lifted.gender_logit * female + jnp.log1p(jnp.exp(-jnp.abs(lifted.gender_logit)))
    build = (((lifted.build - view.shape[:, 2:]) / jnp.asarray([0.15, 0.15, 0.2, 0.15])) ** 2).mean()
    total = (
        (weight * lesson).sum(1).mean() - loss.probability * density.mean() + loss.age * age + loss.gender * gender.mean()
        + loss.build * build
    )  # fmt: skip
    first = jnp.take_along_axis(body, lifted.log_probability.argmax(1)[:, None], axis=1).mean()
    values = {
        "nearest_mm": 1000.0 * adult * body.min(1).mean(), "likeliest_mm": 1000.0 * adult * first,
        "log_density": density.mean(), "age_nats": age, "gender_nats": gender.mean(), "build": build,
    }  # fmt: skip
    return total, values
