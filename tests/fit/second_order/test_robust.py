"""The robust weight and weighted medians."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs

from annyfit_jax.fit.second_order import robust


@pytest.mark.parametrize("width", [0.5, 3.0])
def test_the_robust_weight_is_twice_the_derivative_and_majorises(x64, width):
    s = jnp.array([0.0, 0.1, 1.0, 30.0])
    value, weight = robust.geman_mcclure(s, width)
    slope = jax.vmap(jax.grad(lambda t: robust.geman_mcclure(t, width)[0]))(s)
    assert max_abs(weight, 2 * slope) < 1e-12
    other = jnp.linspace(0, 50, 101)[:, None]
    assert (robust.geman_mcclure(other, width)[0] <= value + 0.5 * weight * (other - s) + 1e-12).all()


def test_weighted_medians(x64):
    rng = np.random.default_rng(1)
    values, weight = rng.normal(size=(9, 20)), rng.integers(0, 3, (9, 20)).astype(float)
    got = np.asarray(robust.weighted_median(jnp.asarray(values), jnp.asarray(weight)))
    for n in range(20):
        repeated = np.sort(np.repeat(values[:, n], weight[:, n].astype(int)))
        assert got[n] == (repeated[(len(repeated) - 1) // 2] if len(repeated) else 0.0)
