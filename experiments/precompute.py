"""From a folder of photos to a cue dataset that `annyfit fit` reads: boxes, masks, keypoints, depth, words.

    annyfit precompute --images=photos --output=dataset
    annyfit precompute --images=photos --output=dataset --experts=server --set=words.url=http://localhost:8000/v1
    annyfit precompute --images=photos --output=dataset --annotations=coco.json --depth=depth_maps --experts=none
    annyfit precompute --images=photos --output=dataset --set=detector=my_package.detect:MyDetector

The experts run one after another, with one model in memory at a time. You may kill the program at any time and run the same
command to continue. With --engine=ray the workers of a Ray cluster do it, all experts at once, each on the photos that the ones
before it have seen (docs/fleet.md). The answers of each expert are kept in OUT/stages, so that another expert for
one cue computes only that cue and what depends on it. docs/experts.md lists the experts, their licences and their options.

Writes, besides the dataset: set_aside.jsonl (photos that are no scene, and why), failures.jsonl (photo, cue, reason).

Exit codes: 0 finished, 2 wrong usage or input, 74 OUT cannot be written, 75 stopped by a signal.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from annyfit_jax.store.work_progress import number_of
from experiments import program

FLAGS = flags.FLAGS


def define_flags() -> program.Usage:
    return program.Usage(
        {
            "Photos": (
                flags.DEFINE_string("images", None, "Folder of the photos, read with its subfolders."),
                flags.DEFINE_integer("limit", None, "Number of photos, counted from the first.", lower_bound=1),
            ),
            "Experts": (
                flags.DEFINE_string("experts", "default", "Set of experts: default, whole_body, large, server, none."),
                program.set_flag("cue=expert, cue.option=value, or people.rule=value."),
                flags.DEFINE_bool(
                    "allow_noncommercial", False, "Also experts whose licence does not allow commercial use."
                ),
            ),
            "Cues that are there already": (
                flags.DEFINE_string(
                    "annotations", "", "COCO JSON whose boxes, keypoints, masks, words and cameras are taken as cues."
                ),
                flags.DEFINE_string("masks", "", "Folder of label images <stem>.png: taken as masks."),
                flags.DEFINE_string("depth", "", "Folder of metric depth maps <stem>.npy, .npz, or 16-bit .png in mm."),
                flags.DEFINE_string("words", "", "JSON {annotation id: {age, gender}}, with --annotations."),
            ),
            "Dataset": (
                flags.DEFINE_string("output", None, "Folder of the cue dataset, made or continued."),
                flags.DEFINE_bool("with_images", False, "Also store the photos in the dataset, as JPEG."),
                flags.DEFINE_string("stages", "", "Folder of the experts' answers. Default: OUT/stages."),
                flags.DEFINE_integer("photos_per_shard", 64, "Photos of a unit of work and of its shard.", lower_bound=1),
                flags.DEFINE_bool("retry_failed", False, "Ask again about photos that an expert failed on."),
            ),
            "Engine": program.engine_flags(),
            "Machine": (
                flags.DEFINE_integer(
                    "batch", 8, "Photos per call of an expert; halved where memory runs out.", lower_bound=1
                ),
                flags.DEFINE_float("log_every_s", 10.0, "Seconds between progress lines.", lower_bound=0.0),
                program.compile_cache_flag(),
            ),
        },
        required=("images", "output"),
    )  # fmt: skip


def main() -> None:
    from experts.photos_to_cues import PrecomputeOptions, precompute

    others = ("assignments", "engine", "progress", "overwrite")
    fields = [name for name in PrecomputeOptions.__dataclass_fields__ if name not in others]
    options = PrecomputeOptions(
        assignments=tuple(FLAGS.set),
        engine=program.engine_from_flags(),
        **{name: getattr(FLAGS, name) for name in fields},
    )
    with program.stopping() as stop:
        state = precompute(options, stop)
    print(
        f"{state.shards_done} of {number_of(state.num_shards, 'shards')}, {number_of(state.scenes, 'scenes')}, "
        f"{number_of(state.people, 'people')}, "
        f"{number_of(state.set_aside, 'photos')} set aside: {options.output}"
    )
    if not state.finished:
        raise ValueError(f"no photo became a scene; the reasons are in {Path(options.output) / 'set_aside.jsonl'}")


if __name__ == "__main__":
    program.run("precompute")
