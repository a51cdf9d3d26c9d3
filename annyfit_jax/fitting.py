"""Scenes in, fits out: start, batch, solve, judge.

fitter = Fitter(config)
for fit in fitter.fit(scenes): results.save(fit, ...)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from annyfit_jax import problem as problems
from annyfit_jax import solver
from annyfit_jax.bodies import anny_body
from annyfit_jax.config import FitConfig, config_hash, to_json
from annyfit_jax.meshes import BodyMeshes
from annyfit_jax.objective import clamp
from annyfit_jax.problem import Capacity
from annyfit_jax.results import SceneFit
from annyfit_jax.scene import BodyParameters, Scene
from annyfit_jax.starts import PreparedScene, prepare
from body_models import anny
from experts.keypoint_start import KeypointStarter

_PAIRS_PER_PERSON = 6
"""Room for pairs in a batch: a list of N people takes up to 6 N pairs (a scene of n people has n (n - 1) / 2)."""


class PendingBatch(NamedTuple):
    """A fit under way."""

    batch: list[PreparedScene]
    outcome: solver.BatchFit


class Fitter:
    """A body model, an objective and a schedule, ready to fit any number of scenes."""

    def __init__(self, config: FitConfig, model: anny.AnnyModel | None = None) -> None:
        self.config = config
        self.model = anny.load() if model is None else model
        self.body = anny_body(self.model, config)
        self.starter = KeypointStarter(self.model)
        self.meshes = BodyMeshes(self.model)

    # -------------------------------------------------------------------------------------------- fitting

    def prepare(self, scene: Scene) -> PreparedScene:
        """Start of a scene; raises SceneError where nobody can be fitted."""
        return prepare(scene, self.config, self.starter)

    def fit(self, scenes: Iterable[Scene]) -> Iterator[SceneFit]:
        """Fit scenes in batches, in order. Raises SceneError at a scene that cannot be fitted: `prepare` first to know."""
        for batch in self.batches(map(self.prepare, scenes)):
            yield from self.fit_batch(batch)

    def batches(self, scenes: Iterable[PreparedScene]) -> Iterator[list[PreparedScene]]:
        """Consecutive scenes that together fill the longest list of people."""
        longest = max(self.config.person_lengths)
        batch: list[PreparedScene] = []
        for scene in scenes:
            together = problems.capacity_of([p.scene for p in (*batch, scene)])
            if batch and (together.people > longest or together.pairs > longest * _PAIRS_PER_PERSON):
                yield batch
                batch = []
            batch.append(scene)
        if batch:
            yield batch

    def capacity(self, batch: Sequence[PreparedScene]) -> Capacity:
        """The smallest of the configured lengths that takes a batch; powers of two beyond the longest."""
        need = problems.capacity_of([p.scene for p in batch])
        length = max(need.people, math.ceil(need.pairs / _PAIRS_PER_PERSON))
        fitting = [n for n in sorted(self.config.person_lengths) if n >= length]
        people = fitting[0] if fitting else 1 << (length - 1).bit_length()
        return Capacity(people, people * _PAIRS_PER_PERSON, people)

    def fit_batch(self, batch: Sequence[PreparedScene]) -> list[SceneFit]:
        """Fit one batch; the result has one `SceneFit` per scene, in order."""
        return self.collect(self.dispatch(batch))

    def dispatch(self, batch: Sequence[PreparedScene]) -> PendingBatch:
        """Assemble a batch and start its fit without waiting for it."""
        scenes = [p.scene for p in batch]
        dtype = np.dtype(self.model.dtype)
        problem, variables = problems.assemble(
            scenes, [p.start for p in batch], self.config, self.capacity(batch), dtype
        )
        outcome = solver.fit_batch(self.config, self.body, *jax.tree.map(jnp.asarray, (problem, variables)))
        return PendingBatch(list(batch), outcome)

    def collect(self, pending: PendingBatch) -> list[SceneFit]:
        """Wait for a dispatched batch and judge its people."""
        batch = pending.batch
        scenes = [p.scene for p in batch]
        outcome = jax.tree.map(np.asarray, pending.outcome)
        ends = problems.split_people(outcome.variables, scenes)
        offsets = np.cumsum([0, *(len(s) for s in scenes)])
        return [
            self._collect(
                prepared,
                end,
                outcome.reprojection_px[offsets[k] : offsets[k + 1]],
                outcome.start_reprojection_px[offsets[k] : offsets[k + 1]],
                [{name: curve[:, k] for name, curve in stage.items()} for stage in outcome.losses],
            )
            for k, (prepared, end) in enumerate(zip(batch, ends))
        ]

    # -------------------------------------------------------------------------------------------- results

    def _collect(
        self,
        prepared: PreparedScene,
        end: BodyParameters,
        error: np.ndarray,
        start_error: np.ndarray,
        losses: list[dict[str, np.ndarray]],
    ) -> SceneFit:
        scene, kept = prepared.scene, prepared.kept
        total = len(kept) + len(prepared.skipped)
        status = np.full(total, "ok", dtype="U64")
        notes = np.full(total, "", dtype="U256")
        ids = np.full(total, "", dtype="U64")
        for index, reason in prepared.skipped.items():
            status[index] = f"skipped:{reason}"
            ids[index] = prepared.skipped_ids[index]
        ids[kept] = scene.person_ids or [str(i) for i in kept]
        for row, index in enumerate(kept):
            notes[index] = ";".join(prepared.notes[row])
            status[index] = _status(end, row)
        shape = np.asarray(clamp(end.shape, self.body.shape_low, self.body.shape_high))
        pose = np.asarray(clamp(end.pose, -self.body.pose_limit, self.body.pose_limit))
        visible = BodyParameters(end.root_rotvec, end.transl, pose, shape)
        keypoints, height = self.meshes.keypoints_and_height(visible)

        def spread(values: np.ndarray) -> np.ndarray:
            out = np.full((total, *values.shape[1:]), np.nan, np.float32)
            out[kept] = values
            return out

        words = np.full((total, 2), -1.0, np.float32)
        words[kept] = np.stack([scene.age, scene.gender], 1)
        names, curve = _loss_table(losses)
        start = prepared.start
        return SceneFit(
            name=scene.name,
            image_size=np.asarray(scene.image_size, np.int32),
            image_path=scene.image_path or "",
            K=np.asarray(scene.intrinsics, np.float32),
            person_ids=ids,
            status=status,
            notes=notes,
            root_rotvec=spread(end.root_rotvec),
            transl=spread(end.transl),
            pose=spread(pose),
            shape=spread(shape),
            shape_raw=spread(end.shape),
            start_root_rotvec=spread(start.root_rotvec),
            start_transl=spread(start.transl),
            start_pose=spread(start.pose),
            start_shape=spread(start.shape),
            start_origin=prepared.origin,
            height_m=spread(height),
            depth_m=spread(end.transl[:, 2]),
            reprojection_px=spread(error),
            start_reprojection_px=spread(start_error),
            keypoints_2d=spread(scene.keypoints),
            fitted_keypoints_3d=spread(keypoints),
            age_word=words[:, 0],
            gender_word=words[:, 1],
            loss_names=names,
            loss_curve=curve,
            bone_labels=np.array(self.model.labels.bones[1:]),
            phenotype_labels=np.array(self.model.labels.phenotypes),
            asset_version=self.model.labels.asset_version,
            config_hash=config_hash(self.config),
            config_json=json.dumps(to_json(self.config)),
            scene_notes=np.array(scene.notes, dtype=np.str_),
            set_aside=np.array(scene.skipped, dtype=np.str_).reshape(-1, 2),
        )

    def vertices(self, people: BodyParameters) -> np.ndarray:
        """(n, 13718, 3) float32 posed vertices in camera space; NaN for people with NaN parameters."""
        return self.meshes.vertices(people)


def _status(end: BodyParameters, row: int) -> str:
    values = (end.root_rotvec[row], end.transl[row], end.pose[row], end.shape[row])
    if not all(np.isfinite(v).all() for v in values):
        return "failed:not_finite"
    return "failed:behind_camera" if end.transl[row, 2] <= 0 else "ok"


def _loss_table(losses: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    names = sorted({name for stage in losses for name in stage})
    blocks = []
    for stage in losses:
        steps = len(next(iter(stage.values()))) if stage else 0
        empty = np.full(steps, np.nan, np.float32)
        blocks.append(np.stack([stage.get(name, empty) for name in names], 1) if names else empty[:, None])
    return np.array(names, dtype=np.str_), np.concatenate(blocks).astype(np.float32)
