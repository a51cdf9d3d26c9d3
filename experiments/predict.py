"""Photos in, people out: a trained network's predictions in the format of fits.

    annyfit predict --config=lifter --images=PHOTOS --output=OUT                 # the network that ships, from their keypoints
    annyfit predict --config=lifter --input=KEYPOINTS --output=OUT               # of files that annyfit fit reads
    annyfit predict --config=CONFIG --run=RUN --images=PHOTOS --output=OUT       # of annyfit train
    annyfit predict --config=aios --checkpoint=aios.pth \\
        --set=regressor.body_file=SMPLX_NEUTRAL.npz --images=PHOTOS --output=OUT # official weights

Writes OUT/fits/<photo>.npz, which export, evaluate and report read, and OUT/people.jsonl with a row per person. A photo that
cannot be read is left out and named in OUT/set_aside.jsonl. Run it again to resume, or with more photos: units of photos that
are done are kept, unless their photos or the network have changed. Photos and OUT may be in buckets; --engine=ray spreads the
units over a cluster (docs/fleet.md).

The lifter sees keypoints, not photos: those of --input, or of photos as the networks that come with the installation find them
(their cues are kept in OUT/cues); they look at the next photos meanwhile. Its people are a fast preview of `annyfit fit`, which
starts from the same hypotheses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import app, flags

from annyfit_jax.engine.stages import Engine
from annyfit_jax.store.locations import place
from annyfit_jax.store.work_progress import number_of
from experiments import input_flags, program

if TYPE_CHECKING:
    from experts.photos_to_cues import ScenesOfPhotos

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
            "Keypoints or photos": (
                *input_flags.define_flags(),
                flags.DEFINE_integer("limit", None, "Number of photos, counted from the first.", lower_bound=1),
            ),
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
            "Engine": (
                flags.DEFINE_integer("photos_per_unit", 64, "Photos of a unit of work.", lower_bound=1),
                *program.engine_flags(),
            ),
            "Machine": (program.compile_cache_flag(),),
        },
        required=("output", "config"),
    )  # fmt: skip


def main() -> None:
    from annyfit_jax.regressors.photo_predictions import Network, Predicting, predict_photos, predict_scenes
    from annyfit_jax.training.protocol import PredictOptions
    from annyfit_jax.training.training_config import load_config

    if FLAGS.run and FLAGS.checkpoint:
        raise app.UsageError("give either --run or --checkpoint")
    if not FLAGS.images and not FLAGS.input:
        raise app.UsageError("give --images, a folder of photos, or --input")
    config = load_config(program.find_config(FLAGS.config), FLAGS.set)
    options = PredictOptions(
        FLAGS.threshold, FLAGS.single_person, FLAGS.save_vertices, FLAGS.short_side, FLAGS.long_side
    )
    network = Network(config, FLAGS.run or "", FLAGS.checkpoint or "", options)
    network.check()
    with program.stopping() as stop:
        if not FLAGS.input:
            input_flags.refuse_for_photos()
            program.refuse_given(("calibration",), "with --input")
        if FLAGS.input or not config.regressor.reads_scenes:
            program.refuse_given(("expert",), "for the lifter, with --images and without --input")
        how = Predicting(FLAGS.photos_per_unit, program.engine_from_flags(), stop, FLAGS.limit)
        if not config.regressor.reads_scenes:
            if FLAGS.input:
                raise app.UsageError(f"--input: {FLAGS.config} predicts from photos; give --images")
            done = predict_photos(network.load, FLAGS.images, FLAGS.output, how, network.identity)
        elif FLAGS.input:
            done = predict_scenes(network.load, input_flags.open_from_flags(), FLAGS.output, how, network.identity)
        else:
            found = _found(how.engine)
            with found.before.store.alone():
                done = predict_scenes(
                    network.load, found.source, FLAGS.output, how, network.identity, found.before.stages, found.units
                )
                found.finish()
    fits = place(FLAGS.output) / "fits"
    print(
        f"{number_of(done.photos, 'photos')}, {number_of(done.people, 'people')}, "
        f"{number_of(done.set_aside, 'photos')} set aside: {fits}"
    )


def _found(engine: Engine | None) -> ScenesOfPhotos:
    """The people of the photos, found while others are predicted. Raises SceneError."""
    from experts.photos_to_cues import PrecomputeOptions, scenes_of_photos

    camera = [f"camera.fov_degrees={FLAGS.fov}"] if FLAGS["fov"].present else []
    return scenes_of_photos(
        PrecomputeOptions(
            FLAGS.images, str(place(FLAGS.output) / "cues"), "default", (*FLAGS.expert, *camera), engine=engine or Engine(),
            photos_per_shard=FLAGS.photos_per_unit, limit=FLAGS.limit, progress=FLAGS.output,
        )
    )  # fmt: skip


if __name__ == "__main__":
    program.run("predict")
