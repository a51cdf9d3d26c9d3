"""Multi-HMR as an expert: bodies in our conventions, a person per box in the boxes' order, weights from a file."""

from __future__ import annotations

import json
import subprocess
import sys

import compiled_bodies
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded_weights
from helpers import HANG_S, REPO
from multihmr_golden import TINY_ANNY, path

from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.records.torch_files import write_state_dict
from annyfit_jax.regressors.multihmr import (
    multihmr_checkpoint,
    multihmr_model,
    multihmr_people,
    rig,
    square_preprocess,
)
from body_models import anny
from experts.adapters.multihmr_start import MultiHmr, head_patches
from experts.interfaces import ExpertError, People, Photo

pytestmark = pytest.mark.unoptimised


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file in the official layout."""
    shapes = json.loads(path("tiny_anny_keys.json").read_text())
    arrays = recorded_weights.fill(5, shapes) | multihmr_checkpoint.constants(TINY_ANNY)
    file = tmp_path_factory.mktemp("weights") / "tiny.pt"
    write_state_dict(file, arrays, entry=multihmr_checkpoint.ENTRY)
    return file


@pytest.fixture(scope="module")
def expert(weights):
    made = MultiHmr(checkpoint=str(weights), config=TINY_ANNY, batch=2)
    made.load()
    return made


def photo(width: int, height: int, seed: int = 0) -> Photo:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)
    return Photo(f"p{seed}", f"p{seed}.jpg", pixels)


def crowd(count: int, width: int, height: int, K=None) -> People:
    left = np.linspace(0, width * 0.75, count)
    boxes = np.stack([left, np.full(count, 5.0), left + width * 0.2, np.full(count, height - 5.0)], 1)
    return People(boxes=boxes, intrinsics=K)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (300, 900), (112, 112), (113, 57)])
def test_there_and_back(width, height):
    placement = square_preprocess.place(width, height, 112)
    corners = np.array([[0.0, 0.0], [width, height], [17.0, 3.0]])
    there = placement.there(corners)
    assert (there >= 0).all()
    assert (there <= 112.5).all()
    np.testing.assert_allclose(placement.back(there), corners, atol=1e-9)
    K = np.array([[500.0, 0, width / 2], [0, 510.0, height / 2], [0, 0, 1]])
    np.testing.assert_allclose(placement.intrinsics_back(placement.intrinsics(K)), K, atol=1e-9)
    point = np.array([0.3, -0.2, 2.0])
    seen, moved = K @ point, placement.intrinsics(K) @ point
    np.testing.assert_allclose(placement.there(seen[:2] / seen[2]), moved[:2] / moved[2], atol=1e-9)


def test_the_square_holds_the_picture():
    """A bright bar of the picture is where `place` says, and the padding is black."""
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[40:60, 150:170] = 255
    image, placement = square_preprocess.square(pixels, 112)
    centre = placement.there(np.array([160.0, 50.0]))
    black = image[0, 0]
    assert image[int(centre[1]), int(centre[0])].min() > 2.0
    np.testing.assert_array_equal(image[:28], np.broadcast_to(black, (28, 112, 3)))
    np.testing.assert_array_equal(image[84:], np.broadcast_to(black, (28, 112, 3)))


@pytest.mark.slow
def test_the_body_stands_where_the_network_puts_the_head():
    """`anny.forward` of the parameters, a different path than the one under test, has its head there."""
    key = jax.random.split(jax.random.key(0), 4)
    turned = 0.3 * jax.random.normal(key[0], (1, 2, 163, 3))
    matrices = jax.vmap(jax.vmap(jax.vmap(_rotation)))(turned)
    transl = jnp.array([[[0.2, -0.4, 3.0], [1.0, 0.0, 7.0]]])
    shape = jax.random.uniform(key[1], (1, 2, 11))
    blank = jnp.zeros((1, 2, 2))
    reading = multihmr_model.Reading(blank, blank, blank[..., :1], blank[..., :1], shape, matrices, transl)
    body = anny.load()
    made = jax.jit(multihmr_people.anny_bodies)(body, reading)
    params = anny.Params(made.phenotypes[0], made.root_rotvec[0], made.pose[0], made.transl[0])
    poses = compiled_bodies.anny_bones(body, params)[..., :3, 3]
    np.testing.assert_allclose(poses[:, rig.head()], transl[0], atol=2e-5)
    np.testing.assert_allclose(poses, made.joints[0], atol=2e-5)
    np.testing.assert_allclose(poses[:, 0], made.transl[0], atol=2e-5)


def _rotation(rotvec):
    angle = jnp.linalg.norm(rotvec)
    x, y, z = rotvec / angle
    skew = jnp.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return jnp.eye(3) + jnp.sin(angle) * skew + (1 - jnp.cos(angle)) * skew @ skew


def test_a_person_per_box_in_order(expert):
    """Bodies project onto the patches chosen for their boxes; photos and empty crowds do not mix."""
    photos = [photo(200, 160, 1), photo(120, 200, 2), photo(90, 90, 3)]
    K = np.array([[180.0, 0, 100.0], [0, 180.0, 80.0], [0, 0, 1]])
    crowds = [crowd(3, 200, 160, K), crowd(0, 120, 200), crowd(2, 90, 90)]
    together = expert.start(photos, crowds)
    assert [len(b.transl) for b in together] == [3, 0, 2]
    for shot, one, body in zip(photos, crowds, together):
        (alone,) = expert.start([shot], [one])
        for name in ("root_rotvec", "transl", "pose", "shape"):
            np.testing.assert_allclose(getattr(body, name), getattr(alone, name), rtol=1e-4, atol=1e-4)
        assert np.isfinite(body.pose).all()
    reverse = People(boxes=crowds[0].boxes[::-1], intrinsics=K)
    (turned,) = expert.start(photos[:1], [reverse])
    np.testing.assert_allclose(turned.transl[::-1], together[0].transl, rtol=1e-4, atol=1e-4)


def test_the_camera_of_the_photo_counts(expert):
    """Twice the focal length puts people twice as far: the network regresses log(f / depth)."""
    shot = photo(112, 112, 4)
    K = np.array([[100.0, 0, 56.0], [0, 100.0, 56.0], [0, 0, 1]])
    longer = K * np.array([[2.0], [2.0], [1.0]])
    longer[:2, 2] = 56.0
    bodies = [expert.start([shot], [crowd(1, 112, 112, k)])[0] for k in (K, longer)]
    heads = [_head(b) for b in bodies]
    assert heads[1][2] == pytest.approx(2 * heads[0][2], rel=1e-4)


def _head(body) -> np.ndarray:
    params = anny.Params(*(jnp.asarray(x, jnp.float32) for x in (body.shape, body.root_rotvec, body.pose, body.transl)))
    return np.asarray(compiled_bodies.anny_bones(anny.load(), params)[0, rig.head(), :3, 3])


def test_heads_from_keypoints_or_scores():
    scores = np.zeros((8, 8))
    scores[1, 1], scores[1, 2], scores[5, 5] = 0.9, 0.8, 0.7
    same = People(boxes=np.array([[0.0, 0.0, 60.0, 60.0], [0.0, 0.0, 60.0, 60.0]]))
    placement = square_preprocess.Placement(1.0, np.zeros(2))
    assert head_patches(scores, same, placement, 14).tolist() == [[1, 1], [1, 2]]
    keypoints = np.zeros((2, 17, 3))
    keypoints[1, 0] = (100.0, 20.0, 0.9)
    known = People(boxes=same.boxes, keypoints=keypoints)
    assert head_patches(scores, known, placement, 14).tolist() == [[1, 1], [1, 7]]
    outside = People(boxes=np.array([[-50.0, -50.0, -10.0, -10.0]]))
    assert head_patches(scores, outside, placement, 14).tolist() == [[0, 0]]


def test_missing_and_foreign_weights(weights, tmp_path):
    with pytest.raises(ExpertError, match="get multiHMR_672_L_anny"):
        MultiHmr().load()
    with pytest.raises(ExpertError, match="does not fit"):
        MultiHmr(checkpoint=str(weights), vit="s", size=112).load()
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"nothing")
    with pytest.raises(ExpertError, match="not a readable PyTorch checkpoint"):
        MultiHmr(checkpoint=str(broken)).load()


def test_the_card_names_file_and_licence(expert):
    assert expert.card.checkpoint == "tiny.pt"
    assert len(expert.card.version) == 12
    assert not expert.card.commercial


CONFIG = """
from annyfit_jax.regressors.multihmr.multihmr_config import HeadConfig, MultiHmrConfig
from annyfit_jax.regressors.multihmr.multihmr_feed import MultiHmrFeed
from annyfit_jax.regressors.multihmr.multihmr_regressor import MultiHmrRegressor
from annyfit_jax.regressors.vit import VitConfig
from annyfit_jax.training.training_config import TrainConfig

def get_config():
    vit = VitConfig(48, 2, 3, table=5)
    network = MultiHmrConfig(size=112, vit=vit, head=HeadConfig(64, 2, 4, 16, 128), max_people=4)
    return TrainConfig(MultiHmrRegressor(network), MultiHmrFeed((), side=112))
"""


@pytest.mark.slow
@pytest.mark.process
def test_photos_to_fits_with_official_weights(weights, tmp_path):
    """`experiments.predict` as a user runs it."""
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.fromarray(photo(200, 120).pixels).save(tmp_path / "photos" / "one.png")
    (tmp_path / "config.py").write_text(CONFIG)
    command = [
        sys.executable, "-m", "experiments.predict", f"--config={tmp_path / 'config.py'}", f"--checkpoint={weights}",
        f"--images={tmp_path / 'photos'}", f"--output={tmp_path / 'out'}", "--threshold=0.1",
        f"--compile_cache={REPO / '.cache' / 'jax'}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (outcome,) = open_fits(tmp_path / "out").outcomes()
    assert 1 <= len(outcome.fit) <= 4
    rows = [json.loads(line) for line in (tmp_path / "out" / "people.jsonl").read_text().splitlines()]
    assert len(rows) == len(outcome.fit)
    assert set(rows[0]) == {"scene", "person", "score", "head", "depth_m", "height_m"}
