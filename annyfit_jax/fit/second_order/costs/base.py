"""What a cost of the MAP objective is, and how costs become a quadratic model.

A cost is a few residuals of one person in noise scales, and how they become nats:

    def residual(person: Person, given, body, settings) -> (R,)          # autodiff gives its Jacobian
    def combine(view, r) -> energy (N,), weight (R, N)

with energy = combine(r) and its gradient by r equal to weight * r; `halved_squares` is the Gaussian, `robust` Geman-McClure.
The curvature is that of the re-weighted squares (Gauss-Newton). To add a cost, write these functions, wrap them in a
`ResidualCost` and add one line to `costs.COSTS`. A cost whose structure would be wasted on this form (pixels of 138 points, the
mixture of poses) is a `Cost` with its own `energy` and `model`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from annyfit_jax.fit.config import MapObjective
from annyfit_jax.fit.problem import Problem
from annyfit_jax.fit.second_order import robust as robust_functions
from annyfit_jax.fit.second_order.frozen import Frozen
from annyfit_jax.fit.second_order.jacobian import Linearization
from annyfit_jax.fit.second_order.map_body import MapBody
from annyfit_jax.fit.second_order.map_cues import MapCues


class Reference(NamedTuple):
    """Means and spreads of the Gaussian priors, per person."""

    mean: Float[Array, "D N"]
    precision: Float[Array, "D N"]
    """1 / sd^2; zero where something else than a Gaussian speaks (translation, age, height)."""


class View(NamedTuple):
    """All people at one point of the search."""

    settings: MapObjective
    body: MapBody
    problem: Problem
    cues: MapCues
    reference: Reference
    frozen: Frozen
    x: Float[Array, "D N"]
    scene: Float[Array, "q N"]
    """Unknowns of each person's scene."""
    keypoints: Float[Array, "3 17 N"]
    dense: Float[Array, "3 K N"]
    """Camera points, metres; the dense points are left out (K = 0) where nobody of the batch has such a cue."""


class Person(NamedTuple):
    """What residuals of one person may depend on."""

    rigid: Float[Array, "R"]
    """Translation 3, root rotation 3, phenotypes 6."""
    scene: Float[Array, "q"]
    keypoints: Float[Array, "3 17"]


class Rows(NamedTuple):
    """Weighted residuals of every person with their derivatives."""

    by_x: Float[Array, "R D N"]
    by_scene: Float[Array, "R q N"]
    value: Float[Array, "R N"]


class Model(NamedTuple):
    """What a cost adds to the quadratic model; None adds nothing."""

    energy: Float[Array, "N"]
    rows: Rows | None = None
    gradient: Float[Array, "D N"] | None = None
    diagonal: Float[Array, "D N"] | None = None
    bones: Float[Array, "F 3 3 N"] | None = None
    """Curvature of each free bone."""
    matrix: Float[Array, "N D D"] | None = None
    cross: Float[Array, "D q N"] | None = None
    scene_gradient: Float[Array, "q N"] | None = None
    scene_matrix: Float[Array, "q q N"] | None = None


class Tangents(NamedTuple):
    """Derivatives of the body that costs share."""

    lin: Linearization
    keypoints: Float[Array, "3 17 D N"]


class Cost(Protocol):
    """One term of the energy."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def on(self) -> Callable[[MapObjective], bool]:
        """Whether the config switches it on."""
        ...

    def energy(self, view: View) -> Float[Array, "N"]:
        """Nats per person, up to a constant."""
        ...

    def model(self, view: View, tangents: Tangents) -> Model:
        """Energy and its quadratic model."""
        ...


Combine = Callable[[View, Float[Array, "R N"]], tuple[Float[Array, "N"], Float[Array, "R N"]]]


@dataclass(frozen=True)
class ResidualCost:
    """A cost of few residuals, whose derivatives come from automatic differentiation."""

    name: str
    on: Callable[[MapObjective], bool]
    given: Callable[[View], Any]
    """Constants of the residuals, people last."""
    residual: Callable[[Person, Any, MapBody, MapObjective], Float[Array, "R"]]
    combine: Combine
    reads_keypoints: bool = False

    def _person(self, view: View) -> Person:
        first = 6 + view.body.plan.layout.num_shape
        return Person(view.x[:first], view.scene, view.keypoints)

    def energy(self, view: View) -> Float[Array, "N"]:
        """See `Cost.energy`."""
        one = lambda person, given: self.residual(person, given, view.body, view.settings)  # noqa: E731
        r = jax.vmap(one, in_axes=-1, out_axes=-1)(self._person(view), self.given(view))
        return self.combine(view, r)[0]

    def model(self, view: View, tangents: Tangents) -> Model:
        """See `Cost.model`."""
        person = self._person(view)

        def slopes(rigid: Array, scene: Array, points: Array, given: Any) -> tuple[tuple, Array]:
            def twice(*parts: Array) -> tuple[Array, Array]:
                r = self.residual(
                    Person(*parts, *(() if self.reads_keypoints else (points,))), given, view.body, view.settings
                )
                return r, r

            if self.reads_keypoints:
                return jax.jacrev(twice, argnums=(0, 1, 2), has_aux=True)(rigid, scene, points)
            return jax.jacfwd(twice, argnums=(0, 1), has_aux=True)(rigid, scene)

        by, r = jax.vmap(slopes, in_axes=-1, out_axes=-1)(*person, self.given(view))
        energy, weight = self.combine(view, r)
        root = jnp.sqrt(weight)
        by_x = jnp.pad(by[0], ((0, 0), (0, view.x.shape[0] - by[0].shape[1]), (0, 0)))
        if self.reads_keypoints:
            by_x = by_x + jnp.einsum("eikn,ikdn->edn", by[2], tangents.keypoints)
        return Model(energy, Rows(by_x * root[:, None], by[1] * root[:, None], r * root))


def halved_squares(view: View, r: Float[Array, "R N"]) -> tuple[Array, Array]:
    """The Gaussian in noise scales."""
    return 0.5 * (r * r).sum(0), jnp.ones_like(r)


def robust(width: float) -> Combine:
    """Geman-McClure of the length of the residuals, `width` in noise scales."""

    def combine(view: View, r: Float[Array, "R N"]) -> tuple[Array, Array]:
        value, weight = robust_functions.geman_mcclure((r * r).sum(0), width)
        return value, jnp.broadcast_to(weight, r.shape)

    return combine


def mixture(log_weight: Float[Array, "C *N"], r: Float[Array, "C *N"]) -> tuple[Array, Array]:
    """-log sum_c exp(log_weight_c - r_c^2 / 2) and the responsibilities."""
    log_joint = log_weight - 0.5 * r * r
    return -jax.nn.logsumexp(log_joint, axis=0), jax.nn.softmax(log_joint, axis=0)
