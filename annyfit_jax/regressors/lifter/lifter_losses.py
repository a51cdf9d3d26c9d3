"""What a lifter is trained on: the nearest hypothesis learns the pose, all of them learn how probable they are."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from annyfit_jax.lifting import lifter_rig
from annyfit_jax.lifting.lift import log_density
from annyfit_jax.lifting.lifter_network import Lifted
from annyfit_jax.regressors.lifter.lifter_views import View


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
    """Mean distance of each hypothesis' keypoints from the true ones, hips aligned, shares of height: of all, of the body's."""
    found = lifter_rig.keypoints(view.segment, lifted.root, lifted.turns)
    true = lifter_rig.keypoints(view.segment, view.root[:, None], view.turns[:, None])
    off = jnp.sqrt(((found - true) ** 2).sum(-1) + 1e-6) / view.height_m[:, None, None]
    return off.mean(-1), off[..., lifter_rig.BODY].mean(-1)


def terms(lifted: Lifted, view: View, loss: LifterLoss) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of a batch and what is logged of it."""
    every, body = distances(lifted, view)
    root = ((lifted.root - view.root[:, None]) ** 2).sum((-1, -2))
    bones = ((lifted.turns - view.turns[:, None]) ** 2).sum((-1, -2)).mean(-1)
    adult = 1.7
    lesson = loss.keypoints * adult * every + loss.root * root + loss.bones * bones
    count = lesson.shape[1]
    nearest = jax.nn.one_hot(lesson.argmin(1), count)
    weight = jax.lax.stop_gradient(nearest * (1.0 - loss.losers) + loss.losers / count)
    density = log_density(jax.lax.stop_gradient(every), lifted.log_probability, lifted.log_spread)
    age = -jnp.take_along_axis(jax.nn.log_softmax(lifted.age_logits), view.age[:, None], axis=1).mean()
    female = (view.shape[:, 0] > 0.5).astype(every.dtype)
    gender = jax.nn.softplus(lifted.gender_logit) - lifted.gender_logit * female
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
