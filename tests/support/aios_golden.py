"""Access to the recorded numbers of AiOS, and networks filled with the recordings' weights."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import recorded_weights
from flax import nnx
from helpers import GOLDENS, read_only, require_shared

from annyfit_jax.regressors.aios import aios_checkpoint
from annyfit_jax.regressors.aios.aios_config import AiosConfig
from annyfit_jax.regressors.aios.aios_model import LayerOutput, graph_and_shapes
from annyfit_jax.regressors.aios.decoder import Denoising

LOCAL = GOLDENS / "aios"


def path(name: str) -> Path:
    """A file of the recordings: in the clone, or beside it (else the test is skipped)."""
    return LOCAL / name if (LOCAL / name).exists() else require_shared(Path("golden") / "aios" / name)


@functools.cache
def arrays(name: str) -> dict[str, np.ndarray]:
    return read_only(path(f"{name}.npz"))


@functools.cache
def table(name: str):
    return json.loads(path(f"{name}.json").read_text())


def under(prefix: str, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Entries below a prefix, which is taken off."""
    return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}


def fill_module(module_of, arrays_: dict[str, np.ndarray], place: tuple, prefix: str) -> nnx.Module:
    """A part of the network holding recorded weights.

    Args:
      module_of: makes the module.
      place: path of the module within the network, for the names.
      prefix: what the full names have before the recording's.
    """
    graph, shapes = nnx.split(nnx.eval_shape(module_of))
    named = {prefix + key: value for key, value in arrays_.items()}
    state, used = aios_checkpoint.fill(shapes, named, lambda p: aios_checkpoint.torch_name((*place, *p)))
    assert used == set(named)
    return nnx.merge(graph, state)


@functools.cache
def recorded_variables(config: AiosConfig, seed: int) -> nnx.State:
    """Variables of the network as the recordings had them."""

    def value(path, variable):
        leaf = str(path[-1])
        theirs = aios_checkpoint.to_theirs(np.broadcast_to(np.float32(0), variable.shape), leaf).shape
        made = recorded_weights.tensor(seed, aios_checkpoint.torch_name(path), theirs)
        return path, variable.replace(jnp.asarray(aios_checkpoint.to_ours(made, leaf)))

    return nnx.from_flat_state([value(p, v) for p, v in nnx.to_flat_state(graph_and_shapes(config)[1])])


def tiny_config(joints: bool, **changes) -> AiosConfig:
    """The configuration of `tiny_{aios,naive}_*.npz`."""
    small = {"feedforward": 64, "encoder_layers": 2, "queries": 24, "people": 6, "denoising": 6}
    return AiosConfig(**{"joints": joints, **small, **changes})


def images() -> tuple[jax.Array, jax.Array]:
    """The two pictures (batch, h, w, 3) of the small networks' recordings, and their padding."""
    found = arrays("tiny_picture")
    return jnp.asarray(found["image"].transpose(0, 2, 3, 1)), jnp.asarray(found["mask"])


def denoising(found: dict[str, np.ndarray]) -> Denoising:
    """Recorded denoising queries; people of image i make the groups of its queries."""
    count = found["dn_query"].shape[1]
    people = [found[f"gt_boxes{i}"].shape[0] for i in range(found["dn_query"].shape[0])]
    groups = np.stack([np.arange(count) // n for n in people])
    return Denoising(jnp.asarray(found["dn_query"]), jnp.asarray(found["dn_refpoint_unsig"]), jnp.asarray(groups))


def recorded_layout(output: LayerOutput) -> dict[str, jax.Array]:
    """One layer's outputs under the recordings' names and in their layout."""

    def joints(xy: jax.Array) -> jax.Array:
        constant = jnp.full(xy.shape[:-1], jax.nn.sigmoid(1.0))
        return jnp.concatenate([xy.reshape(*xy.shape[:2], -1), constant], axis=-1)

    named = {
        "pred_logits": output.logits, "pred_boxes": output.boxes, "dn_class_pred": output.denoising_logits,
        "dn_bbox_pred": output.denoising_boxes, "pred_lhand_boxes": output.left_hand_boxes,
        "pred_rhand_boxes": output.right_hand_boxes, "pred_face_boxes": output.face_boxes,
    }  # fmt: skip
    for name, xy in (
        ("pred_keypoints", output.body_joints),
        ("pred_lhand_keypoints", output.left_hand_joints),
        ("pred_rhand_keypoints", output.right_hand_joints),
        ("pred_face_keypoints", output.face_joints),
    ):
        named[name] = None if xy is None else joints(xy)
    if output.body is not None:
        rotations = output.body.rotations
        named |= {
            "pred_smpl_pose": rotations.body, "pred_smpl_lhand_pose": rotations.left_hand,
            "pred_smpl_rhand_pose": rotations.right_hand, "pred_smpl_jaw_pose": rotations.face,
            "pred_smpl_beta": output.body.shape, "pred_smpl_expr": output.body.expression,
            "pred_smpl_cam": output.body.camera,
        }  # fmt: skip
    return {name: value for name, value in named.items() if value is not None}


def recorded_outputs(outputs) -> dict[str, jax.Array]:
    """All outputs under the recordings' names: `aux0/...` to `aux4/...`, the last layer without prefix, `interm/...`."""
    named = {f"interm/{key}": value for key, value in recorded_layout(outputs.proposals).items()}
    for index, layer in enumerate(outputs.layers):
        prefix = "" if index == len(outputs.layers) - 1 else f"aux{index}/"
        named |= {prefix + key: value for key, value in recorded_layout(layer).items()}
    return named
