"""Fit Anny to the people of photos: a handful or a whole collection.

    annyfit fit --input=photos --output=OUT --pictures              # photos: a folder, a file, "some/*.jpg"
    annyfit fit --input=SCENES --output=OUT                         # folder of scene .npz files
    annyfit fit --input=annotations.json --images=DIR --output=OUT  # COCO keypoints
    annyfit fit --input=KEYPOINTS --images=DIR --output=OUT         # OpenPose, MMPose, Ultralytics, MediaPipe: file or folder
    annyfit fit --input=ROOT --output=OUT                           # official anny-fit preprocessing
    annyfit fit --input=DATASET --output=OUT                        # cue dataset (annyfit pack, annyfit precompute)
    annyfit fit --input=... --output=OUT --body=smplx --body_file=SMPLX_NEUTRAL.npz   # and SMPL-X, in OUT/smplx
    ... --config=annyfit --set=stages.pose.lr.pose=0.002 --set=stages.pose.weights.depth_order=50    # the released schedule
    ... --set=map.noise_share=0.015 --set=map.starts=4              # the default

OUT is a job (`annyfit_jax.jobs`), a folder or a place in a bucket (s3://, gs://). You may kill it at any time and run the same
command to continue. With --engine=ray the workers of a Ray cluster do it (docs/fleet.md). Watch it with `annyfit status`.

Photos go through the networks that come with the installation first (`--experts`; `annyfit precompute` says more about
experts); what they find is kept in OUT/cues and taken from there when the command is run again.

Writes one shard of records per 256 scenes and, once all are done, dataset_info.json and features.json (OUT is then a TFDS
dataset), people.jsonl (a row per person), scenes_set_aside.jsonl, config.json. Inputs other than datasets also get
fits/<scene>.npz, and with --pictures index.html.

Exit codes: 0 finished, 2 wrong usage or input, or nobody was fitted, 74 OUT cannot be written (make room
and run again), 75 stopped by SIGTERM or SIGINT (run again to go on).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from annyfit_jax.store.locations import place
from annyfit_jax.store.work_progress import number_of
from experiments import input_flags, photo_flags, program, smplx_flags

if TYPE_CHECKING:
    from annyfit_jax.fit.config import FitConfig

FLAGS = flags.FLAGS


def define_flags() -> program.Usage:
    return program.Usage(
        {
            "Scenes": (
                *input_flags.define_flags(),
                flags.DEFINE_integer("limit", None, "Number of scenes, counted from the first.", lower_bound=1),
            ),
            "Photos": photo_flags.define_flags(),
            "Fit": (
                program.config_flag("Python file with get_config(), or a shipped config by name.", "annyfit_plus"),
                program.set_flag("path=value changes of the config, e.g. stages.pose.lr.pose=0.002."),
            ),
            "Body": smplx_flags.define_flags(),
            "Results": (
                flags.DEFINE_string("output", None, "Folder of the job, made or continued."),
                flags.DEFINE_bool("pictures", False, "Also write index.html with overlays, top and side views."),
                flags.DEFINE_string("compare", None, "With --pictures: folder of another job, whose fits stand beside."),
                flags.DEFINE_string("credits", None, "With --pictures: COCO file that credits the photos. Default: --input."),
                flags.DEFINE_bool("save_vertices", False, "Store posed vertices in the fit files (160 kB a person)."),
                flags.DEFINE_bool("fit_files", None, "Write fits/<scene>.npz. Default: yes, except for cue datasets."),
                flags.DEFINE_integer("scenes_per_shard", 256, "Scenes of a unit and its shard; of photos 32.", lower_bound=1),
                flags.DEFINE_bool("overwrite", False, "First remove what an earlier job left in --output."),
                flags.DEFINE_bool("retry_failed", False, "Fit the failed scenes of finished units again."),
            ),
            "Engine": program.engine_flags(),
            "Machine": (
                flags.DEFINE_float("log_every_s", 10.0, "Seconds between progress lines.", lower_bound=0.0),
                flags.DEFINE_bool("tensorboard", False, "Progress for TensorBoard in OUT/tensorboard (needs tensorboardX)."),
                flags.DEFINE_string("profile", None, "Folder for a jax.profiler trace of the first batches."),
                program.compile_cache_flag(),
            ),
        },
        required=("input", "output"),
    )  # fmt: skip


def main() -> None:
    from annyfit_jax.jobs.fit_job import fit_job, one_config
    from annyfit_jax.jobs.job_driver import JobOptions, identity_of
    from annyfit_jax.people.fit_meshes import FitMeshes
    from annyfit_jax.report.scene_pages import write_scene_pages
    from experts.cue_pictures import found_in_photo
    from experts.photos_to_cues import are_photos, scenes_of_photos

    chosen = _config(FLAGS.config)
    config, smplx = one_config(chosen), smplx_flags.choice(chosen)
    photos = are_photos(FLAGS.input)
    if photos:
        input_flags.refuse_for_photos()
        program.refuse_given(("images",), "for keypoints and other scenes: --input names the photos")
    else:
        program.refuse_given(("experts", "expert"), "where --input names photos")
    if not FLAGS.pictures:
        program.refuse_given(("compare", "credits"), "with --pictures")
    with program.stopping() as stop:
        found = scenes_of_photos(photo_flags.precompute_options()) if photos else None
        source = found.source if found else input_flags.open_from_flags()
        identity = found.identity if found else identity_of(input_flags.input_options())
        options = JobOptions(
            limit=FLAGS.limit, scenes_per_shard=photo_flags.scenes_per_shard(photos), save_vertices=FLAGS.save_vertices,
            fit_files=FLAGS.pictures or (True if photos and FLAGS.fit_files is None else FLAGS.fit_files),
            engine=program.engine_from_flags(), retry_failed=FLAGS.retry_failed, overwrite=FLAGS.overwrite,
            log_every_s=FLAGS.log_every_s, tensorboard=FLAGS.tensorboard, profile=FLAGS.profile, identity=identity,
        )  # fmt: skip
        state = fit_job(source, FLAGS.output, config, options, stop, found.before if found else None, smplx)
        if found:
            found.finish()
    folder = place(FLAGS.output)
    fitted, people = state.people
    target = folder / "fits" if options.writes_fit_files(source) else folder
    before = "" if state.new_scenes else "nothing was left to do, the job was finished before: "
    print(
        f"{before}{number_of(state.scenes, 'scenes')}, {fitted} of {number_of(people, 'people')} fitted, "
        f"{number_of(state.set_aside, 'scenes')} set aside: {target}"
    )
    if not fitted:
        raise ValueError(
            f"nobody was fitted; the reasons are in {folder / 'scenes_set_aside.jsonl'} and {folder / 'people.jsonl'}"
        )
    if smplx is not None:
        print(smplx_flags.summary(folder))
    if FLAGS.pictures:
        page = write_scene_pages(
            folder, source.names[: options.limit], annotations=FLAGS.credits or FLAGS.input, compare=FLAGS.compare,
            cue_pictures=found_in_photo(source.location) if photos else None,
        )  # fmt: skip
        print(f"open {page}")
        if smplx is not None:
            here = smplx.fetched()
            bodies = FitMeshes(here.body_file, here.kid_template)
            names = source.names[: options.limit]
            page = write_scene_pages(folder / "smplx", names, annotations=FLAGS.credits or FLAGS.input, bodies=bodies)
            print(f"open {page}")


def _config(name: str) -> FitConfig:
    from annyfit_jax.fit.config import load_config
    from annyfit_jax.records.settings import apply_overrides

    return apply_overrides(load_config(program.find_config(name)), FLAGS.set)


if __name__ == "__main__":
    program.run("fit")
