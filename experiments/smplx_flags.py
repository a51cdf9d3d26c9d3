"""Flags of `annyfit fit` about SMPL-X bodies beside the fits, and what they ask for."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from annyfit_jax.store.locations import is_remote

FLAGS = flags.FLAGS


def define_flags() -> tuple[flags.FlagHolder, ...]:
    """`--body` and what belongs to it."""
    return (
        flags.DEFINE_enum(
            "body", "anny", ["anny", "smplx"],
            "smplx: people are also written as SMPL-X, into OUT/smplx (docs/exports.md says how).",
        ),
        flags.DEFINE_string("body_file", "", "With --body=smplx: SMPLX_NEUTRAL.npz or another SMPL-X file."),
        flags.DEFINE_integer("num_betas", 10, "With --body=smplx: betas.", lower_bound=1, upper_bound=300),
        flags.DEFINE_string("kid_template", "", "With --body=smplx: AGORA's smplx_kid_template.npy, for children."),
    )  # fmt: skip


def check() -> None:
    """Raises ValueError where the flags do not go together."""
    if (FLAGS.body == "smplx") != bool(FLAGS.body_file):
        raise ValueError("--body=smplx and --body_file belong together")
    if FLAGS.body == "smplx" and is_remote(FLAGS.output):
        raise ValueError("--body=smplx writes to a disk: fit without it, then run annyfit convert --to_keypoints")


def write_smplx(folder: Path) -> None:
    """The people of a finished job as SMPL-X, fitted to the keypoints as well."""
    from annyfit_jax.conversion.convert_fits import FitConverter, write_converted
    from annyfit_jax.exports.exported_people import with_progress
    from annyfit_jax.jobs.fit_source import open_fits

    kid = FLAGS.kid_template or None
    convert = FitConverter("smplx", FLAGS.body_file, num_betas=FLAGS.num_betas, kid_template=kid, to_keypoints=True)
    source = open_fits(folder, details=False)
    done = write_converted(with_progress(source, source.total, "scenes"), folder / "smplx", convert)
    print(
        f"{done.people} people as SMPL-X: {folder / 'smplx'}; mean distance from Anny's surface {done.surface_mm:.2f} mm"
    )
