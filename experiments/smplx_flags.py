"""Flags about SMPL-X bodies: of `annyfit fit`, and of programs that show its fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from annyfit_jax.store.locations import Location
from experiments import program

if TYPE_CHECKING:
    from annyfit_jax.fit.config import FitConfig
    from annyfit_jax.people.fit_meshes import FitMeshes
    from annyfit_jax.smplx_fit.smplx_fitter import SmplxChoice

FLAGS = flags.FLAGS
_COUNTED_SCENES = 5000
"""Of larger jobs the files are not read again to count people."""


def define_flags() -> tuple[flags.FlagHolder, ...]:
    """`--body` and what belongs to it."""
    return (
        flags.DEFINE_enum(
            "body", "anny", ["anny", "smplx"],
            "smplx: SMPL-X is fitted to the same cues as well, into OUT/smplx (docs/smplx.md).",
        ),
        flags.DEFINE_string("body_file", "", "With --body=smplx: SMPLX_NEUTRAL.npz or another SMPL-X file."),
        flags.DEFINE_integer("num_betas", 10, "With --body=smplx: betas.", lower_bound=1, upper_bound=300),
        flags.DEFINE_string("kid_template", "", "With --body=smplx: AGORA's smplx_kid_template.npy, for children."),
    )  # fmt: skip


def define_fit_flags() -> tuple[flags.FlagHolder, ...]:
    """`--smplx_model` and `--kid_template`, of programs that draw or pose fits of either body."""
    return (
        flags.DEFINE_string("smplx_model", "", "SMPLX_NEUTRAL.npz, for fits of SMPL-X."),
        flags.DEFINE_string(
            "kid_template", "", "AGORA's smplx_kid_template.npy, where their last beta blends with a child."
        ),
    )


def bodies() -> FitMeshes:
    """The bodies that `define_fit_flags` names."""
    from annyfit_jax.people.fit_meshes import FitMeshes
    from annyfit_jax.store.mirrors import local

    return FitMeshes(local(FLAGS.smplx_model), local(FLAGS.kid_template))


def choice(config: FitConfig | None = None) -> SmplxChoice | None:
    """The SMPL-X that was asked for.

    Raises ValueError or FileNotFoundError where flags, files or the config are not right, before anything is written.
    """
    if (FLAGS.body == "smplx") != bool(FLAGS.body_file):
        raise ValueError("--body=smplx and --body_file belong together")
    if FLAGS.body != "smplx":
        program.refuse_given(("num_betas", "kid_template"), "with --body=smplx")
        return None
    from annyfit_jax.smplx_fit.smplx_fitter import SmplxChoice, config_for_smplx

    if config is not None:
        config_for_smplx(config)
    chosen = SmplxChoice(FLAGS.body_file, FLAGS.num_betas, FLAGS.kid_template)
    chosen.read()  # once here, so that a file that is none stops the program before any fit
    return chosen


def summary(folder: Location) -> str:
    """What became of the people as SMPL-X, for the end of a job."""
    from annyfit_jax.jobs.fit_source import open_fits
    from annyfit_jax.smplx_fit.smplx_fitter import NO_CHILD

    where = str(folder / "smplx")
    fits = open_fits(where)
    if fits.total > _COUNTED_SCENES:
        return f"SMPL-X: {fits.total} scenes: {where}"
    status = [str(word) for fit in fits for word in fit.status]
    children = sum(word == f"skipped:{NO_CHILD}" for word in status)
    left = f", {children} children left out, who need --kid_template" if children else ""
    return f"SMPL-X: {status.count('ok')} of {len(status)} people{left}: {where}"
