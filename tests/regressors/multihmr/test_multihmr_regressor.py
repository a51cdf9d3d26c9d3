"""Multi-HMR as a regressor: its loss at the truth, mirrored labels, data from a dataset of fits, a few steps."""

from __future__ import annotations

import functools
import io
from typing import Any

import compiled_bodies
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REPO

from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import SceneError
from annyfit_jax.regressors.multihmr import multihmr_feed, rig
from annyfit_jax.regressors.multihmr.multihmr_batch import Batch, Targets, blank_targets
from annyfit_jax.regressors.multihmr.multihmr_config import HeadConfig, LossConfig, MultiHmrConfig
from annyfit_jax.regressors.multihmr.multihmr_regressor import MultiHmrRegressor
from annyfit_jax.regressors.vit import VitConfig
from annyfit_jax.training import training_state as states
from annyfit_jax.training.training_config import OptimiserConfig, load_config
from body_models import anny

pytestmark = pytest.mark.unoptimised

CONFIGS = REPO / "experiments" / "configs"
SMALL = MultiHmrConfig(size=56, vit=VitConfig(32, 1, 2, table=4), head=HeadConfig(32, 1, 2, 16, 32), max_people=4)
K = np.array([[60.0, 0, 28.0], [0, 60.0, 28.0], [0, 0, 1]])


def some_people(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "root_rotvec": np.array([np.pi / 2, 0.0, 0.0]) + 0.2 * rng.normal(size=(count, 3)),
        "transl": np.stack([rng.uniform(-0.8, 0.8, count), rng.uniform(0, 0.4, count), 3.0 + np.arange(count)], 1),
        "pose": 0.2 * rng.normal(size=(count, 162, 3)) * rig.predicted()[1:, None],
        "shape": rng.uniform(0.2, 0.8, (count, 6)),
    }


def targets_of(fields: dict[str, np.ndarray], rows: int = 4) -> Targets:
    values = {name: np.array(part)[0] for name, part in blank_targets(1, rows)._asdict().items()}
    n = len(fields["transl"])
    values["people"][:n] = True
    values["weight"][:n] = 1.0
    for ours, theirs in (("root_rotvec",) * 2, ("transl",) * 2, ("pose",) * 2, ("phenotypes", "shape")):
        values[ours][:n] = fields[theirs]
    return Targets(**{name: jnp.asarray(part)[None] for name, part in values.items()})


@functools.cache
def regressor() -> MultiHmrRegressor:
    return MultiHmrRegressor(SMALL)


@functools.cache
def constants():
    return regressor().constants()


def forward(fields: dict[str, np.ndarray]) -> anny.Output:
    params = (fields["shape"], fields["root_rotvec"], fields["pose"], fields["transl"])
    return compiled_bodies.anny_forward(constants().model, anny.Params(*(jnp.asarray(x, jnp.float32) for x in params)))


@pytest.mark.slow
def test_true_bodies_are_the_body_model(monkeypatch):
    """What the loss takes for truth is what `anny.forward` makes of the parameters."""
    from annyfit_jax.regressors.multihmr import multihmr_regressor as module

    fields = some_people(3)
    body, heads, in_front = jax.jit(module._true_bodies, static_argnums=0)(
        SMALL, constants(), targets_of(fields), jnp.asarray(K, jnp.float32)[None]
    )
    expected = forward(fields)
    joints = np.asarray(expected.bone_poses[..., :3, 3])
    np.testing.assert_allclose(body.j3d[0, :3], joints, atol=2e-5)
    np.testing.assert_allclose(body.transl[0, :3], joints[:, rig.head()], atol=2e-5)
    seen = project(jnp.asarray(joints[:, rig.head()]), jnp.asarray(K, jnp.float32)[..., None, :, :])
    np.testing.assert_allclose(heads[0, :3], seen, atol=1e-3)
    assert in_front.tolist() == [[True] * 4]
    np.testing.assert_allclose(body.raw_distance[0, :3, 0], np.log(60.0 / joints[:, rig.head(), 2]), atol=1e-5)


def test_a_mirrored_person_is_the_mirror_image():
    """Vertices of mirrored parameters are the mirrored vertices, as a set of bones and of points."""
    fields = some_people(3, seed=3)
    there, here = forward(multihmr_feed.mirrored(fields)), forward(fields)
    flip = np.array([-1.0, 1.0, 1.0])
    other = np.array([0, *(1 + multihmr_feed.mirror().bone)])
    joints = np.asarray(here.bone_poses)[..., :3, 3][:, other] * flip
    # Anny's neck is not quite symmetric (2 mm), and everything in the head hangs on it.
    difference = np.abs(np.asarray(there.bone_poses)[..., :3, 3] - joints).max((0, 2))
    below = rig.bones().index("neck01")  # the bones after it are those of neck and face
    assert difference[:below].max() < 1e-5
    assert difference.max() < 2e-2
    swapped = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    points = np.abs(np.asarray(there.keypoints)[:, :17] - np.asarray(here.keypoints)[:, swapped] * flip).max((0, 2))
    assert points[5:].max() < 1e-3
    assert points.max() < 2e-2


def test_two_heads_in_one_patch_leave_the_nearer():
    fields = some_people(2)
    fields["transl"][1] = fields["transl"][0] * 1.02
    far = {name: value[1:] for name, value in fields.items()}
    near = {name: value[:1] for name, value in fields.items()}
    loss = jax.jit(regressor().loss)
    variables = regressor().init(jax.random.key(0))
    images, cameras = jnp.zeros((1, 56, 56, 3)), jnp.asarray(K, jnp.float32)[None]
    both = loss(variables, constants(), Batch(images, cameras, targets_of(fields)), jax.random.key(1))[1]
    alone = loss(variables, constants(), Batch(images, cameras, targets_of(near)), jax.random.key(1))[1]
    other = loss(variables, constants(), Batch(images, cameras, targets_of(far)), jax.random.key(1))[1]
    for name, value in both.items():
        assert float(value) == pytest.approx(float(alone[name]), rel=1e-4, abs=1e-5), name
    assert float(other["transl"]) != pytest.approx(float(alone["transl"]), rel=1e-3)


def record(seed: int, photo: bytes) -> dict[str, Any]:
    fields = some_people(3, seed)
    fields["transl"][1] = np.nan
    return {
        "name": f"scene{seed}", "image_jpeg": photo, "intrinsics": np.array([[90.0, 0, 50], [0, 90.0, 30], [0, 0, 1]]),
        "fitted": np.array([True, True, True]), "depth_m": fields["transl"][:, 2],
        "height_m": np.full(3, 1.5), "sd_depth_m": np.array([0.01, 1.0, 1.0]),
        "sd_height_m": np.full(3, np.nan), "sd_joints_m": np.full((3, 17), 0.03), **fields,
    }  # fmt: skip


def jpeg(width: int = 100, height: int = 60) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg")
    return buffer.getvalue()


def test_rows_of_a_record():
    source = multihmr_feed.MultiHmrFeed(
        (multihmr_feed.FitSet("fits", 1.0, uncertainty=True),), side=56, max_people=4, flip=0.0
    )
    row = source.row("fits", record(1, jpeg()), np.random.default_rng(0))
    assert row.image.shape == (56, 56, 3)
    people = np.asarray(row.targets.people)
    assert people.tolist() == [True, True, False, False], "the one without a fit is left out"
    depth = np.asarray(row.targets.transl)[:2, 2]
    assert depth[0] < depth[1], "nearest first"
    weight = np.asarray(row.targets.weight)
    assert weight[0] > 4 * weight[1], "a fit that is unsure of its depth counts less"
    np.testing.assert_allclose(row.intrinsics, [[50.4, 0, 28], [0, 50.4, 28], [0, 0, 1]], atol=0.6)
    flipped = multihmr_feed.MultiHmrFeed((multihmr_feed.FitSet("fits", 1.0),), side=56, max_people=4, flip=1.0)
    mirrored = flipped.row("fits", record(1, jpeg()), np.random.default_rng(0))
    np.testing.assert_allclose(mirrored.targets.transl[0, 0], -row.targets.transl[0, 0], atol=1e-6)
    np.testing.assert_allclose(mirrored.image[:, ::-1], row.image, atol=0.1)
    with pytest.raises(SceneError, match="image_jpeg: empty"):
        source.row("fits", record(1, b""), np.random.default_rng(0))
    batch = source.batch([row, row], (56, 56))
    assert batch.images.shape == (2, 56, 56, 3)
    assert batch.targets is not None
    assert batch.targets.pose.shape == (2, 4, 162, 3)


@pytest.mark.parametrize("name", ["multihmr_anny", "multihmr_anny_tiny"])
def test_shipped_configs_load(name):
    config = load_config(CONFIGS / f"{name}.py", ["feed.sets.fits.path=somewhere"])
    assert isinstance(config.regressor, MultiHmrRegressor)
    assert isinstance(config.feed, multihmr_feed.MultiHmrFeed)
    assert config.feed.side == config.regressor.config.size
    assert config.feed.sets[0].path == "somewhere"


@pytest.mark.slow
def test_steps_bring_the_loss_down():
    """The shared trainer's step on one picture: the network learns where its people are. Nobody to see is no trouble."""
    made = MultiHmrRegressor(SMALL, LossConfig(j2d=0.01, v2d=0.01))
    rows = multihmr_feed.MultiHmrFeed((multihmr_feed.FitSet("fits", 1.0),), side=56, max_people=4, flip=0.0)
    row = rows.row("fits", record(1, jpeg()), np.random.default_rng(0))
    batch = jax.tree.map(jnp.asarray, rows.batch([row] * 4, (56, 56)))
    mesh = jax.make_mesh((1,), (states.DATA_AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    optimiser = OptimiserConfig(lr=3e-3, backbone=1.0, clip=1.0)
    variables = made.init(jax.random.key(0))
    frozen = np.asarray(variables["vit"]["mask_token"][...]) + 1.0
    variables["vit"]["mask_token"][...] = jnp.asarray(frozen)
    state = states.create(made, variables, optimiser, mesh)
    step = states.make_step(made, variables, optimiser, 0, mesh)
    held = states.on_devices(constants(), mesh, split=False)
    curve = []
    for _ in range(30):
        state, values = step(state, held, batch)
        curve.append({name: float(value) for name, value in values.items()})
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]
    assert curve[-1]["j3d"] < curve[0]["j3d"]
    nobody = jax.tree.map(lambda *x: jnp.stack(x), *(jax.tree.map(lambda x: x[0], targets_of(some_people(0))),) * 4)
    state, values = step(state, held, batch._replace(targets=nobody))
    assert np.isfinite(float(values["gradient_norm"]))
    assert float(values["transl"]) == 0.0
    assert float(values["bce"]) > 0.0
    end = states.inference_variables(state, variables)
    np.testing.assert_array_equal(end["vit"]["mask_token"][...], frozen)
    found = made.predict(end, batch, 0.0)
    assert found.bodies.transl.shape == (4, 4, 3)


@pytest.mark.slow
def test_predictions_are_fits(tmp_path):
    """They store, load, and project onto the heads that the network found; the camera of the photo is used."""
    from annyfit_jax.records import fit_files
    from annyfit_jax.training.protocol import PredictOptions

    made = MultiHmrRegressor(SMALL)
    predictor = made.predictor(made.init(jax.random.key(3)), PredictOptions(threshold=0.0))
    image = np.random.default_rng(1).integers(0, 255, (60, 100, 3)).astype(np.uint8)
    K = np.array([[90.0, 0, 50], [0, 90.0, 30], [0, 0, 1]])
    for camera_of_photo in (None, K):
        fit = predictor.fit("photo", image, "photo.jpg", camera_of_photo)
        assert len(fit) == SMALL.max_people
        assert (np.diff(fit.transl[:, 2]) >= 0).all()
        fit_files.save(fit, tmp_path / "photo.npz")
        assert fit_files.load(tmp_path / "photo.npz").name == "photo"
        if camera_of_photo is not None:
            np.testing.assert_allclose(fit.K, K, rtol=1e-5)
        parameters = (fit.shape, fit.root_rotvec, fit.pose, fit.transl)
        poses = compiled_bodies.anny_bones(constants().model, anny.Params(*(jnp.asarray(x) for x in parameters)))
        head = np.asarray(poses)[:, rig.head(), :3, 3]
        pixels = (head @ fit.K.T)[:, :2] / head[:, 2:]
        noted = [[float(v) for v in str(note).split("head=")[1].split(",")] for note in fit.notes]
        np.testing.assert_allclose(pixels, noted, atol=0.3)


def test_the_best_person_and_meshes_on_request():
    """`single_person` keeps the person of the highest score; stored vertices are those of the fit's parameters."""
    from annyfit_jax.people.body_meshes import BodyMeshes
    from annyfit_jax.training.protocol import PredictOptions

    made = MultiHmrRegressor(SMALL)
    variables = made.init(jax.random.key(3))
    image = np.random.default_rng(1).integers(0, 255, (60, 100, 3)).astype(np.uint8)
    everybody = made.predictor(variables, PredictOptions(threshold=0.0)).fit("photo", image)
    options = PredictOptions(threshold=0.0, single_person=True, save_vertices=True)
    (best,) = (fit := made.predictor(variables, options).fit("photo", image)).notes
    scores = [float(str(note).split("score=")[1].split(";")[0]) for note in everybody.notes]
    assert float(str(best).split("score=")[1].split(";")[0]) == max(scores)
    assert fit.vertices is not None
    np.testing.assert_allclose(fit.vertices, BodyMeshes().vertices(fit.parameters), atol=1e-5)
