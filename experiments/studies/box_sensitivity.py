"""How much a network's errors depend on who cuts the people out: crops around true, noisy and detected boxes.

    python -m experiments.studies.box_sensitivity --scenes=WORK/unseen --run=WORK/runs/held_out --output=OUT \
        --config=experiments/configs/aios_anny_tiny.py --set=feed.sets.fits.path=WORK/many/dataset ...

A network that looks at whole pictures needs no box; methods that work on crops inherit the detector's errors. Here the same
network is used both ways. Noise s moves a box by up to s of its width and height and scales it by up to 1 +- s, uniformly.
Detected boxes are the network's own on the whole picture, those of the people it finds. Of each crop the best person counts.

--scenes: `photos/` and the truth as fits in `fits/`, as `experiments.studies.prove_aios` makes them. Prints a Markdown table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from absl import app, flags
from jaxtyping import Float, UInt8

from annyfit_jax.people.boxes import pairwise_iou
from annyfit_jax.records import files, fit_files
from annyfit_jax.records.fit_files import SceneFit
from experiments.studies import prove_aios

FLAGS = flags.FLAGS
CONTEXT = 1.25
"""Side of a crop by the longer side of its box."""


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    for name, text in (
        ("config", "As of experiments.predict."), ("run", "As of experiments.predict."),
        ("scenes", "Folder with photos/ and fits/, the truth."), ("output", "Folder of crops and predictions."),
    ):  # fmt: skip
        flags.DEFINE_string(name, None, text, required=True)
    flags.DEFINE_multi_string("set", [], "As of experiments.predict.")
    flags.DEFINE_list("levels", ["0", "0.1", "0.2", "0.3"], "Levels of noise.")
    flags.DEFINE_integer(
        "side", prove_aios.SIDE, "Of a crop after resizing, and the short side of whole pictures, pixels."
    )
    flags.DEFINE_integer("seed", 0, "Of the noise.")
    flags.DEFINE_string("compile_cache", "~/.cache/annyfit-jax/xla", "As of experiments.train.")


def main(_: list[str]) -> None:
    scenes, output = Path(FLAGS.scenes), Path(FLAGS.output)
    whole = output / "whole"
    predict(scenes / "photos", whole)
    rows = {"whole pictures": prove_aios.judge(whole / "fits", scenes / "fits", scenes / "fits")}
    for level in FLAGS.levels:
        rows[f"true boxes, noise {level}"] = judged(scenes, output / f"noise_{level}", float(level))
    rows["detected boxes"] = judged(scenes, output / "detected", 0.0, whole / "fits")
    print("| people from | recall | MPJPE, mm | PA-MPJPE, mm |\n| --- | --- | --- | --- |")
    for name, row in rows.items():
        print(f"| {name} | {row['recall']:.3f} | {row['mpjpe_mm']:.1f} | {row['pa_mpjpe_mm']:.1f} |")


def judged(scenes: Path, folder: Path, level: float, detected: Path | None = None) -> dict[str, float]:
    """Figures on crops of all people of the scenes, made in `folder`."""
    if not (folder / "done").is_file():
        random = np.random.default_rng(FLAGS.seed)
        for path in sorted((scenes / "fits").glob("*.npz")):
            fit = fit_files.load(path)
            boxes = None if detected is None else detected_boxes(fit_files.load(detected / path.name), fit)
            make_crops(fit, scenes / "photos" / fit.image_path, boxes, level, random, folder, FLAGS.side)
        files.write_text(folder / "done", "")
    predict(folder / "photos", folder / "predicted", "--single_person")
    return prove_aios.judge(folder / "predicted" / "fits", folder / "fits", folder / "fits")


def predict(photos: Path, output: Path, *more: str) -> None:
    """Calls experiments.predict with this program's config."""
    changes = [f"--set={change}" for change in FLAGS["set"].value or ()]
    prove_aios.call(
        "experiments.predict", f"--config={FLAGS.config}", f"--run={FLAGS.run}", *changes, f"--images={photos}",
        f"--output={output}", f"--threshold={prove_aios.LEAST_SCORE}", f"--short_side={FLAGS.side}",
        f"--long_side={2 * FLAGS.side}", f"--compile_cache={FLAGS.compile_cache}", *more,
    )  # fmt: skip


def detected_boxes(predicted: SceneFit, truth: SceneFit) -> Float[np.ndarray, "n 4"]:
    """For each person of the truth the detected box that overlaps most, by more than a half; NaN without one."""
    true, (scores, boxes) = prove_aios.truth_of(truth), prove_aios.noted(predicted)
    nearest = np.full((len(truth), 4), np.nan)
    sure = boxes[scores >= prove_aios.SCORE]
    if len(sure):
        overlap = pairwise_iou(sure, true.boxes)
        best = overlap.argmax(0)
        nearest[true.rows] = np.where((overlap.max(0) > 0.5)[:, None], sure[best], np.nan)
    return nearest


def make_crops(
    fit: SceneFit, photo: Path, boxes: Float[np.ndarray, "n 4"] | None, level: float, random: np.random.Generator,
    folder: Path, side: int,
) -> None:  # fmt: skip
    """A photo and the truth, as a fit, of each person of a picture; boxes: those of the truth where None is given."""
    import io

    from PIL import Image

    from annyfit_jax.inputs.photos import read_photo

    image, true = read_photo(photo), prove_aios.truth_of(fit)
    for k, row in enumerate(true.rows):
        box = true.boxes[k] if boxes is None else boxes[row]
        draws = random.uniform(-1.0, 1.0, 3)
        if not np.isfinite(box).all():
            continue
        centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        centre = centre + level * draws[:2] * size
        extent = CONTEXT * size.max() * (1.0 + level * draws[2])
        name = f"{fit.name}_{row}"
        encoded = io.BytesIO()
        Image.fromarray(crop(image, centre, extent, side)).save(encoded, "PNG")
        files.write_bytes(folder / "photos" / f"{name}.png", encoded.getvalue())
        (folder / "fits").mkdir(exist_ok=True)
        fit_files.save(
            cropped(fit, row, name, centre - extent / 2, side / extent, side), folder / "fits" / f"{name}.npz"
        )


def crop(
    image: UInt8[np.ndarray, "h w 3"], centre: Float[np.ndarray, "2"], extent: float, side: int
) -> UInt8[np.ndarray, "side side 3"]:
    """A square of a picture, resampled, black outside."""
    from annyfit_jax.regressors.aios.picture_preprocess import warp

    x, y = centre - extent / 2
    return np.clip(np.rint(warp(image, (x, y, extent, extent), (side, side))), 0, 255).astype(np.uint8)


def cropped(fit: SceneFit, row: int, name: str, start: Float[np.ndarray, "2"], scale: float, side: int) -> SceneFit:
    """One person of a fit in the pixels of a crop: x' = (x - start) scale; keypoints outside are not seen."""
    from annyfit_jax.regressors.regressed_people import scene_fit

    keypoints = fit.keypoints_2d[[row]].copy()
    keypoints[..., :2] = (keypoints[..., :2] - start) * scale
    keypoints[..., 2] *= ((keypoints[..., :2] >= 0) & (keypoints[..., :2] < side)).all(-1)
    to_crop = np.array([[scale, 0, -start[0] * scale], [0, scale, -start[1] * scale], [0, 0, 1]])
    return scene_fit(
        name, f"{name}.png", (side, side), to_crop @ fit.K, fit.parameters.select(np.array([row])),
        (fit.bone_labels, fit.phenotype_labels), keypoints_3d=fit.fitted_keypoints_3d[[row]],
        height_m=fit.height_m[[row]], keypoints_2d=keypoints, origin=fit.start_origin, asset_version=fit.asset_version,
    )  # fmt: skip


if __name__ == "__main__":
    define_flags()
    app.run(main)
