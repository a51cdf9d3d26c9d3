"""Make a cue dataset of synthetic scenes with exact truth.

    python -m experiments.synthesize --output=dataset --scenes=10000 --seed=1
    python -m experiments.synthesize --output=dataset --scenes=200 --seed=1 --people=1,2,3 --bias=0.2,0.8
    python -m experiments.synthesize --output=dataset --scenes=2000 --seed=1 --render=picture --difficulty=hard
    python -m experiments.synthesize --output=dataset --scenes=2000 --seed=1 --render=picture \\
        --start=camerahmr --set='camera.image_sizes=((224,224),)' --set=keypoints.missed=0.1
    python -m experiments.synthesize --measure --scenes=160 --seed=1 --render=picture --sheet=sheet.jpg

Without pictures (the default) some 200 scenes a second on one core. With them some 8: families and groups on the ground, photo,
masks, depth map and cues from what is visible; every parameter is in `annyfit_jax/synthetic/world_config.py`, what it comes to
in `docs/synthetic.md`. --measure prints that instead of writing a dataset.

Run it again to resume; several processes share the shards (--process_index, --process_count). Scene i of a seed does not
depend on how the work is cut. What is in the scenes: `annyfit_jax/synthetic/plain.py`, `annyfit_jax/synthetic/world.py`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from absl import app, flags, logging

from annyfit_jax.inputs import cue_dataset
from annyfit_jax.people.scene import Scene

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string("output", None, "Folder of the dataset.")
    flags.DEFINE_integer("scenes", None, "How many scenes.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed.", lower_bound=0)
    flags.DEFINE_enum("render", "none", ["none", "picture"], "Draw pictures, masks and depth maps.")
    flags.DEFINE_string(
        "people", "coco", "--render=none: people per image, `coco` (1 to 20, mean 3.4) or a list such as 1,2,3."
    )
    flags.DEFINE_string(
        "bias", "1,1", "--render=none: adult bias of the start, low,high: 1 an average adult, 0 the true age."
    )
    flags.DEFINE_enum("difficulty", "standard", ["easy", "standard", "hard"], "--render=picture: preset of the world.")
    flags.DEFINE_enum("start", "multihmr", ["multihmr", "camerahmr"], "--render=picture: kind of initialisation.")
    flags.DEFINE_multi_string(
        "set", [], "--render=picture: path=value changes of the preset, e.g. keypoints.missed=0.1."
    )
    flags.DEFINE_bool("measure", False, "--render=picture: print errors of the cues and the starts; no dataset.")
    flags.DEFINE_string("sheet", None, "--measure: also write a sheet of the first 24 pictures to this file.")
    flags.DEFINE_integer("scenes_per_shard", cue_dataset.DEFAULT_SCENES_PER_SHARD, "Scenes per shard.", lower_bound=1)
    flags.DEFINE_integer("process_index", 0, "Which of the processes this is, from 0.", lower_bound=0)
    flags.DEFINE_integer("process_count", 1, "Processes that share the work.", lower_bound=1)


class Source(NamedTuple):
    """Scenes to write."""

    scenes: Callable[[range], Iterable[Scene]]
    fingerprint: dict[str, Any]
    """What they are, JSON; part of the dataset's plan, so that a rerun of another kind is refused."""
    version: str
    photo: Callable[[Scene], bytes] | None


_PLAIN_ONLY, _RENDERED_ONLY = ("people", "bias"), ("difficulty", "start", "set", "measure", "sheet")
_SHEET_COLUMNS, _SHEET_ROWS, _SHEET_TILE = 6, 4, 224


def main(_: list[str]) -> None:
    for name in ("scenes",) if FLAGS.measure else ("output", "scenes"):
        if not FLAGS[name].value:
            raise app.UsageError(f"--{name} is missing")
    rendered = FLAGS.render == "picture"
    for name in _PLAIN_ONLY if rendered else _RENDERED_ONLY:
        if FLAGS[name].present:
            raise app.UsageError(f"--{name} is for --render={'none' if rendered else 'picture'}")
    try:
        make = rendered_source if rendered else plain_source
        source = make()
    except ValueError as error:
        raise app.UsageError(str(error)) from None
    if FLAGS.measure:
        show_measures(source, FLAGS.scenes, FLAGS.sheet)
        return
    plan = cue_dataset.Plan(FLAGS.scenes, source.fingerprint, FLAGS.scenes_per_shard)
    started = time.monotonic()
    try:
        state = cue_dataset.write(
            FLAGS.output,
            plan,
            source.scenes,
            process_index=FLAGS.process_index,
            process_count=FLAGS.process_count,
            photo=source.photo,
            provenance={"cues": {"all": {"expert": "synthetic", "version": source.version}}},
            on_shard=lambda shard: logging.info("shard %d written, %.0f s", shard, time.monotonic() - started),
        )
    except cue_dataset.DatasetError as error:
        logging.error("%s", error)
        raise SystemExit(2) from None
    print(
        f"{state.shards_done} of {state.num_shards} shards, {state.scenes} scenes, {state.people} people, "
        f"{time.monotonic() - started:.0f} s: {FLAGS.output}"
    )


def show_measures(source: Source, count: int, sheet: str | None) -> None:
    """Prints what the noise of some rendered scenes comes to and how long they take."""
    from typing import cast

    from PIL import Image

    from annyfit_jax.synthetic import measure
    from annyfit_jax.synthetic.world import RenderedScene

    next(iter(source.scenes(range(1))))  # compiles
    started = time.process_time()
    scenes = cast(list[RenderedScene], list(source.scenes(range(count))))
    seconds = time.process_time() - started
    for name, value in measure.measure(scenes).items():
        print(f"{name}: {value:.4g}")
    print(f"scenes per second of processor time: {count / seconds:.2f}")
    if sheet:
        pictures = measure.sheet(scenes[: _SHEET_COLUMNS * _SHEET_ROWS], _SHEET_COLUMNS, _SHEET_TILE)
        Image.fromarray(pictures).save(sheet, quality=85)


def plain_source() -> Source:
    """Scenes without pictures, of the flags. Raises ValueError."""
    people, bias = parse_people(FLAGS.people), parse_bias(FLAGS.bias)
    from annyfit_jax import synthetic

    recipe = synthetic.Recipe(FLAGS.seed, people, bias)
    described = {"synthetic": synthetic.GENERATOR_VERSION, **dataclasses.asdict(recipe)}
    return Source(synthetic.Generator(recipe).scenes, described, str(synthetic.GENERATOR_VERSION), None)


def rendered_source() -> Source:
    """Scenes with pictures, of the flags. Raises ValueError."""
    from annyfit_jax.synthetic import world
    from annyfit_jax.synthetic import world_config as presets

    config = presets.override(presets.preset(FLAGS.difficulty, FLAGS.start), FLAGS["set"].value or ())
    made = world.World(FLAGS.seed, config)
    return Source(made.scenes, made.fingerprint(), f"world-{world.WORLD_VERSION}", world.jpeg)


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
    define_flags()
    app.run(main)
