"""Pack any input into a cue dataset: ArrayRecord shards that TFDS, Grain and `annyfit fit` read.

    annyfit pack --input=annotations.json --images=photos --output=dataset
    annyfit pack --input=ROOT --output=dataset --with_images --process_index=3 --process_count=8

Run it again to resume: finished shards are kept. Scenes that cannot be read are listed with the reason in
`set_aside.jsonl`. Several processes (on one machine or many with a common file system) share the shards; whoever finds
all of them finished writes the metadata. --provenance names a JSON file `{cue: {"expert", "version", "licence"}}`.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from experiments import input_flags, program

FLAGS = flags.FLAGS


def define_flags() -> program.Usage:
    return program.Usage(
        {
            "Scenes": (
                *input_flags.define_flags(),
                flags.DEFINE_integer("limit", None, "Number of scenes, counted from the first.", lower_bound=1),
            ),
            "Dataset": (
                flags.DEFINE_string("output", None, "Folder of the dataset."),
                flags.DEFINE_integer("scenes_per_shard", 512, "Scenes per shard.", lower_bound=1),
                flags.DEFINE_bool("with_images", False, "Also store the photos as JPEG."),
                flags.DEFINE_string(
                    "provenance", None, "JSON file: which expert, version and licence each cue comes from."
                ),
            ),
            "Processes": (*program.process_flags("work", 0, 1),),
        },
        required=("input", "output"),
    )


def main() -> None:
    from annyfit_jax.inputs.coco_annotations import read_json
    from annyfit_jax.inputs.pack_scenes import pack_scenes

    cues = read_json(FLAGS.provenance) if FLAGS.provenance else {}
    if not isinstance(cues, dict):
        raise ValueError(f'{FLAGS.provenance}: expected {{cue: {{"expert": ..., "version": ..., "licence": ...}}}}')
    state = pack_scenes(
        input_flags.open_from_flags(with_masks=True, with_depth_map=True), FLAGS.output,
        options=input_flags.input_options(), cues=cues, limit=FLAGS.limit, with_images=FLAGS.with_images,
        scenes_per_shard=FLAGS.scenes_per_shard, process_index=FLAGS.process_index, process_count=FLAGS.process_count,
    )  # fmt: skip
    print(
        f"{state.shards_done} of {state.num_shards} shards, {state.scenes} scenes, {state.people} people, "
        f"{state.set_aside} scenes set aside: {FLAGS.output}"
    )
    if state.shards_done == state.num_shards and not state.finished:
        raise ValueError(f"no scene could be packed; the reasons are in {Path(FLAGS.output) / 'set_aside.jsonl'}")
    if not state.finished:
        print("not finished: other processes have shards left")


if __name__ == "__main__":
    program.run("pack")
