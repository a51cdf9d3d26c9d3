"""Distil fits into the network that they start from, and report what it gained.

    annyfit distill --config=distill_tiny --output=OUT          # all of it, on a CPU
    annyfit distill --config=distill --output=OUT --set=stream.path=CUES ... --steps=fit,select

Photos -> fits -> trusted labels -> a better network:

| step | makes | by |
| --- | --- | --- |
| `scenes` | OUT/scenes/{synthetic,stream,held_out} | the renderer, where the config names no dataset |
| `teacher` | OUT/teacher, OUT/teacher.pt | the trainer, where the config names no checkpoint |
| `start` | OUT/start/LABELS: the stream with the teacher's predictions as starts | the expert `start=multihmr` |
| `fit` | OUT/fits/LABELS, a job | the fitter |
| `select` | OUT/labels/LABELS, a TFDS dataset with photos and loss weights | `annyfit_jax.fit.trust`, the exporter |
| `train` | OUT/students/STUDENT | the trainer, from the teacher's weights |
| `evaluate` | OUT/predictions, OUT/metrics | the metrics, before and after |
| `report` | OUT/report.md, .json, .png, pictures | |

Every step continues where it was interrupted and leaves finished work alone; `--steps` runs some of them, `--students` trains and
judges some of the students. Exit codes: 0 finished, 2 wrong usage or input, 75 stopped (run again to go on).
"""  # noqa: E501 (table rows)

from __future__ import annotations

from absl import app, flags

from experiments import program

FLAGS = flags.FLAGS
_STEPS = ("scenes", "teacher", "start", "fit", "select", "train", "evaluate", "report")
_MULTIHOST_STEPS = ("teacher", "train")


def define_flags() -> program.Usage:
    return program.Usage(
        {
            "Distillation": (
                program.config_flag("Python file with get_config() -> DistillConfig, or the name of a shipped config."),
                program.set_flag("path=value changes of the config, e.g. train.steps=100."),
                flags.DEFINE_string("output", None, "Folder of the distillation, made or continued."),
                flags.DEFINE_list("steps", list(_STEPS), "Which steps."),
                flags.DEFINE_list("students", [], "Which students to train and to judge; all by default."),
            ),
            "Machine": (
                flags.DEFINE_bool("multihost", False, "Steps teacher and train: join the other processes of this job."),
                program.compile_cache_flag(),
            ),
        },
        required=("config", "output"),
    )


def main() -> None:
    import jax

    from annyfit_jax.distillation.distillation_config import load_config
    from annyfit_jax.distillation.distillation_steps import Distillation
    from experts.start_predictor import PeoplePredictor

    for step in FLAGS.steps:
        if step not in _STEPS:
            near = program.nearest(step, _STEPS) or f"there are {', '.join(_STEPS)}"
            raise app.UsageError(f"--steps: there is no step {step!r}; {near}")
    if FLAGS.multihost and not set(FLAGS.steps) <= set(_MULTIHOST_STEPS):
        raise app.UsageError(f"--multihost is for --steps={','.join(_MULTIHOST_STEPS)}")
    if FLAGS.multihost:
        jax.distributed.initialize()
    config = load_config(program.find_config(FLAGS.config), FLAGS.set)
    with program.stopping() as stop:
        work = Distillation(
            config, FLAGS.output, PeoplePredictor, find_config=program.find_config, students=FLAGS.students, stop=stop
        )
        work.run([step for step in _STEPS if step in FLAGS.steps])
    if "report" in FLAGS.steps:
        print(f"written: {work.folder / 'report.md'}")


if __name__ == "__main__":
    program.run("distill")
