"""Multi-HMR against recordings of the official modules: parts, whole tiny networks, names of the state dicts."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from multihmr_golden import TINY_ANNY, TINY_SMPLX, arrays, close, patches_of, recorded, tiny_images

from annyfit_jax.regressors.layers import HostRandom
from annyfit_jax.regressors.multihmr import head_detection, multihmr_checkpoint, multihmr_model
from annyfit_jax.regressors.multihmr.multihmr_config import SMPLX_HEAD, HeadConfig, MultiHmrConfig, smplx_config
from annyfit_jax.regressors.rotation_layers import matrix_from_6d, rotvec_from_matrix
from annyfit_jax.regressors.vit import SIZES, VIT_L

pytestmark = pytest.mark.unoptimised


def test_rotation_layouts():
    found = arrays("camera_ops")
    six = jnp.asarray(found["rot6d_in"])
    close(matrix_from_6d(six)[..., 0, :, :], found["rot6d_anny"])
    close(multihmr_model.smplx_matrices(six)[..., 0, :, :], found["rot6d_smplx"])
    close(rotvec_from_matrix(jnp.asarray(found["rotmat"])), found["rotvec"], 1e-4)


def test_smplx_head():
    found = arrays("hph_smplx")
    weights = {f"x_attention_head.{key[2:]}": value for key, value in found.items() if key.startswith("w/")}
    head, channels, side = HeadConfig(32, 2, 4, 8, 48), 20, 6
    heads = weights["x_attention_head.transformer.transformer.layers.0.0.fn.to_qkv.weight"].shape[0] // 3 // 8
    assert heads == head.heads
    make = functools.partial(multihmr_model.SmplxHead, head, 10, channels, side)
    graph, shapes = nnx.split(nnx.eval_shape(lambda: make(rngs=HostRandom.of(None))))
    config = smplx_config()
    state, used = multihmr_checkpoint.fill(
        shapes, weights, lambda p: multihmr_checkpoint.torch_name(config, ("people", *p))
    )
    assert used == set(weights)
    patches, (image, slot) = patches_of(np.stack([found["idx_b"], found["idx_row"], found["idx_col"]]), 3, 4)
    queries = np.zeros((3, 4, channels), np.float32)
    queries[image, slot] = found["x_central"]
    context = jnp.asarray(found["feat_map"].transpose(0, 2, 3, 1))
    matrices, betas, cam, expression = nnx.merge(graph, state)(jnp.asarray(queries), context, patches)
    close(np.asarray(matrices)[image, slot][:, :1], found["out_global_orient"])
    close(np.asarray(matrices)[image, slot][:, 1:], found["out_body_pose"], 1e-4)
    close(np.asarray(betas)[image, slot], found["out_betas"])
    close(np.asarray(cam)[image, slot], found["cam"])
    close(np.asarray(expression)[image, slot], found["out_expression"])


# ------------------------------------------------------------------------------------------------ whole networks


@functools.cache
def run(config: MultiHmrConfig):
    @jax.jit
    def both(variables, images, patches, K):
        network = multihmr_model.bind(config, variables)
        seen = network.see(images)
        used = multihmr_model.intrinsics_of(config, seen, K)
        return seen, used, network.read(seen, patches, used)

    return both


@pytest.mark.parametrize("which", ["givenK", "ownK"])
def test_tiny_anny(which):
    found = arrays("tiny_anny")
    variables = recorded(TINY_ANNY, int(found["seed"]), {})
    patches, where = patches_of(found["idx"], 3, 4)
    K = jnp.asarray(found["K_given"]) if which == "givenK" else None
    images = tiny_images()
    seen, used, reading = run(TINY_ANNY)(variables, images, patches, K)
    close(seen.features, found[f"{which}/feat"])
    close(seen.scores, found[f"{which}/scores"])
    close(seen.logits, found[f"{which}/scores_logits"])
    close(seen.fov[:, None], found[f"{which}/fov_regressed"])
    close(used, found[f"{which}/K"])
    for ours, theirs in (
        ("loc", "loc"), ("offset", "offset"), ("distance", "dist"), ("raw_distance", "dist_postprocessed"),
        ("shape", "shape"), ("matrices", "rotmat"), ("transl", "transl"),
    ):  # fmt: skip
        close(np.asarray(getattr(reading, ours))[where], found[f"{which}/{theirs}"], 1e-4)
    close(rotvec_from_matrix(reading.matrices)[where], found[f"{which}/rotvec"], 1e-3)


def test_tiny_anny_detections():
    found = arrays("tiny_anny")
    patches = head_detection.detect(jnp.asarray(found["ownK/scores"]), float(found["det_thresh"]), 20)
    mine = {(b, int(patches.row[b, k]), int(patches.column[b, k])) for b, k in np.argwhere(np.asarray(patches.valid))}
    assert mine == set(zip(*found["det_idx"].tolist()))


def test_tiny_smplx():
    found = arrays("tiny_smplx")
    own = {key.removeprefix("init/"): value for key, value in found.items() if key.startswith("init/")}
    variables = recorded(TINY_SMPLX, int(found["seed"]), own)
    patches, where = patches_of(found["idx"][:3], 3, 4)
    images = tiny_images()
    seen, _, reading = run(TINY_SMPLX)(variables, images, patches, jnp.asarray(found["K"]))
    close(seen.scores[..., None], found["out/scores"])
    for ours, theirs in (
        ("loc", "loc"), ("offset", "offset"), ("distance", "dist"), ("raw_distance", "dist_postprocessed"),
        ("shape", "shape"), ("matrices", "rotmat"), ("transl", "transl"), ("expression", "expression"),
    ):  # fmt: skip
        close(np.asarray(getattr(reading, ours))[where], found[f"out/{theirs}"], 2e-4)


def test_published_sizes():
    """Millions of parameters as the specification lists them; the body model is not counted."""
    for body, size, millions in (
        ("anny", "l", 342.7), ("anny", "b", 123.8), ("anny", "s", 58.2), ("smplx", "l", 317.0), ("smplx", "s", 31.5),
    ):  # fmt: skip
        config = MultiHmrConfig(vit=SIZES[size]) if body == "anny" else smplx_config(vit=SIZES[size], head=SMPLX_HEAD)
        assert multihmr_model.parameter_count(config) / 1e6 == pytest.approx(millions, rel=0.01)
    assert VIT_L.depth == 24
