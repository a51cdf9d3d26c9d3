"""Export fits for other programs: of a job, finished or not, of a folder of fits, of one fit.

    annyfit export --fits=OUT --format=parquet --output=people.parquet   # a row per person, for triage
    annyfit export --fits=OUT --format=parquet --output=DIR --partition_by=status   # DIR/status=ok/part-00000-0.parquet
    annyfit export --fits=OUT --format=tfds --output=DIR --images=PHOTOS # an example per image, for training
    annyfit export --fits=OUT --format=webdataset --output=DIR           # tar shards: photo and parameters, for streaming
    annyfit export --fits=OUT --format=coco --output=fits.json           # COCO keypoints with parameters
    annyfit export --fits=OUT --format=humandata --output=DIR            # MMHuman3D's and AiOS's layout
    annyfit export --fits=OUT --format=amass --output=DIR --smplx_model=SMPLX_NEUTRAL.npz   # also bedlam
    annyfit export --fits=OUT --format=npz --output=DIR                  # parameters, <scene>.npz
    annyfit export --fits=OUT --format=glb --output=DIR --scenes=a,b     # meshes, <scene>.glb
    annyfit export --fits=OUT --format=ply --output=DIR --frame=world    # meshes, <scene>.ply
    annyfit export --fits=OUT --format=obj --output=DIR --for=unreal     # meshes, <scene>.obj
    annyfit export --fits=OUT --format=usd --output=DIR                  # meshes and camera, <scene>.usd (extra `usd`)
    annyfit export --fits=OUT --format=glb --output=DIR --skinned        # meshes with bones, to be posed further
    annyfit export --fits=OUT --format=bvh --output=DIR                  # skeletons, <scene>_person_<id>.bvh

What each format holds is said in `annyfit_jax.exports`; frames and axes of the files per scene in its `scene_files`. .glb and
.ply open upright in Blender: in a .glb each person is a mesh of its own (`person_<id>`), a .ply has all people in one mesh.
People without a fit are NaN rows in the .npz and absent from the meshes; scenes without any mesh are left out and named.

Scenes that a job has not finished are left out, with a warning. Fits, photos and output may be in buckets. --engine=ray has the
workers of a cluster write, each --scenes_per_shard scenes at a time, with the same result (docs/fleet.md). An export that was
stopped continues when the command is given again; what is done is noted in `.parts`. Beside every export lies
`data_card.json`: counts, failures by reason, licences of the experts, configs, versions, and the digest of the fits.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from annyfit_jax.store.work_progress import number_of
from experiments import program

if TYPE_CHECKING:
    from annyfit_jax.exports.skinned_export import Skinned

FLAGS = flags.FLAGS
_NAMES_SHOWN = 20
_FORMATS = (
    "npz", "glb", "ply", "obj", "usd", "bvh", "parquet", "coco", "humandata", "amass", "bedlam", "tfds", "webdataset",
)  # fmt: skip


def define_flags() -> program.Usage:
    return program.Usage(
        {
            "Fits": (
                flags.DEFINE_string("fits", "", "Output folder of `annyfit fit`, its `fits` folder, or one fit file."),
                flags.DEFINE_list("scenes", [], "Names of scenes; all by default."),
                flags.DEFINE_string(
                    "images", "",
                    "Folder of the photos. tfds, webdataset: store them (a cue dataset serves too); coco, humandata: name them "
                    "so; --photo_plane: show them.",
                ),
            ),
            "Result": (
                flags.DEFINE_string("output", "", "Folder to write; parquet and coco: file or folder."),
                flags.DEFINE_enum("format", "npz", _FORMATS, "What to write."),
                flags.DEFINE_enum(
                    "frame", "camera", ["camera", "world"],
                    "npz, glb, ply, obj, usd, bvh: origin at the camera or on the floor.",
                ),
                flags.DEFINE_integer(
                    "scenes_per_shard", 512, "Scenes that a worker writes at a time; of tfds and webdataset a shard.",
                    lower_bound=1,
                ),
                flags.DEFINE_list(
                    "partition_by", [],
                    "parquet: cut into folders by the values of columns, e.g. status,age_word; part: into files.",
                ),
                flags.DEFINE_integer("people_per_file", 10_000, "humandata: people per file.", lower_bound=1),
                flags.DEFINE_string(
                    "smplx_model", "",
                    "SMPLX_NEUTRAL.npz, for fits of SMPL-X. humandata, amass, bedlam: fits of Anny are converted to it.",
                ),
                flags.DEFINE_string(
                    "kid_template", "", "AGORA's smplx_kid_template.npy, where SMPL-X's last beta blends with a child.",
                ),
                flags.DEFINE_float("log_every_s", 10.0, "Seconds between progress lines.", lower_bound=0.0),
            ),
            "Bones": (
                flags.DEFINE_bool("skinned", False, "glb: meshes with bones, weights and the pose as turns of the bones."),
                flags.DEFINE_enum(
                    "for", "blender", ["blender", "unity", "unreal"],
                    "Whose names of bones, influences per vertex, axes and units: glb with bones, bvh, obj.",
                ),
                flags.DEFINE_bool("per_person", False, "With --skinned: a file for each person."),
                flags.DEFINE_bool("photo_plane", False, "With --skinned: the photo behind the people; needs --images."),
                flags.DEFINE_integer(
                    "influences", 0, "With --skinned: weights per vertex, 12 = all; 0 = as --for says.",
                    lower_bound=0, upper_bound=12,
                ),
            ),
            "Engine": program.engine_flags(),
            "Machine": (program.compile_cache_flag(),),
        },
        required=("fits", "output"),
    )  # fmt: skip


def main() -> None:
    with program.stopping() as stop:
        written, empty = _export(stop)
    nobody = f"; nobody fitted in {', '.join(empty[:_NAMES_SHOWN])}" if empty else ""
    print(f"{number_of(len(written), 'files')}: {FLAGS.output}{nobody}")


def _export(stop: threading.Event) -> tuple[list[Path], list[str]]:
    from annyfit_jax.exports.export_fits import export_fits

    return export_fits(
        FLAGS.fits, FLAGS.output, FLAGS.format, FLAGS.scenes, FLAGS.frame, images=FLAGS.images,
        scenes_per_shard=FLAGS.scenes_per_shard, people_per_file=FLAGS.people_per_file, smplx_model=FLAGS.smplx_model,
        kid_template=FLAGS.kid_template,
        log_every_s=FLAGS.log_every_s, program=getattr(FLAGS, "for"), skinned=_skinned(), engine=program.engine_from_flags(),
        stop=stop, partition_by=FLAGS.partition_by,
    )  # fmt: skip


def _skinned() -> Skinned | None:
    """How a `.glb` with bones is written. Raises ValueError for flags that only have a meaning there."""
    from annyfit_jax.exports.skinned_export import Skinned

    asked = [name for name in ("per_person", "photo_plane", "influences") if FLAGS[name].value]
    if not FLAGS.skinned:
        if asked:
            raise ValueError(f"--{asked[0]} needs --skinned")
        return None
    if FLAGS.photo_plane and not FLAGS.images:
        raise ValueError("--photo_plane needs --images, the folder of the photos or the cue dataset that has them")
    return Skinned(FLAGS.per_person, FLAGS.images if FLAGS.photo_plane else "", FLAGS.influences)


if __name__ == "__main__":
    program.run("export")
