"""Make a cue dataset of synthetic scenes with exact truth.

    python -m experiments.synthesize --output=dataset --scenes=10000 --seed=1
    python -m experiments.synthesize --output=dataset --scenes=200 --seed=1 --people=1,2,3 --bias=0.2,0.8

Run it again to resume; several processes share the shards (--process_index, --process_count). Scene i of a seed does not
depend on how the work is cut. What is in the scenes: `annyfit_jax/synthetic.py`.
"""

from __future__ import annotations

import dataclasses
import time

from absl import app, flags, logging

from annyfit_jax.cues import dataset

_OUTPUT = flags.DEFINE_string("output", None, "Folder of the dataset.")
_SCENES = flags.DEFINE_integer("scenes", None, "How many scenes.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed.", lower_bound=0)
_PEOPLE = flags.DEFINE_string(
    "people", "coco", "People per image: `coco` (1 to 20, mean 3.4) or a list to choose from."
)
_BIAS = flags.DEFINE_string("bias", "1,1", "Adult bias of the start, low,high: 1 an average adult, 0 the true age.")
_PER_SHARD = flags.DEFINE_integer(
    "scenes_per_shard", dataset.DEFAULT_SCENES_PER_SHARD, "Scenes per shard.", lower_bound=1
)
_PROCESS_INDEX = flags.DEFINE_integer("process_index", 0, "Which of the processes this is, from 0.", lower_bound=0)
_PROCESS_COUNT = flags.DEFINE_integer("process_count", 1, "Processes that share the work.", lower_bound=1)


def main(_: list[str]) -> None:
    for flag in (_OUTPUT, _SCENES):
        if not flag.value:
            raise app.UsageError(f"--{flag.name} is missing")
    try:
        people, bias = parse_people(_PEOPLE.value), parse_bias(_BIAS.value)
    except ValueError as error:
        raise app.UsageError(str(error)) from None
    from annyfit_jax import synthetic  # after the flags are known to be good: it loads jax and the body model

    recipe = synthetic.Recipe(_SEED.value, people, bias)
    described = {"synthetic": synthetic.GENERATOR_VERSION, **dataclasses.asdict(recipe)}
    plan = dataset.Plan(_SCENES.value or 0, described, _PER_SHARD.value)
    generator = synthetic.Generator(recipe)
    started = time.monotonic()
    try:
        state = dataset.write(
            _OUTPUT.value or "",
            plan,
            generator.scenes,
            process_index=_PROCESS_INDEX.value,
            process_count=_PROCESS_COUNT.value,
            provenance={"cues": {"all": {"expert": "synthetic", "version": str(synthetic.GENERATOR_VERSION)}}},
            on_shard=lambda shard: logging.info("shard %d written, %.0f s", shard, time.monotonic() - started),
        )
    except dataset.DatasetError as error:
        logging.error("%s", error)
        raise SystemExit(2) from None
    print(
        f"{state.shards_done} of {state.num_shards} shards, {state.scenes} scenes, {state.people} people, "
        f"{time.monotonic() - started:.0f} s: {_OUTPUT.value}"
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
    app.run(main)
