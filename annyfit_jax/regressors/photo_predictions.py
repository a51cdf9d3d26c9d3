"""Photos in, people out: a trained network at work on a folder, with results in the format of fits."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
from absl import logging

from annyfit_jax.inputs.photos import list_photos, read_photo, scene_names
from annyfit_jax.inputs.scene_source import SceneSource
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records import fit_files
from annyfit_jax.records.files import json_lines, write_bytes
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.training import training_state as states
from annyfit_jax.training.protocol import Predictor, ScenePredictor, Variables
from annyfit_jax.training.training_checkpoints import Checkpoints
from annyfit_jax.training.training_config import TrainConfig
from annyfit_jax.training.training_loop import claim


class Predicted(NamedTuple):
    """What there is of a folder of photos."""

    photos: int
    """Photos with a file of predictions."""
    people: int
    set_aside: int
    """Photos that could not be read."""


def trained_variables(config: TrainConfig, run: str | Path) -> Variables:
    """The averaged variables of a training run.

    Raises FileNotFoundError where the folder holds no run, ValueError where it is that of another config.
    """
    folder = Path(run)
    if not (folder / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"{folder}: no checkpoints; expected the --output of `annyfit train`, after its first checkpoint"
        )
    claim(folder, config, write=False)
    variables = config.regressor.init(jax.random.key(config.seed))
    checkpoints = Checkpoints(folder / "checkpoints", config.keep_checkpoints)
    state = checkpoints.restore(states.create(config.regressor, variables, config.optimiser))
    checkpoints.close()
    if (done := int(state.step)) < config.steps:
        logging.warning(
            "%s: the training is not finished, step %d of %d: the predictions are those of an unfinished network",
            folder, done, config.steps,
        )  # fmt: skip
    return states.inference_variables(state, variables)


def predict_photos(predictor: Predictor, images: str | Path, output: str | Path) -> Predicted:
    """Writes `fits/<photo>.npz`, `people.jsonl` and `set_aside.jsonl` into a folder; files that are there are not made again.

    Args:
      images: folder of photos, read with its subfolders, or one photo.

    Raises SceneError without a photo that can be read.
    """
    folder, output = Path(images), Path(output)
    photos = [folder] if folder.is_file() else list_photos(folder)
    names = scene_names([photo.name if folder.is_file() else photo.relative_to(folder) for photo in photos])
    (output / "fits").mkdir(parents=True, exist_ok=True)
    rows, aside = [], []
    for name, photo in zip(names, photos, strict=True):
        path = output / "fits" / f"{name}.npz"
        if path.is_file():
            fit = fit_files.load(path)
        else:
            try:
                fit = predictor.fit(name, read_photo(photo), str(photo))
            except SceneError as error:
                logging.warning("%s", error)
                aside.append({"name": name, "reason": str(error)})
                continue
            fit_files.save(fit, path)
        rows += _rows(fit)
    write_bytes(output / "people.jsonl", b"".join(json_lines(rows)))
    write_bytes(output / "set_aside.jsonl", b"".join(json_lines(aside)))
    if len(aside) == len(photos):
        raise SceneError(
            f"{images}: none of the {len(photos)} photos can be read; the reasons are in {output / 'set_aside.jsonl'}"
        )
    return Predicted(len(photos) - len(aside), len(rows), len(aside))


def predict_scenes(predictor: ScenePredictor, source: SceneSource, output: str | Path) -> Predicted:
    """As `predict_photos`, from the keypoints of scenes: `fits/<scene>.npz`, `people.jsonl`, `set_aside.jsonl`.

    Raises SceneError where nobody of any scene can be told.
    """
    output = Path(output)
    (output / "fits").mkdir(parents=True, exist_ok=True)
    rows, aside = [], []
    for index, name in enumerate(source.names):
        path = output / "fits" / f"{name}.npz"
        if path.is_file():
            fit = fit_files.load(path)
        else:
            try:
                fit = predictor.fit(source.load(index))
            except SceneError as error:
                logging.warning("%s", error)
                aside.append({"name": name, "reason": str(error)})
                continue
            fit_files.save(fit, path)
        rows += _rows(fit)
    write_bytes(output / "people.jsonl", b"".join(json_lines(rows)))
    write_bytes(output / "set_aside.jsonl", b"".join(json_lines(aside)))
    if len(aside) == len(source.names):
        raise SceneError(f"nobody of {len(aside)} scenes can be told; the reasons are in {output / 'set_aside.jsonl'}")
    return Predicted(len(source.names) - len(aside), len(rows), len(aside))


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
