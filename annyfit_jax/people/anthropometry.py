"""Sizes by age: Anny's bodies as measured, WHO and reference populations (`annyfit_jax/data/anthropometry.json`)."""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any

import numpy as np


@functools.cache
def tables() -> dict[str, Any]:
    """The whole file."""
    return json.loads((importlib.resources.files("annyfit_jax") / "data" / "anthropometry.json").read_text())


@functools.cache
def mean_height_phenotypes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Age phenotypes, increasing, and at each the height phenotype of the average male and female."""
    by_sex = {
        sex: sorted((row["age"], row["mean_height_phenotype"]) for row in tables()["rows"] if row["sex"] == sex)
        for sex in ("male", "female")
    }
    ages = np.array([age for age, _ in by_sex["male"]])
    male, female = (np.array([height for _, height in by_sex[sex]]) for sex in ("male", "female"))
    return ages, male, female
