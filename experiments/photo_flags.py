"""Flags about photos whose people are found first, and what `annyfit fit` asks the experts for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from annyfit_jax.store.locations import place
from experiments import program

if TYPE_CHECKING:
    from experts.photos_to_cues import PrecomputeOptions

FLAGS = flags.FLAGS
_PHOTOS_PER_UNIT = 32


def define_flags() -> tuple[flags.FlagHolder, ...]:
    """`--experts` and `--expert`."""
    return (
        flags.DEFINE_string(
            "experts",
            "default",
            "Set of experts that look at photos: default, whole_body (hands, faces, feet too), large, ...",
        ),
        flags.DEFINE_multi_string("expert", [], "cue=expert, cue.option=value, people.rule=value."),
    )


def scenes_per_shard(photos: bool) -> int:
    """Small units of photos, of which the first is fitted while the experts look at the second."""
    return FLAGS.scenes_per_shard if FLAGS["scenes_per_shard"].present or not photos else _PHOTOS_PER_UNIT


def precompute_options() -> PrecomputeOptions:
    """What the experts are asked about the photos of `annyfit fit`."""
    from experts.photos_to_cues import PrecomputeOptions

    camera = [f"camera.fov_degrees={FLAGS.fov}"] if FLAGS["fov"].present else []
    if FLAGS.calibration:
        camera = ["camera=calibration", f"camera.path={FLAGS.calibration}"]
    return PrecomputeOptions(
        FLAGS.input, str(place(FLAGS.output) / "cues"), FLAGS.experts, (*FLAGS.expert, *camera), limit=FLAGS.limit,
        log_every_s=FLAGS.log_every_s, retry_failed=FLAGS.retry_failed, engine=program.engine_from_flags(),
        photos_per_shard=scenes_per_shard(True), progress=FLAGS.output, overwrite=FLAGS.overwrite,
    )  # fmt: skip
