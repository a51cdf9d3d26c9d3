"""The vision transformer against the public DINOv2, by recorded numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import recorded_weights
from flax import nnx
from multihmr_golden import arrays, close

from annyfit_jax.regressors.aios.aios_checkpoint import to_ours, to_theirs
from annyfit_jax.regressors.layers import HostRandom
from annyfit_jax.regressors.multihmr import multihmr_checkpoint
from annyfit_jax.regressors.multihmr.multihmr_config import MultiHmrConfig
from annyfit_jax.regressors.vit import VIT_S, Vit, position_table


def test_vit_small():
    found = arrays("vits_forward")
    vit = nnx.eval_shape(lambda: Vit(VIT_S, rngs=HostRandom.of(None)))
    graph, shapes = nnx.split(vit)
    config = MultiHmrConfig(vit=VIT_S)
    seed = int(found["seed"])

    def value(place, variable):
        name = multihmr_checkpoint.torch_name(config, ("vit", *place)).removeprefix("encoder.backbone.")
        theirs = to_theirs(np.broadcast_to(np.float32(0), variable.shape), str(place[-1])).shape
        return place, variable.replace(
            jnp.asarray(to_ours(recorded_weights.tensor(seed, name, theirs), str(place[-1])))
        )

    state = nnx.from_flat_state([value(p, v) for p, v in nnx.to_flat_state(shapes)])
    filled = nnx.merge(graph, state)
    close(position_table(filled.pos_embed[...], 9)[..., ::16], found["pos_embed_interp_every16"])
    picture = 4 * np.random.RandomState(seed).rand(1, 3, 126, 126) - 2  # as the recording's was made
    images = jnp.asarray(picture.transpose(0, 2, 3, 1), jnp.float32)
    whole, features = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, images)
    close(features.reshape(1, 81, -1), found["patch_tokens"], 1e-4)
    close(whole, found["cls_token"], 1e-4)
