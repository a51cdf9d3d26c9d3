"""Photos in, people out: a trained network at work on a folder, with results in the format of fits."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import logging

from annyfit_jax.engine.running import run
from annyfit_jax.engine.stages import Engine, Stage
from annyfit_jax.inputs.photos import bucket_photos, photo_paths, read_photo, scene_names
from annyfit_jax.inputs.scene_source import SceneSource
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records import fit_files
from annyfit_jax.records.file_names import file_stem
from annyfit_jax.records.files import json_lines
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.store.locations import Location, is_remote, place
from annyfit_jax.store.parts import Made, Parts, Record, Write
from annyfit_jax.store.plan import stamp_of
from annyfit_jax.store.work_progress import reason_of
from annyfit_jax.training import bucket_runs
from annyfit_jax.training import training_state as states
from annyfit_jax.training.protocol import PredictOptions, Predictor, ScenePredictor, Variables
from annyfit_jax.training.training_checkpoints import Checkpoints
from annyfit_jax.training.training_config import TrainConfig, describe
from annyfit_jax.training.training_loop import check_config


class Predicted(NamedTuple):
    """What there is of a folder of photos."""

    photos: int
    """Photos with a file of predictions."""
    people: int
    set_aside: int
    """Photos that could not be read."""


def trained_variables(config: TrainConfig, run_folder: str | Path | Location) -> Variables:
    """The averaged variables of a training run, also in a bucket.

    Raises FileNotFoundError where the folder holds no run, ValueError where it is that of another config.
    """
    check_run(config, run_folder)
    variables = config.regressor.init(jax.random.key(config.seed))
    with bucket_runs.run_folder(run_folder) as (folder, _):
        checkpoints = Checkpoints(folder / "checkpoints", config.keep_checkpoints)
        state = checkpoints.restore(states.create(config.regressor, variables, config.optimiser))
        checkpoints.close()
    if (done := int(state.step)) < config.steps:
        logging.warning(
            "%s: the training is not finished, step %d of %d: the predictions are those of an unfinished network",
            run_folder, done, config.steps,
        )  # fmt: skip
    return states.inference_variables(state, variables)


def check_run(config: TrainConfig, run_folder: str | Path | Location) -> None:
    """Raises FileNotFoundError where the folder holds no run, ValueError where it is that of another config."""
    folder = place(run_folder)
    if not (folder / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"{folder}: no checkpoints; expected the --output of `annyfit train`, after its first checkpoint"
        )
    check_config((folder / "config.json").read_json(), config, str(folder / "config.json"))


@dataclass(frozen=True)
class Network:
    """Which network predicts, as every worker loads it; can be pickled."""

    config: TrainConfig
    run: str = ""
    """Folder of a training run."""
    checkpoint: str = ""
    """State dict of an official program; without it and `run` the weights that ship."""
    options: PredictOptions = field(default_factory=PredictOptions)

    def load(self) -> Any:
        """The network: a Predictor, or a ScenePredictor where it reads scenes. Raises FileNotFoundError, ValueError."""
        regressor = self.config.regressor
        if self.checkpoint:
            variables, unused = regressor.read_checkpoint(self.checkpoint)
            logging.info("%s: %d entries are no part of the network", self.checkpoint, len(unused))
        elif self.run:
            variables = trained_variables(self.config, self.run)
        else:
            variables = regressor.shipped_variables()
        make = regressor.scene_predictor if regressor.reads_scenes else regressor.predictor
        return make(variables, self.options)

    def check(self) -> None:
        """Raises as `check_run` where it is that of a run; ValueError where no weights are named and none are shipped."""
        if self.run:
            check_run(self.config, self.run)
        elif not self.checkpoint:
            self.config.regressor.shipped_variables()

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the predictions besides the photos, JSON."""
        if self.run:  # another step is another network
            weights = sorted({name.partition("/")[0] for name in (place(self.run) / "checkpoints").tree()})
        else:
            weights = [place(self.checkpoint).stamp()] if self.checkpoint else []
        return {"config": describe(self.config), "options": dataclasses.asdict(self.options), "weights": weights}


@dataclass(frozen=True)
class Predicting:
    """How predictions are made, and of how many; none of it changes them."""

    per_unit: int = 64
    """Photos of a unit of work."""
    engine: Engine | None = None
    stop: threading.Event | None = None
    limit: int | None = None
    """Number of photos or scenes, counted from the first; None: all."""


def predict_photos(
    load: Callable[[], Predictor], images: str | Path, output: str | Path | Location, how: Predicting = Predicting(),
    identity: Any = None,
) -> Predicted:  # fmt: skip
    """Writes `fits/<photo>.npz`, `people.jsonl` and `set_aside.jsonl` into a folder; units that are there are not made again.

    Args:
      load: loads the network, once in every worker; can be pickled.
      images: folder of photos, also in a bucket, read with its subfolders, or one photo.
      output: folder, also in a bucket.
      identity: JSON, of the network; units of another one are made again, like those of photos that have changed.

    Raises SceneError without a photo that can be read.
    """
    if is_remote(str(images)):
        root, stamped = bucket_photos(str(images))
        files, stamps = [f"{root}/{file}" for file in stamped], list(stamped.values())
        relative: Sequence[str | Path] = list(stamped)
    else:
        root, paths = photo_paths(images)
        files, relative = [str(path) for path in paths], [path.relative_to(root) for path in paths]
        stamps = [place(path).stamp() for path in paths[: how.limit]]
    names = scene_names(relative)[: how.limit]  # of all photos: a limit changes no name
    work = _Work(functools.partial(_photo_fits, load, names, files), names, output, how, identity, stamps)
    with work.parts.alone():
        run([work.parts.stage()], how.engine, how.stop)
        return work.finish(f"{images}: none of the {{}} photos can be read")


def predict_scenes(
    load: Callable[[], ScenePredictor], source: SceneSource, output: str | Path | Location, how: Predicting = Predicting(),
    identity: Any = None, before: Sequence[Stage] = (), units: Sequence[Sequence[int]] = (),
) -> Predicted:  # fmt: skip
    """As `predict_photos`, from the keypoints of scenes: `fits/<scene>.npz`, `people.jsonl`, `set_aside.jsonl`.

    Args:
      before: stages that make the scenes while people are predicted, and `units`, the scenes of each of their units.

    Raises SceneError where nobody of any scene can be told.
    """
    names = list(source.names[: how.limit])
    stamps = [source.stamp(index) for index in range(len(names))]
    scenes = functools.partial(_scene_fits, load, source)
    work = _Work(scenes, names, output, how, identity, stamps, units)
    with work.parts.alone():
        run(
            [*before, work.parts.stage(tuple(stage.name for stage in before if not stage.hands_on))],
            how.engine,
            how.stop,
        )
        return work.finish("nobody of {} scenes can be told")


Fits = Callable[[int], SceneFit]
"""The prediction of a photo or scene by its index. Raises SceneError."""


def _photo_fits(load: Callable[[], Predictor], names: Sequence[str], files: Sequence[str]) -> Fits:
    predictor = load()
    return lambda index: predictor.fit(names[index], read_photo(files[index]), files[index])


def _scene_fits(load: Callable[[], ScenePredictor], source: SceneSource) -> Fits:
    predictor = load()
    return lambda index: predictor.fit(source.load(index))


class _Work:
    """Predictions under way."""

    def __init__(
        self, open_fits: Callable[[], Fits], names: list[str], output: str | Path | Location, how: Predicting, identity: Any,
        stamps: list[str], units: Sequence[Sequence[int]] = (),
    ) -> None:  # fmt: skip
        self._output = place(output)
        count = range(len(names))
        self._units = [tuple(unit) for unit in units or [count[k : k + how.per_unit] for k in count[:: how.per_unit]]]
        tasks = [[(index, names[index]) for index in unit] for unit in self._units]
        self.parts = Parts(
            "predict", self._output, tasks, functools.partial(_writer, open_fits), identity, accelerator=True,
            stamps=lambda unit: stamp_of([names[i] + stamps[i] for i in self._units[unit]]),
            things=(sum(map(len, self._units)), "photos"), counted=_counted,
        )  # fmt: skip

    def finish(self, nobody: str) -> Predicted:
        """The tables of all units. Raises SceneError where everything was set aside."""
        records = self.parts.finish(remove_others=False)  # photos may be predicted folder by folder
        (self._output / "people.jsonl").put_parts(json_lines(row for record in records for row in record["people"]))
        aside = [row for record in records for row in record["set_aside"]]
        (self._output / "set_aside.jsonl").put_parts(json_lines(aside))
        photos, people = sum(len(record["files"]) for record in records), sum(len(r["people"]) for r in records)
        if not photos:
            raise SceneError(f"{nobody.format(len(aside))}; the reasons are in {self._output / 'set_aside.jsonl'}")
        return Predicted(photos, people, len(aside))


def _writer(open_fits: Callable[[], Fits]) -> Write:
    fit_of = open_fits()

    def write(task: Sequence[tuple[int, str]], folder: Path) -> Made:
        files, rows, aside = [], [], []
        (folder / "fits").mkdir()
        for index, name in task:
            try:
                fit = fit_of(index)
            except SceneError as error:
                logging.warning("%s", error)
                aside.append({"name": name, "reason": str(error)})
                continue
            files.append(folder / "fits" / f"{file_stem(name)}.npz")
            fit_files.save(fit, files[-1])
            rows += _rows(fit)
        return Made(files, {"people": rows, "set_aside": aside})

    return write


def _counted(record: Record) -> tuple[int, Counter[str]]:
    """The photos of a unit, and those set aside by reason."""
    aside = record["set_aside"]
    return len(record["files"]) + len(aside), Counter(reason_of(row["reason"], row["name"]) for row in aside)


def _rows(fit: SceneFit) -> list[dict[str, object]]:
    """A row per person for people.jsonl."""
    rows = []
    for k in range(len(fit)):
        noted = dict(entry.split("=") for entry in str(fit.notes[k]).split(";"))  # score, and box or head in pixels
        rows.append(
            {
                "scene": fit.name, "person": str(fit.person_ids[k]), "score": float(noted.pop("score")),
                **{name: [float(v) for v in values.split(",")] for name, values in noted.items()},
                "depth_m": round(float(fit.depth_m[k]), 4), "height_m": round(float(fit.height_m[k]), 4),
            }
        )  # fmt: skip
    return rows
