"""The PyTorch baseline of the benchmark IS the released optimiser: recorded trajectories, step by step."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fit_cases import golden, released_config
from helpers import GOLDENS, REPO

from annyfit_jax.records.settings import to_json

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("anny")

from experiments.benchmarks import torch_baseline as baseline  # noqa: E402


def problem(*indices: int) -> dict[str, np.ndarray]:
    """Recorded scenes as one problem."""
    rows: dict[str, list[np.ndarray]] = {}
    for index in indices:
        z = golden(f"traj_{index:03d}_scene")
        n = len(z["init_transl"])
        words = np.stack([z["vlm_gender"], z["vlm_age"]], 1)
        shape = z["init_shape"].copy()
        shape[:, :2] = np.where(words >= 0, words, shape[:, :2])
        fields = {
            "counts": np.array([n]),
            "intrinsics": np.broadcast_to(z["K"], (n, 3, 3)),
            "keypoints": z["keypoints_2d"],
            "dense": z["dense_kp"],
            "depth": z["median_depth"],
            "words": words,
            "shape": shape,
            **{name: z[f"init_{name}"] for name in ("transl", "root_rotvec", "pose")},
        }
        for name, value in fields.items():
            rows.setdefault(name, []).append(value)
    return {name: np.concatenate(values) for name, values in rows.items()}


def fit(dtype, scenes: dict[str, np.ndarray], steps: int | None = None):
    """(end parameters, totals, parameters after each stage) of the released schedule, or of one with so many steps."""
    config = to_json(released_config())
    if steps is not None:
        config["stages"] = [{**stage, "steps": steps} for stage in config["stages"]]
    dense = json.loads((GOLDENS / "annyfit" / "dense138_vertices.json").read_text())["vertex_indices"]
    body = baseline.TorchBody(
        np.asarray(dense), tuple(config["frozen_bones"]), dtype=dtype, cache=REPO / ".cache" / "anny"
    )
    cues, start = baseline.flatten(scenes, body.dtype, body.device)
    return baseline.fit(body, cues, start, config)


@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_released_trajectory(precision: str) -> None:
    """Three people, an equal pair and an active ranked one, missing keypoints: all 400 steps."""
    recorded = golden(f"traj_001_{precision}")
    torch.set_num_threads(1)
    end, totals, after = fit(torch.float32 if precision == "f32" else torch.float64, problem(1))
    tolerance = 1e-4 if precision == "f32" else 1e-9
    errors = {"loss": np.abs(totals.numpy() / recorded["loss_total_loss"] - 1.0).max()}
    for k, stage in enumerate(after, start=1):
        for name in baseline.GROUPS:
            if f"params_stage{k}_{name}" in recorded:  # the float32 record keeps only the end
                errors[f"stage{k} {name}"] = np.abs(stage[name].numpy() - recorded[f"params_stage{k}_{name}"]).max()
    assert len(errors) == (5 if precision == "f32" else 13)
    print(precision, {name: f"{error:.1e}" for name, error in errors.items()})
    assert max(errors.values()) <= tolerance
    moved = np.abs(end["pose"].numpy() - problem(1)["pose"]).max()
    assert moved > 0.01


def test_batch_equals_scenes_alone() -> None:
    """Scenes of one flat batch do not see each other (few steps: float64 rounding only)."""
    torch.set_num_threads(1)
    together, _, _ = fit(torch.float64, problem(0, 1, 2), steps=3)
    alone = [fit(torch.float64, problem(k), steps=3)[0] for k in (0, 1, 2)]
    for name in baseline.GROUPS:
        apart = np.concatenate([end[name].numpy() for end in alone])
        assert np.abs(together[name].numpy() - apart).max() <= 1e-12


def test_select_scenes_keeps_people_together() -> None:
    scenes = problem(0, 1, 2)
    chosen = baseline.select_scenes(scenes, np.array([2, 0]))
    assert list(chosen["counts"]) == [3, 1]
    np.testing.assert_array_equal(chosen["transl"], np.concatenate([scenes["transl"][4:7], scenes["transl"][:1]]))
