"""People with an age in years, a sex, a height and a mass; and the phenotypes whose body has that height and mass (numpy).

Heights and masses: WHO child growth standards and 2007 reference (medians and coefficients of variation in
`annyfit_jax/data/anthropometry.json`); grown-ups are the reference's 19-year-olds, less what they shrink (Sorkin et al. 1999:
3 cm of men, 5 cm of women by 70 years). Years become Anny's age phenotype through Anny's own calibration knots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from annyfit_jax.people.anthropometry import tables
from annyfit_jax.people.words import AGE_CLASSES
from annyfit_jax.synthetic.world_config import PeopleConfig

MALE, FEMALE = 0, 2
"""Gender categories of `annyfit_jax.people.words.GENDER_CLASSES`: 0 male, 1 neutral, 2 female."""
AGE_ANCHORS = np.array(list(AGE_CLASSES.values()))
SHRINK_YEARS = (30.0, 70.0, 80.0, 100.0)
SHRINK_M = {MALE: (0.0, 0.03, 0.05, 0.06), FEMALE: (0.0, 0.05, 0.08, 0.09)}
# Ages of people who are there on their own or in a crowd: ranges in years and their shares.
_AGE_RANGES = ((0.3, 1.0), (1.0, 4.0), (4.0, 11.0), (11.0, 16.0), (16.0, 64.0), (64.0, 92.0))
_AGE_SHARES = np.array([0.07, 0.11, 0.19, 0.14, 0.35, 0.14])
_CHILD_YEARS = 18.0
_WHO_MASS_YEARS = 10.0
_LIGHTEST = 0.02
_MUSCLE_SHARES = (1.0, 0.7, 0.4, 0.1)

SizeOf = Callable[[Float[np.ndarray, "n 6"]], Float[np.ndarray, "n"]]
"""Phenotypes to the height (m) or mass (kg) of the resting body."""


@dataclass(frozen=True)
class People:
    """n people; lengths in metres, masses in kg."""

    kind: str
    """Of the group."""
    years: Float[np.ndarray, "n"]
    gender: Int[np.ndarray, "n"]
    """MALE or FEMALE."""
    height: Float[np.ndarray, "n"]
    """Drawn."""
    mass: Float[np.ndarray, "n"]
    """Drawn; a body's is as near as its weight phenotype reaches."""
    build: Float[np.ndarray, "n 2"]
    """Phenotypes muscle and proportions."""
    femininity: Float[np.ndarray, "n"]
    """Phenotype gender: within 0.12 of 0 or 1."""

    def __len__(self) -> int:
        return len(self.years)


# ------------------------------------------------------------------------------------------------ populations


def age_phenotype(years: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Anny's age phenotype (0 newborn .. 1) of an age in years."""
    return np.interp(years, tables()["year_knots"], tables()["age_knots"])


def age_class(years: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Age class 0 baby .. 5 senior: the word's anchor nearest to the phenotype; borders at 1, 4, 11, 14.2 and 64 years."""
    return np.abs(age_phenotype(years)[:, None] - AGE_ANCHORS).argmin(1)


def height_statistics(years: np.ndarray, gender: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and coefficient of variation of the height (m) at ages in years and sexes."""
    who = tables()["who"]
    knots = [row["years"] for row in who]
    median, cv = np.zeros(len(years)), np.zeros(len(years))
    for sex, name in ((MALE, "male"), (FEMALE, "female")):
        mine = gender == sex
        h = np.interp(years, knots, [row[f"{name}_h"] for row in who]) / 100.0
        h -= np.interp(years, SHRINK_YEARS, SHRINK_M[sex])
        median[mine], cv[mine] = h[mine], np.interp(years, knots, [row[f"{name}_cv"] for row in who])[mine]
    return median, cv


def mass_median(years: np.ndarray, gender: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Median mass (kg) at an age, sex and height: the population's times (height / its median)^2.

    Up to 10 years WHO's weight for age, beyond (WHO has none) the means of Anny's WHO-calibrated populations.
    """
    out = np.zeros(len(years))
    median, _ = height_statistics(years, gender)
    for sex, name in ((MALE, "male"), (FEMALE, "female")):
        who = [
            (r["years"], r[f"{name}_w"])
            for r in tables()["who"]
            if r.get(f"{name}_w") and r["years"] <= _WHO_MASS_YEARS
        ]
        rows = [(r["years"], r["population_mass_kg"]) for r in tables()["rows"] if r["sex"] == name]
        knots = np.array([*who, *((y, m) for y, m in sorted(rows) if y > _WHO_MASS_YEARS)], float)
        mine = gender == sex
        out[mine] = np.interp(years, knots[:, 0], knots[:, 1])[mine]
    return out * (height / median) ** 2


# ------------------------------------------------------------------------------------------------ groups


def _anybody(rng: np.random.Generator, n: int) -> np.ndarray:
    low, high = np.array(_AGE_RANGES)[rng.choice(len(_AGE_SHARES), n, p=_AGE_SHARES)].T
    return rng.uniform(low, high)


def _couple(rng: np.random.Generator) -> np.ndarray:
    first = rng.uniform(18, 85)
    return np.array([first, np.clip(first + rng.normal(0, 4), 18, 92)])


def _family(rng: np.random.Generator) -> np.ndarray:
    """One or two parents, one to three children 20 to 42 years younger, sometimes a grandparent."""
    parent = rng.uniform(22, 50)
    parents = [parent, np.clip(parent + rng.normal(0, 4), 20, 60)][: 1 + int(rng.random() < 0.65)]
    oldest = min(parents)
    children = rng.uniform(max(oldest - 42, 0.2), min(oldest - 19, 17), int(rng.integers(1, 4)))
    grand = [parent + rng.uniform(22, 36)] if rng.random() < 0.25 else []
    return np.clip(np.array([*parents, *children, *grand]), 0.2, 92)


def _friends(rng: np.random.Generator) -> np.ndarray:
    age = rng.choice([rng.uniform(4, 17), rng.uniform(17, 80)], p=[0.45, 0.55])
    return np.clip(age * np.exp(rng.normal(0, 0.08, int(rng.integers(2, 6)))), 3.5, 92)


def _school(rng: np.random.Generator) -> np.ndarray:
    age = rng.uniform(2, 13)
    return np.array([rng.uniform(22, 64), *(age + rng.uniform(-0.6, 0.6, int(rng.integers(2, 7))))])


def _adults(rng: np.random.Generator) -> np.ndarray:
    """Nobody young: what an estimator trained on adults has seen."""
    return rng.uniform(18, 64, int(rng.integers(1, 4)))


GROUPS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "single": lambda rng: _anybody(rng, 1),
    "couple": _couple,
    "family": _family,
    "friends": _friends,
    "school": _school,
    "crowd": lambda rng: _anybody(rng, int(rng.integers(4, 9))),
    "adults": _adults,
}
"""Ages in years of the members of each kind of group."""


def draw_people(rng: np.random.Generator, config: PeopleConfig) -> People:
    """A group. Raises ValueError on an unknown kind in `config.groups`."""
    unknown = set(config.groups) - set(GROUPS)
    if unknown:
        raise ValueError(f"people.groups: unknown {sorted(unknown)}, there are {sorted(GROUPS)}")
    kinds = sorted(config.groups)
    shares = np.array([config.groups[kind] for kind in kinds])
    kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
    years = GROUPS[kind](rng)[: config.max_people]
    n = len(years)
    gender = rng.choice([MALE, FEMALE], n)
    if kind in ("couple", "family") and n > 1 and rng.random() < 0.85 and years[:2].min() > _CHILD_YEARS:
        gender[1] = FEMALE if gender[0] == MALE else MALE
    median, cv = height_statistics(years, gender)
    height = median * (1.0 + cv * rng.normal(size=n).clip(-2.8, 2.8))
    spread = config.mass_cv * np.where(years < _CHILD_YEARS, 2 / 3, 1.0)
    mass = mass_median(years, gender, height) * np.exp(spread * rng.normal(size=n))
    build = (0.5 + config.muscle_sd * rng.normal(size=(n, 2))).clip(0.1, 0.9)
    femininity = np.where(gender == MALE, 0.0, 0.88) + 0.12 * rng.random(n)
    return People(kind, years, gender, height, mass, build, femininity)


# ------------------------------------------------------------------------------------------------ phenotypes


def solve_phenotypes(people: People, height_of: SizeOf, mass_of: SizeOf) -> Float[np.ndarray, "n 6"]:
    """Phenotypes whose resting body has the drawn height (to 1 mm), and the drawn mass as far as it can be reached.

    Height is affine in its phenotype, x = (H - h0) / (h1 - h0), and mass rises with `weight`: the right height at three
    weights, the weight between them that gives the mass, and the right height for it. A body of average muscle can be
    neither thin nor heavy in this model, so `muscle` gives way in steps towards 0 until the mass is in reach.
    """
    n = len(people)
    shape = np.full((n, 6), 0.5)
    shape[:, 0], shape[:, 1] = people.femininity, age_phenotype(people.years)
    shape[:, 2], shape[:, 5] = people.build.T

    def at_height(muscle: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Shapes of the drawn height."""
        ends = [shape.copy(), shape.copy()]
        for end, x in zip(ends, (0.0, 1.0)):
            end[:, 2], end[:, 3], end[:, 4] = muscle, weight, x
        low, high = (height_of(end) for end in ends)
        out = ends[0]
        out[:, 4] = ((people.height - low) / (high - low)).clip(0.0, 1.0)
        return out

    weights = np.array([_LIGHTEST, 0.5, 1 - _LIGHTEST])
    muscle, weight = shape[:, 2].copy(), np.full(n, 0.5)
    open_ = np.ones(n, bool)
    for share in _MUSCLE_SHARES:
        tried = np.maximum(share * shape[:, 2], 0.05)
        masses = np.stack([mass_of(at_height(tried, np.full(n, w))) for w in weights])
        masses = np.maximum.accumulate(masses, axis=0)
        reached = np.array([np.interp(m, row, weights) for m, row in zip(people.mass, masses.T)])
        muscle, weight = np.where(open_, tried, muscle), np.where(open_, reached, weight)
        open_ &= (people.mass < masses[0]) | (people.mass > masses[2])
    return at_height(muscle, weight)
