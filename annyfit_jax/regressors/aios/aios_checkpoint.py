"""Names of the official PyTorch state dicts, and conversion in both directions.

    state, unused = from_torch(config, read_state_dict("aios_checkpoint.pth"))
    write_state_dict("back.pth", to_torch(config, state))

Of the 1227 keys of AiOS many name one tensor: the heads are listed a second time under `transformer.decoder.`, and the
size heads of joints once per layer. A linear kernel is the transpose of PyTorch's; a convolution's goes from
(out, in, h, w) to (h, w, in, out).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from annyfit_jax.records.torch_files import CheckpointError
from annyfit_jax.regressors.aios.aios_config import AiosConfig
from annyfit_jax.regressors.aios.aios_model import graph_and_shapes

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}

_DEFORMABLE = {
    "offsets": "sampling_offsets", "weights": "attention_weights", "value": "value_proj", "output": "output_proj",
}  # fmt: skip
_FEEDFORWARD = {"expand": "linear1", "contract": "linear2"}
_NEW_TOKENS = {
    "body_joints": ("keypoint_embed", "hw"),
    "left_hand": ("lhand_box_embed", "hw_lhand_bbox"),
    "right_hand": ("rhand_box_embed", "hw_rhand_bbox"),
    "face": ("face_box_embed", "hw_face_bbox"),
    "left_hand_joints": ("lhand_keypoint_embed", "hw_lhand_kps"),
    "right_hand_joints": ("rhand_keypoint_embed", "hw_rhand_kps"),
    "face_joints": ("face_keypoint_embed", "hw_face_kps"),
}
_HEADS = {
    "classes": "class_embed",
    "person": "bbox_embed",
    "hand_centre": "bbox_hand_embed",
    "hand_size": "bbox_hand_hw_embed",
    "face_centre": "bbox_face_embed",
    "face_size": "bbox_face_hw_embed",
    "body_joint_centre": "pose_embed",
    "hand_joint_centre": "pose_hand_embed",
    "face_joint_centre": "pose_face_embed",
    "body_joint_size": "pose_hw_embed",
    "hand_joint_size": "pose_hand_hw_embed",
    "face_joint_size": "pose_face_hw_embed",
}
_SHARED_HEADS = {"pose_hw_embed": 4, "pose_hand_hw_embed": 2, "pose_face_hw_embed": 2}
"""Heads that the state dict lists once for each layer that uses them."""
_BODY_HEADS = {
    "body": "smpl_pose_embed", "shape": "smpl_beta_embed", "camera": "smpl_cam_embed", "hand": "smpl_hand_pose_embed",
    "face": "smpl_jaw_embed", "expression": "smpl_expr_embed",
}  # fmt: skip


def _one_of(table: Mapping[str, Any]) -> str:
    return "(" + "|".join(sorted(table, key=len, reverse=True)) + ")"


_RULES: tuple[tuple[str, Callable[[re.Match], str]], ...] = tuple(
    (pattern, function)
    for pattern, function in (
        (r"backbone\.stem", lambda m: "backbone.0.body.conv1"),
        (r"backbone\.stem_norm", lambda m: "backbone.0.body.bn1"),
        (r"backbone\.stages\.(\d)\.(\d+)\.conv(\d)", lambda m: f"backbone.0.body.layer{int(m[1]) + 1}.{m[2]}.conv{m[3]}"),
        (r"backbone\.stages\.(\d)\.(\d+)\.norm(\d)", lambda m: f"backbone.0.body.layer{int(m[1]) + 1}.{m[2]}.bn{m[3]}"),
        (
            r"backbone\.stages\.(\d)\.(\d+)\.shortcut(_norm)?",
            lambda m: f"backbone.0.body.layer{int(m[1]) + 1}.{m[2]}.downsample.{1 if m[3] else 0}",
        ),
        (r"input_levels\.projections\.(\d)\.conv", lambda m: f"input_proj.{m[1]}.0"),
        (r"input_levels\.projections\.(\d)\.norm", lambda m: f"input_proj.{m[1]}.1"),
        (r"level_embedding", lambda m: "transformer.level_embed"),
        (r"label_embedding", lambda m: "label_enc.weight"),
        (
            rf"encoder\.layers\.(\d+)\.attention\.{_one_of(_DEFORMABLE)}",
            lambda m: f"transformer.encoder.layers.{m[1]}.self_attn.{_DEFORMABLE[m[2]]}",
        ),
        (r"encoder\.layers\.(\d+)\.norm(\d)", lambda m: f"transformer.encoder.layers.{m[1]}.norm{m[2]}"),
        (
            rf"(encoder|decoder)\.layers\.(\d+)\.feedforward\.{_one_of(_FEEDFORWARD)}",
            lambda m: f"transformer.{m[1]}.layers.{m[2]}.{_FEEDFORWARD[m[3]]}",
        ),
        (r"two_stage\.project", lambda m: "transformer.enc_output"),
        (r"two_stage\.norm", lambda m: "transformer.enc_output_norm"),
        (r"two_stage\.classes", lambda m: "transformer.enc_out_class_embed"),
        (r"two_stage\.box\.layers\.(\d)", lambda m: f"transformer.enc_out_bbox_embed.layers.{m[1]}"),
        (
            rf"decoder\.layers\.(\d)\.cross_attention\.{_one_of(_DEFORMABLE)}",
            lambda m: f"transformer.decoder.layers.{m[1]}.cross_attn.{_DEFORMABLE[m[2]]}",
        ),
        (r"decoder\.layers\.(\d)\.self_attention\.output", lambda m: f"transformer.decoder.layers.{m[1]}.self_attn.out_proj"),
        (r"decoder\.layers\.(\d)\.cross_norm", lambda m: f"transformer.decoder.layers.{m[1]}.norm1"),
        (r"decoder\.layers\.(\d)\.self_norm", lambda m: f"transformer.decoder.layers.{m[1]}.norm2"),
        (r"decoder\.layers\.(\d)\.feedforward_norm", lambda m: f"transformer.decoder.layers.{m[1]}.norm3"),
        (r"decoder\.norm", lambda m: "transformer.decoder.norm"),
        (r"decoder\.position\.layers\.(\d)", lambda m: f"transformer.decoder.ref_point_head.layers.{m[1]}"),
        (rf"decoder\.token_content\.{_one_of(_NEW_TOKENS)}", lambda m: f"transformer.decoder.{_NEW_TOKENS[m[1]][0]}.weight"),
        (rf"decoder\.token_size\.{_one_of(_NEW_TOKENS)}", lambda m: f"transformer.decoder.{_NEW_TOKENS[m[1]][1]}.weight"),
        (rf"heads\.{_one_of(_HEADS)}\.(\d)(\.layers\.\d)?", lambda m: f"{_HEADS[m[1]]}.{m[2]}{m[3] or ''}"),
        (rf"heads\.{_one_of(_HEADS)}(\.layers\.\d)", lambda m: f"{_HEADS[m[1]]}.0{m[2]}"),
        (rf"body_heads\.(\d)\.{_one_of(_BODY_HEADS)}\.layers\.(\d)", lambda m: f"{_BODY_HEADS[m[2]]}.{m[1]}.layers.{m[3]}"),
    )
)  # fmt: skip


def torch_name(path: Iterable[Any]) -> str:
    """The state dict key of a variable of the network, the first one where several keys name it."""
    dotted = ".".join(str(part) for part in path)
    packed = re.fullmatch(r"decoder\.layers\.(\d)\.self_attention\.input\.(kernel|bias)", dotted)
    if packed:  # queries, keys and values in one matrix, which PyTorch does not count as a layer
        return f"transformer.decoder.layers.{packed[1]}.self_attn.in_proj_{_LEAVES[packed[2]]}"
    module, _, leaf = dotted.rpartition(".")
    for pattern, function in _RULES:
        if match := re.fullmatch(pattern, dotted):
            return function(match)
        if leaf in _LEAVES and (match := re.fullmatch(pattern, module)):
            return f"{function(match)}.{_LEAVES[leaf]}"
    raise KeyError(f"no PyTorch name for {dotted}")


def aliases(name: str) -> list[str]:
    """All keys under which the official state dict lists the tensor `name`, itself first."""
    head, _, rest = name.partition(".")
    names = [name]
    if head in _SHARED_HEADS:
        names = [f"{head}.{index}.{rest.partition('.')[2]}" for index in range(_SHARED_HEADS[head])]
    if head in _HEADS.values():
        names += [f"transformer.decoder.{key}" for key in names]
    return names


def to_ours(value: np.ndarray, leaf: str) -> np.ndarray:
    """An array in PyTorch's layout in ours."""
    if leaf != "kernel":
        return value
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def to_theirs(value: np.ndarray, leaf: str) -> np.ndarray:
    """The inverse of `to_ours`."""
    if leaf != "kernel":
        return value
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T


# ------------------------------------------------------------------------------------------------ conversion


def fill(
    shapes: nnx.State, arrays: Mapping[str, np.ndarray], name_of: Callable[[tuple], str] = torch_name
) -> tuple[nnx.State, set[str]]:
    """Variables of the given shapes from named arrays in PyTorch's layout.

    Args:
      shapes: variables with or without values.
      arrays: key -> array.
      name_of: path of a variable -> its key.

    Returns: the variables (float32), and the keys used.
    Raises: CheckpointError naming every key that is absent or of another shape.
    """
    filled, used, wrong = [], set(), []
    for path, variable in nnx.to_flat_state(shapes):
        name = name_of(path)
        value = arrays.get(name)
        if value is None:
            wrong.append(f"{name} is absent")
            continue
        value = to_ours(value, str(path[-1]))
        if value.shape != variable.shape:
            wrong.append(f"{name} has shape {value.shape}, expected {variable.shape} after conversion")
            continue
        filled.append((path, variable.replace(jnp.asarray(value, jnp.float32))))
        used.add(name)
    if wrong:
        raise CheckpointError(
            "the state dict does not fit: " + "; ".join(wrong[:8]) + (" ..." if len(wrong) > 8 else "")
        )
    return nnx.from_flat_state(filled), used


def from_torch(config: AiosConfig, arrays: Mapping[str, np.ndarray]) -> tuple[nnx.State, tuple[str, ...]]:
    """Variables of the network from an official state dict.

    Returns: the variables, and the keys that are no part of the network (body model, counters of batches), sorted.
    Raises: CheckpointError if a tensor is absent or of another shape, or if two keys of one tensor hold different values.
    """
    _check_official(config)
    state, used = fill(graph_and_shapes(config)[1], arrays)
    for name in tuple(used):
        for alias in aliases(name)[1:]:
            if alias in arrays:
                if not np.array_equal(arrays[alias], arrays[name]):
                    raise CheckpointError(f"{alias} and {name} are one tensor of the network, but differ")
                used.add(alias)
    return state, tuple(sorted(set(arrays) - used))


def to_torch(config: AiosConfig, variables: nnx.State) -> dict[str, np.ndarray]:
    """The official state dict of the network, every key included; keys of one tensor share one array."""
    _check_official(config)
    arrays = {}
    for path, variable in nnx.to_flat_state(variables):
        value = np.ascontiguousarray(to_theirs(np.asarray(variable.get_value()), str(path[-1])))
        arrays.update(dict.fromkeys(aliases(torch_name(path)), value))
    return arrays


def start_from(
    variables: nnx.State, arrays: Mapping[str, np.ndarray]
) -> tuple[nnx.State, tuple[str, ...], tuple[str, ...]]:
    """Overwrites variables by what another network has under the same names: ED-Pose, or a torchvision ResNet-50.

    Args:
      variables: of the network, initialised.
      arrays: state dict of ED-Pose (names as in AiOS) or of a bare torchvision ResNet.

    Returns: the variables, the names taken over, and the keys of `arrays` that were not used.
    Raises: CheckpointError if nothing fits.
    """
    if "conv1.weight" in arrays and "layer1.0.conv1.weight" in arrays:
        prefix = "backbone.0.body."
    else:
        prefix = ""
    source = {prefix + key: value for key, value in arrays.items()}
    started, taken = overwrite(variables, source, torch_name)
    used = {alias for name in taken for alias in aliases(name)}
    return started, taken, tuple(sorted(set(source) - used))


def overwrite(
    variables: nnx.State, source: Mapping[str, np.ndarray], name_of: Callable[[tuple], str]
) -> tuple[nnx.State, tuple[str, ...]]:
    """Variables with those replaced that the source has under their name and in their shape, and the names taken over.

    Raises: CheckpointError if there is none.
    """
    result, taken = [], []
    for path, variable in nnx.to_flat_state(variables):
        name = name_of(path)
        value = source.get(name)
        value = None if value is None else to_ours(value, str(path[-1]))
        if value is not None and value.shape == variable.shape:
            variable = variable.replace(jnp.asarray(value, jnp.float32))
            taken.append(name)
        result.append((path, variable))
    if not taken:
        raise CheckpointError("no tensor of the checkpoint has a name and shape of this network")
    return nnx.from_flat_state(result), tuple(taken)


def _check_official(config: AiosConfig) -> None:
    if config.body.name != "smplx" or config.all_stages:
        raise CheckpointError("official state dicts are of networks with SMPL-X heads in stages 2 and 3")
