"""Train a network that regresses people from images.

    python -m experiments.train --config=experiments/configs/aios_anny.py --output=RUN --set=feed.sets.fits.path=DATASET
    python -m experiments.train --config=experiments/configs/aios.py --output=RUN \
        --set=regressor.body_file=SMPLX_NEUTRAL.npz --set=feed.sets.agora.path='agora/*.npz' ...

RUN is made or continued: kill it whenever you like, run the same command to go on, to the sample. All devices of the machine
take part; with --multihost, as many machines as `jax.distributed` finds (or --coordinator, --process_index, --process_count).

Exit codes: 0 finished, 2 wrong usage or input, 75 stopped by SIGTERM or SIGINT (run again to go on).
"""

from __future__ import annotations

import os
import threading

from absl import app, flags, logging

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string("config", None, "Python file with get_config() -> TrainConfig.")
    flags.DEFINE_string("output", None, "Folder of the run, made or continued.")
    flags.DEFINE_multi_string("set", [], "path=value changes of the config, e.g. optimiser.lr=2e-5.")
    flags.DEFINE_bool("tensorboard", False, "Metrics for TensorBoard in RUN/tensorboard (needs tensorboardX).")
    flags.DEFINE_bool("multihost", False, "Join the other processes of this job.")
    flags.DEFINE_string("coordinator", None, "host:port of process 0, where jax.distributed cannot find it.")
    flags.DEFINE_integer("process_index", None, "This process among --process_count.")
    flags.DEFINE_integer("process_count", None, "Number of processes.")
    flags.DEFINE_string(
        "compile_cache", "~/.cache/annyfit-jax/xla", "Folder of compiled programs, kept between runs; empty = none."
    )


def main(_: list[str]) -> None:
    import jax

    from annyfit_jax.jobs.runner import EXIT_INTERRUPTED, EXIT_USAGE, stop_on_signal
    from annyfit_jax.people.scene import SceneError
    from annyfit_jax.training.training_config import load_config
    from annyfit_jax.training.training_loop import train

    for name in ("config", "output"):
        if not FLAGS[name].value:
            raise app.UsageError(f"--{name} is missing")
    if FLAGS.compile_cache:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(FLAGS.compile_cache))
    if FLAGS.multihost:
        jax.distributed.initialize(FLAGS.coordinator, FLAGS.process_count, FLAGS.process_index)
    stop = threading.Event()
    try:
        config = load_config(FLAGS.config, FLAGS["set"].value or ())
        with stop_on_signal(stop):
            state = train(config, FLAGS.output, stop=stop, tensorboard=FLAGS.tensorboard)
    except (SceneError, ValueError, FileNotFoundError) as error:
        logging.error("%s", error)
        raise SystemExit(EXIT_USAGE) from None
    if int(state.step) < config.steps:
        logging.warning("stopped after step %d; run the same command again to go on", int(state.step))
        raise SystemExit(EXIT_INTERRUPTED)
    print(f"{FLAGS.output}: {int(state.step)} steps done")


if __name__ == "__main__":
    define_flags()
    app.run(main)
