"""Judge fits against ground truth or hand labels, beside the start that they came from.

    annyfit evaluate --fits=OUT --truth=SCENES --protocol=synthetic         # scenes with gt_*: exact truth
    annyfit evaluate --fits=OUT --truth=annotations.json --protocol=layers  # labelled keypoints, depth layers
    annyfit evaluate --fits=OUT --truth=RH --protocol=relative_human --split=test
    annyfit evaluate --fits=OUT --truth=PANOPTIC --protocol=panoptic --pattern=_ian --bootstrap=1000
    annyfit evaluate --fits=OUT --truth=AGORA --protocol=agora
    annyfit evaluate --fits=OUT --truth=EHF --protocol=ehf --smplx=SMPLX_NEUTRAL.npz --parts=FOLDER
    annyfit evaluate --fits=OUT --truth=p1_val_multi.npz --protocol=arctic --smplx=FOLDER --parts=FOLDER
    annyfit evaluate --fits=OUT --truth=egobody_test.npz --protocol=egobody --smplx=FOLDER --parts=FOLDER

Prints a table with the start and the fit side by side, and writes it with a table per scene as JSON with --json. What a metric
is stands in `annyfit_jax.metrics`, what is read as truth in `annyfit_jax.truth`, as fits in `annyfit_jax.jobs.fit_source`:
jobs, finished or under way, folders of fits, single fits. --bootstrap adds confidence intervals over scenes.

synthetic, layers: the fit and the truth list the same people; both columns are over those with status `ok`, the others are
counted as `not_fitted`, and scenes without a fit are left out. The other protocols look for the labelled people among the
fitted ones; a person without a fit is a miss, and so is everybody of an image without a fit (--without_fit=left_out leaves
such images out). The column `init` needs the start in the fits: jobs of many scenes keep no start, and predictions of networks
are their own start; then there is the column `fit` alone.
"""

from __future__ import annotations

from absl import flags

from experiments import program

FLAGS = flags.FLAGS
_PROTOCOLS = ("synthetic", "layers", "relative_human", "panoptic", "agora", "ehf", "ubody", "arctic", "egobody")


def define_flags() -> program.Usage:
    return program.Usage(
        {
            "What is judged": (
                flags.DEFINE_string("fits", "", "Output folder of `fit`, its `fits` folder, or one fit; see --predictions."),
                flags.DEFINE_enum(
                    "predictions", "fits", ["fits", "meshes", "agora"],
                    "What --fits holds: fits; SMPL-X meshes; AGORA's upload format.",
                ),
                flags.DEFINE_enum(
                    "without_fit", "missed", ["missed", "left_out"],
                    "What images without a fit are. Not for synthetic and layers.",
                ),
            ),
            "By what": (
                flags.DEFINE_string("truth", "", "Scenes with truth, a COCO .json, or a data set's annotations."),
                flags.DEFINE_enum("protocol", "synthetic", _PROTOCOLS, "Which metrics."),
                flags.DEFINE_string("split", "test", "relative_human: <split>_annots.npz; ubody: test = its test videos."),
                flags.DEFINE_list("cameras", [], "panoptic: HD cameras, e.g. 00_16,00_30."),
                flags.DEFINE_integer("frame_step", 1, "panoptic: use every n-th frame; arctic, egobody: every n-th picture."),
                flags.DEFINE_string(
                    "pattern", "", "Only images in whose name this regular expression is found. Not for synthetic and layers."
                ),
                flags.DEFINE_string(
                    "smplx", None,
                    "ehf, ubody, arctic, egobody, fits of SMPL-X: the model file, or a folder with one per gender.",
                ),
                flags.DEFINE_string(
                    "kid_template", "", "synthetic, layers: AGORA's file, for fits of SMPL-X that blend with a child."
                ),
                flags.DEFINE_string(
                    "parts", None,
                    "agora, ehf, ubody, arctic, egobody: folder with the vertex numbers of hands, face and body.",
                ),
            ),
            "Result": (
                flags.DEFINE_string("json", None, "File to write the pooled and the per-scene metrics to."),
                flags.DEFINE_integer("bootstrap", 0, "Times to draw the scenes again for confidence intervals; 0 = none."),
                flags.DEFINE_integer("seed", 0, "Seed of --bootstrap."),
            ),
            "Machine": (program.compile_cache_flag(),),
        },
        required=("fits", "truth"),
    )  # fmt: skip


def main() -> None:
    from annyfit_jax.records.files import without_nan
    from annyfit_jax.store.locations import place
    from annyfit_jax.truth import TruthOptions
    from annyfit_jax.truth.evaluation import evaluate
    from annyfit_jax.truth.evaluation_table import table

    options = TruthOptions(FLAGS.split, tuple(FLAGS.cameras), FLAGS.frame_step, FLAGS.smplx, FLAGS.pattern)
    report = evaluate(
        FLAGS.fits, FLAGS.truth, FLAGS.protocol, options=options, predictions=FLAGS.predictions, parts=FLAGS.parts,
        without_fit=FLAGS.without_fit, bootstrap=FLAGS.bootstrap, seed=FLAGS.seed,
        kid_template=FLAGS.kid_template,
    )  # fmt: skip
    print(table(report["pooled"], report.get("intervals")))
    print(f"people not fitted: {report['not_fitted']}; scenes without a fit: {len(report['scenes_without_fit'])}")
    for name, text in report["settings"].items():
        print(f"{name}: {text}")
    if FLAGS.json:
        place(FLAGS.json).put_json(without_nan(report))


if __name__ == "__main__":
    program.run("evaluate")
