"""Make a cue dataset of synthetic scenes with exact truth.

    annyfit synthesize --output=dataset --scenes=10000 --seed=1
    annyfit synthesize --output=dataset --scenes=200 --seed=1 --people=1,2,3 --bias=0.2,0.8
    annyfit synthesize --output=dataset --scenes=2000 --seed=1 --render=picture --difficulty=hard
    annyfit synthesize --output=dataset --scenes=2000 --seed=1 --render=picture \\
        --start=camerahmr --set='camera.image_sizes=((224,224),)' --set=keypoints.missed=0.1
    annyfit synthesize --measure --scenes=160 --seed=1 --render=picture --sheet=sheet.jpg

Without pictures (the default) some 200 scenes a second on one core. With them some 8: families and groups on the ground, photo,
masks, depth map and cues from what is visible; every parameter is in `annyfit_jax/synthetic/world_config.py`, what it comes to
in `docs/synthetic.md`. --measure prints that instead of writing a dataset.

Run it again to resume, or with more --scenes to add some; --engine=ray spreads the shards over a cluster. Scene i of a seed
does not depend on how the work is cut. What is in the scenes: `annyfit_jax/synthetic/plain.py`,
`annyfit_jax/synthetic/world.py`. """

from __future__ import annotations

import time

from absl import app, flags

from annyfit_jax.store.work_progress import number_of
from experiments import program

FLAGS = flags.FLAGS
_PLAIN_ONLY, _RENDERED_ONLY = ("people", "bias"), ("difficulty", "start", "set", "measure", "sheet")


def define_flags() -> program.Usage:
    return program.Usage(
        {
            "Scenes": (
                flags.DEFINE_integer("scenes", None, "How many scenes.", lower_bound=1),
                flags.DEFINE_integer("seed", 0, "Seed.", lower_bound=0),
                flags.DEFINE_enum("render", "none", ["none", "picture"], "Draw pictures, masks and depth maps."),
            ),
            "Scenes without pictures (--render=none)": (
                flags.DEFINE_string("people", "coco", "People per image: `coco` (1 to 20, mean 3.4) or a list such as 1,2,3."),
                flags.DEFINE_string(
                    "bias", "1,1", "Adult bias of the start, low,high: 1 is an average adult, 0 the true age."
                ),
            ),
            "Scenes with pictures (--render=picture)": (
                flags.DEFINE_enum("difficulty", "standard", ["easy", "standard", "hard"], "Preset of the world."),
                flags.DEFINE_enum("start", "multihmr", ["multihmr", "camerahmr"], "Kind of initialisation."),
                program.set_flag("path=value changes of the preset, e.g. keypoints.missed=0.1."),
                flags.DEFINE_bool("measure", False, "Print errors of the cues and the starts; no dataset is written."),
                flags.DEFINE_string("sheet", None, "--measure: also write a sheet of the first 24 pictures to this file."),
            ),
            "Dataset": (
                flags.DEFINE_string("output", None, "Folder of the dataset; not needed with --measure."),
                flags.DEFINE_integer("scenes_per_shard", 512, "Scenes per shard.", lower_bound=1),
            ),
            "Engine": program.engine_flags(),
            "Machine": (program.compile_cache_flag(),),
        },
        required=("scenes",),
    )  # fmt: skip


def main() -> None:
    if not (FLAGS.measure or FLAGS.output):
        raise app.UsageError("--output is missing")
    rendered = FLAGS.render == "picture"
    for name in _PLAIN_ONLY if rendered else _RENDERED_ONLY:
        if FLAGS[name].present:
            raise app.UsageError(f"--{name} is for --render={'none' if rendered else 'picture'}")
    people, bias = parse_people(FLAGS.people), parse_bias(FLAGS.bias)
    from annyfit_jax.synthetic.scene_dataset import measured, plain_scenes, rendered_scenes, write_dataset

    if rendered:
        scenes = rendered_scenes(FLAGS.seed, FLAGS.difficulty, FLAGS.start, FLAGS.set)
    else:
        scenes = plain_scenes(FLAGS.seed, people, bias)
    if FLAGS.measure:
        for name, value in measured(scenes, FLAGS.scenes, FLAGS.sheet).items():
            print(f"{name}: {value:.4g}")
        return
    started = time.monotonic()
    with program.stopping() as stop:
        state = write_dataset(
            scenes, FLAGS.output, FLAGS.scenes, scenes_per_shard=FLAGS.scenes_per_shard, engine=program.engine_from_flags(),
            stop=stop,
        )  # fmt: skip
    print(
        f"{state.shards_done} of {number_of(state.num_shards, 'shards')}, {number_of(state.scenes, 'scenes')}, "
        f"{number_of(state.people, 'people')}, "
        f"{time.monotonic() - started:.0f} s: {FLAGS.output}"
    )


def parse_people(text: str) -> tuple[int, ...]:
    """`coco` -> (), `1,2,3` -> (1, 2, 3). Raises ValueError."""
    if text == "coco":
        return ()
    try:
        people = tuple(int(part) for part in text.split(","))
    except ValueError:
        people = ()
    if not people or not all(1 <= count <= 255 for count in people):
        raise ValueError(f"--people: expected `coco` or numbers from 1 to 255 such as 1,2,3, got {text!r}")
    return people


def parse_bias(text: str) -> tuple[float, float]:
    """`0.2,0.8` -> (0.2, 0.8). Raises ValueError."""
    try:
        low, high = (float(part) for part in text.split(","))
        if 0.0 <= low <= high <= 1.0:
            return low, high
    except ValueError:
        pass
    raise ValueError(f"--bias: expected two numbers low,high in [0, 1], got {text!r}")


if __name__ == "__main__":
    program.run("synthesize")
