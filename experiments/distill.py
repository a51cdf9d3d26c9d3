"""Distil fits into the network that they start from: photos -> fits -> trusted labels -> a better network, and what it gained.

    python -m experiments.distill --config=experiments/configs/distill_tiny.py --output=OUT          # all of it, on a CPU
    python -m experiments.distill --config=experiments/configs/distill.py --output=OUT --set=stream.path=CUES ... --steps=fit,select

| step | makes | by |
| --- | --- | --- |
| `scenes` | OUT/scenes/{synthetic,stream,held_out} | `experiments.synthesize`'s writer, where the config names no dataset |
| `teacher` | OUT/teacher, OUT/teacher.pt | the trainer, where the config names no checkpoint |
| `start` | OUT/start/LABELS: the stream with the teacher's predictions as starts | the expert `start=multihmr` |
| `fit` | OUT/fits/LABELS, a job | `experiments.fit` |
| `select` | OUT/labels/LABELS, a TFDS dataset with photos and loss weights | `annyfit_jax.fit.trust`, the exporter |
| `train` | OUT/students/STUDENT | the trainer, from the teacher's weights |
| `evaluate` | OUT/predictions, OUT/metrics | `experiments.evaluate`, before and after |
| `report` | OUT/report.md, .json, .png, pictures | |

Every step goes on where it was interrupted and leaves alone what is finished; `--steps` runs some of them, `--students` trains and
judges some of the students. Exit codes: 0 finished, 2 wrong usage or input, 75 stopped (run again to go on).
"""  # noqa: E501 (commands)

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app, flags, logging

if TYPE_CHECKING:
    from annyfit_jax.distillation.distillation_config import DistillConfig, Labels, Scenes, Student
    from annyfit_jax.jobs.fit_source import FitSource
    from annyfit_jax.people.scene import Scene
    from annyfit_jax.training.training_config import TrainConfig
    from experts.start_predictor import PeoplePredictor

FLAGS = flags.FLAGS
BEFORE = "teacher"
MULTIHOST_STEPS = ("teacher", "train")
_REPO = Path(__file__).resolve().parents[1]
_SCENES_PER_SHARD = 256
_ALL_CUES = "all_cues"


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string("config", None, "Python file with get_config() -> DistillConfig.")
    flags.DEFINE_string("output", None, "Folder of the distillation, made or continued.")
    flags.DEFINE_multi_string("set", [], "path=value changes of the config, e.g. train.steps=100.")
    flags.DEFINE_list("steps", list(STEPS), f"Which steps: {', '.join(STEPS)}.")
    flags.DEFINE_list("students", [], "Which students to train and to judge; default: all.")
    flags.DEFINE_bool("multihost", False, "Steps teacher and train: join the other processes of this job.")
    flags.DEFINE_string(
        "compile_cache", "~/.cache/annyfit-jax/xla", "Folder of compiled programs, kept between runs; empty = none."
    )


def main(_: list[str]) -> None:
    import jax

    from annyfit_jax.distillation.distillation_config import load_config
    from annyfit_jax.jobs.runner import EXIT_INTERRUPTED, EXIT_USAGE, Interrupted, stop_on_signal
    from annyfit_jax.records.shards import DatasetError

    for name in ("config", "output"):
        if not FLAGS[name].value:
            raise app.UsageError(f"--{name} is missing")
    unknown = [step for step in FLAGS.steps if step not in STEPS]
    if unknown:
        raise app.UsageError(f"--steps: expected some of {', '.join(STEPS)}, got {unknown[0]!r}")
    if FLAGS.multihost and not set(FLAGS.steps) <= set(MULTIHOST_STEPS):
        raise app.UsageError(f"--multihost is for --steps={','.join(MULTIHOST_STEPS)}")
    if FLAGS.compile_cache and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(FLAGS.compile_cache))
    if FLAGS.multihost:
        jax.distributed.initialize()
    stop = threading.Event()
    try:
        work = Distillation(load_config(FLAGS.config, FLAGS["set"].value or ()), FLAGS.output, FLAGS.students, stop)
        with stop_on_signal(stop):
            work.run([step for step in STEPS if step in FLAGS.steps])
    except (DatasetError, ValueError, FileNotFoundError) as error:  # most errors of input are ValueErrors
        logging.error("%s", error)
        raise SystemExit(EXIT_USAGE) from None
    except Interrupted:
        logging.warning("stopped; run the same command again to go on")
        raise SystemExit(EXIT_INTERRUPTED) from None


class Distillation:
    """The steps of one config in one folder. Each may be called alone, once those before it have been."""

    def __init__(
        self, config: DistillConfig, folder: str | Path, students: list[str] | None = None,
        stop: threading.Event | None = None,
    ) -> None:  # fmt: skip
        """Raises ValueError where the folder is that of another config, or a student is unknown."""
        from annyfit_jax.distillation.distillation_config import MAY_CHANGE, describe
        from annyfit_jax.records.files import read_json, write_text

        self.config, self.folder, self.stop = config, Path(folder), threading.Event() if stop is None else stop
        names = [student.name for student in config.students]
        unknown = [name for name in students or () if name not in names]
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

    def run(self, steps: list[str]) -> None:
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
        from annyfit_jax.records.files import read_json, write_text

        path = self.folder / "seconds.json"
        known = read_json(path) or {}
        before, passed = known.get(name, {}), [now - then for now, then in zip(os.times(), started)]
        spent = {"clock": passed[4], "processor": sum(passed[:4])}
        known[name] = {kind: round(before.get(kind, 0.0) + seconds, 1) for kind, seconds in spent.items()}
        write_text(path, json.dumps(known) + "\n")

    # ------------------------------------------------------------------------------------------------ scenes

    def place(self, role: str) -> Path:
        """The cue dataset of `synthetic`, `stream` or `held_out`."""
        scenes: Scenes = getattr(self.config, role)
        return Path(scenes.path) if scenes.path else self.folder / "scenes" / role

    def scenes(self) -> None:
        """Renders the scenes that are not given."""
        from annyfit_jax.inputs import cue_dataset
        from annyfit_jax.synthetic.world import WORLD_VERSION, World, jpeg

        shared: World | None = None
        for role in ("synthetic", "stream", "held_out"):
            scenes: Scenes = getattr(self.config, role)
            if scenes.path or not scenes.count or (self.place(role) / "dataset_info.json").is_file():
                continue
            shared = shared or World(scenes.seed, scenes.world)
            world = shared.with_config(scenes.world, scenes.seed)
            cue_dataset.write(
                self.place(role), cue_dataset.Plan(scenes.count, world.fingerprint(), _SCENES_PER_SHARD), world.scenes,
                photo=jpeg, provenance={"cues": {"all": {"expert": "synthetic", "version": f"world-{WORLD_VERSION}"}}},
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
        from annyfit_jax.distillation.distillation_config import LABELS
        from annyfit_jax.training.training_config import override

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
        from annyfit_jax.distillation.distillation_config import LABELS, SYNTHETIC
        from annyfit_jax.training.training_config import override

        changes = [] if labels is None else [f"feed.sets.{LABELS}.path={labels}"]
        if self.config.synthetic.wanted:
            changes.append(f"feed.sets.{SYNTHETIC}.path={self.folder / 'labels' / SYNTHETIC}")
        else:
            changes.append(f"feed.sets.{SYNTHETIC}.probability=0")
        return override(config, changes)

    def _trained(self, config: TrainConfig, run: Path, weights: Path) -> None:
        """Trains to the end and writes the averaged weights in PyTorch's format."""
        import jax

        from annyfit_jax.jobs.runner import Interrupted
        from annyfit_jax.records.torch_files import write_state_dict
        from annyfit_jax.regressors.multihmr import multihmr_checkpoint
        from annyfit_jax.training import training_state as states
        from annyfit_jax.training.training_loop import train

        if weights.is_file():
            return
        state = train(config, run, stop=self.stop)
        if int(state.step) < config.steps:
            raise Interrupted
        if jax.process_index():
            return
        network: Any = config.regressor
        variables = states.inference_variables(state, network.init(jax.random.key(config.seed)))
        write_state_dict(weights, multihmr_checkpoint.to_torch(network.config, variables), multihmr_checkpoint.ENTRY)

    def _predictor(self, weights: Path) -> PeoplePredictor:
        from experts.start_predictor import PeoplePredictor

        network: Any = self.config.train.regressor
        return PeoplePredictor(weights, network.config, self.config.batch)

    # ------------------------------------------------------------------------------------------------ labels

    def start(self) -> None:
        """Writes the stream anew, with the teacher's predictions as starts; then again for labels made without some cues."""
        from annyfit_jax.distillation.distillation_config import CUES
        from annyfit_jax.distillation.fit_labels import open_scenes, without

        if all(labels.source == "truth" for labels in self.config.labels):
            return
        complete = self.folder / "start" / _ALL_CUES
        if not (complete / "dataset_info.json").is_file():
            predictor, stream = self._predictor(self.checkpoint), open_scenes(self.place("stream"))
            self._restart(
                complete, len(stream), [],
                lambda span: (dataclasses.replace(s, start=people) for s, people in predictor.people(stream, span)),
            )  # fmt: skip
        started = open_scenes(complete)
        for labels in self.config.labels:
            gone = [cue for cue in CUES if cue not in labels.cues]
            if labels.source == "fits" and gone:
                self._restart(
                    self._started(labels), len(started), gone,
                    lambda span, gone=gone: (without(started.load(i), gone) for i in span),
                )  # fmt: skip

    def _restart(self, place: Path, count: int, gone: list[str], scenes: Callable[[range], Iterable[Scene]]) -> None:
        """Writes one dataset of starts; pictures stay in the stream."""
        from annyfit_jax.inputs import cue_dataset
        from annyfit_jax.records.files import sha256

        teacher = sha256(self.checkpoint)
        plan = cue_dataset.Plan(count, {"teacher": teacher, "without": gone}, _SCENES_PER_SHARD)
        cue_dataset.write(
            place, plan, scenes, provenance={"cues": {"start": {"expert": "multihmr", "version": teacher[:12]}}},
            on_shard=lambda shard: self._pause(f"start {place.name}: shard {shard} written"),
        )  # fmt: skip

    def _started(self, labels: Labels) -> Path:
        from annyfit_jax.distillation.distillation_config import CUES

        gone = [cue for cue in CUES if cue not in labels.cues]
        return self.folder / "start" / ("_".join(["without", *gone]) if gone and labels.source == "fits" else _ALL_CUES)

    def fit(self) -> None:
        """Fits the stream for each kind of labels that is fitted, by the program for it."""
        for labels in self.config.labels:
            if labels.source == "fits":
                command = [sys.executable, "-m", "experiments.fit", f"--input={self._started(labels)}"]
                command += [f"--output={self.folder / 'fits' / labels.name}", f"--config={_config_file(labels.config)}"]
                self._program([*command, *(f"--set={change}" for change in labels.set)])

    def select(self) -> None:
        """Writes the datasets of labels, and how good they are where the truth is known."""
        from annyfit_jax.records.files import write_text

        for labels in self.config.labels:
            target = self.folder / "labels" / f"{labels.name}.json"
            if target.is_file():
                continue
            source = self._labelled(labels)
            threshold = labels.threshold if labels.source == "fits" else None
            summary = self._export(labels.name, source, "stream", threshold)
            summary["quality"] = self._quality(source, threshold)
            write_text(target, json.dumps(summary, indent=1) + "\n")

    def _labelled(self, labels: Labels) -> FitSource:
        from annyfit_jax.jobs.fit_source import open_fits

        if labels.source == "fits":
            return open_fits(self.folder / "fits" / labels.name, details=False)
        if labels.source == "truth":
            return self._stated(self.place("stream"), "truth")
        return self._stated(self._started(labels), "start")

    def _stated(self, place: Path, states: Any) -> FitSource:
        from annyfit_jax.distillation.fit_labels import StatedPeople

        return StatedPeople(place, states)

    def _export(self, name: str, source: FitSource, role: str, threshold: float | None) -> dict[str, Any]:
        """Writes one dataset of labels with the photos of a role; scenes in which nobody is trusted are left out."""
        from annyfit_jax.distillation.fit_labels import select, trusted
        from annyfit_jax.exports.training_set import photos_from, write_training_set

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
        import numpy as np

        from annyfit_jax import metrics
        from annyfit_jax.distillation.fit_labels import open_scenes, trusted
        from annyfit_jax.people.body_meshes import BodyMeshes
        from experiments.evaluate import synthetic_errors

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
        from annyfit_jax.distillation.fit_labels import as_fit, open_scenes
        from annyfit_jax.people.body_meshes import BodyMeshes
        from annyfit_jax.records import fit_files
        from annyfit_jax.records.files import write_text
        from experiments.evaluate import evaluate, without_nan

        if not self.config.held_out.wanted:
            logging.warning("no held-out scenes with truth: nothing is judged")
            return
        meshes, source = BodyMeshes(), open_scenes(self.place("held_out"))
        for name, weights in self._networks():
            target, folder = self.folder / "metrics" / f"{name}.json", self.folder / "predictions" / name
            if target.is_file():
                continue
            for scene, people in self._predictor(weights).people(source, range(len(source))):
                fit_files.save(as_fit(scene, people, meshes, name), folder / "fits" / f"{scene.name}.npz")
                self._pause()
            found = evaluate(str(folder), str(self.place("held_out")), "synthetic", bootstrap=self.config.bootstrap)
            kept = {key: found[key]["fit"] for key in ("pooled", "intervals") if key in found}
            write_text(target, json.dumps(without_nan({**kept, "settings": found["settings"]}), indent=1) + "\n")

    def _networks(self) -> list[tuple[str, Path]]:
        """The teacher, and the students whose training is finished."""
        students = [(student.name, self._weights(student.name)) for student in self.students]
        return [(BEFORE, self.checkpoint), *(pair for pair in students if pair[1].is_file())]

    def report(self) -> None:
        """Writes the report of what has been judged."""
        from annyfit_jax.distillation.distillation_report import write_report

        print(f"written: {write_report(self.config, self.folder, self.place('held_out'))}")

    # ------------------------------------------------------------------------------------------------ control

    def _pause(self, said: str = "") -> None:
        """Logs, and raises Interrupted where the program was asked to stop."""
        from annyfit_jax.jobs.runner import Interrupted

        if said:
            logging.info("%s", said)
        if self.stop.is_set():
            raise Interrupted

    def _program(self, command: list[str]) -> None:
        """Another program of this package, in a process of its own. Raises Interrupted, ValueError where it fails."""
        from annyfit_jax.jobs.runner import EXIT_INTERRUPTED, Interrupted

        process = subprocess.Popen(command)
        while process.poll() is None:
            if self.stop.wait(0.2):
                process.terminate()
                process.wait()
        if process.returncode == EXIT_INTERRUPTED or self.stop.is_set():
            raise Interrupted
        if process.returncode:
            raise ValueError(f"{' '.join(command[1:4])} ended with exit code {process.returncode}")


def _config_file(path: str) -> Path:
    """A config by its path from the working directory, or from the repository."""
    return Path(path) if Path(path).is_file() else _REPO / path


STEPS: dict[str, Callable[[Distillation], None]] = {
    name: getattr(Distillation, name)
    for name in ("scenes", "teacher", "start", "fit", "select", "train", "evaluate", "report")
}


if __name__ == "__main__":
    define_flags()
    app.run(main)
