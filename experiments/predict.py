"""Photos in, people out: a trained network's predictions in the format of fits.

    python -m experiments.predict --config=CONFIG --run=RUN --images=PHOTOS --output=OUT       # of experiments.train
    python -m experiments.predict --config=experiments/configs/aios.py --checkpoint=aios.pth \
        --set=regressor.body_file=SMPLX_NEUTRAL.npz --images=PHOTOS --output=OUT               # official weights

Writes OUT/fits/<photo>.npz, which experiments.export, experiments.evaluate and the page read, and OUT/people.jsonl with a row
per person. A photo that cannot be read is left out and named in OUT/set_aside.jsonl. Photos whose file is there already are
not done again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from absl import app, flags, logging

if TYPE_CHECKING:
    from annyfit_jax.records.fit_files import SceneFit
    from annyfit_jax.training.training_config import TrainConfig

FLAGS = flags.FLAGS
EXIT_USAGE = 2


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string("run", None, "Folder of a training run, for its averaged variables.")
    flags.DEFINE_string(
        "config", None, "Python file with get_config(): the network, of a run the one it was trained with."
    )
    flags.DEFINE_string("checkpoint", None, "PyTorch state dict of the official program.")
    flags.DEFINE_multi_string(
        "set", [], "path=value changes of the config; those that the run was trained with, again."
    )
    flags.DEFINE_string("images", None, "Folder of photos, or one photo.")
    flags.DEFINE_string("output", None, "Folder of the predictions.")
    flags.DEFINE_float("threshold", 0.5, "Least score of a person: 0.5 in AiOS's tables, 0.3 for AGORA and Multi-HMR.")
    flags.DEFINE_bool("single_person", False, "Keep the best person of each photo.")
    flags.DEFINE_bool(
        "save_vertices", False, "AiOS: store posed meshes; those of SMPL-X have the expression, which fits do not."
    )
    flags.DEFINE_integer("short_side", 800, "Pixels that the short side of a photo is resized to.", lower_bound=16)
    flags.DEFINE_integer("long_side", 1333, "Pixels that the long side may have.", lower_bound=16)
    flags.DEFINE_string(
        "compile_cache", "~/.cache/annyfit-jax/xla", "Folder of compiled programs, kept between runs; empty = none."
    )


def main(_: list[str]) -> None:
    from annyfit_jax.people.scene import SceneError

    for name in ("images", "output", "config"):
        if not FLAGS[name].value:
            raise app.UsageError(f"--{name} is missing")
    if bool(FLAGS.run) == bool(FLAGS.checkpoint):
        raise app.UsageError("give either --run or --checkpoint")
    try:
        run()
    except (SceneError, ValueError, FileNotFoundError) as error:
        logging.error("%s", error)
        raise SystemExit(EXIT_USAGE) from None


def run() -> None:
    """The program, after flag parsing. Raises SceneError, ValueError, FileNotFoundError."""
    import jax

    from annyfit_jax.inputs.photos import list_photos, read_photo, scene_names
    from annyfit_jax.people.scene import SceneError
    from annyfit_jax.records import fit_files
    from annyfit_jax.records.files import json_lines, write_bytes
    from annyfit_jax.training.training_config import load_config

    if FLAGS.compile_cache:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(FLAGS.compile_cache))
    config = load_config(FLAGS.config, FLAGS["set"].value or ())
    folder, output = Path(FLAGS.images), Path(FLAGS.output)
    photos = [folder] if folder.is_file() else list_photos(folder)
    names = scene_names([photo.name if folder.is_file() else photo.relative_to(folder) for photo in photos])
    predictor = _predictor(config, _variables(config))
    (output / "fits").mkdir(parents=True, exist_ok=True)
    rows, aside = [], []
    for name, photo in zip(names, photos):
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
    print(f"{len(photos) - len(aside)} photos, {len(rows)} people, {len(aside)} photos set aside: {output / 'fits'}")


class _Predictor(Protocol):
    def fit(self, name: str, image: Any, image_path: str = "") -> SceneFit: ...


def _predictor(config: TrainConfig, variables: object) -> _Predictor:
    """Photo -> fit, by the network of the config. Raises ValueError for one that has no predictor."""
    from annyfit_jax.regressors.aios import aios_predictions as aios
    from annyfit_jax.regressors.aios.aios_regressor import AiosRegressor
    from annyfit_jax.regressors.multihmr import multihmr_predictions as multihmr
    from annyfit_jax.regressors.multihmr.multihmr_regressor import MultiHmrRegressor

    regressor = config.regressor
    if isinstance(regressor, MultiHmrRegressor):
        return multihmr.Predictor(regressor, variables, threshold=FLAGS.threshold)
    if isinstance(regressor, AiosRegressor):
        return aios.Predictor(
            regressor, variables, threshold=FLAGS.threshold, single=FLAGS.single_person,
            short_side=FLAGS.short_side, long_limit=FLAGS.long_side, save_vertices=FLAGS.save_vertices,
        )  # fmt: skip
    raise ValueError(f"--config={FLAGS.config}: predictions of {type(regressor).__name__} are not supported")


def _official(config: TrainConfig, path: str) -> tuple[object, tuple[str, ...]]:
    """Variables of an official state dict, and its entries that are no part of the network."""
    from annyfit_jax.records.torch_files import read_state_dict
    from annyfit_jax.regressors.aios import aios_checkpoint as aios
    from annyfit_jax.regressors.aios.aios_regressor import AiosRegressor
    from annyfit_jax.regressors.multihmr import multihmr_checkpoint as multihmr
    from annyfit_jax.regressors.multihmr.multihmr_regressor import MultiHmrRegressor

    if isinstance(config.regressor, MultiHmrRegressor):
        return multihmr.from_torch(config.regressor.config, read_state_dict(path, multihmr.ENTRY))
    if isinstance(config.regressor, AiosRegressor):
        return aios.from_torch(config.regressor.config, read_state_dict(path))
    raise ValueError(f"--checkpoint: {type(config.regressor).__name__} reads no PyTorch checkpoints")


def _variables(config: TrainConfig) -> object:
    """The averaged variables of the run, or those of the official checkpoint."""
    import jax

    from annyfit_jax.training import training_state as states
    from annyfit_jax.training.training_checkpoints import Checkpoints
    from annyfit_jax.training.training_loop import claim

    if FLAGS.checkpoint:
        variables, unused = _official(config, FLAGS.checkpoint)
        logging.info("%s: %d entries are no part of the network", FLAGS.checkpoint, len(unused))
        return variables
    if not (Path(FLAGS.run) / "checkpoints").is_dir():
        raise FileNotFoundError(f"{FLAGS.run}: no checkpoints; expected the --output of experiments.train")
    claim(Path(FLAGS.run), config, write=False)
    variables = config.regressor.init(jax.random.key(config.seed))
    checkpoints = Checkpoints(Path(FLAGS.run) / "checkpoints", config.keep_checkpoints)
    state = checkpoints.restore(states.create(config.regressor, variables, config.optimiser))
    checkpoints.close()
    return states.inference_variables(state, variables)


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


if __name__ == "__main__":
    define_flags()
    app.run(main)
