"""Photos in, people out: a trained network's predictions in the format of fits.

    annyfit predict --config=lifter --images=PHOTOS --output=OUT                 # the network that ships, from their keypoints
    annyfit predict --config=lifter --input=KEYPOINTS --output=OUT               # of files that annyfit fit reads
    annyfit predict --config=CONFIG --run=RUN --images=PHOTOS --output=OUT       # of annyfit train
    annyfit predict --config=aios --checkpoint=aios.pth \\
        --set=regressor.body_file=SMPLX_NEUTRAL.npz --images=PHOTOS --output=OUT # official weights

Writes OUT/fits/<photo>.npz, which export, evaluate and report read, and OUT/people.jsonl with a row per person. A photo that
cannot be read is left out and named in OUT/set_aside.jsonl. Photos whose file is there already are not done again.

The lifter sees keypoints, not photos: those of --input, or of photos as the networks that come with the installation find them
(their cues are kept in OUT/cues). Its people are a fast preview of `annyfit fit`, which starts from the same hypotheses.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from absl import app, flags, logging

from experiments import input_flags, program

if TYPE_CHECKING:
    from annyfit_jax.inputs import SceneSource

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
                flags.DEFINE_string(
                    "run", None, "Folder of a training run, for its averaged variables. Of the lifter, weights ship."
                ),
                flags.DEFINE_string("checkpoint", None, "PyTorch state dict of the official program."),
            ),
            "Keypoints or photos": input_flags.define_flags(),
            "Photos": (
                flags.DEFINE_multi_string("expert", [], "Lifter: cue=expert, cue.option=value, as in `annyfit fit`."),
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
        required=("output", "config"),
    )  # fmt: skip


def main() -> None:
    from annyfit_jax.regressors.photo_predictions import predict_photos, predict_scenes, trained_variables
    from annyfit_jax.training.protocol import PredictOptions
    from annyfit_jax.training.training_config import load_config

    if FLAGS.run and FLAGS.checkpoint:
        raise app.UsageError("give either --run or --checkpoint")
    if not FLAGS.images and not FLAGS.input:
        raise app.UsageError("give --images, a folder of photos, or --input")
    config = load_config(program.find_config(FLAGS.config), FLAGS.set)
    regressor = config.regressor
    if FLAGS.checkpoint:
        variables, unused = regressor.read_checkpoint(FLAGS.checkpoint)
        logging.info("%s: %d entries are no part of the network", FLAGS.checkpoint, len(unused))
    elif FLAGS.run:
        variables = trained_variables(config, FLAGS.run)
    else:
        variables = regressor.shipped_variables()
    options = PredictOptions(
        FLAGS.threshold, FLAGS.single_person, FLAGS.save_vertices, FLAGS.short_side, FLAGS.long_side
    )
    if regressor.reads_scenes:
        done = predict_scenes(regressor.scene_predictor(variables, options), _scenes(), FLAGS.output)
    elif FLAGS.input:
        raise app.UsageError(f"--input: {FLAGS.config} predicts from photos; give --images")
    else:
        done = predict_photos(regressor.predictor(variables, options), FLAGS.images, FLAGS.output)
    place = Path(FLAGS.output) / "fits"
    print(f"{done.photos} photos, {done.people} people, {done.set_aside} photos set aside: {place}")


def _scenes() -> SceneSource:
    """Those of --input, or the people of the photos. Raises SceneError."""
    from experts.photos_to_cues import PrecomputeOptions, found_scenes

    if FLAGS.input:
        return input_flags.open_from_flags()
    camera = [f"camera.fov_degrees={FLAGS.fov}"] if FLAGS["fov"].present else []
    options = PrecomputeOptions(FLAGS.images, str(Path(FLAGS.output) / "cues"), "default", (*FLAGS.expert, *camera))
    return found_scenes(options)


if __name__ == "__main__":
    program.run("predict")
