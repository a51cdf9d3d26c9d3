"""Multi-HMR against recordings of the official modules: parts, whole tiny networks, names of the state dicts."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded_weights
from flax import nnx
from multihmr_golden import TINY_ANNY, TINY_SMPLX, arrays, close, patches_of, recorded, table, tiny_images

from annyfit_jax.people.camera import project
from annyfit_jax.records.torch_files import CheckpointError, read_state_dict, write_state_dict
from annyfit_jax.regressors.aios.aios_checkpoint import to_ours, to_theirs
from annyfit_jax.regressors.layers import HostRandom
from annyfit_jax.regressors.multihmr import head_detection, multihmr_checkpoint, multihmr_model, ray_embedding, rig
from annyfit_jax.regressors.multihmr.multihmr_config import SMPLX_HEAD, HeadConfig, MultiHmrConfig, smplx_config
from annyfit_jax.regressors.multihmr.people_transformer import PeopleBlock
from annyfit_jax.regressors.rotation_layers import matrix_from_6d, rotvec_from_matrix
from annyfit_jax.regressors.vit import SIZES, VIT_L, VIT_S, Vit, position_table

# ------------------------------------------------------------------------------------------------ parts


def test_camera_formulas():
    found = arrays("camera_ops")
    close(ray_embedding.fourier(jnp.asarray(found["fourier_in"])), found["fourier_out"], 1e-4)
    K = jnp.asarray(found["K"])
    rows, columns = found["ray_embed"].shape[1:3]
    rays = ray_embedding.ray_embedding(K, rows, columns, 14)
    close(rays, found["ray_embed"], 2e-4)
    close(project(jnp.asarray(found["pts"]), K[:, None]), found["uv"])
    close(ray_embedding.unproject(jnp.asarray(found["uv"]), jnp.asarray(found["dist"]), K[:, None]), found["back"])
    close(ray_embedding.sine_table(16, 5).reshape(25, 16), found["pos_embed_2d"])


def test_distance_codes():
    found = arrays("camera_ops")
    size, focal = int(found["img_size"]), jnp.asarray(found["focal"])
    close(ray_embedding.relative_of_depth(jnp.asarray(found["depth"]), focal, size), found["target_nearness"])
    depth = ray_embedding.relative_to_depth(jnp.asarray(found["raw_dist"]), focal[:, None], size)
    close(depth, found["euclid_dist"])
    there = ray_embedding.relative_of_depth(jnp.asarray(found["depth"]), focal, size)
    close(ray_embedding.relative_to_depth(there[:, None], focal[:, None], size)[:, 0], found["depth"])


def test_rotation_layouts():
    found = arrays("camera_ops")
    six = jnp.asarray(found["rot6d_in"])
    close(matrix_from_6d(six)[..., 0, :, :], found["rot6d_anny"])
    close(multihmr_model.smplx_matrices(six)[..., 0, :, :], found["rot6d_smplx"])
    close(rotvec_from_matrix(jnp.asarray(found["rotmat"])), found["rotvec"], 1e-4)


def test_local_maxima():
    found = arrays("camera_ops")
    scores = jnp.asarray(found["nms_in"][:, 0])
    close(head_detection.suppress(scores), found["nms3"][:, 0])
    image, row, column, _ = found["nms_idx"]
    threshold = float(scores[image, row, column].min())
    patches = head_detection.detect(scores, threshold, 30)
    mine = {
        (b, int(r), int(c))
        for b in range(2)
        for r, c in zip(*(np.asarray(x[b])[patches.valid[b]] for x in patches[:2]))
    }
    assert mine == set(zip(image.tolist(), row.tolist(), column.tolist()))


def test_given_heads_keep_their_order():
    scores = jnp.arange(2 * 64.0).reshape(2, 8, 8) / 128
    heads = jnp.array([[[100.0, 3.0], [15.0, 60.0]], [[-5.0, 500.0], [0.0, 0.0]]])
    patches = head_detection.pinned(scores, heads, jnp.array([[True, True], [True, False]]), 14)
    assert patches.column.tolist() == [[7, 1], [0, 0]]
    assert patches.row.tolist() == [[0, 4], [7, 0]]
    close(patches.score[0], [7 / 128, 33 / 128])


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


def test_rig_is_the_official_one():
    found = table("anny_joints")
    assert list(rig.bones()) == found["bone_labels"]
    assert rig.predicted().astype(int).tolist() == [int(x) for x in found["rotation_predicted"]]
    assert rig.head() == found["person_center_index"]
    assert list(rig.SHAPE_ORDER) == found["shape_order_11"]
    six = rig.initial_rotations().reshape(-1, 6)
    np.testing.assert_array_equal(six[0], found["init_root_6d"])
    np.testing.assert_array_equal(six[1:], np.tile(found["init_other_6d"], (162, 1)))


def test_published_sizes():
    """Millions of parameters as the specification lists them; the body model is not counted."""
    for body, size, millions in (
        ("anny", "l", 342.7), ("anny", "b", 123.8), ("anny", "s", 58.2), ("smplx", "l", 317.0), ("smplx", "s", 31.5),
    ):  # fmt: skip
        config = MultiHmrConfig(vit=SIZES[size]) if body == "anny" else smplx_config(vit=SIZES[size], head=SMPLX_HEAD)
        assert multihmr_model.parameter_count(config) / 1e6 == pytest.approx(millions, rel=0.01)
    assert VIT_L.depth == 24
