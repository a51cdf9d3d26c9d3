"""The weights that ship: they are small, they load, they say what they were trained on, and a written file is read back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs

from annyfit_jax.lifting import lifter_network, lifter_weights
from annyfit_jax.lifting.lifter_config import LifterConfig
from annyfit_jax.lifting.lifter_features import NUM_FEATURES

SMALL = LifterConfig(hypotheses=2, width=16, blocks=1)


def test_shipped_weights_are_small_and_tell_their_origin():
    assert lifter_weights.shipped().stat().st_size < 5e6
    config, variables, about = lifter_weights.read_weights(lifter_weights.shipped())
    assert config == LifterConfig()
    assert sum(x.size for x in jax.tree.leaves(variables)) > 1e6
    assert "CMU Graphics Lab" in about["licence"]
    assert set(about["held_out"]) == {"subjects", "activities", "postures"}


def test_a_written_file_is_read_back(tmp_path):
    variables = lifter_network.init(SMALL, jax.random.key(1))
    lifter_weights.write_weights(tmp_path / "small.npz", SMALL, variables, {"steps": 3})
    config, again, about = lifter_weights.read_weights(tmp_path / "small.npz")
    assert config == SMALL
    assert about == {"steps": 3}
    features = jnp.asarray(np.random.default_rng(0).normal(size=(5, NUM_FEATURES)), jnp.float32)
    one, other = (lifter_network.bind(SMALL, v)(features) for v in (variables, again))
    for a, b in zip(one, other, strict=True):
        assert max_abs(a, b) < 2e-2  # float16


def test_weights_of_another_network_are_refused(tmp_path):
    wide = LifterConfig(hypotheses=2, width=32, blocks=1)
    lifter_weights.write_weights(tmp_path / "wrong.npz", SMALL, lifter_network.init(wide, jax.random.key(1)), {})
    with pytest.raises(ValueError, match=r"wrong.npz: expected .* of shape"):
        lifter_weights.read_weights(tmp_path / "wrong.npz")


def test_impossible_networks_are_refused():
    with pytest.raises(ValueError, match="hypotheses must be at least 1"):
        LifterConfig(hypotheses=0)
