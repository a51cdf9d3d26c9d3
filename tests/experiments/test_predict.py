"""experiments.predict on a small untrained network: photos in, files of fits out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import compiled_bodies
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smplx_synthetic
from helpers import HANG_S, REPO, max_abs

from annyfit_jax.inputs.photos import read_photo
from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.camera import project
from annyfit_jax.regressors.aios import aios_pictures, picture_preprocess
from annyfit_jax.regressors.aios.aios_batch import Batch
from annyfit_jax.regressors.aios.aios_config import SMPLX, LossConfig, ResNetConfig, tiny
from annyfit_jax.regressors.aios.aios_predictions import Predictor
from annyfit_jax.regressors.aios.aios_regressor import AiosRegressor
from annyfit_jax.regressors.multihmr.multihmr_config import MultiHmrConfig
from annyfit_jax.regressors.multihmr.multihmr_regressor import MultiHmrRegressor
from annyfit_jax.regressors.vit import VitConfig
from annyfit_jax.training import training_state as states
from annyfit_jax.training.protocol import PredictOptions
from annyfit_jax.training.training_checkpoints import Checkpoints
from annyfit_jax.training.training_config import load_config
from annyfit_jax.training.training_loop import claim
from body_models import smplx

pytestmark = [pytest.mark.slow, pytest.mark.unoptimised]

CONFIG = """
from annyfit_jax.regressors.aios.aios_config import ANNY, LossConfig, ResNetConfig, tiny
from annyfit_jax.regressors.aios.aios_feed import AiosFeed
from annyfit_jax.regressors.aios.aios_regressor import AiosRegressor
from annyfit_jax.training.training_config import OptimiserConfig, TrainConfig

def get_config():
    network = tiny(
        body=ANNY, backbone=ResNetConfig(blocks=(1, 1, 1, 1), stem=8), width=32, heads=4, feedforward=32,
        encoder_layers=1, queries=12, people=4, denoising=4,
    )
    return TrainConfig(AiosRegressor(network, LossConfig()), AiosFeed((), head=ANNY), OptimiserConfig(), seed=3)
"""
SIZES = {"wide": (120, 60), "tall": (60, 120)}
OPTIONS = ["--threshold=0.001", "--short_side=48", "--long_side=96"]


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    cache = f"--compile_cache={REPO / '.cache' / 'jax'}"
    command = [sys.executable, "-m", "experiments.predict", cache, *arguments]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=HANG_S, check=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(config, variables, folder) after one call; the folder has photos, run and output."""
    from PIL import Image

    folder: Path = tmp_path_factory.mktemp("predict")
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for name, (width, height) in SIZES.items():
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(folder / "photos" / f"{name}.png")
    (folder / "photos" / "broken.jpg").write_bytes(b"nothing")
    (folder / "config.py").write_text(CONFIG)
    config = load_config(folder / "config.py")
    claim(folder / "run", config)
    variables = config.regressor.init(jax.random.key(config.seed))
    checkpoints = Checkpoints(folder / "run" / "checkpoints")
    checkpoints.save(states.create(config.regressor, variables, config.optimiser))
    checkpoints.close()
    places = [f"--run={folder / 'run'}", f"--config={folder / 'config.py'}", f"--images={folder / 'photos'}"]
    result = call(*places, f"--output={folder / 'out'}", *OPTIONS)
    assert result.returncode == 0, result.stderr
    assert "the training is not finished, step 0 of" in result.stderr
    return config, variables, folder, places


@pytest.fixture(scope="module")
def predictor(done) -> Predictor:
    config, variables, _, _ = done
    return config.regressor.predictor(variables, PredictOptions(threshold=0.001, short_side=48, long_side=96))


@pytest.mark.process
def test_predictions_are_fits(done):
    _, _, folder, _ = done
    stored = open_fits(folder / "out" / "fits")
    assert set(stored.names) == set(SIZES)
    rows = [json.loads(line) for line in (folder / "out" / "people.jsonl").read_text().splitlines()]
    assert len(rows) == sum(len(fit) for fit in stored)
    for fit in stored:
        assert tuple(fit.image_size) == SIZES[fit.name]
        assert len(fit) >= 1 and fit.ok.all()
        assert fit.start_origin == "aios"
        scores = [row["score"] for row in rows if row["scene"] == fit.name]
        assert scores == sorted(scores, reverse=True) and scores[-1] >= 0.001
        assert ((fit.shape >= 0) & (fit.shape <= 1)).all()
        vertices = BodyMeshes().vertices(fit.parameters)
        assert np.isfinite(vertices).all()
        # The stored keypoints are the body's, and in front of the camera.
        keypoints, height = BodyMeshes().keypoints_and_height(fit.parameters)
        assert max_abs(fit.fitted_keypoints_3d, keypoints) < 1e-4
        assert max_abs(fit.height_m, height) < 1e-4
        assert np.isfinite(project(fit.fitted_keypoints_3d, fit.K)).all()


@pytest.mark.process
def test_the_program_stores_what_the_network_says(done, predictor):
    config, _, folder, _ = done
    image = read_photo(folder / "photos" / "wide.png")
    fit = predictor.fit("wide", image)
    stored = open_fits(folder / "out" / "fits").load("wide")
    for name in ("root_rotvec", "transl", "pose", "shape", "K"):
        assert max_abs(getattr(fit, name), getattr(stored, name)) < 1e-3, name
    found = predictor.people(image)
    kept = np.flatnonzero(found.valid)
    bones = list(stored.bone_labels)
    wrist = config.regressor.config.body.body.index("wrist.L")
    assert max_abs(stored.pose[:, bones.index("wrist.L")], found.rotvecs.body[kept, wrist]) < 1e-3
    assert not stored.pose[:, bones.index("eye.L")].any()  # no part of the head: at rest


@pytest.mark.process
def test_one_person_and_no_person(done, predictor, monkeypatch):
    _, _, folder, _ = done
    image = read_photo(folder / "photos" / "wide.png")
    monkeypatch.setattr(predictor, "single", True)
    assert len(predictor.fit("wide", image)) == 1
    monkeypatch.setattr(predictor, "threshold", 1.0)
    nobody = predictor.fit("wide", image)
    assert len(nobody) == 0
    assert nobody.pose.shape == (0, 162, 3)


@pytest.mark.process
def test_meshes_are_stored_on_request(done, predictor, monkeypatch):
    _, _, folder, _ = done
    image = read_photo(folder / "photos" / "wide.png")
    assert predictor.fit("wide", image).vertices is None
    monkeypatch.setattr(predictor, "save_vertices", True)
    fit = predictor.fit("wide", image)
    assert max_abs(fit.vertices, BodyMeshes().vertices(fit.parameters)) < 1e-5


@pytest.mark.process
def test_meshes_of_smplx_have_the_expression(tmp_path, monkeypatch):
    """Which a fit has no parameters for: the stored mesh is the one of the fit's parameters and the network's expression."""
    arrays: dict[str, Any] = smplx_synthetic.arrays()
    np.savez(tmp_path / "SMPLX_NEUTRAL.npz", **arrays)
    network = tiny(
        body=SMPLX, backbone=ResNetConfig(blocks=(1, 1, 1, 1), stem=8), width=32, heads=4, feedforward=32,
        encoder_layers=1, queries=12, people=4, denoising=4,
    )  # fmt: skip
    regressor = AiosRegressor(network, LossConfig(), body_file=str(tmp_path / "SMPLX_NEUTRAL.npz"))
    options = PredictOptions(threshold=0.001, short_side=48, long_side=96, save_vertices=True)
    predictor = regressor.predictor(regressor.init(jax.random.key(0)), options)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (60, 120, 3), np.uint8)
    found = predictor.people(image)
    found = found._replace(
        expression=rng.normal(0, 1, found.expression.shape).astype(np.float32)
    )  # untrained it is zero
    monkeypatch.setattr(predictor, "people", lambda _: found)
    fit = predictor.fit("scene", image)
    assert fit.vertices is not None and len(fit) and fit.vertices.shape == (len(fit), smplx.NUM_VERTICES, 3)
    assert list(fit.scene_notes) == ["threshold=0.001", "expression_in_vertices_only"]
    expression = found.expression[np.flatnonzero(found.valid)]
    model = smplx.load(str(tmp_path / "SMPLX_NEUTRAL.npz"))
    params = smplx.Params(*(jnp.asarray(x) for x in (fit.shape, fit.root_rotvec, fit.pose, fit.transl, expression)))
    assert max_abs(fit.vertices, compiled_bodies.smplx_forward(model, params).vertices) < 1e-4
    without = params._replace(expression=jnp.zeros(expression.shape))
    assert max_abs(fit.vertices, compiled_bodies.smplx_forward(model, without).vertices) > 1e-3


def test_a_threshold_belongs_to_its_network(done):
    """AiOS: 0.5; Multi-HMR: that of its config, where pictures are square and their sides are no options."""
    config, variables, _, _ = done
    assert config.regressor.score_threshold == config.regressor.predictor(variables).threshold == 0.5
    other = MultiHmrRegressor(MultiHmrConfig(size=56, vit=VitConfig(16, 1, 2, table=4), threshold=0.2))
    nothing: Any = None
    assert other.score_threshold == other.predictor(nothing).threshold == 0.2
    assert MultiHmrRegressor().score_threshold == 0.3
    with pytest.raises(ValueError, match="square pictures of 56 pixels"):
        other.predictor(nothing, PredictOptions(short_side=800))


@pytest.mark.process
def test_unreadable_photos_are_named(done):
    _, _, folder, _ = done
    (aside,) = [json.loads(line) for line in (folder / "out" / "set_aside.jsonl").read_text().splitlines()]
    assert aside["name"] == "broken" and "broken.jpg" in aside["reason"]


@pytest.mark.process
def test_another_config_is_refused(done):
    _, _, folder, places = done
    result = call(*places, f"--output={folder / 'other'}", "--set=seed=4")
    assert result.returncode == 2
    assert "another seed" in result.stderr
    assert not (folder / "other").exists()


@pytest.mark.process
def test_pictures_of_a_batch_in_training(done, predictor):
    """True joints are drawn where they are, predicted bodies as the fits' projections; the rest is the picture."""
    config, variables, folder, _ = done
    image = read_photo(folder / "photos" / "wide.png")
    height, width = image.shape[:2]
    size = picture_preprocess.output_size((width, height), 48, 96)
    row = picture_preprocess.normalise(picture_preprocess.warp(image, (0, 0, width, height), size))
    seen = picture_preprocess.denormalised(row)
    np.testing.assert_allclose(seen, picture_preprocess.warp(image, (0, 0, width, height), size), atol=0.51)
    images, padding = picture_preprocess.pad_batch([row], (112, 64))
    joints = np.zeros((1, 2, 17, 3), np.float32)
    joints[0, 0, 5] = (0.25, 0.5, 1)
    targets: Any = SimpleNamespace(body_joints=joints, people=np.array([[True, False]]))
    factor = np.array([[size[0] / width, size[1] / height]], np.float32)
    fields: dict[str, Any] = {"images": images, "padding": padding, "image_size": np.array([size], np.float32)}
    fields |= {"resize_factor": factor, "targets": targets}
    batch = Batch(**fields)
    (nobody,) = aios_pictures.draw(config.regressor.config, variables, batch, threshold=1.0)
    assert nobody.shape == (size[1], size[0], 3)
    rows, columns = np.nonzero((nobody != seen).any(-1))
    assert abs(columns.mean() - 0.25 * size[0]) < 2 and abs(rows.mean() - 0.5 * size[1]) < 2
    (drawn,) = aios_pictures.draw(config.regressor.config, variables, batch, threshold=0.001)
    assert (drawn != nobody).any()
