"""The steps of a distillation: photos -> fits -> trusted labels -> a better network, and what it gained.

    work = Distillation(config, "OUT", predictor)
    work.run(list(STEPS))

Every step continues where it was interrupted and leaves finished work alone. The table of the program says what a step makes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import numpy as np
from absl import logging

from annyfit_jax import metrics
from annyfit_jax.distillation.distillation_config import (
    CUES,
    LABELS,
    MAY_CHANGE,
    SYNTHETIC,
    DistillConfig,
    Labels,
    Scenes,
    Student,
    describe,
)
from annyfit_jax.distillation.distillation_report import TEACHER, write_report
from annyfit_jax.distillation.fit_labels import StatedPeople, as_fit, open_scenes, select, trusted, without
from annyfit_jax.engine.stopping import Interrupted
from annyfit_jax.exports.training_set import photos_from, write_training_set
from annyfit_jax.fit.config import load_config
from annyfit_jax.inputs import cue_dataset, open_input
from annyfit_jax.inputs.cue_source import CueSource
from annyfit_jax.jobs.fit_job import fit_job, one_config
from annyfit_jax.jobs.fit_source import FitSource, open_fits
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.scene import BodyParameters, Scene
from annyfit_jax.records import fit_files
from annyfit_jax.records.file_names import file_stem
from annyfit_jax.records.files import read_json, sha256, write_json, write_text
from annyfit_jax.records.settings import apply_overrides
from annyfit_jax.store.locations import place
from annyfit_jax.synthetic.scene_dataset import MadeScenes, write_dataset
from annyfit_jax.synthetic.world import WORLD_VERSION, World, jpeg
from annyfit_jax.training import training_state as states
from annyfit_jax.training.training_config import TrainConfig, override
from annyfit_jax.training.training_loop import train
from annyfit_jax.truth.evaluation import evaluate
from annyfit_jax.truth.scene_evaluation import synthetic_errors

_SCENES_PER_SHARD = 256
_ALL_CUES = "all_cues"


class PeoplePredictor(Protocol):
    """A network that gives a body to every boxed person of a dataset."""

    def people(self, source: CueSource, indices: range) -> Iterator[tuple[Scene, BodyParameters]]:
        """Scenes of a dataset, each with its bodies. Raises SceneError for a scene without picture or boxes."""
        ...


class Distillation:
    """The steps of one config in one folder. Each may be called alone, once those before it have been."""

    def __init__(
        self,
        config: DistillConfig,
        folder: str | Path,
        predictor: Callable[[Path, Any, int], PeoplePredictor],
        *,
        find_config: Callable[[str], str] = str,
        students: Sequence[str] = (),
        stop: threading.Event | None = None,
    ) -> None:
        """
        Args:
          folder: made or continued.
          predictor: (weights in PyTorch's format, their regressor, pictures at once) -> the network at work.
          find_config: the path of a fit config from what `Labels.config` says.
          students: names of those to train and to judge; all by default.
          stop: set it to have the step under way raise Interrupted.

        Raises ValueError where the folder is that of another config, or a student is unknown.
        """
        self.config, self.folder, self.stop = config, place(folder).path, threading.Event() if stop is None else stop
        self._make_predictor, self._find_config = predictor, find_config
        names = [student.name for student in config.students]
        unknown = [name for name in students if name not in names]
        if unknown:
            raise ValueError(f"--students: no student {unknown[0]!r}; there are {names}")
        self.students = [s for s in config.students if not students or s.name in students]
        described, path = describe(config), self.folder / "config.json"
        before = read_json(path) or {}
        differing = [
            name
            for name in described
            if name not in MAY_CHANGE and before.get(name, described[name]) != described[name]
        ]
        if differing:
            raise ValueError(f"{path}: a distillation with another {', '.join(differing)}; give another --output")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(described, indent=1) + "\n")

    def run(self, steps: Sequence[str]) -> None:
        """Some steps, in order. Raises Interrupted where one was stopped."""
        for name in steps:
            started = os.times()
            logging.info("step %s", name)
            try:
                STEPS[name](self)
            finally:
                self._note(name, started)

    def _note(self, name: str, started: os.times_result) -> None:
        """Adds what a step took to `seconds.json`: on the clock, and of processors, child processes included."""
        path = self.folder / "seconds.json"
        known = read_json(path) or {}
        before, passed = known.get(name, {}), [now - then for now, then in zip(os.times(), started)]
        spent = {"clock": passed[4], "processor": sum(passed[:4])}
        known[name] = {kind: round(before.get(kind, 0.0) + seconds, 1) for kind, seconds in spent.items()}
        write_json(path, known)

    # ------------------------------------------------------------------------------------------------ scenes

    def place(self, role: str) -> Path:
        """The cue dataset of `synthetic`, `stream` or `held_out`."""
        scenes: Scenes = getattr(self.config, role)
        return Path(scenes.path) if scenes.path else self.folder / "scenes" / role

    def scenes(self) -> None:
        """Renders the scenes that are not given."""
        shared: World | None = None
        for role in ("synthetic", "stream", "held_out"):
            scenes: Scenes = getattr(self.config, role)
            if scenes.path or not scenes.count or (self.place(role) / "dataset_info.json").is_file():
                continue
            shared = shared or World(scenes.seed, scenes.world)
            world = shared.with_config(scenes.world, scenes.seed)
            made = MadeScenes(world.scenes, world.fingerprint(), f"world-{WORLD_VERSION}", jpeg)
            write_dataset(
                made, self.place(role), scenes.count, scenes_per_shard=_SCENES_PER_SHARD,
                on_shard=lambda shard, role=role: self._pause(f"{role}: shard {shard} rendered"),
            )  # fmt: skip
        synthetic = self.config.synthetic
        if synthetic.wanted and not (self.folder / "labels" / "synthetic" / "dataset_info.json").is_file():
            self._export("synthetic", self._stated(self.place("synthetic"), "truth"), "synthetic", None)

    # ------------------------------------------------------------------------------------------------ networks

    @property
    def checkpoint(self) -> Path:
        """Weights of the teacher."""
        return Path(self.config.checkpoint) if self.config.checkpoint else self.folder / "teacher.pt"

    def teacher(self) -> None:
        """Trains the network that labels start from."""
        if not self.config.checkpoint:
            self._trained(self._fed(self.config.teacher), self.folder / "teacher", self.checkpoint)

    def train(self) -> None:
        """Trains the students."""
        for student in self.students:
            self._trained(self._student(student), self.folder / "students" / student.name, self._weights(student.name))

    def _weights(self, student: str) -> Path:
        return self.folder / "students" / f"{student}.pt"

    def _student(self, student: Student) -> TrainConfig:
        """Its training: fed with its labels, from the teacher's weights."""
        config = self._fed(self.config.train, self.folder / "labels" / student.labels)
        own = f"feed.sets.{LABELS}"
        changes = [
            f"start_from={self.checkpoint}",
            f"{own}.every={student.every}",
            f"{own}.uncertainty={student.uncertainty}",
        ]
        return override(config, changes)

    def _fed(self, config: TrainConfig, labels: Path | None = None) -> TrainConfig:
        """The config with the places of its data. Raises ValueError where the feed lacks a set."""
        changes = [] if labels is None else [f"feed.sets.{LABELS}.path={labels}"]
        if self.config.synthetic.wanted:
            changes.append(f"feed.sets.{SYNTHETIC}.path={self.folder / 'labels' / SYNTHETIC}")
        else:
            changes.append(f"feed.sets.{SYNTHETIC}.probability=0")
        return override(config, changes)

    def _trained(self, config: TrainConfig, run: Path, weights: Path) -> None:
        """Trains to the end and writes the averaged weights in PyTorch's format."""
        if weights.is_file():
            return
        state = train(config, run, stop=self.stop)
        if int(state.step) < config.steps:
            raise Interrupted
        if jax.process_index():
            return
        variables = states.inference_variables(state, config.regressor.init(jax.random.key(config.seed)))
        config.regressor.write_checkpoint(weights, variables)

    def _predictor(self, weights: Path) -> PeoplePredictor:
        return self._make_predictor(weights, self.config.train.regressor, self.config.batch)

    # ------------------------------------------------------------------------------------------------ labels

    def start(self) -> None:
        """Writes the stream anew, with the teacher's predictions as starts; then again for labels made without some cues."""
        if all(labels.source == "truth" for labels in self.config.labels):
            return
        complete = self.folder / "start" / _ALL_CUES
        if not (complete / "dataset_info.json").is_file():
            predictor, stream = self._predictor(self.checkpoint), open_scenes(self.place("stream"))
            self._restart(
                complete, len(stream), [], lambda span: (dataclasses.replace(s, start=people) for s, people in
                predictor.people(stream, range(span[0], span[-1] + 1))),
            )  # fmt: skip
        started = open_scenes(complete)
        for labels in self.config.labels:
            gone = [cue for cue in CUES if cue not in labels.cues]
            if labels.source == "fits" and gone:
                self._restart(
                    self._started(labels), len(started), gone,
                    lambda span, gone=gone: (without(started.load(i), gone) for i in span),
                )  # fmt: skip

    def _restart(
        self, place: Path, count: int, gone: list[str], scenes: Callable[[Sequence[int]], Iterable[Scene]]
    ) -> None:
        """Writes one dataset of starts; pictures stay in the stream."""
        teacher = sha256(self.checkpoint)
        plan = cue_dataset.Plan(count, {"teacher": teacher, "without": gone}, _SCENES_PER_SHARD)
        cue_dataset.write(
            place, plan, scenes, provenance={"cues": {"start": {"expert": "multihmr", "version": teacher[:12]}}},
            on_shard=lambda shard: self._pause(f"start {place.name}: shard {shard} written"),
        )  # fmt: skip

    def _started(self, labels: Labels) -> Path:
        gone = [cue for cue in CUES if cue not in labels.cues]
        return self.folder / "start" / ("_".join(["without", *gone]) if gone and labels.source == "fits" else _ALL_CUES)

    def fit(self) -> None:
        """Fits the stream for each kind of labels that is fitted."""
        for labels in self.config.labels:
            if labels.source == "fits":
                config = apply_overrides(load_config(self._find_config(labels.config)), labels.set)
                scenes, target = open_input(str(self._started(labels))), self.folder / "fits" / labels.name
                fit_job(scenes, target, one_config(config), stop=self.stop)

    def select(self) -> None:
        """Writes the datasets of labels, and how good they are where the truth is known."""
        for labels in self.config.labels:
            target = self.folder / "labels" / f"{labels.name}.json"
            if target.is_file():
                continue
            source = self._labelled(labels)
            threshold = labels.threshold if labels.source == "fits" else None
            summary = self._export(labels.name, source, "stream", threshold)
            summary["quality"] = self._quality(source, threshold)
            write_json(target, summary)

    def _labelled(self, labels: Labels) -> FitSource:
        if labels.source == "fits":
            return open_fits(self.folder / "fits" / labels.name, details=False)
        if labels.source == "truth":
            return self._stated(self.place("stream"), "truth")
        return self._stated(self._started(labels), "start")

    def _stated(self, place: Path, states: Literal["start", "truth"]) -> FitSource:
        return StatedPeople(place, states)

    def _export(self, name: str, source: FitSource, role: str, threshold: float | None) -> dict[str, Any]:
        """Writes one dataset of labels with the photos of a role; scenes in which nobody is trusted are left out."""
        weigh = None if threshold is None else trusted(threshold)
        chosen = None if weigh is None else select(source, weigh)
        done = write_training_set(
            source, self.folder / "labels" / name, names=chosen.names if chosen else (), photo=photos_from(self.place(role)),
            weigh=weigh, scenes_per_shard=_SCENES_PER_SHARD,
            on_shard=lambda shard: self._pause(f"labels {name}: shard {shard} written"),
        )  # fmt: skip
        if chosen is None:
            return {"scenes": done.scenes, "people": done.people, "all_people": done.people}
        return {"scenes": len(chosen.names), "people": chosen.people, "all_people": chosen.all_people}

    def _quality(self, source: FitSource, threshold: float | None) -> dict[str, Any]:
        """Errors of the labels that are learned from, where the stream has truth."""
        scenes, meshes = open_scenes(self.place("stream")), BodyMeshes()
        if scenes.load(0).truth is None:
            return {}
        index = {name: i for i, name in enumerate(scenes.names)}
        errors = []
        for fit in source:
            rows = np.flatnonzero(fit.ok if threshold is None else trusted(threshold)(fit) > 0)
            if len(rows):
                scene = scenes.load(index[fit.name])
                errors.append(synthetic_errors(scene, rows, fit.parameters.select(rows), meshes))
        return metrics.pool(errors)

    # ------------------------------------------------------------------------------------------------ judgement

    def evaluate(self) -> None:
        """Predicts the held-out people with the teacher and every trained student, and judges them by the truth."""
        if not self.config.held_out.wanted:
            logging.warning("no held-out scenes with truth: nothing is judged")
            return
        meshes, source = BodyMeshes(), open_scenes(self.place("held_out"))
        for name, weights in self._networks():
            target, folder = self.folder / "metrics" / f"{name}.json", self.folder / "predictions" / name
            if target.is_file():
                continue
            for scene, people in self._predictor(weights).people(source, range(len(source))):
                fit_files.save(as_fit(scene, people, meshes, name), folder / "fits" / f"{file_stem(scene.name)}.npz")
                self._pause()
            figures = evaluate(str(folder), str(self.place("held_out")), "synthetic", bootstrap=self.config.bootstrap)
            kept = {key: figures[key]["fit"] for key in ("pooled", "intervals") if key in figures}
            write_json(target, {**kept, "settings": figures["settings"]})

    def _networks(self) -> list[tuple[str, Path]]:
        """The teacher, and the students whose training is finished."""
        students = [(student.name, self._weights(student.name)) for student in self.students]
        return [(TEACHER, self.checkpoint), *(pair for pair in students if pair[1].is_file())]

    def report(self) -> None:
        """Writes the report of what has been judged."""
        write_report(self.config, self.folder, self.place("held_out"))

    # ------------------------------------------------------------------------------------------------ control

    def _pause(self, said: str = "") -> None:
        """Logs, and raises Interrupted where the program was asked to stop."""
        if said:
            logging.info("%s", said)
        if self.stop.is_set():
            raise Interrupted


STEPS: dict[str, Callable[[Distillation], None]] = {
    name: getattr(Distillation, name)
    for name in ("scenes", "teacher", "start", "fit", "select", "train", "evaluate", "report")
}
