"""Metric depth of people with one unknown scale per image, a known distance, and the ranking of depths."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from annyfit_jax.fit.config import MapObjective
from annyfit_jax.fit.second_order import robust
from annyfit_jax.fit.second_order.columns import DEPTH, DEPTH_SCALE
from annyfit_jax.fit.second_order.costs.base import Model, Person, ResidualCost, Tangents, View, halved_squares
from annyfit_jax.fit.second_order.map_body import MapBody

MIN_DEPTH_M = 0.1
_EQUAL_M, _MARGIN = 0.1, 0.05
"""As in the release: cues this close are equal; a pair should keep this share of its cue's gap."""


def _log_ratio(person: Person, given: Any, body: MapBody, settings: MapObjective) -> Float[Array, "1"]:
    offset, log_depth, known, sd = given
    depth = jnp.maximum(person.rigid[DEPTH] + offset, MIN_DEPTH_M)
    return (jnp.sqrt(known) * (jnp.log(depth) - log_depth - person.scene[DEPTH_SCALE]) / sd)[None]


def _depths(view: View) -> Any:
    return view.frozen.visible_offset, view.cues.log_depth, view.cues.depth_known, view.frozen.depth_sd


def _robust(view: View, r: Float[Array, "1 N"]) -> tuple[Array, Array]:
    value, weight = robust.geman_mcclure(r[0] ** 2, view.frozen.depth_width)
    return value, weight[None]


METRIC_DEPTH = ResidualCost("metric_depth", lambda s: s.metric_depth, _depths, _log_ratio, _robust)
"""1/2 GM((log z_visible - log D - s)^2 / sd^2)."""


def _off_distance(person: Person, given: Any, body: MapBody, settings: MapObjective) -> Float[Array, "1"]:
    known, precision = given
    distance = jnp.sqrt((person.rigid[:3] ** 2).sum() + 1e-6)
    return (jnp.sqrt(precision) * (distance - known))[None]


DISTANCE = ResidualCost(
    "distance",
    lambda s: s.known_facts,
    lambda view: (view.cues.facts.distance_m, view.cues.facts.distance_precision),
    _off_distance,
    halved_squares,
)
"""A known distance of a person from the camera, metres: of the root bone."""


class _Order:
    """Pairs on the wrong side of their cues, squared excess, robustly; the curvature is twice the exact one, which bounds
    the coupling of the two people."""

    name = "depth_order"

    def on(self, settings: MapObjective) -> bool:
        return settings.depth_order != "never"

    def _parts(self, view: View) -> tuple[Array, Array, Array, Array]:
        pairs, settings = view.problem.pairs, view.settings
        depth = jnp.maximum(view.x[DEPTH] + view.frozen.visible_offset, MIN_DEPTH_M)
        gap = depth[pairs.first] - depth[pairs.second]
        equal = jnp.abs(pairs.gap) <= _EQUAL_M
        sign = jnp.sign(pairs.gap)
        short = jnp.maximum(_MARGIN * jnp.abs(pairs.gap) - sign * gap, 0.0)
        excess = jnp.where(equal, gap - jnp.clip(gap, -_EQUAL_M, _EQUAL_M), -sign * short) / settings.order_sd_m
        value, weight = robust.geman_mcclure(excess**2, settings.depth_robust_sigmas)
        return jnp.asarray(pairs.weight * view.cues.ranked), excess, value, weight

    def _to(self, view: View, value: Array, index: Any) -> Array:
        return jax.ops.segment_sum(value, index, num_segments=view.x.shape[1])

    def energy(self, view: View) -> Float[Array, "N"]:
        if not len(view.problem.pairs.first):
            return jnp.zeros_like(view.x[0])
        on, _, value, _ = self._parts(view)
        pairs = view.problem.pairs
        return self._to(view, 0.5 * on * value, pairs.first) + self._to(view, 0.5 * on * value, pairs.second)

    def model(self, view: View, tangents: Tangents) -> Model:
        if not len(view.problem.pairs.first):
            return Model(jnp.zeros_like(view.x[0]))
        on, excess, _, weight = self._parts(view)
        sd, pairs = view.settings.order_sd_m, view.problem.pairs
        push, stiff = on * weight * excess / sd, 2.0 * on * weight * (excess != 0) / sd**2
        gradient = self._to(view, push, pairs.first) - self._to(view, push, pairs.second)
        diagonal = self._to(view, stiff, pairs.first) + self._to(view, stiff, pairs.second)
        at = lambda v: jnp.zeros_like(view.x).at[DEPTH].set(v)  # noqa: E731
        return Model(self.energy(view), gradient=at(gradient), diagonal=at(diagonal))


ORDER = _Order()
