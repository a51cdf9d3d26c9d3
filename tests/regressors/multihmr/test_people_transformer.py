"""The cross-attention of people against recordings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from multihmr_golden import arrays, close

from annyfit_jax.regressors.layers import HostRandom
from annyfit_jax.regressors.multihmr import multihmr_checkpoint
from annyfit_jax.regressors.multihmr.multihmr_config import HeadConfig
from annyfit_jax.regressors.multihmr.people_transformer import PeopleBlock


def test_people_transformer():
    found = arrays("hph_anny")
    config = HeadConfig(32, 2, 4, 8, 64)
    heads = found["w/transformer.layers.0.0.fn.to_qkv.weight"].shape[0] // 3 // 8
    assert heads == config.heads
    x, valid = jnp.asarray(found["x"]), jnp.asarray(found["mask"] > 0.5)
    for layer in range(2):
        graph, shapes = nnx.split(nnx.eval_shape(lambda: PeopleBlock(config, 32, rngs=HostRandom.of(None))))
        named = {
            key.removeprefix(f"w/transformer.layers.{layer}."): v for key, v in found.items() if key.startswith("w/")
        }
        state, used = multihmr_checkpoint.fill(
            shapes,
            named,
            lambda p: f"{multihmr_checkpoint._BLOCK[str(p[-2])]}.{multihmr_checkpoint._LEAVES[str(p[-1])]}",
        )
        assert len(used) == 17
        x = nnx.merge(graph, state)(x, valid, jnp.asarray(found["context"]))
    mask = np.asarray(valid)
    close(np.asarray(x)[mask], found["out"][mask])


def test_padded_people_change_nothing():
    block = PeopleBlock(HeadConfig(32, 1, 4, 8, 64), 16, rngs=HostRandom.of(jax.random.key(0)))
    x, context = (jax.random.normal(jax.random.key(k), s) for k, s in enumerate(((1, 3, 32), (1, 25, 16))))
    alone = block(x[:, :2], jnp.ones((1, 2), bool), context)
    padded = block(x.at[:, 2].set(1e3), jnp.array([[True, True, False]]), context)
    close(padded[:, :2], alone)
    assert bool(jnp.isfinite(block(x, jnp.zeros((1, 3), bool), context)).all())
