"""Building blocks of AiOS against recordings of the published modules (`goldens/aios`, float32 on a CPU).

Tolerances of all `test_aios_*` files: 1e-4 absolute for values of order one, 1e-4 of its norm for a gradient. Where a test
has another one it says why.
"""

from __future__ import annotations

import aios_golden as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs

from annyfit_jax.regressors import rotation_layers
from annyfit_jax.regressors.aios import (
    attention,
    deformable,
    loss_terms,
    positions,
    relative_boxes,
    tokens,
    weak_perspective,
)
from annyfit_jax.regressors.aios.aios_config import AiosConfig, naive
from annyfit_jax.regressors.aios.backbone import Bottleneck, FrozenNorm, InputProjection
from annyfit_jax.regressors.aios.decoder import DecoderLayer
from annyfit_jax.regressors.aios.encoder import EncoderLayer
from annyfit_jax.regressors.layers import HostRandom, Mlp
from body_models.rotations import rotvec_to_matrix

TOLERANCE = 1e-4
SMALL = AiosConfig(width=32, heads=4, feedforward=48)


def no_draws() -> HostRandom:
    return HostRandom.of(None)


def sizes_of(found: dict[str, np.ndarray], key: str = "spatial_shapes") -> list[tuple[int, int]]:
    return [(int(h), int(w)) for h, w in found[key]]


def images_last(x: np.ndarray) -> jax.Array:
    """(n, c, h, w) to (n, h, w, c)."""
    return jnp.asarray(x.transpose(0, 2, 3, 1))


# ------------------------------------------------------------------------------------------------ deformable attention


@pytest.mark.parametrize("step_bytes", [2**30, 12_000, 1], ids=["one step", "steps with a rest", "one query a step"])
def test_sampling_and_its_gradients(step_bytes):
    found = golden.arrays("msda")
    inputs = [jnp.asarray(found[f"core_{key}"]) for key in ("value", "loc", "attn")]
    result, vjp = jax.vjp(lambda v, x, a: deformable.sample(v, x, a, sizes_of(found), step_bytes), *inputs)
    assert max_abs(result.reshape(2, 6, 32), found["core_out"]) < TOLERANCE
    for gradient, key in zip(vjp(jnp.asarray(found["core_grad_out"]).reshape(result.shape)), ("value", "loc", "attn")):
        expected = found[f"core_grad_{key}"]
        assert max_abs(gradient, expected) < TOLERANCE * np.linalg.norm(expected), key


def test_sampling_equals_plain_bilinear_interpolation():
    """One level, one head, one point: numpy interpolation of an image with a border of zeros."""
    rng = np.random.default_rng(0)
    h, w = 5, 7
    value = rng.normal(size=(h, w)).astype(np.float32)
    where = rng.uniform(-0.3, 1.3, (40, 2)).astype(np.float32)
    framed = np.pad(value, 1).astype(np.float64)
    expected = []
    for x, y in where * [w, h] + 0.5:  # pixel index in the framed image
        x, y = np.clip(x, 0, w + 1 - 1e-9), np.clip(y, 0, h + 1 - 1e-9)
        j, i = int(x), int(y)
        a, b = x - j, y - i
        expected.append(
            (1 - b) * ((1 - a) * framed[i, j] + a * framed[i, j + 1])
            + b * ((1 - a) * framed[i + 1, j] + a * framed[i + 1, j + 1])
        )
    got = deformable.sample(
        jnp.asarray(value).reshape(1, -1, 1, 1), jnp.asarray(where).reshape(1, 40, 1, 1, 1, 2), jnp.ones((1, 40, 1, 1, 1)),
        [(h, w)],
    )  # fmt: skip
    np.testing.assert_allclose(got.ravel(), expected, atol=1e-5)


def test_steps_bound_the_memory():
    """What XLA reserves for 4000 queries: in steps an eighth of the naive gather, forward and backward."""
    sizes = [(40, 60), (20, 30), (10, 15), (5, 8)]
    cells = sum(h * w for h, w in sizes)
    shapes = [(1, cells, 8, 32), (1, 4000, 8, 4, 4, 2), (1, 4000, 8, 4, 4)]
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def reserved(step_bytes: int, gradient: bool) -> int:
        def total(value: jax.Array, locations: jax.Array, weights: jax.Array) -> jax.Array:
            return jnp.square(deformable.sample(value, locations, weights, sizes, step_bytes)).sum()

        function = jax.grad(total, argnums=(0, 1, 2)) if gradient else total
        analysis = jax.jit(function).lower(*inputs).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    gathered = 4000 * 8 * 16 * 4 * 32 * 4
    assert reserved(2**40, False) > gathered
    assert reserved(gathered // 32, False) < gathered / 6
    assert reserved(gathered // 32, True) < gathered / 5


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="do not fit sizes"):
        deformable.sample(jnp.zeros((1, 5, 1, 1)), jnp.zeros((1, 1, 1, 1, 1, 2)), jnp.zeros((1, 1, 1, 1, 1)), [(2, 2)])


@pytest.mark.parametrize("case", ["ref2", "ref2_nomask", "ref4"])
def test_deformable_attention(case):
    found = golden.arrays("msda")
    module = golden.fill_module(
        lambda: deformable.DeformableAttention(32, 4, 3, 2, rngs=no_draws()), golden.under("w/", found),
        ("encoder", "layers", 0, "attention"), "transformer.encoder.layers.0.self_attn.",
    )  # fmt: skip
    references = jnp.asarray(found[case.removesuffix("_nomask")])
    padding = None if case.endswith("nomask") else jnp.asarray(found["padding_mask"])
    got = module(jnp.asarray(found["query"]), references, jnp.asarray(found["memory"]), padding, sizes_of(found))
    assert max_abs(got, found[f"out_{case}"]) < TOLERANCE


def test_first_offsets():
    expected = golden.arrays("msda")["init_sampling_offsets_bias"]
    assert max_abs(deformable.head_directions(8, 4, 4), expected) < 1e-5


# ------------------------------------------------------------------------------------------------ embeddings, positions


def test_image_embedding():
    found = golden.arrays("embeddings")
    got = positions.image_embedding(jnp.asarray(found["pe_mask"]), 256)
    assert max_abs(got.transpose(0, 3, 1, 2), found["pe_out"]) < TOLERANCE


@pytest.mark.parametrize("numbers", [2, 4])
def test_box_embedding(numbers):
    found = golden.arrays("embeddings")
    got = positions.box_embedding(jnp.asarray(found[f"qpe_in{numbers}"]), 256)
    assert max_abs(got, found[f"qpe_out{numbers}"]) < TOLERANCE


def test_inverse_sigmoid():
    found = golden.arrays("embeddings")
    assert max_abs(relative_boxes.inverse_sigmoid(jnp.asarray(found["invsig_in"])), found["invsig_out"]) < 1e-5


def level_masks() -> tuple[list[jax.Array], list[tuple[int, int]]]:
    found = golden.arrays("embeddings")
    sizes = [found[f"maskdown{level}"].shape[1:] for level in range(4)]
    return [positions.level_mask(jnp.asarray(found["mask_full"]), size) for size in sizes], sizes


def test_masks_and_valid_ratios():
    found = golden.arrays("embeddings")
    for level, (mask, (h, w)) in enumerate(zip(*level_masks())):
        np.testing.assert_array_equal(mask, found[f"maskdown{level}"])
        ratio = positions.valid_counts(mask) / jnp.array([w, h])
        assert max_abs(ratio, found[f"valid_ratio{level}"]) < 1e-6


def test_encoder_references():
    found = golden.arrays("embeddings")
    masks, sizes = level_masks()
    valid = jnp.stack([positions.valid_counts(mask) for mask in masks], axis=1)
    assert max_abs(positions.encoder_references(valid, sizes), found["enc_ref_points"]) < TOLERANCE


@pytest.mark.parametrize("case", ["prop", "propwide"])
def test_proposals(case):
    """Invalid ones are infinite in both; valid ones agree."""
    found = golden.arrays("embeddings")
    if case == "prop":
        masks, sizes = level_masks()
        valid = jnp.stack([positions.valid_counts(mask) for mask in masks], axis=1)
        padding = jnp.asarray(found["prop_mask"])
    else:  # one tall level without padding, whose first and last rows are invalid
        sizes, padding = [(60, 4)], jnp.zeros((1, 240), bool)
        valid = jnp.array([[[4.0, 60.0]]])
    got, usable = positions.proposals(valid, padding, sizes)
    expected = found[f"{case}_out"]
    np.testing.assert_array_equal(np.isinf(got), np.isinf(expected))
    np.testing.assert_array_equal(usable, np.isfinite(expected).all(-1))
    assert max_abs(np.where(np.isinf(got), 0, got), np.where(np.isinf(expected), 0, expected)) < TOLERANCE
    assert bool(usable.any())
    assert not bool(usable.all())


# ------------------------------------------------------------------------------------------------ layers


def test_encoder_layer():
    found = golden.arrays("encoder_layer")
    config = AiosConfig(width=32, heads=4, feedforward=48)
    module = golden.fill_module(
        lambda: EncoderLayer(config, rngs=no_draws()), golden.under("w/", found), ("encoder", "layers", 0),
        "transformer.encoder.layers.0.",
    )  # fmt: skip
    got = module(
        *(jnp.asarray(found[key]) for key in ("src", "pos", "ref_points", "padding_mask")), sizes=sizes_of(found)
    )
    assert max_abs(got, found["out"]) < TOLERANCE


@pytest.mark.parametrize(
    ("case", "config", "layout"),
    [
        ("loc", SMALL, tokens.LOCATION),
        ("body", SMALL, tokens.BODY),
        ("whole", SMALL, tokens.WHOLE_BODY),
        ("naive", naive(width=32, heads=4, feedforward=48), tokens.BOXES),
    ],
)
def test_decoder_layer(case, config, layout):
    found = golden.arrays("decoder_layer")
    module = golden.fill_module(
        lambda: DecoderLayer(config, rngs=no_draws()), golden.under("w/", found), ("decoder", "layers", 0),
        "transformer.decoder.layers.0.",
    )  # fmt: skip
    got = module(
        *(jnp.asarray(found[f"{case}_{key}"]) for key in ("tgt", "query_pos", "ref4")),
        jnp.asarray(found["memory"]), jnp.asarray(found["padding_mask"]), None, sizes=sizes_of(found),
        tokens_per_person=tokens.size(layout), visibility=tokens.visibility(config, layout),
    )  # fmt: skip
    assert max_abs(got, found[f"{case}_out"]) < TOLERANCE


# ------------------------------------------------------------------------------------------------ attention patterns


def dense_mask(config: AiosConfig, layout: tokens.Layout, people: int, groups: np.ndarray | None = None) -> np.ndarray:
    """True where forbidden: the pattern written out, one image."""
    visible = tokens.visibility(config, layout)
    person = np.repeat(np.arange(people), tokens.size(layout))
    token = np.tile(np.arange(tokens.size(layout)), people)
    allowed = person[:, None] == person
    allowed |= np.isin(token, visible.queries)[:, None] & np.isin(token, visible.keys)
    if groups is not None:
        n = len(groups)
        allowed = np.block(
            [[groups[:, None] == groups, np.ones((n, token.size), bool)], [np.zeros((token.size, n), bool), allowed]]
        )
    return ~allowed


@pytest.mark.parametrize(("case", "config"), [("aios", AiosConfig()), ("box", naive())])
def test_patterns_are_the_recorded_masks(case, config):
    found = golden.under(f"{case}/", golden.arrays("masks_dn"))
    _, second, third = tokens.layouts(config)
    np.testing.assert_array_equal(dense_mask(config, second, 4), found["eval_mask2"])
    np.testing.assert_array_equal(dense_mask(config, third, 4), found["eval_mask3"])
    for image, people in enumerate((3, 2)):
        groups = np.arange(4) // people
        for stage, (layout, kept) in enumerate([(tokens.LOCATION, 9), (second, 4), (third, 4)], 1):
            expected = found[f"train_mask{stage}"][image]
            np.testing.assert_array_equal(dense_mask(config, layout, kept, groups), expected)


PATTERNS = [AiosConfig(attention=a) for a in ("ours", "full", "inter_human")] + [naive()]


@pytest.mark.parametrize("denoising", [0, 5])
@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("config", PATTERNS, ids=lambda c: c.attention if c.joints else "naive")
def test_blocks_equal_masked_attention(config, stage, denoising):
    """Against all scores and a mask, in numpy and float64."""
    layout = tokens.layouts(config)[stage]
    people, width, heads = 3, 32, 4
    count = denoising + people * tokens.size(layout)
    rng = np.random.default_rng(stage)
    x, position = rng.normal(size=(2, 2, count, width))
    groups = np.sort(rng.integers(0, 3, (2, denoising)), axis=-1)
    module = attention.PeopleAttention(width, heads, rngs=HostRandom.of(jax.random.key(1)))
    got = module(
        jnp.asarray(x, jnp.float32), jnp.asarray(position, jnp.float32), jnp.asarray(groups) if denoising else None,
        tokens_per_person=tokens.size(layout), visibility=tokens.visibility(config, layout),
    )  # fmt: skip

    kernel = np.asarray(module.input.kernel[...], np.float64)
    q, k = ((x + position) @ kernel[:, part] for part in (slice(0, 32), slice(32, 64)))
    q, k, v = (part.reshape(2, count, heads, -1).swapaxes(1, 2) for part in (q, k, x @ kernel[:, 64:]))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(width / heads)
    for image in range(2):
        scores[image, :, dense_mask(config, layout, people, groups[image])] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    joined = (weights @ v).swapaxes(1, 2).reshape(2, count, width)
    expected = joined @ np.asarray(module.output.kernel[...], np.float64)
    assert max_abs(got, expected) < 1e-5


def test_no_matrix_over_all_tokens():
    """Scores of 100 people in the last stage: the compiled program has no 3900 x 3900 array."""
    module = attention.PeopleAttention(32, 4, rngs=no_draws())
    visible = tokens.visibility(AiosConfig(), tokens.WHOLE_BODY)
    x = jax.ShapeDtypeStruct((1, 3900, 32), jnp.float32)
    lowered = jax.jit(lambda x, p: module(x, p, None, tokens_per_person=39, visibility=visible)).lower(x, x)
    analysis = lowered.compile().memory_analysis()
    assert analysis is not None
    assert analysis.temp_size_in_bytes < 0.2 * 4 * 3900 * 3900 * 4


# ------------------------------------------------------------------------------------------------ backbone


def test_bottleneck():
    found = golden.arrays("ops")
    module = golden.fill_module(
        lambda: Bottleneck(8, 4, 2, rngs=no_draws()), golden.under("bottleneck/", found),
        ("backbone", "stages", 1, 0), "backbone.0.body.layer2.0.",
    )  # fmt: skip
    got = module(images_last(found["bottleneck_in"]))
    assert max_abs(got.transpose(0, 3, 1, 2), found["bottleneck_out"]) < TOLERANCE


def test_frozen_norm():
    found = golden.arrays("ops")
    module = golden.fill_module(
        lambda: FrozenNorm(5), golden.under("fbn/", found), ("backbone", "stem_norm"), "backbone.0.body.bn1."
    )
    got = module(images_last(found["fbn_in"]))
    assert max_abs(got.transpose(0, 3, 1, 2), found["fbn_out"]) < TOLERANCE


def test_input_projection():
    found = golden.arrays("ops")
    module = golden.fill_module(
        lambda: InputProjection(12, 64, 3, 2, rngs=no_draws()), golden.under("proj3/", found),
        ("input_levels", "projections", 3), "input_proj.3.",
    )  # fmt: skip
    got = module(images_last(found["proj3_in"]))
    assert max_abs(got.transpose(0, 3, 1, 2), found["proj3_out"]) < TOLERANCE


# ------------------------------------------------------------------------------------------------ boxes, joints, rotations


def test_mlp_and_refinement():
    found = golden.arrays("ops")
    module = golden.fill_module(
        lambda: Mlp((16, 24, 24, 4), rngs=no_draws()), golden.under("mlp/", found),
        ("heads", "person", 0), "bbox_embed.0.",
    )  # fmt: skip
    delta = module(jnp.asarray(found["mlp_in"]))
    assert max_abs(delta, found["mlp_out"]) < TOLERANCE
    assert max_abs(relative_boxes.refine(jnp.asarray(found["refine_ref"]), delta), found["refine_out"]) < TOLERANCE


def test_generalised_iou():
    found = golden.arrays("ops")
    a, b = jnp.asarray(found["box_a"]), jnp.asarray(found["box_b"])
    assert max_abs(relative_boxes.to_corners(a), found["box_a_xyxy"]) < 1e-6
    assert max_abs(relative_boxes.from_corners(relative_boxes.to_corners(a)), found["xyxy_back"]) < 1e-6
    assert max_abs(relative_boxes.generalised_iou(a[:, None], b[None]), found["giou"]) < TOLERANCE
    assert max_abs(1 - relative_boxes.generalised_iou(a[:4], b), found["giou_diag_loss"]) < TOLERANCE


def test_focal_loss():
    found = golden.arrays("ops")
    logits, target = jnp.asarray(found["focal_logits"]), jnp.asarray(found["focal_onehot"])
    value, gradient = jax.value_and_grad(lambda x: loss_terms.focal(x, target).sum() / found["focal_num"])(logits)
    assert value == pytest.approx(float(found["focal_out_times_queries"]), rel=1e-5)
    assert max_abs(gradient, found["focal_grad"]) < 1e-5


@pytest.mark.parametrize("joints", [17, 6])
def test_object_keypoint_similarity(joints):
    found = golden.under(f"oks{joints}_", golden.arrays("ops"))
    sigmas = loss_terms.BODY_SIGMAS if joints == 17 else loss_terms.PART_SIGMAS
    np.testing.assert_allclose(sigmas, found["sigmas"], rtol=1e-6)
    arguments = (
        jnp.asarray(found["pred"]).reshape(-1, joints, 2), jnp.asarray(found["gt"]).reshape(-1, joints, 2),
        jnp.asarray(found["valid"]), jnp.asarray(found["area"]), sigmas,
    )  # fmt: skip
    assert max_abs(loss_terms.object_keypoint_similarity(*arguments), found["value"]) < TOLERANCE
    assert max_abs(loss_terms.oks_loss(*arguments), found["loss"]) < TOLERANCE


def test_oks_without_joints_or_area_is_finite():
    def value(xy, visible, area):
        return loss_terms.oks_loss(xy, jnp.zeros((6, 2)), visible, area, loss_terms.PART_SIGMAS)

    for visible, area in ((jnp.zeros(6), 0.1), (jnp.ones(6), 0.0)):
        loss, gradient = jax.value_and_grad(value)(jnp.full((6, 2), 0.2), visible, jnp.float32(area))
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()


def test_rotation_from_six_numbers():
    found = golden.arrays("ops")
    assert max_abs(rotation_layers.matrix_from_6d(jnp.asarray(found["rot6d_in"]))[:, 0], found["rot6d_out"]) < TOLERANCE


def test_rotation_vectors():
    """The recorded vectors may be longer than pi: compared as rotations, and ours for length."""
    found = golden.arrays("ops")
    got = rotation_layers.rotvec_from_matrix(jnp.asarray(found["rot6d_out"]))
    assert max_abs(rotvec_to_matrix(got), rotvec_to_matrix(jnp.asarray(found["aa_out"]))) < TOLERANCE
    assert max_abs(rotvec_to_matrix(jnp.asarray(found["rodrigues_in"])), found["rodrigues_out"]) < TOLERANCE


def test_rotation_vectors_of_every_size():
    rng = np.random.default_rng(0)
    axis = rng.normal(size=(200, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.concatenate(
        [np.linspace(0, np.pi, 180), np.pi - np.geomspace(1e-6, 1e-2, 10), np.geomspace(1e-8, 1e-3, 10)]
    )
    with jax.enable_x64(True):
        rotvec = jnp.asarray(axis * angle[:, None])
        back = rotation_layers.rotvec_from_matrix(rotvec_to_matrix(rotvec))
        same = np.minimum(np.abs(back - rotvec).max(1), np.where(angle > 3.1, np.abs(back + rotvec).max(1), np.inf))
        assert same.max() < 1e-6
        slope = jax.jit(jax.vmap(jax.jacobian(lambda r: rotation_layers.rotvec_from_matrix(rotvec_to_matrix(r)))))(
            rotvec
        )
        assert np.isfinite(slope).all()


def test_rotation_at_zero_has_a_finite_gradient():
    value, slope = jax.value_and_grad(lambda x: rotation_layers.matrix_from_6d(x).sum())(jnp.zeros(6))
    assert value == 0
    assert np.isfinite(slope).all()


def test_projection():
    found = golden.arrays("ops")
    points, camera_, size = (jnp.asarray(found[f"proj_{key}"]) for key in ("points", "cam", "wh"))
    got = weak_perspective.project(points, camera_, size)
    # Pixels of order 1e3 and more: relative.
    np.testing.assert_allclose(got, found["proj_out"], rtol=1e-4, atol=1e-2)
    plain = points + weak_perspective.translation(camera_)[:, None]
    perspective = weak_perspective.FOCAL_PX * plain[..., :2] / plain[..., 2:] + size[:, None] / 2
    np.testing.assert_allclose(got, perspective, rtol=1e-3, atol=0.1)
