"""Prove on a CPU that AiOS learns: rendered scenes, training, prediction, evaluation, a page of results.

    python -m experiments.studies.prove_aios --output=WORK                             # the overfitted and the held-out run
    python -m experiments.studies.prove_aios --output=WORK --runs=ablations            # attention, supervision, Naive AiOS
    python -m experiments.studies.prove_aios --output=WORK --runs=held_out --report=   # one run, no page
    python -m experiments.studies.prove_aios --output=WORK --runs=overfit --steps=200  # quickly, to see that it works

Every part is another program of this project, called as anybody would: `experiments.synthesize` makes scenes, their exact truth
becomes a dataset as `experiments.export` writes it of fits, `experiments.train` trains `configs/aios_anny_tiny.py`,
`experiments.predict` predicts. After a stop at any point, the same command continues. The page shows the runs that WORK has.

Judged are people found (average precision of boxes and of projected joints) and, for those found with a score above 0.3,
COCO-17 in 3D relative to the middle of the hips. The baseline knows who is where, and gives everybody the mean pose of the
training people in camera axes.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags, logging
from jaxtyping import Bool, Float, Int

from annyfit_jax.metrics import greedy_matching
from annyfit_jax.metrics.detection_scores import (
    Detections,
    average_precision,
    coco_average_precision,
    keypoint_similarity,
)
from annyfit_jax.metrics.joint_errors import LEFT_HIP, RIGHT_HIP, at_root, distances, pa_mpjpe
from annyfit_jax.people.boxes import pairwise_iou
from annyfit_jax.people.camera import project
from annyfit_jax.records import files, fit_files
from annyfit_jax.records.fit_files import SceneFit

FLAGS = flags.FLAGS
CONFIG = "experiments/configs/aios_anny_tiny.py"
SIDE = 160
"""Width and height of the pictures, pixels."""
WORLD = (
    "--difficulty=easy", f"--set=camera.image_sizes=(({SIDE},{SIDE}),)", "--set=people.max_people=3",
    "--set=camera.apparent=(0.6,0.9)", "--set=camera.fov_degrees=(35.0,60.0)",
)  # fmt: skip
"""One to three people, large in the picture."""
HIPS = (LEFT_HIP, RIGHT_HIP)
LEAST_SCORE, SCORE = 0.01, 0.3
"""Of the predictions that are kept, for average precision; and of those that are people (AiOS's threshold for AGORA)."""
_KEYPOINT_BOX = 1.2
_MM = 1000.0


class Scenes(NamedTuple):
    """A set of scenes."""

    count: int
    seed: int


SETS = {"few": Scenes(32, 1), "many": Scenes(1024, 2), "unseen": Scenes(128, 3)}


class Run(NamedTuple):
    """One training."""

    what: str
    train: str
    """Its scenes, by the name in `SETS`."""
    steps: int
    changes: tuple[str, ...] = ()
    """Of the config."""
    judged: tuple[str, ...] = ("few",)


RUNS = {
    "overfit": Run("32 scenes, seen again and again", "few", 1600, judged=("few", "unseen")),
    "held_out": Run("1024 scenes, mirrored at random", "many", 2400, ("feed.augmentation.flip=0.5",), ("unseen",)),
}
_SHORT = 500
ABLATIONS = {
    name: Run(what, "few", _SHORT, changes)
    for name, what, changes in (
        ("ours", "attention `ours`, supervision `second_third`", ()),
        ("full", "attention `full`", ("regressor.config.attention=full",)),
        ("inter_human", "attention `inter_human`", ("regressor.config.attention=inter_human",)),
        ("third_only", "supervision `third_only`", ("regressor.loss_config.supervision=third_only",)),
        ("all", "supervision `all`", ("regressor.config.all_stages=True", "regressor.loss_config.supervision=all")),
        ("naive", "Naive AiOS", ("regressor.config.joints=False",)),
    )
}
EVERY_RUN = RUNS | ABLATIONS


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string("output", None, "Folder of scenes, runs and predictions; made or continued.")
    flags.DEFINE_list("runs", ["overfit", "held_out"], f"Of {', '.join(EVERY_RUN)}; `ablations`: those of the table.")
    flags.DEFINE_integer("steps", None, "Steps of each run, other than planned.")
    flags.DEFINE_multi_string("set", [], "Further path=value changes of the config, for all runs.")
    flags.DEFINE_string(
        "report", "experiments/results/aios_overfit", "Page, JSON and chart under this name; empty: none."
    )
    flags.DEFINE_string("compile_cache", "~/.cache/annyfit-jax/xla", "As of experiments.train.")


def main(_: list[str]) -> None:
    if not FLAGS.output:
        raise app.UsageError("--output is missing")
    names = [name for wanted in FLAGS.runs for name in (ABLATIONS if wanted == "ablations" else [wanted])]
    unknown = [name for name in names if name not in EVERY_RUN]
    if unknown:
        raise app.UsageError(f"--runs: no run {', '.join(unknown)}; there are {', '.join(EVERY_RUN)}, ablations")
    work = Path(FLAGS.output)
    for name in names:
        run = EVERY_RUN[name]
        if FLAGS.steps:
            run = run._replace(steps=FLAGS.steps)
        for part in dict.fromkeys((run.train, *run.judged)):
            make_scenes(work, part)
        print(table({name: carry_out(work, name, run)}))
    if FLAGS.report:
        write_report(work, Path(FLAGS.report))


# ------------------------------------------------------------------------------------------------ data


def make_scenes(work: Path, name: str) -> None:
    """WORK/name: scenes, photos, truth as fits, and the dataset of fits that is trained on."""
    folder, scenes = work / name, SETS[name]
    if (folder / "dataset" / "dataset_info.json").is_file():
        return
    call(
        "experiments.synthesize", f"--output={folder / 'scenes'}", f"--scenes={scenes.count}", f"--seed={scenes.seed}",
        "--render=picture", *WORLD,
    )  # fmt: skip
    truth_as_fits(folder)
    call(
        "experiments.export", f"--fits={folder / 'fits'}", f"--images={folder / 'photos'}", "--format=tfds",
        f"--output={folder / 'dataset'}",
    )  # fmt: skip


def truth_as_fits(folder: Path) -> None:
    """The exact truth of a cue dataset as fits with exact keypoints where visible, and its photos as files."""
    from annyfit_jax.inputs.cue_source import open_cues
    from annyfit_jax.people.body_meshes import BodyMeshes
    from annyfit_jax.regressors.aios.examples import anny_bones
    from annyfit_jax.regressors.regressed_people import scene_fit
    from body_models import anny

    cues, meshes = open_cues(str(folder / "scenes")), BodyMeshes()
    labels = np.array(anny_bones()), np.array(anny.PHENOTYPE_LABELS)
    for index, name in enumerate(cues.names):
        scene = cues.load(index)
        assert scene.truth is not None
        joints, height = meshes.keypoints_and_height(scene.truth)
        visible = np.asarray(scene.extra["gt_visible"])[..., None]
        fit = scene_fit(
            name, f"{name}.jpg", scene.image_size, scene.intrinsics, scene.truth, labels, keypoints_3d=joints,
            height_m=height, keypoints_2d=np.concatenate([scene.extra["gt_coco2d"], visible], -1), origin="truth",
            asset_version=str(meshes.model.labels.asset_version),
        )  # fmt: skip
        files.write_bytes(folder / "photos" / f"{name}.jpg", cues.photo(index))
        (folder / "fits").mkdir(exist_ok=True)
        fit_files.save(fit, folder / "fits" / f"{name}.npz")


# ------------------------------------------------------------------------------------------------ runs


def carry_out(work: Path, name: str, run: Run) -> dict[str, Any]:
    """Trains, predicts and judges a run; what comes out is kept in WORK/runs/name/judged.json."""
    folder = work / "runs" / name
    changes = [
        f"feed.sets.fits.path={work / run.train / 'dataset'}", *run.changes,
        *(FLAGS["set"].value or ()),
    ]  # fmt: skip
    common = [
        f"--config={CONFIG}",
        f"--compile_cache={FLAGS.compile_cache}",
        *(f"--set={change}" for change in changes),
    ]
    call("experiments.train", *common, f"--output={folder}", f"--set=steps={run.steps}")
    judgement: dict[str, Any] = {"steps": run.steps, "changes": list(run.changes), "what": run.what, "on": {}}
    for part in run.judged:
        predicted = folder / f"{part}_{run.steps}"
        call(
            "experiments.predict", *common, f"--run={folder}", f"--images={work / part / 'photos'}",
            f"--output={predicted}", f"--threshold={LEAST_SCORE}", f"--short_side={SIDE}", f"--long_side={SIDE}",
        )  # fmt: skip
        judgement["on"][part] = judge(predicted / "fits", work / part / "fits", work / run.train / "fits")
    files.write_text(folder / "judged.json", json.dumps(judgement, indent=1) + "\n")
    return judgement


def call(module: str, *arguments: str) -> None:
    """Runs a program of this project. Raises SystemExit with its exit code where it fails."""
    command = [sys.executable, "-m", module, *arguments]
    logging.info("%s", " ".join(command[1:]))
    code = subprocess.run(command, check=False).returncode
    if code:
        raise SystemExit(code)


# ------------------------------------------------------------------------------------------------ judging


class Truth(NamedTuple):
    """The people of a picture who can be found."""

    rows: Int[np.ndarray, "g"]
    """Which of the fit's they are."""
    boxes: Float[np.ndarray, "g 4"]
    """x0, y0, x1, y1 in pixels: 1.2 times the box of the visible keypoints, as trained on."""
    joints: Float[np.ndarray, "g 17 3"]
    """Metres, camera axes."""
    pixels: Float[np.ndarray, "g 17 2"]
    visible: Bool[np.ndarray, "g 17"]


def truth_of(fit: SceneFit) -> Truth:
    """From the truth as a fit; people of whom no keypoint is visible are left out."""
    from annyfit_jax.exports.exported_people import boxes
    from annyfit_jax.regressors.aios.picture_preprocess import enlarged_box

    size, corners = (int(fit.image_size[0]), int(fit.image_size[1])), boxes(fit)
    seen = fit.keypoints_2d[..., 2] > 0
    grown = [
        enlarged_box(np.concatenate([box[:2], box[2:] - box[:2]]), size, _KEYPOINT_BOX) if seen[k].any() else None
        for k, box in enumerate(corners)
    ]
    kept = [k for k, box in enumerate(grown) if box is not None]
    xywh = np.array([grown[k] for k in kept], np.float64).reshape(-1, 4)
    return Truth(
        np.array(kept, np.int64), np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1),
        fit.fitted_keypoints_3d[kept].astype(np.float64), fit.keypoints_2d[kept, :, :2].astype(np.float64), seen[kept],
    )  # fmt: skip


def judge(predicted: Path, truth: Path, trained_on: Path) -> dict[str, float]:
    """Figures of predictions (a folder of fits) against the truth (another); the mean pose is of a third one's people."""
    from annyfit_jax.regressors.aios.loss_terms import BODY_SIGMAS

    mean = np.concatenate([_rooted(truth_of(fit_files.load(path)).joints) for path in sorted(trained_on.glob("*.npz"))])
    mean = mean.mean(0)
    boxes, joints, errors, aligned, of_mean, of_mean_all = [], [], [], [], [], []
    people = false_positives = 0
    for path in sorted(truth.glob("*.npz")):
        true, fit = truth_of(fit_files.load(path)), fit_files.load(predicted / path.name)
        scores, corners = noted(fit)
        ours = fit.fitted_keypoints_3d.astype(np.float64)
        pixels = project(ours, np.asarray(fit.K, np.float64))
        area = (true.boxes[:, 2:] - true.boxes[:, :2]).prod(-1)
        boxes.append(Detections(scores, pairwise_iou(corners, true.boxes)))
        joints.append(
            Detections(scores, keypoint_similarity(pixels, true.pixels, true.visible, area, BODY_SIGMAS.astype(float)))
        )
        sure = np.flatnonzero(scores >= SCORE)
        matches = greedy_matching.match_people(pixels[sure], true.pixels, true.visible, 0.1)
        p, g = sure[matches.pairs[:, 0]], matches.pairs[:, 1]
        errors.append(distances(_rooted(ours[p]), _rooted(true.joints[g])).mean(-1))
        aligned.append(pa_mpjpe(ours[p], true.joints[g]))
        of_mean.append(distances(mean, _rooted(true.joints[g])).mean(-1))
        of_mean_all.append(distances(mean, _rooted(true.joints)).mean(-1))
        people += len(true.boxes)
        false_positives += len(matches.false_positives)
    matched = sum(map(len, errors))
    return {
        "people": people, "recall": matched / people, "false_positives": false_positives,
        "box_ap50": average_precision(boxes, 0.5), "box_ap": coco_average_precision(boxes),
        "oks_ap50": average_precision(joints, 0.5), "oks_ap": coco_average_precision(joints),
        "mpjpe_mm": _mean(errors), "pa_mpjpe_mm": _mean(aligned), "mean_pose_mpjpe_mm": _mean(of_mean),
        "mean_pose_mpjpe_all_mm": _mean(of_mean_all),
    }  # fmt: skip


def _rooted(joints: Float[np.ndarray, "n 17 3"]) -> Float[np.ndarray, "n 17 3"]:
    return at_root(joints, HIPS)


def _mean(values: Sequence[np.ndarray]) -> float:
    joined = np.concatenate(values)
    return float(joined.mean() * _MM) if len(joined) else float("nan")


def noted(fit: SceneFit) -> tuple[np.ndarray, np.ndarray]:
    """Scores (p,) and boxes (p, 4) that a prediction notes."""
    notes = [dict(entry.split("=") for entry in str(note).split(";")) for note in fit.notes]
    boxes = np.array([[float(v) for v in note["box"].split(",")] for note in notes]).reshape(-1, 4)
    return np.array([float(note["score"]) for note in notes]), boxes


# ------------------------------------------------------------------------------------------------ the page


COLUMNS = {
    "box_ap50": ("box AP50", 3), "box_ap": ("box AP", 3), "oks_ap50": ("OKS AP50", 3), "oks_ap": ("OKS AP", 3),
    "recall": ("recall", 3), "mpjpe_mm": ("MPJPE", 1), "pa_mpjpe_mm": ("PA-MPJPE", 1),
    "mean_pose_mpjpe_mm": ("mean pose", 1),
}  # fmt: skip
_SET_NAMES = {"few": "32 training scenes", "many": "1024 training scenes", "unseen": "128 unseen scenes"}


def table(runs: dict[str, dict[str, Any]]) -> str:
    """Judged runs as a Markdown table."""
    rows = [["run", "trained on", "steps", "judged on", *(label for label, _ in COLUMNS.values())]]
    for name, run in runs.items():
        for part, figures in run["on"].items():
            cells = [f"{figures[key]:.{digits}f}" for key, (_, digits) in COLUMNS.items()]
            rows.append([f"`{name}`", run["what"], str(run["steps"]), _SET_NAMES[part], *cells])
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write_report(work: Path, target: Path) -> None:
    """TARGET.md, .json and .png of all runs in WORK that have been judged."""
    from annyfit_jax.training import training_metrics

    folders = {name: work / "runs" / name for name in EVERY_RUN if (work / "runs" / name / "judged.json").is_file()}
    judged = {name: json.loads((folder / "judged.json").read_text()) for name, folder in folders.items()}
    curves = {name: training_metrics.read(folder / "metrics.jsonl") for name, folder in folders.items()}
    kept = ("step", "loss", "seconds", *CURVES)
    shown = {name: [{k: line[k] for k in kept if k in line} for line in lines] for name, lines in curves.items()}
    files.write_text(target.with_suffix(".json"), json.dumps({"runs": judged, "curves": shown}, indent=None) + "\n")
    main_runs = {name: lines for name, lines in curves.items() if name in RUNS}
    if main_runs:
        files.write_bytes(target.with_suffix(".png"), chart(main_runs))
    files.write_text(target.with_suffix(".md"), page(judged, curves, target.name))


CURVES = ("layer5/points3d_body", "layer5/points2d_body", "layer5/joints_l1_body", "layer5/box_giou_person")
"""Terms of the last layer that the page shows besides the whole loss."""
_LINES = (1, 50, 100, 200, 500, 1000, 1500, 2000, 2500, 3000)


def page(judged: dict[str, Any], curves: dict[str, list[dict[str, Any]]], name: str) -> str:
    """The results as Markdown."""
    parts = [
        "# AiOS: proof of learning on rendered scenes",
        "`python -m experiments.studies.prove_aios --output=WORK` makes scenes, trains, predicts and writes this page; "
        "`--runs=ablations` adds the last table. "
        f"Network and optimiser: `{CONFIG}`; {SIDE} x {SIDE} pixels, one to three people of all ages.",
        "AP: average precision, at a similarity of 0.5 or the mean over 0.5 to 0.95 (COCO); box: overlap of boxes; OKS: "
        "COCO-17 of the predicted body, projected, against the visible true joints, the box as area. Recall: people found with "
        f"a score of at least {SCORE}. MPJPE: their COCO-17 joints, aligned at the middle of the hips, mm; PA-MPJPE: after a "
        "similarity transform. Mean pose: MPJPE of the mean of the training people's joints, for the same people.",
    ]  # fmt: skip
    main_runs = {key: run for key, run in judged.items() if key in RUNS}
    if main_runs:
        parts += [table(main_runs), f"![Loss by step]({name}.png)"]
        for key, run in main_runs.items():
            if "unseen" in run["on"]:
                figures = run["on"]["unseen"]
                margin = figures["mean_pose_mpjpe_mm"] - figures["mpjpe_mm"]
                verdict = "better" if margin > 0 else "worse"
                parts.append(f"`{key}` is {abs(margin):.1f} mm {verdict} than the mean pose on {_SET_NAMES['unseen']}.")
            parts += [f"Loss and some terms of the last layer, `{key}`:", _curve_table(curves[key])]
    short = {key: run for key, run in judged.items() if key in ABLATIONS}
    if short:
        parts += ["## Ablations, same budget", table(short)]
    return "\n\n".join(parts) + "\n"


def _curve_table(lines: list[dict[str, Any]]) -> str:
    shown = [min(lines, key=lambda line, s=step: abs(line["step"] - s)) for step in _LINES if step <= lines[-1]["step"]]
    shown = list({line["step"]: line for line in [*shown, lines[-1]]}.values())
    rows = [["step", "loss", *(f"`{term.split('/')[1]}`" for term in CURVES)]]
    rows.append(["---"] * len(rows[0]))
    for line in shown:
        rows.append([str(line["step"]), f"{line['loss']:.4g}", *(f"{line.get(term, math.nan):.4g}" for term in CURVES)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def chart(curves: dict[str, list[dict[str, Any]]]) -> bytes:
    """PNG: the loss of each run by step, logarithmic."""
    import io

    from PIL import Image, ImageDraw

    width, height, margin = 720, 360, 48
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    losses = [line["loss"] for lines in curves.values() for line in lines]
    low, high = math.floor(math.log10(min(losses)) * 2) / 2, math.ceil(math.log10(max(losses)) * 2) / 2
    last = max(lines[-1]["step"] for lines in curves.values())

    def place(step: float, loss: float) -> tuple[float, float]:
        x = margin + (width - 1.5 * margin) * step / last
        y = height - margin - (height - 1.5 * margin) * (math.log10(loss) - low) / (high - low)
        return x, y

    for tick in np.arange(low, high + 0.01, 0.5):
        y = place(0, 10**tick)[1]
        draw.line([(margin, y), (width - margin / 2, y)], fill="#dddddd")
        draw.text((4, y - 6), f"{10**tick:.3g}", fill="black")
    for tick in np.linspace(0, last, 6):
        x = place(tick, 10**low)[0]
        draw.text((x - 10, height - margin + 6), f"{tick:.0f}", fill="black")
    draw.text((width / 2 - 12, height - 18), "step", fill="black")
    for (name, lines), colour in zip(curves.items(), ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")):
        points = [place(line["step"], line["loss"]) for line in lines]
        draw.line(points, fill=colour, width=2)
        draw.text((points[-1][0] - 60, points[-1][1] - 16), name, fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    define_flags()
    app.run(main)
