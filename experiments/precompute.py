"""From a folder of photos to a cue dataset that experiments.fit reads: boxes, masks, keypoints, depth, words.

    python -m experiments.precompute --images=photos --output=dataset
    python -m experiments.precompute --images=photos --output=dataset --experts=server --set=words.url=http://localhost:8000/v1
    python -m experiments.precompute --images=photos --output=dataset --annotations=coco.json --depth=depth_maps --experts=none
    python -m experiments.precompute --images=photos --output=dataset --set=detector=my_package.detect:MyDetector

The experts run one after another, one model in memory at a time. Kill it whenever you like and run the same command to go on;
several processes share the work by --process_index and --process_count (or SLURM, Kubernetes, TPU pod variables, as in
experiments.fit). What each expert said is kept in OUT/stages, so that another expert for one cue computes only that cue
and what depends on it. docs/experts.md lists the experts, their licences and their options.

Writes, besides the dataset: set_aside.jsonl (photos that are no scene, and why), failures.jsonl (photo, cue, reason).

Exit codes: 0 finished (this process's share), 2 wrong usage or input, 74 OUT cannot be written, 75 stopped by a signal.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from annyfit_jax.people.scene import Scene, SceneError

FLAGS = flags.FLAGS


@dataclass(frozen=True)
class Options:
    """The flags."""

    images: str
    output: str
    experts: str = "default"
    assignments: Sequence[str] = ()
    """--set."""
    annotations: str = ""
    masks: str = ""
    depth: str = ""
    words: str = ""
    allow_noncommercial: bool = False
    stages: str = ""
    photos_per_shard: int = 64
    batch: int = 8
    limit: int | None = None
    with_images: bool = False
    process_index: int | None = None
    process_count: int | None = None
    retry_failed: bool = False
    lease_s: float = 120.0
    log_every_s: float = 10.0


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    default = Options("", "")
    flags.DEFINE_string("images", None, "Folder of the photos, read with its subfolders.")
    flags.DEFINE_string("output", None, "Folder of the cue dataset, made or continued.")
    flags.DEFINE_string("experts", default.experts, "Set of experts: default, server (words over HTTP), none.")
    flags.DEFINE_multi_string("set", [], "cue=expert, cue.option=value, or people.rule=value.")
    flags.DEFINE_string(
        "annotations",
        default.annotations,
        "COCO JSON whose boxes, keypoints, masks, words and cameras are taken as cues.",
    )
    flags.DEFINE_string("masks", default.masks, "Folder of label images <stem>.png: taken as masks.")
    flags.DEFINE_string("depth", default.depth, "Folder of metric depth maps <stem>.npy, .npz, or 16-bit .png in mm.")
    flags.DEFINE_string("words", default.words, "JSON {annotation id: {age, gender}}, with --annotations.")
    flags.DEFINE_bool("allow_noncommercial", False, "Also experts whose licence does not allow commercial use.")
    flags.DEFINE_string("stages", default.stages, "Folder of the experts' answers. Default: OUT/stages.")
    flags.DEFINE_integer("photos_per_shard", default.photos_per_shard, "Photos of a unit of work and of its shard.", 1)
    flags.DEFINE_integer("batch", default.batch, "Photos per call of an expert; halved where memory runs out.", 1)
    flags.DEFINE_integer("limit", None, "Only the first so many photos.", 1)
    flags.DEFINE_bool("with_images", False, "Also store the photos in the dataset, as JPEG.")
    flags.DEFINE_integer("process_index", None, "This process among --process_count. Default: from the launcher.")
    flags.DEFINE_integer("process_count", None, "Number of processes that share the work.")
    flags.DEFINE_bool("retry_failed", False, "Ask again about photos that an expert failed on.")
    flags.DEFINE_float(
        "lease_s", default.lease_s, "A unit is taken over from a process silent for so many seconds.", 1.0
    )
    flags.DEFINE_float("log_every_s", default.log_every_s, "Seconds between progress lines.", 0.0)


def options_from_flags() -> Options:
    """Raises UsageError without --images or --output."""
    for name in ("images", "output"):
        if not FLAGS[name].value:
            raise app.UsageError(f"--{name} is missing")
    values: dict[str, Any] = {name: FLAGS[name].value for name in Options.__dataclass_fields__ if name != "assignments"}
    return Options(assignments=tuple(FLAGS["set"].value or ()), **values)


def main(_: list[str]) -> None:
    from annyfit_jax.inputs.cue_dataset import DatasetError
    from annyfit_jax.jobs.durable_files import JobWriteError
    from annyfit_jax.jobs.runner import EXIT_DISK, EXIT_INTERRUPTED, EXIT_USAGE, Interrupted, stop_on_signal

    options, stop = options_from_flags(), threading.Event()
    try:
        with stop_on_signal(stop):
            report(run(options, stop), options)
    except (SceneError, DatasetError, ValueError) as error:
        logging.error("%s", error)
        raise SystemExit(EXIT_USAGE) from None
    except (JobWriteError, OSError) as error:
        logging.error("%s", error)
        raise SystemExit(EXIT_DISK) from None
    except Interrupted:
        logging.warning("stopped; run the same command again to go on")
        raise SystemExit(EXIT_INTERRUPTED) from None


def run(options: Options, stop: threading.Event | None = None) -> Any:
    """The program after flag parsing; returns the state of the dataset (`annyfit_jax.inputs.cue_dataset.Progress`).

    Raises SceneError, ExpertError, DatasetError, ValueError (input), JobWriteError, OSError (disk), Interrupted.
    """
    from annyfit_jax.inputs import cue_dataset
    from annyfit_jax.inputs.photos import jpeg_bytes
    from annyfit_jax.jobs.durable_files import publish
    from annyfit_jax.jobs.hosts import find_process
    from experts import assemble, registry
    from experts.pipeline import Collection, Stages, failures

    process = find_process(options.process_index, options.process_count)
    experts = registry.build(options.experts, [*precomputed(options), *options.assignments])
    _check(experts)
    registry.check_licences(experts, options.allow_noncommercial)
    collection = Collection.of_folder(options.images, options.photos_per_shard, options.limit)
    output = Path(options.output)
    stages = Stages(
        Path(options.stages) if options.stages else output / "stages", collection, experts, process, options.batch,
        options.lease_s, options.log_every_s, options.retry_failed, stop or threading.Event(),
    )  # fmt: skip
    logging.info("%s: %d photos; process %d of %d (%s)", options.images, len(collection.names), *process)
    stages.run()

    described = {
        "photos": collection.checksum(),
        "experts": stages.keys,
        "people": registry.options_of(experts.people),
        "images": options.with_images,
    }
    plan = cue_dataset.Plan(len(collection.names), described, options.photos_per_shard)
    for unit in stages.redone:  # their shards hold what the experts said before
        (output / plan.seal(unit)).unlink(missing_ok=True)

    def photo(scene: Scene) -> bytes:
        return jpeg_bytes(scene.image_path or "")

    state = cue_dataset.write(
        output,
        plan,
        lambda indices: assemble.scenes(stages, indices),
        process_index=process.index,
        process_count=process.count,
        photo=photo if options.with_images else None,
        provenance=assemble.provenance(stages),
    )
    if state.shards_done == state.num_shards:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in failures(stages))
        publish(output / "failures.jsonl", lines.encode())
    return state


def precomputed(options: Options) -> list[str]:
    """What the flags for existing cues mean as assignments; --set comes after them, and a cue it chooses is not taken."""
    from experts.adapters.coco_file import cues_in

    chosen = {assignment.partition("=")[0] for assignment in options.assignments}
    result = []
    if options.words and not options.annotations:
        raise ValueError("--words names people by annotation id: give --annotations as well")
    if options.annotations:
        found = cues_in(options.annotations) | ({"words"} if options.words else set())
        for cue in sorted(found - chosen):
            result += [f"{cue}=coco", f"{cue}.path={options.annotations}"]
        if options.words and "words" not in chosen:
            result.append(f"words.words_file={options.words}")
    for cue, folder in (("segmenter", options.masks), ("depth", options.depth)):
        if folder and cue not in chosen:
            result += [f"{cue}=folder", f"{cue}.path={folder}"]
    return result


def _check(experts: Any) -> None:
    from experts.interfaces import ExpertError

    for cue in ("detector", "keypoints", "camera"):
        if getattr(experts, cue) is None:
            raise ExpertError(
                f"no expert for {cue}: nobody could be fitted; choose one with --set={cue}=NAME, or give --annotations"
            )


def report(state: Any, options: Options) -> None:
    """Prints what is there, and what is left to other processes."""
    print(
        f"{state.shards_done} of {state.num_shards} shards, {state.scenes} scenes, {state.people} people, "
        f"{state.set_aside} photos set aside: {options.output}"
    )
    if state.shards_done < state.num_shards:
        print("not finished: other processes have shards left")
    elif not state.finished:
        logging.error("no photo became a scene; the reasons are in %s", Path(options.output) / "set_aside.jsonl")
        raise SystemExit(2)


if __name__ == "__main__":
    define_flags()
    app.run(main)
