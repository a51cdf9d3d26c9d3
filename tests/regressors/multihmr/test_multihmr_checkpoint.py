"""State dicts of Multi-HMR: every key has a variable, there and back."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import recorded_weights
from flax import nnx
from multihmr_golden import TINY_ANNY, TINY_SMPLX, table

from annyfit_jax.records.torch_files import CheckpointError, read_state_dict, write_state_dict
from annyfit_jax.regressors.aios.aios_checkpoint import to_theirs
from annyfit_jax.regressors.multihmr import multihmr_checkpoint, multihmr_model
from annyfit_jax.regressors.multihmr.multihmr_config import MultiHmrConfig, smplx_config
from annyfit_jax.regressors.vit import VIT_S

# ------------------------------------------------------------------------------------------------ state dicts


CONFIGS = {
    "state_dict_keys": MultiHmrConfig(),
    "state_dict_keys_anny_vits": MultiHmrConfig(vit=VIT_S),
    "state_dict_keys_smplx_vitl": smplx_config(),
    "state_dict_keys_smplx_vits": smplx_config(vit=VIT_S),
    "tiny_anny_keys": TINY_ANNY,
    "tiny_smplx_keys": TINY_SMPLX,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_has_a_variable_and_every_variable_a_key(name):
    config, official = CONFIGS[name], table(name)
    if name == "state_dict_keys_smplx_vitl":
        grid = official["x_attention_head.cross_queries_x"][0]
        config = smplx_config(size=14 * grid)
    ours = {
        multihmr_checkpoint.torch_name(config, p): list(
            to_theirs(np.broadcast_to(np.float32(0), v.shape), str(p[-1])).shape
        )
        for p, v in nnx.to_flat_state(multihmr_model.graph_and_shapes(config)[1])
    }
    ours |= {key: list(value.shape) for key, value in multihmr_checkpoint.constants(config).items()}
    assert ours == official


def test_import_and_export(tmp_path):
    """Through a PyTorch file and back, bit for bit; constants are checked, foreign entries listed."""
    made = recorded_weights.fill(3, table("tiny_anny_keys"))
    made |= multihmr_checkpoint.constants(TINY_ANNY)
    made["body_model.other"] = np.zeros(3, np.float32)
    write_state_dict(tmp_path / "official.pt", made, entry=multihmr_checkpoint.ENTRY)
    variables, unused = multihmr_checkpoint.from_torch(
        TINY_ANNY, read_state_dict(tmp_path / "official.pt", multihmr_checkpoint.ENTRY)
    )
    assert unused == ("body_model.other",)
    back = multihmr_checkpoint.to_torch(TINY_ANNY, variables)
    assert set(back) == set(made) - set(unused)
    for key, value in back.items():
        np.testing.assert_array_equal(value, made[key], err_msg=key)


def test_another_rig_is_refused():
    made = recorded_weights.fill(3, table("tiny_anny_keys")) | multihmr_checkpoint.constants(TINY_ANNY)
    made["useful_rotmat"] = 1 - made["useful_rotmat"]
    with pytest.raises(CheckpointError, match="useful_rotmat is not that of this network"):
        multihmr_checkpoint.from_torch(TINY_ANNY, made)
    with pytest.raises(CheckpointError, match=r"mlp_dist.0.weight is absent"):
        multihmr_checkpoint.from_torch(TINY_ANNY, {k: v for k, v in made.items() if k != "mlp_dist.0.weight"})


def test_a_bare_backbone_is_a_start():
    variables = multihmr_model.init(TINY_ANNY, jax.random.key(0))
    prefix = "encoder.backbone."
    shapes = {k.removeprefix(prefix): v for k, v in table("tiny_anny_keys").items() if k.startswith(prefix)}
    started, taken, unused = multihmr_checkpoint.start_from(TINY_ANNY, variables, recorded_weights.fill(9, shapes))
    assert len(taken) == len(shapes)
    assert unused == ()
    np.testing.assert_array_equal(started["vit"]["cls_token"][...], recorded_weights.fill(9, shapes)["cls_token"])
    np.testing.assert_array_equal(started["to_token"]["kernel"][...], variables["to_token"]["kernel"][...])
