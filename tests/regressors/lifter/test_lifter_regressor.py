"""The lifter under the trainer: losses at the truth, a few steps that learn, a run that is continued, figures that return."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REPO, max_abs

from annyfit_jax.lifting import lifter_network, lifter_weights
from annyfit_jax.lifting.lift import log_density
from annyfit_jax.lifting.lifter_config import LifterConfig
from annyfit_jax.lifting.lifter_features import NUM_FEATURES, Seen
from annyfit_jax.lifting.lifter_network import Lifted
from annyfit_jax.lifting.lifter_rig import BONES, NUM_BONES
from annyfit_jax.regressors.lifter import lifter_losses
from annyfit_jax.regressors.lifter.lifter_losses import LifterLoss
from annyfit_jax.regressors.lifter.lifter_regressor import LifterRegressor
from annyfit_jax.regressors.lifter.lifter_views import LifterData, View
from annyfit_jax.training.training_config import TrainConfig, load_config, override
from annyfit_jax.training.training_loop import train

pytestmark = pytest.mark.unoptimised

terms = jax.jit(lifter_losses.terms, static_argnums=2)
SMALL = LifterConfig(hypotheses=2, width=32, blocks=1)


def a_view(count: int) -> View:
    rng = np.random.default_rng(0)
    six = lambda *shape: lifter_network.from_six(jnp.asarray(rng.normal(size=(*shape, 6)), jnp.float32))  # noqa: E731
    return View(
        seen=Seen(jnp.zeros((count, NUM_FEATURES)), jnp.tile(jnp.eye(3), (count, 1, 1))),
        root=six(count),
        turns=six(count, NUM_BONES),
        segment=jnp.asarray(rng.normal(size=(count, 17, 1 + NUM_BONES, 3)) * 0.1, jnp.float32),
        height_m=jnp.ones(count),
        shape=jnp.asarray(rng.uniform(0.2, 0.8, (count, 6)), jnp.float32),
        age=jnp.arange(count) % 6,
    )


def said_of(view: View, spread: float) -> Lifted:
    """Two hypotheses: the truth, and the truth turned half about."""
    n = len(view.root)
    about = jnp.diag(jnp.asarray([-1.0, 1.0, -1.0]))
    return Lifted(
        root=jnp.stack([view.root, about @ view.root], 1),
        turns=jnp.stack([view.turns] * 2, 1),
        log_probability=jnp.log(jnp.tile(jnp.asarray([0.9, 0.1]), (n, 1))),
        log_spread=jnp.full((n, 2), jnp.log(spread)),
        age_logits=20.0 * jax.nn.one_hot(view.age, 6),
        gender_logit=20.0 * jnp.where(view.shape[:, 0] > 0.5, 1.0, -1.0),
        build=view.shape[:, 2:],
    )


def test_the_truth_costs_next_to_nothing():
    view = a_view(12)
    loss, values = terms(said_of(view, 0.05), view, LifterLoss(losers=0.0, probability=0.0))
    assert loss < 0.05  # distances have a floor of a millimetre
    assert values["nearest_mm"] < 2.0
    assert values["likeliest_mm"] < 2.0
    turned = dataclasses.replace(LifterLoss(), losers=0.0, probability=0.0)
    worse, _ = terms(said_of(view, 0.05)._replace(root=said_of(view, 0.05).root[:, ::-1]), view, turned)
    assert worse == pytest.approx(loss)  # the nearest hypothesis learns, whichever it is


def test_the_density_is_highest_for_the_right_spread_and_probability():
    distance = jnp.asarray([[0.05, 0.5]])
    weigh = lambda p, spread: log_density(distance, jnp.log(jnp.asarray([p])), jnp.log(jnp.asarray([spread])))  # noqa: E731
    right = weigh([0.9, 0.1], [0.05, 0.05])
    assert right > weigh([0.1, 0.9], [0.05, 0.05])
    assert right > weigh([0.9, 0.1], [0.2, 0.05])
    assert right > weigh([0.9, 0.1], [0.01, 0.05])


def test_rotations_of_six_numbers():
    six = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
    found = np.asarray(lifter_network.from_six(jnp.asarray(six)))
    assert max_abs(found @ np.swapaxes(found, 1, 2), np.tile(np.eye(3), (20, 1, 1))) < 1e-4
    assert (np.linalg.det(found) > 0.99).all()
    first = six[:, :3] / np.linalg.norm(six[:, :3], axis=1, keepdims=True)
    assert max_abs(found[..., 0], first) < 1e-5


def test_a_new_network_has_bodies_at_rest():
    variables = lifter_network.init(SMALL, jax.random.key(0))
    found = lifter_network.bind(SMALL, variables)(jnp.zeros((3, NUM_FEATURES)))
    assert found.turns.shape == (3, 2, NUM_BONES, 3, 3)
    assert max_abs(found.turns, np.broadcast_to(np.eye(3), found.turns.shape)) < 1e-5
    assert max_abs(jnp.exp(found.log_probability).sum(1), np.ones(3)) < 1e-6
    assert ((found.build > 0) & (found.build < 1)).all()


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainConfig:
    """The shipped config, smaller, on a bank of a few poses."""
    bank = tmp_path_factory.mktemp("lifter") / "bank.npz"
    rng = np.random.default_rng(2)
    arrays = {
        "bones": np.array(BONES), "held_out": np.zeros(30, bool), "source": np.arange(30) % 3,
        "pose": 0.2 * rng.normal(size=(30, NUM_BONES, 3)), "up": np.tile([0.0, 0.0, 1.0], (30, 1)),
        "age": np.full(30, -1),
    }  # fmt: skip
    np.savez(bank, allow_pickle=False, **arrays)
    whole = load_config(REPO / "experiments" / "configs" / "lifter.py")
    regressor = whole.regressor
    assert isinstance(regressor, LifterRegressor)
    small = dataclasses.replace(regressor, config=SMALL, people=4, data=LifterData(bank=str(bank)))
    return override(
        dataclasses.replace(whole, regressor=small), ["steps=4", "batch=4", "log_every=2", "checkpoint_every=2"]
    )


@pytest.mark.slow
def test_a_run_is_continued_where_it_stopped(config, tmp_path):
    whole = train(config, tmp_path / "whole")
    train(override(config, ["steps=2"]), tmp_path / "parts")
    parts = train(config, tmp_path / "parts")
    assert int(parts.step) == 4
    for name, value in whole.variables.items():
        assert max_abs(value, parts.variables[name]) < 1e-6


@pytest.mark.slow
def test_the_shipped_weights_reach_their_recorded_errors():
    from experiments.builders import build_lifter

    shipped, variables, about = lifter_weights.read_weights(lifter_weights.shipped())
    regressor = load_config(REPO / "experiments" / "configs" / "lifter.py").regressor
    assert isinstance(regressor, LifterRegressor)
    assert regressor.config == shipped
    found = build_lifter.errors_on_drawn(regressor, variables)
    recorded = about["drawn"]
    assert found["likeliest_mm"] == pytest.approx(recorded["likeliest_mm"], rel=0.01)
    assert found["nearest_mm"] == pytest.approx(recorded["nearest_mm"], rel=0.01)
    assert found["calibration_gap"] == pytest.approx(recorded["calibration_gap"], abs=0.02)
    random = lifter_network.init(shipped, jax.random.key(0))
    assert build_lifter.errors_on_drawn(regressor, random)["likeliest_mm"] > 2 * recorded["likeliest_mm"]
