"""Train a network that regresses people from images.

    annyfit train --config=aios_anny --output=RUN --set=feed.sets.fits.path=DATASET
    annyfit train --config=aios --output=RUN --set=regressor.body_file=SMPLX_NEUTRAL.npz \\
        --set=feed.sets.agora.path='agora/*.npz' ...

RUN is started or continued: after a kill, the same command goes on at the very sample. All devices of the machine
take part; with --multihost, as many machines as `jax.distributed` finds (or --coordinator, --process_index, --process_count).

A step whose loss or gradient is not finite is skipped; after `stop_after_skipped` of them in a row the run ends, with the last
good state on disk. A newest checkpoint that was damaged is moved to RUN/damaged, and the run continues from the one before.

Exit codes: 0 finished, 2 wrong usage or input or a loss that stayed not finite, 75 stopped by SIGTERM or SIGINT (run again to
go on).
"""

from __future__ import annotations

from absl import flags

from experiments import program

FLAGS = flags.FLAGS


def define_flags() -> program.Usage:
    return program.Usage(
        {
            "Training": (
                program.config_flag("Python file with get_config() -> TrainConfig, or the name of a shipped config."),
                program.set_flag("path=value changes of the config, e.g. optimiser.lr=2e-5."),
                flags.DEFINE_string("output", None, "Folder of the run, made or continued."),
                flags.DEFINE_bool("tensorboard", False, "Metrics for TensorBoard in RUN/tensorboard (needs tensorboardX)."),
            ),
            "Processes": (
                flags.DEFINE_bool("multihost", False, "Join the other processes of this job."),
                flags.DEFINE_string("coordinator", None, "host:port of process 0, where jax.distributed cannot find it."),
                flags.DEFINE_integer("process_index", None, "This process among --process_count, from 0.", lower_bound=0),
                flags.DEFINE_integer("process_count", None, "Number of processes that share the training.", lower_bound=1),
            ),
            "Machine": (program.compile_cache_flag(),),
        },
        required=("config", "output"),
    )  # fmt: skip


def main() -> None:
    import jax

    from annyfit_jax.engine.stopping import Interrupted
    from annyfit_jax.training.training_config import load_config
    from annyfit_jax.training.training_loop import train

    if FLAGS.multihost:
        jax.distributed.initialize(FLAGS.coordinator, FLAGS.process_count, FLAGS.process_index)
    config = load_config(program.find_config(FLAGS.config), FLAGS.set)
    with program.stopping() as stop:
        state = train(config, FLAGS.output, stop=stop, tensorboard=FLAGS.tensorboard)
    if int(state.step) < config.steps:
        raise Interrupted(f"stopped after step {int(state.step)}; run the same command again to go on")
    print(f"{FLAGS.output}: {int(state.step)} steps done")


if __name__ == "__main__":
    program.run("train")
