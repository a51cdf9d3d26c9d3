"""A static report of fits, opened from disk: charts, tables to filter and sort, pictures, 3D views.

    annyfit report --fits=OUT --output=out/report
    annyfit report --fits=OUT --input=DATASET --truth=DATASET --output=out/report --pictures=-1
    annyfit report --fits=OUT --input=annotations.json --images=photos --output=out/report --title='Trip'

--fits is what `annyfit fit` wrote: a job, finished or under way, a folder of fits, one fit. Photos come from the path
that a fit names, else from --input. With --truth (synthetic scenes) errors are columns, charts and the order of the worst
scenes. Numbers are there for every scene; pictures and 3D views for --pictures of them, half of them the worst, half at
random (-1 = all; 1 to 2 s and 1 MB a scene).

Fits and report may be in buckets. The folder is complete in itself and asks nothing of a network: open index.html. Written
again, it is replaced.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from annyfit_jax.store.locations import place
from experiments import input_flags, program, smplx_flags

FLAGS = flags.FLAGS


def define_flags() -> program.Usage:
    return program.Usage(
        {
            "Fits": (
                flags.DEFINE_string("fits", None, "Output of `annyfit fit`, its `fits` folder, or one fit."),
                flags.DEFINE_string("truth", None, "Synthetic scenes with exact truth."),
            ),
            "SMPL-X": smplx_flags.define_fit_flags(),
            "Photos, where the fits do not name them": input_flags.define_flags(),
            "Report": (
                flags.DEFINE_string("output", None, "Folder of the report."),
                flags.DEFINE_string("title", None, "Title. Default: the name of --fits."),
                flags.DEFINE_integer("pictures", 60, "Scenes with pictures and a 3D view; -1 = all.", lower_bound=-1),
                flags.DEFINE_string(
                    "worst_by", "", "Column that says which scenes are worst, e.g. reprojection_share."
                ),
                flags.DEFINE_integer("seed", 0, "Seed of the scenes at random."),
            ),
            "Machine": (program.compile_cache_flag(),),
        },
        required=("fits", "output"),
    )


def main() -> None:
    from annyfit_jax.inputs import open_input
    from annyfit_jax.inputs.scenes_by_name import photos_by_name, scenes_by_name
    from annyfit_jax.jobs.fit_source import open_fits
    from annyfit_jax.report import ReportOptions, write_report

    title = FLAGS.title or place(FLAGS.fits).name or Path(FLAGS.fits).resolve().name
    page = write_report(
        open_fits(FLAGS.fits), FLAGS.output,
        ReportOptions(title=title, pictures=FLAGS.pictures, worst_by=FLAGS.worst_by, seed=FLAGS.seed),
        truth=scenes_by_name(open_input(FLAGS.truth)) if FLAGS.truth else None,
        truth_location=FLAGS.truth or "",
        photo=photos_by_name(input_flags.open_from_flags()) if FLAGS.input else None,
        bodies=smplx_flags.bodies(),
    )  # fmt: skip
    print(f"open {page}")


if __name__ == "__main__":
    program.run("report")
