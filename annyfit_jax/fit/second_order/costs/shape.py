"""What is known of a person's body: age words, height for age and sex, a measured height."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from annyfit_jax.fit.config import MapObjective
from annyfit_jax.fit.second_order.costs.base import Person, ResidualCost, View, halved_squares, mixture
from annyfit_jax.fit.second_order.linear_plan import NUM_RIGID
from annyfit_jax.fit.second_order.map_body import MapBody, population_mean
from annyfit_jax.people.words import AGE_CLASSES

GENDER, AGE, HEIGHT = 0, 1, 4
BUILD = (2, 3, 5)
"""Muscle, weight, proportions."""


def _shape(person: Person) -> Float[Array, "6"]:
    return person.rigid[NUM_RIGID:]


def _log_density(low: np.ndarray, high: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """Log height of a density that is flat over a range and has Gaussian ends."""
    return -np.log(high - low + np.sqrt(2.0 * np.pi) * soft)


def _class_ranges(settings: MapObjective) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low, high = (np.array([table[name] for name in AGE_CLASSES]) for table in (settings.age_low, settings.age_high))
    return low, high, np.full_like(low, settings.age_soft)


def _beyond_class(person: Person, given: Any, body: MapBody, settings: MapObjective) -> Float[Array, "C"]:
    """Distance of the age phenotype to the range of each class, in the softness of its ends."""
    age = _shape(person)[AGE]
    low, high, soft = (jnp.asarray(a, age.dtype) for a in _class_ranges(settings))
    return (age - jnp.clip(age, low, high)) / soft


def _any_class(view: View, r: Float[Array, "C N"]) -> tuple[Array, Array]:
    density = jnp.asarray(_log_density(*_class_ranges(view.settings)), r.dtype)
    return mixture(jnp.asarray(view.cues.age_log_prob) + density[:, None], r)


WORDS = ResidualCost("words", lambda s: s.class_words, lambda view: (), _beyond_class, _any_class)
"""-log sum_class P(class | word) p(age | class); without a word, the shares of the population."""


def _off_population(person: Person, given: Any, body: MapBody, settings: MapObjective) -> Float[Array, "1"]:
    shape = _shape(person)[:, None]
    mean = population_mean(body, shape[AGE], shape[GENDER])[0]
    return (shape[HEIGHT] - mean) / settings.height_sd


ANTHROPOMETRY = ResidualCost(
    "anthropometry", lambda s: s.anthropometry, lambda view: (), _off_population, halved_squares
)
"""Height phenotype given age and sex, about the WHO-calibrated population."""


def _off_height(person: Person, given: Any, body: MapBody, settings: MapObjective) -> Float[Array, "1"]:
    height, slope, at, known, precision = given
    return ((height + slope @ (_shape(person) - at) - known) * jnp.sqrt(precision))[None]


def _measured(view: View) -> Any:
    frozen, facts = view.frozen, view.cues.facts
    return frozen.height, frozen.height_slope, frozen.height_at, facts.height_m, facts.height_precision


MEASURED_HEIGHT = ResidualCost("measured_height", lambda s: s.known_facts, _measured, _off_height, halved_squares)
"""A body height that somebody measured: 1/2 ((height - known) / sd)^2, height linear in the phenotypes within a round."""
