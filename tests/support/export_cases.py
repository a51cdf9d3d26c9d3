"""A finished job for the tests of exports: fitted, failed, skipped and set-aside people, and scenes that were set aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from fake_job import FakeFitter, fake_fit, make_scene, run

from annyfit_jax.inputs.scene_source import SceneSource
from annyfit_jax.jobs import fit_source
from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import Scene, SceneError
from annyfit_jax.records.fit_files import SceneFit

NAMES = ("pair", "mixed", "unreadable", "invalid", "trio", "failed")
PEOPLE = {"pair": 2, "mixed": 3, "invalid": 2, "trio": 3, "failed": 1}
FITTED = {"pair": 2, "mixed": 2, "trio": 3}
"""Scenes with somebody fitted, and how many."""


def load(index: int) -> Scene:
    name = NAMES[index]
    if name == "unreadable":
        raise SceneError("unreadable.npz: not a readable .npz file")
    scene = make_scene(index, PEOPLE[name], name)
    scene.image_path = f"photos/{name}.jpg"
    if name == "invalid":
        scene.keypoints[0, 3, 0] = np.nan
    if name == "mixed":
        scene.skipped.append(("crowd7", "crowd annotation: 12 people"))
    return scene


class People(FakeFitter):
    """Upright people side by side, with keypoints in front of the camera. Of `mixed` the second is skipped."""

    def collect(self, pending: list[Scene]) -> list[SceneFit]:
        return [fit_of(scene) for scene in pending]


def fit_of(scene: Scene) -> SceneFit:
    n, rng = len(scene), np.random.default_rng(NAMES.index(scene.name))
    version, bones, phenotypes = fit_source._labels()
    transl = np.stack([np.linspace(-1, 1, n), np.zeros(n), np.linspace(4, 6, n)], 1)
    joints = transl[:, None] + rng.uniform(-0.5, 0.5, (n, 17, 3))
    pixels = project(joints, scene.intrinsics)
    confidence = rng.uniform(0.3, 1.0, (n, 17))
    confidence[:, 4] = 0.0
    arrays = {
        "root_rotvec": np.tile([np.pi / 2, 0.0, 0.0], (n, 1)), "transl": transl, "pose": rng.normal(0, 0.05, (n, 162, 3)),
        "shape": rng.uniform(0.2, 0.8, (n, 6)), "height_m": rng.uniform(1, 2, n), "depth_m": transl[:, 2],
        "reprojection_px": rng.uniform(1, 5, n), "start_reprojection_px": rng.uniform(5, 9, n), "age_word": np.full(n, 0.66),
        "gender_word": np.full(n, -1.0), "fitted_keypoints_3d": joints,
        "keypoints_2d": np.concatenate([pixels + rng.normal(0, 2, pixels.shape), confidence[..., None]], 2),
    }  # fmt: skip
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    status = np.full(n, "ok", "<U40")
    if scene.name == "mixed":
        status[1] = "skipped:no_keypoints"
        for name in set(arrays) - {"age_word", "gender_word"}:
            arrays[name][1] = np.nan
    if scene.name == "failed":
        status[:] = "failed:not_finite"
        for name in ("root_rotvec", "transl", "pose", "shape", "height_m", "depth_m", "fitted_keypoints_3d"):
            arrays[name][:] = np.nan
    return replace(
        fake_fit(scene), **arrays, status=status, notes=np.full(n, "no_words"), image_path=scene.image_path or "",
        asset_version=version, bone_labels=bones, phenotype_labels=phenotypes,
        start_transl=arrays["transl"] + np.float32(0.1),
    )  # fmt: skip


def make_job(folder: Path, names: Sequence[str] = NAMES, **options) -> Path:
    """Runs the job; its rows are in shards of four scenes."""
    run(folder, SceneSource("fake", tuple(names), load, "memory"), fitter=People(), **options)
    return folder
