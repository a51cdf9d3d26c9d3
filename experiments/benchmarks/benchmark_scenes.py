"""The scenes of `experiments.benchmarks.benchmark`: one table of people that every program under comparison reads.

A problem is a dict of arrays, people first: `counts` (people per scene) and per person `intrinsics` (N, 3, 3), `keypoints`
(N, 17, 3), `dense` (N, 138, 3), `depth` (N,) metres with NaN = unknown, `words` (N, 2) gender and age anchors with -1 =
unusable, and the start `transl`, `root_rotvec`, `shape`, `pose` with the words inserted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from annyfit_jax import inputs
from annyfit_jax.people import dense_points
from annyfit_jax.people.scene import BodyParameters, Scene, SceneError
from body_models import anny

GROUPS = ("transl", "root_rotvec", "shape", "pose")
_IMAGE = (640, 480)
_FOCAL_PX = 554.0
_AGES = (0.0, 0.1, 0.33, 0.5, 0.66, 0.999)


def read(folder: str | Path) -> dict[str, np.ndarray]:
    """The problem of a folder of scene files, or of the folders in it. Scenes must have a start (`SceneError` otherwise)."""
    folder = Path(folder)
    folders = [folder] if any(folder.glob("*.npz")) else sorted(f for f in folder.iterdir() if any(f.glob("*.npz")))
    scenes: list[Scene] = []
    for part in folders:
        try:
            source = inputs.open_input(str(part))
            loaded = [source.load(k) for k in range(len(source))]
        except SceneError:
            if part == folder:
                raise
            continue  # a folder of npz files that are not scenes, such as stored results
        scenes += [scene for scene in loaded if scene.start is not None]
    if not scenes:
        raise SceneError(f"{folder}: no scene files with a start (init_*) in it or in its folders")
    return from_scenes(scenes)


def from_scenes(scenes: Iterable[Scene]) -> dict[str, np.ndarray]:
    """The problem of scenes that have a start."""
    rows: dict[str, list[np.ndarray]] = {}
    for scene in scenes:
        assert scene.start is not None
        words = np.stack([scene.gender, scene.age], 1)
        shape = np.array(scene.start.shape, np.float32)
        shape[:, :2] = np.where(words >= 0, words, shape[:, :2])
        fields = {
            "counts": np.array([len(scene)]),
            "intrinsics": np.broadcast_to(scene.intrinsics, (len(scene), 3, 3)),
            "keypoints": scene.keypoints,
            "dense": scene.dense_keypoints,
            "depth": scene.median_depth,
            "words": words,
            "shape": shape,
            **{name: getattr(scene.start, name) for name in GROUPS if name != "shape"},
        }
        for name, value in fields.items():
            rows.setdefault(name, []).append(np.asarray(value))
    joined = {name: np.concatenate(values) for name, values in rows.items()}
    return {name: value if name == "counts" else value.astype(np.float32) for name, value in joined.items()}


def synthesise(model: anny.AnnyModel, counts: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Random people of all ages, 2 to 8 m away, with noisy cues, each started as an average adult where it fits the image.

    For timing: the work of a fit does not depend on its data. `experiments.synthesize` makes scenes to judge fits by.
    """
    rng = np.random.default_rng(seed)
    n = int(np.sum(counts))
    shape = rng.uniform(0.1, 0.9, (n, 6))
    age_class = rng.integers(0, len(_AGES), n)
    shape[:, 1] = np.asarray(_AGES)[age_class]
    pose = rng.normal(0.0, 0.12, (n, 162, 3))
    # Upright in camera axes (y down, z away), turned about the vertical.
    upright = np.array([np.pi / 2, 0.0, 0.0])
    root = upright + rng.normal(0.0, 0.2, (n, 3))
    depth = rng.uniform(2.0, 8.0, n)
    transl = np.stack([rng.uniform(-0.3, 0.3, n) * depth, rng.uniform(-0.05, 0.05, n) * depth, depth], 1)
    regressor = np.concatenate([
        np.asarray(model.keypoint_regressor, np.float64)[:17],
        anny.vertex_regressor(model, dense_points.dense_vertex_indices()),
    ])  # fmt: skip
    contracted = anny.contract(model, regressor)
    params = anny.Params(*(jnp.asarray(x, model.dtype) for x in (shape, root, pose, transl)))
    points = np.asarray(jax.jit(anny.points)(contracted, params), np.float64)
    intrinsics = np.array([[_FOCAL_PX, 0, _IMAGE[0] / 2], [0, _FOCAL_PX, _IMAGE[1] / 2], [0, 0, 1]])
    pixels = (
        points[..., :2] / points[..., 2:] * _FOCAL_PX + intrinsics[:2, 2] + rng.normal(0, 3.0, (*points.shape[:2], 2))
    )
    confidence = rng.uniform(0.4, 1.0, (*points.shape[:2], 1))
    cues = np.concatenate([pixels, confidence], 2)
    start_shape = np.tile([0.5, 0.66, 0.5, 0.5, 0.5, 0.5], (n, 1))
    words = np.stack([np.round(shape[:, 0]), np.asarray(_AGES)[age_class]], 1)
    words[rng.random((n, 2)) < 0.1] = -1.0
    start_shape[:, :2] = np.where(words >= 0, words, start_shape[:, :2])
    problem = {
        "intrinsics": np.tile(intrinsics, (n, 1, 1)),
        "keypoints": cues[:, :17],
        "dense": cues[:, 17:],
        "depth": depth * rng.normal(1.0, 0.03, n),
        "words": words,
        "transl": transl * rng.uniform(0.9, 1.3, (n, 1)),
        "root_rotvec": root + rng.normal(0, 0.05, root.shape),
        "shape": start_shape,
        "pose": pose + rng.normal(0, 0.05, pose.shape),
    }
    return {"counts": np.asarray(counts), **{name: value.astype(np.float32) for name, value in problem.items()}}


def scenes_of(problem: dict[str, np.ndarray], chosen: Sequence[int]) -> list[Scene]:
    """The named scenes of a problem."""
    ends = np.cumsum(problem["counts"])
    scenes = []
    for k in chosen:
        rows = slice(ends[k] - problem["counts"][k], ends[k])
        n = int(problem["counts"][k])
        scenes.append(
            Scene(
                name=f"scene_{k}",
                image_size=_IMAGE,
                intrinsics=problem["intrinsics"][rows][0],
                keypoints=problem["keypoints"][rows],
                dense_keypoints=problem["dense"][rows],
                median_depth=problem["depth"][rows],
                depth_layer=np.full(n, -1),
                gender=problem["words"][rows, 0],
                age=problem["words"][rows, 1],
                start=BodyParameters(**{name: problem[name][rows] for name in GROUPS}),
            )
        )
    return scenes


def regrouped(problem: dict[str, np.ndarray], people_per_scene: int, people: int) -> dict[str, np.ndarray]:
    """The same kind of people in scenes of one size: at least one scene, at most `people` people in all.

    People of different photos end up together, which is nonsense to fit and exactly as much work.
    """
    scenes = max(1, people // people_per_scene)
    rows = np.arange(scenes * people_per_scene) % len(problem["transl"])
    return {
        "counts": np.full(scenes, people_per_scene),
        **{name: value[rows] for name, value in problem.items() if name != "counts"},
    }
