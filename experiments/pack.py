"""Pack any input into a cue dataset: ArrayRecord shards that TFDS, Grain and `annyfit fit` read.

    annyfit pack --input=annotations.json --images=photos --output=dataset
    annyfit pack --input=ROOT --output=dataset --with_images --engine=ray

Run it again to resume: finished shards are kept. Scenes that cannot be read are listed with the reason in
`set_aside.jsonl`. --provenance names a JSON file `{cue: {"expert", "version", "licence"}}`.
"""

from __future__ import annotations

from absl import flags

from annyfit_jax.store.locations import place
from annyfit_jax.store.work_progress import number_of
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
            "Engine": program.engine_flags(),
        },
        required=("input", "output"),
    )


def main() -> None:
    from annyfit_jax.inputs.coco_annotations import read_json
    from annyfit_jax.inputs.pack_scenes import pack_scenes
    from annyfit_jax.store.mirrors import local

    cues = read_json(local(FLAGS.provenance)) if FLAGS.provenance else {}
    if not isinstance(cues, dict):
        raise ValueError(f'{FLAGS.provenance}: expected {{cue: {{"expert": ..., "version": ..., "licence": ...}}}}')
    with program.stopping() as stop:
        state = pack_scenes(
            input_flags.open_from_flags(with_masks=True, with_depth_map=True), FLAGS.output,
            options=input_flags.input_options(), cues=cues, limit=FLAGS.limit, with_images=FLAGS.with_images,
            scenes_per_shard=FLAGS.scenes_per_shard, engine=program.engine_from_flags(), stop=stop,
        )  # fmt: skip
    print(
        f"{state.shards_done} of {number_of(state.num_shards, 'shards')}, {number_of(state.scenes, 'scenes')}, "
        f"{number_of(state.people, 'people')}, "
        f"{number_of(state.set_aside, 'scenes')} set aside: {FLAGS.output}"
    )
    if state.shards_done == state.num_shards and not state.finished:
        raise ValueError(f"no scene could be packed; the reasons are in {place(FLAGS.output) / 'set_aside.jsonl'}")


if __name__ == "__main__":
    program.run("pack")
