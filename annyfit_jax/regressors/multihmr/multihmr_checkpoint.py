"""Names of the official PyTorch state dicts of Multi-HMR, and conversion in both directions.

    variables, unused = from_torch(config, read_state_dict("multiHMR_672_L_anny.pt"))
    write_state_dict("back.pt", to_torch(config, variables), entry="model_state_dict")

Some keys hold what is fixed by the architecture (position table, initial rotations, which rotations are used). They are
compared with ours, not read, so that a checkpoint of another rig is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from annyfit_jax.records.torch_files import CheckpointError
from annyfit_jax.regressors.aios.aios_checkpoint import fill, overwrite, to_theirs
from annyfit_jax.regressors.multihmr import ray_embedding, rig
from annyfit_jax.regressors.multihmr.multihmr_config import MultiHmrConfig
from annyfit_jax.regressors.multihmr.multihmr_model import graph_and_shapes
from body_models.anny import ANCHORS

ENTRY = "model_state_dict"
"""Where the official programs store the weights."""
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_SEQUENTIAL = {"0": "0", "1": "2"}
"""Layers of a perceptron among the modules of a `Sequential` with ReLU between."""
_VIT = {
    "patch_embed": "patch_embed.proj", "norm": "norm", "blocks.N.norm1": "blocks.N.norm1", "blocks.N.norm2": "blocks.N.norm2",
    "blocks.N.attn.qkv": "blocks.N.attn.qkv", "blocks.N.attn.proj": "blocks.N.attn.proj", "blocks.N.fc1": "blocks.N.mlp.fc1",
    "blocks.N.fc2": "blocks.N.mlp.fc2",
}  # fmt: skip
_VIT_VALUES = {
    "cls_token": "cls_token", "pos_embed": "pos_embed", "mask_token": "mask_token", "blocks.N.scale1": "blocks.N.ls1.gamma",
    "blocks.N.scale2": "blocks.N.ls2.gamma",
}  # fmt: skip
_BLOCK = {
    "norm1": "0.norm", "self_qkv": "0.fn.to_qkv", "self_out": "0.fn.to_out.0", "norm2": "1.norm", "cross_q": "1.fn.to_q",
    "cross_kv": "1.fn.to_kv", "cross_out": "1.fn.to_out.0", "norm3": "2.norm", "expand": "2.fn.net.0", "contract": "2.fn.net.3",
}  # fmt: skip
_ANNY_MLPS = {
    "detect": "encoder.mlp_det", "view": "encoder.mlp_fov_unique", "offset": "mlp_offset", "pose": "mlp_pose",
    "shape": "mlp_shape", "distance": "mlp_dist",
}  # fmt: skip
_SMPLX_MLPS = {"detect": "mlp_classif", "offset": "mlp_offset"}
_SMPLX_READOUTS = {
    "read_pose": "decpose", "read_shape": "decshape", "read_cam": "deccam", "read_expression": "decexpression",
    "to_token": "transformer.to_token_embedding",
}  # fmt: skip
_SMPLX_VALUES = {
    "query_x": "cross_queries_x", "query_y": "cross_queries_y", "value_x": "cross_values_x", "value_y": "cross_values_y",
    "initial_pose": "init_body_pose", "initial_betas": "init_betas", "initial_betas_kid": "init_betas_kid",
    "initial_cam": "init_cam", "initial_expression": "init_expression", "position": "transformer.pos_embedding",
}  # fmt: skip


def torch_name(config: MultiHmrConfig, path: tuple[Any, ...]) -> str:
    """The state dict key of a variable of the network. Raises KeyError for a variable without one."""
    parts = [str(part) for part in path]
    number = next((part for part in parts if part.isdigit()), "")
    first, rest, leaf = parts[0], ".".join(parts[1:]), parts[-1]
    anny = config.body == "anny"
    if first == "vit":
        prefix = "encoder.backbone." if anny else "backbone.encoder."
        general = re.sub(r"\.\d+\.", ".N.", rest)
        if general in _VIT_VALUES:
            return prefix + _VIT_VALUES[general].replace("N", number)
        return f"{prefix}{_VIT[general.rpartition('.')[0]]}.{_LEAVES[leaf]}".replace("N", number)
    if parts[-4:-3] == ["blocks"] or parts[:1] == ["blocks"]:
        layer, module = parts[-3], parts[-2]
        prefix = "decoder.transformer" if anny else "x_attention_head.transformer.transformer"
        return f"{prefix}.layers.{layer}.{_BLOCK[module]}.{_LEAVES[leaf]}"
    mlps = _ANNY_MLPS if anny else _SMPLX_MLPS
    if first in mlps:
        return f"{mlps[first]}.{_SEQUENTIAL[parts[2]]}.{_LEAVES[leaf]}"
    if anny and first == "to_token":
        return f"dec_to_token.{_LEAVES[leaf]}"
    if not anny and first == "people":
        if rest in _SMPLX_VALUES:
            return f"x_attention_head.{_SMPLX_VALUES[rest]}"
        return f"x_attention_head.{_SMPLX_READOUTS[parts[1]]}.{_LEAVES[leaf]}"
    raise KeyError(f"no PyTorch name for {'.'.join(parts)}")


def constants(config: MultiHmrConfig) -> dict[str, np.ndarray]:
    """Keys of the state dict that the architecture fixes, and their values (Anny variant)."""
    if config.body != "anny":
        return {}
    table = ray_embedding.sine_table(config.head.width, config.grid).reshape(-1, config.head.width)
    return {
        "eye": np.eye(3, dtype=np.float32)[None],
        "useful_rotmat": rig.predicted().astype(np.float32)[None],
        "dec_pos_emb": table.astype(np.float32),
        "init_body_pose": rig.initial_rotations()[None],
        "encoder.fov_max": np.array([np.pi], np.float32),
        **{f"body_model.anchors.{name}": np.asarray(ANCHORS[name], np.float32) for name in ANCHORS},
    }


def from_torch(config: MultiHmrConfig, arrays: Mapping[str, np.ndarray]) -> tuple[nnx.State, tuple[str, ...]]:
    """Variables of the network from an official state dict.

    Returns: the variables, and the keys that are no part of the network (body model), sorted.
    Raises: CheckpointError if a tensor is absent or of another shape, or a constant is not ours.
    """
    state, used = fill(graph_and_shapes(config)[1], arrays, lambda path: torch_name(config, path))
    for name, ours in constants(config).items():
        if name not in arrays:
            continue
        theirs = np.asarray(arrays[name], np.float32)
        if theirs.shape != ours.shape or not np.allclose(theirs, ours, atol=1e-5):
            raise CheckpointError(f"{name} is not that of this network: it was trained for another rig or size")
        used.add(name)
    return state, tuple(sorted(set(arrays) - used))


def to_torch(config: MultiHmrConfig, variables: nnx.State) -> dict[str, np.ndarray]:
    """The official state dict of the network; entries of the SMPL-X body model (`smpl_layer.*`) are not ours to give."""
    arrays = {
        torch_name(config, path): np.ascontiguousarray(to_theirs(np.asarray(variable.get_value()), str(path[-1])))
        for path, variable in nnx.to_flat_state(variables)
    }
    return arrays | constants(config)


def start_from(
    config: MultiHmrConfig, variables: nnx.State, arrays: Mapping[str, np.ndarray]
) -> tuple[nnx.State, tuple[str, ...], tuple[str, ...]]:
    """Overwrites variables by what another network has: a bare DINOv2, or Multi-HMR of another head.

    Returns: the variables, the names taken over, and the keys of `arrays` that were not used.
    Raises: CheckpointError if nothing fits.
    """
    bare = "cls_token" in arrays and "patch_embed.proj.weight" in arrays
    prefix = ("encoder.backbone." if config.body == "anny" else "backbone.encoder.") if bare else ""
    source = {prefix + key: value for key, value in arrays.items()}
    started, taken = overwrite(variables, source, lambda path: torch_name(config, path))
    return started, taken, tuple(sorted(set(source) - set(taken)))
