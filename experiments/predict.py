"""Photos in, people out: a trained network's predictions in the format of fits.

    annyfit predict --config=CONFIG --run=RUN --images=PHOTOS --output=OUT       # of annyfit train
    annyfit predict --config=aios --checkpoint=aios.pth \\
        --set=regressor.body_file=SMPLX_NEUTRAL.npz --images=PHOTOS --output=OUT # official weights

Writes OUT/fits/<photo>.npz, which export, evaluate and report read, and OUT/people.jsonl with a row per person. A photo that
cannot be read is left out and named in OUT/set_aside.jsonl. Photos whose file is there already are not done again.
"""

from __future__ import annotations

from pathlib import Path

from absl import app, flags, logging

from experiments import program

FLAGS = flags.FLAGS


def define_flags() -> program.Usage:
    return program.Usage(
        {
            "Network": (
                program.config_flag(
                    "Python file with get_config(), or the name of a shipped config: the network, of a run the one it was "
                    "trained with."
                ),
                program.set_flag("path=value changes of the config; those that the run was trained with, again."),
                flags.DEFINE_string("run", None, "Folder of a training run, for its averaged variables."),
                flags.DEFINE_string("checkpoint", None, "PyTorch state dict of the official program."),
            ),
            "Photos": (
                flags.DEFINE_string("images", None, "Folder of photos, or one photo."),
                flags.DEFINE_integer(
                    "short_side", None, "AiOS: pixels that the short side is resized to. Default: 800.", lower_bound=16
                ),
                flags.DEFINE_integer(
                    "long_side", None, "AiOS: pixels that the long side may have. Default: 1333.", lower_bound=16
                ),
            ),
            "Predictions": (
                flags.DEFINE_string("output", None, "Folder of the predictions."),
                flags.DEFINE_float(
                    "threshold", None,
                    "Least score of a person. Default: the network's own, 0.3 of Multi-HMR, 0.5 of AiOS (its tables on AGORA "
                    "are with 0.3).",
                ),
                flags.DEFINE_bool("single_person", False, "Keep the best person of each photo."),
                flags.DEFINE_bool(
                    "save_vertices", False,
                    "Store posed meshes; those of SMPL-X have the expression, which fits do not.",
                ),
            ),
            "Machine": (program.compile_cache_flag(),),
        },
        required=("images", "output", "config"),
    )  # fmt: skip


def main() -> None:
    from annyfit_jax.regressors.photo_predictions import predict_photos, trained_variables
    from annyfit_jax.training.protocol import PredictOptions
    from annyfit_jax.training.training_config import load_config

    if bool(FLAGS.run) == bool(FLAGS.checkpoint):
        raise app.UsageError("give either --run or --checkpoint")
    config = load_config(program.find_config(FLAGS.config), FLAGS.set)
    if FLAGS.checkpoint:
        variables, unused = config.regressor.read_checkpoint(FLAGS.checkpoint)
        logging.info("%s: %d entries are no part of the network", FLAGS.checkpoint, len(unused))
    else:
        variables = trained_variables(config, FLAGS.run)
    options = PredictOptions(
        FLAGS.threshold, FLAGS.single_person, FLAGS.save_vertices, FLAGS.short_side, FLAGS.long_side
    )
    done = predict_photos(config.regressor.predictor(variables, options), FLAGS.images, FLAGS.output)
    place = Path(FLAGS.output) / "fits"
    print(f"{done.photos} photos, {done.people} people, {done.set_aside} photos set aside: {place}")


if __name__ == "__main__":
    program.run("predict")
