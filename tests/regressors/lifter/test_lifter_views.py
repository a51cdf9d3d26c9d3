"""People drawn on the fly: the same seed gives the same people, and what is seen is what is to be learned."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs

from annyfit_jax.fit.second_order.columns import up
from annyfit_jax.lifting import lifter_rig
from annyfit_jax.lifting.lifter_features import line_of_sight
from annyfit_jax.lifting.lifter_rig import BONES, NUM_BONES
from annyfit_jax.regressors.lifter import lifter_views
from annyfit_jax.regressors.lifter.lifter_bank import SOURCES, Bank, load_bank
from annyfit_jax.regressors.lifter.lifter_views import LifterData
from body_models import anny

pytestmark = pytest.mark.unoptimised

PLAIN = dataclasses.replace(
    LifterData(), noise=(1e-6, 2e-6), wild=0.0, false_limb=0.0, swapped=1e-6, focal_guessed=0.0, facts=1.0, words=1.0,
    wrong_word=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def bank() -> Bank:
    rng = np.random.default_rng(5)
    limbs = np.array([name.startswith(("upper", "lower")) for name in BONES])
    pose = rng.normal(size=(40, NUM_BONES, 3)) * np.where(limbs, 0.4, 0.05)[:, None]
    ups = np.array([0.0, 0.0, 1.0]) + 0.2 * rng.normal(size=(40, 3))
    rows = tuple(jnp.arange(s, 40, 3) for s in range(3))
    ages = np.where(np.arange(40) % 3 == 2, np.arange(40) % 6, -1)
    unit = ups / np.linalg.norm(ups, axis=1, keepdims=True)
    return Bank(jnp.asarray(pose, jnp.float32), jnp.asarray(unit, jnp.float32), jnp.asarray(ages), rows)


@functools.cache
def compiled():
    rig = lifter_rig.load_rig(anny.load())

    @jax.jit
    def views(bank, seed):
        drawn = lifter_views.draw(PLAIN, bank, jax.random.key(seed), 64)
        return drawn, lifter_views.look(PLAIN, rig, drawn)

    return views


def test_a_seed_decides_everything(bank):
    (_, one), (_, again), (_, other) = (compiled()(bank, seed) for seed in (1, 1, 2))
    assert max_abs(one.seen.features, again.seen.features) == 0.0
    assert max_abs(one.root, other.root) > 0.5
    for leaf in jax.tree.leaves(one):
        assert np.isfinite(leaf).all()


def test_what_is_seen_is_the_true_body(bank):
    """Without noise, the keypoints are a near copy of the body that is to be learned, in the axes of the answer."""
    _, view = compiled()(bank, 3)
    true = np.asarray(lifter_rig.keypoints(view.segment, view.root[:, None], view.turns[:, None]))[:, 0]
    flat = np.asarray(view.seen.features[:, :34]).reshape(-1, 17, 2)
    seen = np.asarray(view.seen.features[:, 34:51]) > 0
    agreement = []
    for body, picture, mask in zip(true[..., :2], flat, seen, strict=True):
        a, b = (x[mask] - x[mask].mean(0) for x in (body, picture))
        agreement.append((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    # Perspective bends near people, and a few keypoints may be badly hidden.
    assert np.median(agreement) > 0.995
    assert np.quantile(agreement, 0.1) > 0.9


def test_gravity_and_words_are_told(bank):
    drawn, view = compiled()(bank, 4)
    features = np.asarray(view.seen.features)
    assert (features[:, 71:77].argmax(1) == np.asarray(view.age)).all()
    told_up = features[:, -4:-1]
    assert max_abs(np.linalg.norm(told_up, axis=1), np.ones(64)) < 1e-4
    # The body's own up, from the bank, stands within its small tilt of the world's.
    own_up = np.einsum("nij,nj->ni", np.asarray(view.root), np.asarray(drawn.up))
    assert np.degrees(np.arccos(np.clip((own_up * told_up).sum(1), -1, 1))).max() < 20.0


def test_cameras_look_down_as_the_fit_says():
    pitch, roll = jnp.asarray([0.3, -0.2]), jnp.asarray([0.1, -0.4])
    camera = lifter_views._about_z(roll) @ lifter_views._about_x(pitch)
    level = jnp.asarray(lifter_views._UPRIGHT) @ jnp.asarray([0.0, 0.0, 1.0])
    assert max_abs(camera @ level, up(pitch, roll).T) < 1e-6


def test_shares_are_probabilities():
    u = jnp.linspace(0.0, 0.999, 1000)
    found = np.bincount(np.asarray(lifter_views._by_share(u, (0.5, 0.2, 0.3))), minlength=3)
    assert np.abs(found - [500, 200, 300]).max() <= 1
    arc = lifter_views._shortest_arc_to_z(jnp.asarray([[0.0, 0.6, 0.8], [0.0, 0.0, -1.0]]))
    assert max_abs(arc @ jnp.asarray([0.0, 0.6, 0.8]), [[0.0, 0.0, 1.0], [0.0, -0.6, -0.8]]) < 1e-6
    assert line_of_sight(jnp.zeros((1, 2))).shape == (1, 3, 3)


def test_columns_are_handed_out_once():
    columns = lifter_views._Columns(jnp.arange(12.0).reshape(2, 6))
    assert columns.take().tolist() == [0.0, 6.0]
    assert columns.take(2, 2).shape == (2, 2, 2)
    with pytest.raises(ValueError, match="more random numbers"):
        columns.take(2)


def test_a_bank_of_other_bones_is_refused(tmp_path):
    arrays = {"bones": np.array(["tail"]), "held_out": np.zeros(1, bool)}
    np.savez(tmp_path / "bank.npz", allow_pickle=False, **arrays)
    with pytest.raises(ValueError, match="a bank of other bones"):
        load_bank(tmp_path / "bank.npz")
    with pytest.raises(ValueError, match="no bank of poses"):
        load_bank("")


def test_a_bank_is_split(tmp_path):
    arrays = {
        "bones": np.array(BONES), "held_out": np.array([False, True, False, True]), "source": np.array([0, 1, 2, 2]),
        "pose": np.zeros((4, NUM_BONES, 3)), "up": np.zeros((4, 3)), "age": np.array([-1, -1, 3, 4]),
    }  # fmt: skip
    np.savez(tmp_path / "bank.npz", allow_pickle=False, **arrays)
    train, kept = (load_bank(tmp_path / "bank.npz", held_out=out) for out in (False, True))
    assert [len(rows) for rows in train.rows] == [1, 0, 1]
    assert len(SOURCES) == len(train.rows)
    assert kept.age.tolist() == [-1, 4]
