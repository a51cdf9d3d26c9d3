"""Whole networks against the recordings, evaluation and training; sizes; the head for Anny.

Tolerances: 1e-4 for values of order 1, 1e-3 of its norm for a gradient. The network of published size takes minutes on a
CPU, so its numbers are checked on request:
`ANNYFIT_PUBLISHED_SIZE=1 pytest tests/regressors/aios/test_aios_model.py -k published_numbers`.
"""

from __future__ import annotations

import dataclasses
import os

import aios_golden as golden
import compiled_bodies
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded_weights
import smplx_synthetic
from flax import nnx
from helpers import max_abs

from annyfit_jax.records.files import write_npz
from annyfit_jax.regressors.aios import aios_checkpoint, aios_model, body_points, tokens
from annyfit_jax.regressors.aios.aios_config import ANNY, AiosConfig, LossConfig, naive, tiny
from annyfit_jax.regressors.aios.aios_regressor import AiosRegressor
from annyfit_jax.regressors.aios.heads import BodyPrediction, PartRotations
from annyfit_jax.training import flops
from body_models import anny, smplx
from body_models.rotations import rotvec_to_matrix

pytestmark = pytest.mark.unoptimised

TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3
ROUNDINGS = 40
"""A slope that a third of the roundings take is missed by so many with a chance of 1e-7. Most processors need none or few."""
KINDS = pytest.mark.parametrize("kind", ["aios", "naive"])


def stages_of(config: AiosConfig, variables: nnx.State, images: jax.Array, padding: jax.Array):
    """Everything on the way: memory, selection, decoder, outputs."""
    network = aios_model.bind(config, variables)
    levels = network.levels(images, padding)
    memory = network.encoder(levels)
    selection = network.two_stage(memory, levels)
    decoded = network.decoder(memory, levels, selection, network.heads, None)
    return levels.tokens, levels.positions, memory, selection, decoded, network.read(decoded, selection, 0)


# ------------------------------------------------------------------------------------------------ recordings


@pytest.mark.parametrize("kind", ["aios", pytest.param("naive", marks=pytest.mark.slow)])
def test_evaluation(kind):
    found = golden.arrays(f"tiny_{kind}_eval")
    config = golden.tiny_config(kind == "aios")
    variables = golden.recorded_variables(config, int(found["seed"]))
    run = jax.jit(lambda v, images, padding: stages_of(config, v, images, padding))
    source, positions, memory, selection, decoded, outputs = run(variables, *golden.images())
    for ours, name in (
        (source, "enc_src"),
        (positions, "enc_pos"),
        (memory, "memory"),
        (decoded.layers[-1].hidden, "hs5"),
    ):
        assert max_abs(ours[..., ::16], found[f"{name}_every16"]) < TOLERANCE, name
    np.testing.assert_array_equal(selection.index, found["enc_topk_idx"])
    np.testing.assert_array_equal(decoded.kept, found["dec1_topk_idx"])
    for index, layer in enumerate(decoded.layers):
        assert max_abs(layer.reference, found[f"ref{index}"]) < TOLERANCE, index
        if f"dec{index}_out_every16" in found:
            assert max_abs(layer.output[..., ::16], found[f"dec{index}_out_every16"]) < TOLERANCE, index
    ours, theirs = golden.recorded_outputs(outputs), golden.under("out/", found)
    for name, expected in theirs.items():
        assert max_abs(ours[name], expected) < TOLERANCE, name


def rounded_otherwise(tree, seed: int):
    """Every float moved by a few units in its last place: what another processor's rounding does, and more than that."""
    rng = np.random.default_rng(seed)

    def move(x):
        x = np.asarray(x)
        if x.dtype != np.float32:
            return jnp.asarray(x)
        return jnp.asarray(x * (1 + rng.integers(-4, 5, x.shape) * np.finfo(np.float32).eps).astype(np.float32))

    return jax.tree.map(move, tree)


def differing_gradients(found, gradient: dict[str, np.ndarray]) -> dict[str, str]:
    """Parameters whose gradient is not the recorded one, with what is wrong: its norm, or an entry where it is given."""
    norms = dict(zip(found["grad_names"].tolist(), found["grad_norms"].tolist()))
    assert {name for name, norm in norms.items() if norm > 0} <= set(gradient)
    wrong = {}
    for name, slope in gradient.items():
        expected = norms.get(name, -1.0)
        if expected < 0:  # no gradient reaches it: frozen, or not used by the probe
            if slope.any():
                wrong[name] = "expected no gradient"
            continue
        # The table of labels is larger than what the probe sees of it: its norm is compared by its entries.
        norm = float(np.linalg.norm(slope))
        if name != "label_enc.weight" and not abs(norm - expected) <= max(GRADIENT_TOLERANCE * expected, 1e-5):
            wrong[name] = f"norm {norm}, expected {expected}"
        elif f"grad/{name}" in found:
            full = found[f"grad/{name}"]
            error = max_abs(slope[: len(full)], full)
            if not error <= GRADIENT_TOLERANCE * np.linalg.norm(full):
                wrong[name] = f"an entry is off by {error}, norm {np.linalg.norm(full)}"
    return wrong


@pytest.mark.slow
@KINDS
def test_training(kind):
    """Outputs with denoising queries, the probe loss, and the gradient of every parameter; layers recomputed (remat).

    The network has kinks: a sample on the border of a cell, an activation at zero. Of the millions of them a few lie within
    rounding of their kink, where the processor decides which of two slopes enters the gradient; both are right, and one of
    them can be 6e-3 of a parameter's gradient. So the recording's gradient has to be one that our network has within
    rounding of the recorded inputs: that of the inputs as they are or, for parameters that differ there, that of inputs
    which are rounded otherwise.
    """
    found = golden.arrays(f"tiny_{kind}_train")
    seed = int(found["seed"])
    plain = golden.tiny_config(kind == "aios")
    config = dataclasses.replace(plain, remat=kind == "aios")
    variables = golden.recorded_variables(plain, seed)
    theirs = golden.under("out/", found)
    draw = recorded_weights.uniform
    probe = {name: draw(seed, f"probe:{name}", x.shape).astype(np.float32) for name, x in theirs.items()}

    def loss(variables, images, padding, denoising):
        ours = golden.recorded_outputs(aios_model.apply(config, variables, images, padding, denoising))
        return sum((ours[name] * weight).sum() for name, weight in probe.items()), ours

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 3), has_aux=True, allow_int=True))
    queries = golden.denoising(found)
    # The queries came with the recording; the table of labels that they were taken from gets their gradient.
    table = np.asarray(dict(nnx.to_flat_state(variables))[("label_embedding",)].get_value())
    row = np.abs(table - np.asarray(queries.content)[:, :, None]).sum(-1).argmin(-1)

    def evaluate(variables, images, padding) -> tuple[float, dict[str, jax.Array], dict[str, np.ndarray]]:
        (value, ours), (gradient, of_queries) = run(variables, images, padding, queries)
        slopes = {
            aios_checkpoint.torch_name(path): aios_checkpoint.to_theirs(np.asarray(variable.get_value()), str(path[-1]))
            for path, variable in nnx.to_flat_state(gradient)
        }
        of_table = np.zeros_like(table)
        np.add.at(of_table, row, np.asarray(of_queries.content))
        return float(value), ours, {**slopes, "label_enc.weight": of_table}

    inputs = (variables, *golden.images())
    value, ours, gradient = evaluate(*inputs)
    for name, expected in theirs.items():
        assert max_abs(ours[name], expected) < TOLERANCE, name
    assert value == pytest.approx(float(found["probe_loss"]), rel=1e-4)
    wrong = differing_gradients(found, gradient)
    for again in range(ROUNDINGS):
        if not wrong:
            break
        also = differing_gradients(found, evaluate(*rounded_otherwise(inputs, again))[2])
        wrong = {name: why for name, why in wrong.items() if name in also}
    assert not wrong


# ------------------------------------------------------------------------------------------------ published size


def test_published_sizes():
    """Parameters without the body model: the released networks', shapes only."""
    assert aios_model.parameter_count(AiosConfig()) == pytest.approx(73.55e6, rel=1e-3)
    assert aios_model.parameter_count(naive()) == pytest.approx(56.23e6, rel=1e-3)


@pytest.mark.slow
def test_layers_at_published_size():
    """Shapes of the published network on an 800 x 1333 image, from a trace."""
    config = AiosConfig()
    variables = aios_model.graph_and_shapes(config)[1]
    images, padding = jax.ShapeDtypeStruct((1, 800, 1333, 3), jnp.float32), jax.ShapeDtypeStruct((1, 800, 1333), bool)
    outputs = jax.eval_shape(lambda v, i, p: aios_model.apply(config, v, i, p), variables, images, padding)
    assert [layer.boxes.shape[1] for layer in outputs.layers] == [900, 900, 100, 100, 100, 100]
    assert [layer.body is None for layer in outputs.layers] == [True, True, False, False, False, False]
    last = outputs.layers[-1]
    assert last.body_joints.shape == (1, 100, 17, 2)
    assert last.face_joints.shape == (1, 100, 6, 2)
    assert last.body.rotations.left_hand.shape == (1, 100, 15, 3, 3)


@pytest.mark.slow
def test_operations_at_published_size():
    """One 800 x 1333 image, forward: Naive AiOS as its authors count, AiOS less by what the blocks of the mask save."""

    def count(config: AiosConfig) -> float:
        variables = aios_model.graph_and_shapes(config)[1]
        images, padding = (
            jax.ShapeDtypeStruct((1, 800, 1333, 3), jnp.float32),
            jax.ShapeDtypeStruct((1, 800, 1333), bool),
        )
        return flops.count(lambda v, i, p: aios_model.apply(config, v, i, p), variables, images, padding)

    assert count(naive()) == pytest.approx(570e9, rel=0.01)
    assert 600e9 < count(AiosConfig()) < 630e9  # 656e9 with a dense mask


@pytest.mark.skipif("ANNYFIT_PUBLISHED_SIZE" not in os.environ, reason="minutes on a CPU: ANNYFIT_PUBLISHED_SIZE=1")
def test_published_numbers():
    found = golden.arrays("full_aios_eval")
    config = AiosConfig()
    variables = golden.recorded_variables(config, int(found["seed"]))
    images = jnp.asarray(found["image_f16"].astype(np.float32).transpose(0, 2, 3, 1))
    run = jax.jit(lambda v, i: stages_of(config, v, i, jnp.zeros(i.shape[:3], bool))[3:])
    selection, decoded, outputs = run(variables, images)
    assert set(np.asarray(selection.index)[0]) == set(found["enc_token_set"][0])
    token = np.asarray(jnp.take_along_axis(selection.index, decoded.kept, 1))[0]
    order = np.argsort(token)
    np.testing.assert_array_equal(token[order], found["person_token"][0])
    for name, ours in golden.recorded_layout(outputs.layers[-1]).items():
        assert max_abs(np.asarray(ours)[:, order], found[f"out/{name}"]) < 3 * TOLERANCE, name


def test_small_images_are_refused():
    config = AiosConfig()
    shapes = aios_model.graph_and_shapes(config)[1]
    images, padding = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32), jax.ShapeDtypeStruct((1, 64, 64), bool)
    with pytest.raises(ValueError, match="too small for 900 queries"):
        jax.eval_shape(lambda v, i, p: aios_model.apply(config, v, i, p), shapes, images, padding)


# ------------------------------------------------------------------------------------------------ configurations


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"attention": "full"}, {"attention": "inter_human"}, {"joints": False}, {"all_stages": True}, {"body": ANNY},
        {"body": ANNY, "joints": False}, {"compute_dtype": "bfloat16", "remat": True},
    ],
    ids=str,
)  # fmt: skip
def test_every_configuration_has_outputs(changes):
    """Shapes of the ablations and of Anny's head."""
    config = tiny(**changes)
    shapes = aios_model.graph_and_shapes(config)[1]
    images, padding = jax.ShapeDtypeStruct((2, 96, 128, 3), jnp.float32), jax.ShapeDtypeStruct((2, 96, 128), bool)
    outputs = jax.eval_shape(lambda v, i, p: aios_model.apply(config, v, i, p), shapes, images, padding)
    body = outputs.layers[-1].body
    for part, bones in config.body.parts.items():
        assert getattr(body.rotations, part).shape == (2, config.people, len(bones), 3, 3)
    assert body.shape.shape == (2, config.people, config.body.shape)
    assert (body.expression is None) == (config.body.expression == 0)
    first_with_body = next(index for index, layer in enumerate(outputs.layers) if layer.body is not None)
    assert tokens.STAGES[first_with_body] == (0 if config.all_stages else 1)


def test_inconsistent_configurations_are_refused():
    with pytest.raises(ValueError, match="one attention pattern"):
        naive(attention="full")
    with pytest.raises(ValueError, match="all_stages=True"):
        AiosRegressor(tiny(), LossConfig(supervision="all"))
    with pytest.raises(ValueError, match="body_file"):
        AiosRegressor(tiny(), LossConfig()).constants()


# ------------------------------------------------------------------------------------------------ points of the body


def drawn_prediction(head, seed: int, people: int = 3) -> tuple[BodyPrediction, dict[str, np.ndarray]]:
    """A prediction of random rotations, and its rotation vectors by part."""
    rng = np.random.default_rng(seed)
    vectors = {part: 0.4 * rng.normal(size=(people, len(bones), 3)) for part, bones in head.parts.items()}
    rotations = PartRotations(**{part: rotvec_to_matrix(jnp.asarray(x, jnp.float32)) for part, x in vectors.items()})
    shape = rng.uniform(0, 1, (people, head.shape)).astype(np.float32)
    expression = jnp.asarray(rng.normal(size=(people, head.expression)), jnp.float32) if head.expression else None
    camera = jnp.tile(jnp.array([0.1, 0.0, 0.0]), (people, 1))
    return BodyPrediction(rotations, jnp.asarray(shape), camera, expression), vectors


def test_anny_points_are_the_bones_of_the_body():
    """Against the forward pass of rotation vectors, root at zero; bones without a head stay at rest."""
    body = anny.load("all")
    prediction, vectors = drawn_prediction(ANNY, 0)
    got = jax.jit(body_points.anny_points)(body, prediction)
    pose = np.zeros((3, len(body.labels.bones), 3), np.float32)
    for part, bones in ANNY.parts.items():
        pose[:, [body.labels.bones.index(name) for name in bones]] = vectors[part]
    zero = jnp.zeros((3, 3))
    params = anny.Params(prediction.shape, jnp.asarray(pose[:, 0]), jnp.asarray(pose[:, 1:]), zero)
    expected = np.asarray(compiled_bodies.anny_bones(body, params))[..., :3, 3]
    index = [body.labels.bones.index(name) for name in body_points._ANNY_NAMES]
    assert max_abs(got, expected[:, index] - expected[:, :1]) < 1e-5
    assert max_abs(got[:, body_points.ANNY_POINTS.pelvis], np.zeros((3, 3))) < 1e-6


def test_smplx_points_follow_the_map_of_the_recordings():
    expected = golden.table("keypoint_maps")["smplx_137_from_144_used_for_predictions"]
    assert list(body_points.SMPLX_FROM_144) == expected


def test_smplx_points_are_those_of_the_posed_mesh(tmp_path):
    """In the order of the recordings, with the mean hand added, from a synthetic model file."""
    data = smplx_synthetic.arrays(columns=20)
    faces = np.asarray(data["f"], np.int64)
    landmarks = {name: data[name] for name in data if "lmk" in name}
    write_npz(tmp_path / "model.npz", data)
    body = smplx.load(str(tmp_path / "model.npz"))
    points = body_points.smplx_point_model(body, landmarks)
    prediction, vectors = drawn_prediction(AiosConfig().body, 1, people=2)
    got = np.asarray(jax.jit(body_points.smplx_points)(points, prediction))
    hands = [
        vectors[part] + np.asarray(mean).reshape(15, 3)
        for part, mean in zip(("left_hand", "right_hand"), body.hand_means)
    ]
    eyes = np.zeros((2, 2, 3))
    pose = np.concatenate([vectors["body"][:, 1:], vectors["face"], eyes, *hands], axis=1).astype(np.float32)
    root = jnp.asarray(vectors["body"][:, 0], jnp.float32)
    origin = smplx.translation_from_transl(body, prediction.shape, jnp.zeros((2, 3)), prediction.expression)
    params = smplx.Params(prediction.shape, root, jnp.asarray(pose), origin, prediction.expression)
    output = jax.jit(smplx.forward)(body, params)
    vertices = np.asarray(output.vertices)

    def on_faces(person: int, face: np.ndarray) -> np.ndarray:
        return vertices[person, faces[face]].mean(1)  # the synthetic landmarks lie at the centres

    fixed = np.stack([on_faces(person, landmarks["lmk_faces_idx"]) for person in range(2)])
    rows = np.asarray(body_points.contour_row(prediction.rotations.body))
    contour = np.stack([on_faces(person, landmarks["dynamic_lmk_faces_idx"][row]) for person, row in enumerate(rows)])
    every = np.concatenate(
        [np.asarray(output.joints)[:, :55], vertices[:, body_points._EXTRA_VERTICES], fixed, contour], 1
    )
    assert max_abs(got, every[:, body_points.SMPLX_FROM_144]) < 1e-5


@pytest.mark.parametrize(("degrees", "row"), [(0, 0), (20, 20), (39, 39), (80, 39), (-1, 40), (-39, 78), (-80, 78)])
def test_contour_of_a_turned_head(degrees, row):
    """A turn of the neck about -y; the rotation of an upright root that faces the camera turns the sense."""
    angle = -np.radians(degrees)
    turn = np.tile(np.eye(3, dtype=np.float32), (22, 1, 1))
    turn[12] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    assert int(body_points.contour_row(jnp.asarray(turn))) == row
    turn[0] = np.diag([1.0, -1.0, -1.0])
    assert int(body_points.contour_row(jnp.asarray(turn))) == (row if row == 0 else row + 39 if row < 40 else row - 39)
