"""The programs that prove AiOS: what they count, on predictions whose errors are known, and their crops."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from helpers import max_abs
from PIL import Image

from annyfit_jax.metrics.joint_errors import at_root
from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.records import fit_files
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.regressors.regressed_people import scene_fit
from experiments.studies import box_sensitivity, prove_aios

SIZE = (160, 120)
K = np.array([[200.0, 0, 80], [0, 200, 60], [0, 0, 1]])
RNG = np.random.default_rng(0)
PEOPLE = [
    RNG.normal(size=(n, 17, 3)) * [0.15, 0.35, 0.1] + np.linspace([-1.0, 0, 5], [1.0, 0, 5], n)[:, None]
    for n in (1, 2, 3)
]


def fit_of(name: str, joints: np.ndarray, scores: list[float] | None = None) -> SceneFit:
    """Joints as the truth (all visible) or, with scores, as a prediction, whose boxes are those of the truth."""
    n = len(joints)
    people = BodyParameters(np.zeros((n, 3)), joints[:, 11], np.zeros((n, 2, 3)), np.full((n, 6), 0.5))
    seen = np.concatenate([project(joints, K), np.ones((n, 17, 1))], -1)
    labels = np.array(["a", "b"]), np.array(list("cdefgh"))
    truth = scene_fit(
        name, f"{name}.png", SIZE, K, people, labels, keypoints_3d=joints, height_m=np.ones(n), keypoints_2d=seen
    )
    if scores is None:
        return truth
    boxes = [",".join(f"{v:.3f}" for v in box) for box in prove_aios.truth_of(truth).boxes]
    notes = [f"score={score};box={box}" for score, box in zip(scores, boxes)]
    return scene_fit(
        name, "", SIZE, K, people, labels, keypoints_3d=joints, height_m=np.ones(n), keypoints_2d=seen, notes=notes
    )


def stored(folder: Path, fits: list[SceneFit]) -> Path:
    folder.mkdir()
    for fit in fits:
        fit_files.save(fit, folder / f"{fit.name}.npz")
    return folder


@pytest.fixture
def truth(tmp_path) -> Path:
    return stored(tmp_path / "truth", [fit_of(str(k), joints) for k, joints in enumerate(PEOPLE)])


def test_perfect_predictions(truth, tmp_path):
    same = [fit_of(str(k), joints, [0.9] * len(joints)) for k, joints in enumerate(PEOPLE)]
    found = prove_aios.judge(stored(tmp_path / "same", same), truth, truth)
    assert found["people"] == 6 and found["recall"] == 1 and found["false_positives"] == 0
    assert found["box_ap"] == found["oks_ap"] == 1
    assert found["mpjpe_mm"] < 1e-3 and found["pa_mpjpe_mm"] < 1e-3
    rooted = at_root(np.concatenate(PEOPLE), (11, 12))
    expected = 1000 * np.linalg.norm(rooted - rooted.mean(0), axis=-1).mean()
    assert found["mean_pose_mpjpe_mm"] == pytest.approx(expected, rel=1e-5)


def test_known_errors(truth, tmp_path):
    """Bodies a tenth too large about the hips; one person of the six is unsure."""
    wrong = []
    for k, joints in enumerate(PEOPLE):
        root = joints[:, 11:13].mean(1, keepdims=True)
        scores = [0.9] * len(joints)
        scores[0] = 0.2 if k == 2 else 0.9
        wrong.append(fit_of(str(k), root + 1.1 * (joints - root), scores))
    found = prove_aios.judge(stored(tmp_path / "wrong", wrong), truth, truth)
    assert found["recall"] == pytest.approx(5 / 6)
    kept = np.concatenate([*PEOPLE[:2], PEOPLE[2][1:]])
    expected = 100 * np.linalg.norm(at_root(kept, (11, 12)), axis=-1).mean()
    assert found["mpjpe_mm"] == pytest.approx(expected, rel=1e-4)
    assert found["pa_mpjpe_mm"] < 1e-3
    assert found["box_ap50"] == 1.0  # the unsure one too


def test_the_page(truth, tmp_path):
    same = [fit_of(str(k), joints, [0.9] * len(joints)) for k, joints in enumerate(PEOPLE)]
    found = prove_aios.judge(stored(tmp_path / "same", same), truth, truth)
    judged = {name: {"what": "x", "steps": 20, "on": {"few": found}} for name in ("overfit", "full")}
    curves = {name: [{"step": s, "loss": 100.0 / s} for s in (10, 20)] for name in judged}
    text = prove_aios.page(judged, curves, "name")
    assert text.count("| 1.000 |") >= 2 and "Ablations" in text and "| 20 | 5 |" in text
    with Image.open(io.BytesIO(prove_aios.chart(curves))) as image:
        assert (np.asarray(image) != 255).any()


def test_crops(tmp_path):
    """The truth moves with the picture; people of whom there is no detected box are left out."""
    truth = fit_of("scene", PEOPLE[2])
    photo = tmp_path / "scene.png"
    Image.fromarray(RNG.integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)).save(photo)
    predicted = fit_of("scene", PEOPLE[2][1:], [0.9, 0.2])
    boxes = box_sensitivity.detected_boxes(predicted, truth)
    assert np.isfinite(boxes).all(1).tolist() == [False, True, False]
    for boxes_, count in ((None, 3), (boxes, 1)):
        folder = tmp_path / str(count)
        box_sensitivity.make_crops(truth, photo, boxes_, 0.1, np.random.default_rng(0), folder, 64)
        crops = [fit_files.load(path) for path in sorted((folder / "fits").glob("*.npz"))]
        assert len(crops) == count
        for crop in crops:
            assert max_abs(project(crop.fitted_keypoints_3d, crop.K), crop.keypoints_2d[..., :2]) < 1e-2
            with Image.open(folder / "photos" / crop.image_path) as image:
                assert image.size == (64, 64)
