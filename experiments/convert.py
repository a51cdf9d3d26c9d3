"""Convert fits of Anny to SMPL-X, or back: the nearest body in surface, turns of bones and joints.

    annyfit convert --fits=OUT --to=smplx --body_file=SMPLX_NEUTRAL.npz --output=DIR
    annyfit convert --fits=DIR --to=anny --body_file=SMPLX_NEUTRAL.npz --output=BACK

The SMPL-X file is the user's own (https://smpl-x.is.tue.mpg.de). DIR/fits/<scene>.npz are fits of the other body, for
`annyfit export --format=humandata` (or amass, bedlam); DIR/conversion.jsonl has the distance of the surfaces for every person.
How it is done and how near it comes is in docs/exports.md.
"""

from __future__ import annotations

from absl import flags

from experiments import program

FLAGS = flags.FLAGS


def define_flags() -> program.Usage:
    return program.Usage(
        {
            "Fits": (
                flags.DEFINE_string("fits", "", "Output folder of `annyfit fit`, its `fits` folder, or one fit file."),
            ),
            "Bodies": (
                flags.DEFINE_enum("to", "smplx", ["smplx", "anny"], "The body to convert to."),
                flags.DEFINE_string("body_file", "", "SMPLX_NEUTRAL.npz or another SMPL-X file, .npz or .pkl."),
                flags.DEFINE_integer("num_betas", 10, "Of SMPL-X bodies that are made.", lower_bound=1, upper_bound=300),
                flags.DEFINE_string("kid_template", "", "AGORA's smplx_kid_template.npy: children are a blend with it."),
                flags.DEFINE_bool("to_keypoints", False, "SMPL-X is also fitted to the keypoints that the fits were given."),
            ),
            "Result": (flags.DEFINE_string("output", "", "Folder to write."),),
            "Machine": (program.compile_cache_flag(),),
        },
        required=("fits", "body_file", "output"),
    )  # fmt: skip


def main() -> None:
    from annyfit_jax.conversion.convert_fits import FitConverter, write_converted
    from annyfit_jax.exports.exported_people import with_progress
    from annyfit_jax.jobs.fit_source import open_fits

    source = open_fits(FLAGS.fits, details=False)
    convert = FitConverter(
        FLAGS.to, FLAGS.body_file, num_betas=FLAGS.num_betas, kid_template=FLAGS.kid_template or None,
        to_keypoints=FLAGS.to_keypoints,
    )  # fmt: skip
    done = write_converted(with_progress(source, source.total, "scenes"), FLAGS.output, convert)
    print(
        f"{done.scenes} scenes, {done.people} people: {FLAGS.output}; mean distance of the surfaces {done.surface_mm:.2f} mm, "
        f"of the worst person {done.worst_mm:.2f} mm"
    )


if __name__ == "__main__":
    program.run("convert")
