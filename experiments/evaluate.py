"""Judge fits against ground truth or hand labels, beside the start they came from.

    python -m experiments.evaluate --fits=OUT --truth=SCENES --protocol=synthetic         # scenes with gt_*: exact truth
    python -m experiments.evaluate --fits=OUT --truth=annotations.json --protocol=layers  # labelled keypoints, depth layers
    python -m experiments.evaluate --fits=OUT --truth=RH --protocol=relative_human --split=test
    python -m experiments.evaluate --fits=OUT --truth=PANOPTIC --protocol=panoptic --pattern=_ian --bootstrap=1000
    python -m experiments.evaluate --fits=OUT --truth=AGORA --protocol=agora
    python -m experiments.evaluate --fits=OUT --truth=EHF --protocol=ehf --smplx=SMPLX_NEUTRAL.npz --parts=FOLDER
    python -m experiments.evaluate --fits=OUT --truth=p1_val_multi.npz --protocol=arctic --smplx=FOLDER --parts=FOLDER
    python -m experiments.evaluate --fits=OUT --truth=egobody_test.npz --protocol=egobody --smplx=FOLDER --parts=FOLDER

Prints a table, start and fit side by side, and writes it with a table per scene as JSON with --json. What a metric is stands in
`annyfit_jax.metrics`, what is read as truth in `annyfit_jax.truth`, as fits in `annyfit_jax.jobs.fit_source`: jobs, finished or
under way, folders of fits, single fits. --bootstrap adds confidence intervals over scenes.

synthetic, layers: fit and truth list the same people; both columns are over those with status `ok`, the others are counted as
`not_fitted`, scenes without a fit are left out. The other protocols look for the labelled people among the fitted ones; a
person without a fit is a miss, and so is everybody of an image without a fit (--without_fit=left_out leaves such images out).
The column `init` needs the start in the fits: jobs of many scenes keep no start, and predictions of networks are their own;
then there is the column `fit` alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging

from annyfit_jax import metrics
from annyfit_jax.inputs import open_input
from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.metrics.people_of_image import PredictedPeople, TruthPeople
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.scene import BodyParameters, Scene, SceneError
from annyfit_jax.records import files
from annyfit_jax.records.fit_files import FitFileError, SceneFit
from annyfit_jax.truth import PROTOCOLS, TruthOptions, TruthSource, open_truth
from annyfit_jax.truth.foreign_predictions import (
    AnnyPeople,
    SmplxPeople,
    agora_body,
    agora_files,
    read_agora,
    read_meshes,
)
from annyfit_jax.truth.protocols import KINDS, checked, image_protocol
from annyfit_jax.truth.smplx_truth import joint_regressor
from annyfit_jax.truth.synthetic_truth import layers_of, truth_of
from body_models.smplx import JOINTS as SMPLX_JOINTS

SCENE_PROTOCOLS = ("synthetic", "layers")
WITHOUT_FIT = ("missed", "left_out")
SCENE_SETTINGS = {
    "synthetic": {
        "people": "those fitted, known by their place in the scene",
        "joints": "COCO-17, root = middle of the hips; depth and position of the root bone",
        "units": "px; mpjpe, pa in mm; depth, height, transl in m; age_years in years; else shares",
    },
    "layers": {
        "people": "those fitted, known by their place in the scene",
        "joints": "labelled COCO-17; depth of the root bone",
        "units": "px; err2d_box in square roots of box areas; else shares",
    },
}

Errors = dict[str, np.ndarray]
Columns = dict[str, Errors]
"""Errors of one scene by column: `init`, `fit`."""


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string(
        "fits", "", "Output folder of experiments.fit, its `fits` folder, or one fit; see --predictions."
    )
    flags.DEFINE_string("truth", "", "What the fits are judged by: scenes, COCO .json, or a data set's annotations.")
    flags.DEFINE_enum("protocol", "synthetic", [*SCENE_PROTOCOLS, *PROTOCOLS], "Which metrics.")
    flags.DEFINE_enum("predictions", "fits", KINDS, "What --fits holds: fits; SMPL-X meshes; AGORA's upload format.")
    flags.DEFINE_string("json", None, "File to write the pooled and the per-scene metrics to.")
    flags.DEFINE_integer("bootstrap", 0, "Draw the scenes again so many times for confidence intervals; 0 = none.")
    flags.DEFINE_integer("seed", 0, "Seed of --bootstrap.")
    flags.DEFINE_enum("without_fit", "missed", WITHOUT_FIT, "What images without a fit are; not synthetic, layers.")
    flags.DEFINE_string("split", "test", "relative_human: <split>_annots.npz; ubody: test = its test videos.")
    flags.DEFINE_list("cameras", [], "panoptic: HD cameras, e.g. 00_16,00_30.")
    flags.DEFINE_integer("frame_step", 1, "panoptic: every so many-th frame; arctic, egobody: picture.")
    flags.DEFINE_string(
        "pattern", "", "Only images whose name this regular expression is found in; not synthetic, layers."
    )
    flags.DEFINE_string(
        "smplx", None, "ehf, ubody, arctic, egobody, fits of SMPL-X: the model file, or a folder with one per gender."
    )
    flags.DEFINE_string(
        "parts", None, "agora, ehf, ubody, arctic, egobody: folder with the vertex numbers of hands, face and body."
    )


def main(_: list[str]) -> None:
    values = flags.FLAGS
    for name in ("fits", "truth"):
        if not values[name].value:
            raise app.UsageError(f"--{name} is missing")
    try:
        options = TruthOptions(
            split=values.split, cameras=tuple(values.cameras), frame_step=values.frame_step, smplx=values.smplx,
            pattern=values.pattern,
        )  # fmt: skip
        report = evaluate(
            values.fits, values.truth, values.protocol, options=options, predictions=values.predictions,
            parts=values.parts, without_fit=values.without_fit, bootstrap=values.bootstrap, seed=values.seed,
        )  # fmt: skip
    except (SceneError, FitFileError, FileNotFoundError, ValueError) as error:
        logging.error("%s", error)
        raise SystemExit(2) from None
    print(table(report["pooled"], report.get("intervals")))
    print(f"people not fitted: {report['not_fitted']}; scenes without a fit: {len(report['scenes_without_fit'])}")
    for name, text in report["settings"].items():
        print(f"{name}: {text}")
    if values.json:
        files.write_text(values.json, json.dumps(without_nan(report), indent=1) + "\n")


def evaluate(
    fits: str,
    truth: str,
    protocol: str,
    *,
    options: TruthOptions | None = None,
    predictions: str = "fits",
    parts: str | None = None,
    without_fit: str = "missed",
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Metrics of the start and of the fit: `pooled`, `per_scene`, `intervals`, `settings`, and what was left out.

    Args:
      protocol: `synthetic`, `layers` or one of `truth.PROTOCOLS`.
      options: choices of the truth readers.
      predictions: what `fits` holds (`truth.protocols.KINDS`); anything but `fits` has one column, `fit`.
      parts: folder with the vertex numbers of hands, face and body.
      bootstrap: rounds of the confidence intervals; 0 = none.

    Raises FileNotFoundError without fits, SceneError where the truth cannot be read or lacks what the protocol needs,
    ValueError where no scene of the truth has a fit or a fit does not have the truth's people.
    """
    collected: dict[str, Columns] = {}
    report: dict[str, Any] = {"protocol": protocol, "fits": fits, "truth": truth}
    if protocol in SCENE_PROTOCOLS:
        if predictions != "fits":
            raise SceneError(f"protocol {protocol}: predictions of kind {predictions} cannot be judged")
        pool = {"synthetic": metrics.pool, "layers": metrics.pool_labelled}[protocol]
        left_out = _judge_scenes(fits, truth, protocol, collected) | {"settings": dict(SCENE_SETTINGS[protocol])}
    else:
        found = _judge_images(
            fits, truth, protocol, options or TruthOptions(), predictions, parts, without_fit, collected
        )
        pool, left_out = found.pop("pool"), found
    columns = {name: [scene[name] for scene in collected.values()] for name in next(iter(collected.values()))}
    report |= {
        "pooled": {name: pool(scenes) for name, scenes in columns.items()},
        "per_scene": {
            name: {key: pool([errors]) for key, errors in scene.items()} for name, scene in collected.items()
        },
        **left_out,
    }
    if bootstrap:
        report["intervals"] = metrics.intervals(columns, pool, rounds=bootstrap, seed=seed)
        report["settings"]["intervals"] = f"95 %, {bootstrap} draws of {len(collected)} scenes, seed {seed}"
    return report


# ------------------------------------------------------------------------------------------------ the same people on both sides


def _judge_scenes(fits: str, truth: str, protocol: str, collected: dict[str, Columns]) -> dict[str, Any]:
    stored, source = open_fits(fits), open_input(truth)
    known = set(stored.names)
    indices = [i for i, name in enumerate(source.names) if name in known]
    if not indices:
        raise ValueError(f"{truth}: none of its {len(source)} scenes has a fit in {fits}")
    errors_of = {"synthetic": synthetic_errors, "layers": layer_errors}[protocol]
    meshes = BodyMeshes()
    not_fitted = 0
    for index in indices:
        scene, fit = source.load(index), stored.load(source.names[index])
        rows = fitted_people(fit, scene, f"{fits}: {scene.name}.npz")
        not_fitted += len(scene) - len(rows)
        if len(rows):
            start = start_parameters(fit) if scene.start is None else scene.start
            collected[scene.name] = {
                "init": errors_of(scene, rows, start.select(rows), meshes),
                "fit": errors_of(scene, rows, fit.parameters.select(rows), meshes),
            }
    if not collected:
        raise ValueError(f"{fits}: nobody was fitted")
    return {"not_fitted": not_fitted, "scenes_without_fit": sorted(set(source.names) - known)}


def start_parameters(fit: SceneFit) -> BodyParameters:
    """The start stored in the fit; words have already overwritten its age and gender. NaN where none is stored."""
    return BodyParameters(fit.start_root_rotvec, fit.start_transl, fit.start_pose, fit.start_shape)


def fitted_people(fit: SceneFit, scene: Scene, where: str) -> np.ndarray:
    """Rows with status ok, in the fit and in the scene alike: a fit keeps the order of its input."""
    ids = scene.person_ids or [str(i) for i in range(len(scene))]
    rows = np.flatnonzero(fit.ok)
    if len(fit) != len(scene) or any(str(fit.person_ids[row]) != ids[row] for row in rows):
        raise ValueError(
            f"{where}: person_ids: expected the people {ids} of scene {scene.name}, got {fit.person_ids.tolist()}; "
            "was it fitted from another input?"
        )
    return rows


def synthetic_errors(scene: Scene, rows: np.ndarray, people: BodyParameters, meshes: BodyMeshes) -> Errors:
    """Errors of some people of a scene against its exact truth (`truth.synthetic.truth_of`).

    The body is evaluated with shapes clipped to [0, 1], like the tool that defines the protocol.
    """
    visible = BodyParameters(people.root_rotvec, people.transl, people.pose, np.clip(people.shape, 0.0, 1.0))
    truth = truth_of(scene).select(rows)
    joints, height = meshes.keypoints_and_height(visible)
    fitted = metrics.People(
        joints, people.transl[:, 2], people.shape[:, 0], people.shape[:, 1], height,
        transl=people.transl, age_phenotype=people.shape[:, 1],
    )  # fmt: skip
    return metrics.scene_errors(fitted, truth, scene.intrinsics)


def layer_errors(scene: Scene, rows: np.ndarray, people: BodyParameters, meshes: BodyMeshes) -> Errors:
    """Errors of some people of a photo against labelled keypoints and `hand_label.depth_id`."""
    layer = layers_of(scene)
    assert scene.boxes is not None
    joints, _ = meshes.keypoints_and_height(people)
    return metrics.labelled_errors(
        joints, people.transl[:, 2], layer[rows], scene.keypoints[rows], scene.boxes[rows], scene.intrinsics
    )


# ------------------------------------------------------------------------------------------------ people to be found


def _judge_images(
    fits: str, truth: str, protocol: str, options: TruthOptions, kind: str, parts: str | None, without_fit: str,
    collected: dict[str, Columns],
) -> dict[str, Any]:  # fmt: skip
    from annyfit_jax.truth.smplx_parts import read_parts

    image_protocol(protocol, kind)  # refuses before anything is read
    predicted = _Predictions(fits, kind, options.smplx)
    regressor = joint_regressor(options.smplx) if predicted.body == "smplx" and kind != "agora" else None
    chosen = image_protocol(protocol, kind, predicted.body, parts=read_parts(parts), regressor=regressor)
    errors_of, source = checked(chosen), open_truth(protocol, truth, options)
    unfitted, absent = 0, []
    for people in source:
        columns = predicted.of(people)
        if columns is None:
            absent.append(people.name)
            if without_fit == "left_out":
                continue
            columns = predicted.nobody()
        else:
            unfitted += predicted.unfitted
        collected[people.name] = {name: errors_of(column, people) for name, column in columns.items()}
    if any("init" not in columns for columns in collected.values()):
        for columns in collected.values():
            columns.pop("init", None)
    if len(absent) == len(source):
        raise ValueError(
            f"{truth}: none of its {len(source)} images has a fit in {fits}; the first is {source.names[0]}"
        )
    settings = chosen.settings | {"images without a fit": without_fit} | _notes(source)
    return {"pool": chosen.pool, "not_fitted": unfitted, "scenes_without_fit": absent, "settings": settings}


def _notes(source: TruthSource) -> dict[str, str]:
    return {"note": "; ".join(source.notes)} if source.notes else {}


class _Predictions:
    """Predicted people by image, whatever they are stored as."""

    def __init__(self, path: str, kind: str, smplx: str | None) -> None:
        self._kind, self._smplx = kind, smplx
        self.unfitted = 0
        """People of the latest image who have no fit."""
        self._load: Callable[[str, TruthPeople | None], dict[str, PredictedPeople]]
        if kind == "fits":
            stored = open_fits(path)
            if stored.unfinished:
                logging.warning("%s: %d scenes are not fitted yet", path, stored.unfinished)
            first = stored.load(stored.names[0]) if stored.names else None
            self.body = "smplx" if first is not None and _is_smplx(first) else "anny"
            people = SmplxPeople(smplx) if self.body == "smplx" else AnnyPeople()
            self._names = set(stored.names)
            self._load = lambda name, truth: self._fit(stored.load(name), people, truth)
        elif kind == "agora":
            files = agora_files(path)
            self.body = agora_body(next(iter(files.values())))
            self._names, self._load = set(files), lambda name, _: {"fit": read_agora(files[name], self.body)}
        else:
            meshes = {file.stem: file for file in sorted(Path(path).glob("*.npz"))}
            if not meshes:
                raise FileNotFoundError(f"{path}: no predictions (<image>.npz)")
            self.body, regressor = "smplx", joint_regressor(smplx)
            self._names, self._load = set(meshes), lambda name, _: {"fit": read_meshes(meshes[name], regressor)}
        self._empty: dict[str, PredictedPeople] | None = None

    def of(self, truth: TruthPeople) -> dict[str, PredictedPeople] | None:
        """Predictions by column; None where there are none for the image."""
        for name in (truth.name, *truth.aliases):
            if name in self._names:
                return self._load(name, truth)
        return None

    def nobody(self) -> dict[str, PredictedPeople]:
        """An image without a prediction, in all columns."""
        if self._empty is None:
            empty = self._load(min(self._names), None)["fit"].select(np.zeros(0, np.int64))
            self._empty = dict.fromkeys(("init", "fit") if self._kind == "fits" else ("fit",), empty)
        return self._empty

    def _fit(
        self, fit: SceneFit, body: AnnyPeople | SmplxPeople, truth: TruthPeople | None
    ) -> dict[str, PredictedPeople]:
        if _is_smplx(fit) != (self.body == "smplx"):
            raise SceneError(
                f"{fit.name}: pose: expected the bones of {self.body} like the first fit, got {fit.pose.shape}"
            )
        self.unfitted = int((~fit.ok).sum())
        intrinsics = fit.K if truth is None else of_truth_size(fit.K, fit.image_size, truth.image_size)
        people, first = fit.parameters, start_parameters(fit)
        ok = np.flatnonzero(fit.ok)
        meshes = () if self.body == "anny" or fit.vertices is None else (fit.vertices[ok],)
        fitted = body.predict(people.select(ok), intrinsics, *meshes)
        if all(np.array_equal(a, b) for a, b in zip(_arrays(people), _arrays(first), strict=True)):
            # A network's prediction is its own start.
            return {"fit": fitted} if len(fitted) else {"init": fitted, "fit": fitted}
        start = body.predict(first, intrinsics)
        # Fitted people had a start: where there is none, it is not stored.
        return {"init": start, "fit": fitted} if len(start) or not len(fitted) else {"fit": fitted}


def _is_smplx(fit: SceneFit) -> bool:
    return fit.pose.shape[1] == len(SMPLX_JOINTS) - 1


def _arrays(people: BodyParameters) -> tuple[np.ndarray, ...]:
    return people.root_rotvec, people.transl, people.pose, people.shape


def of_truth_size(
    intrinsics: np.ndarray, size: np.ndarray | tuple[int, int], truth: tuple[int, int] | None
) -> np.ndarray:
    """(3, 3) intrinsics for the pixels of the truth, where the prediction saw the same picture in another size.

    A picture whose sides do not scale alike (to a pixel) is another one, a crop say: its intrinsics stay.
    """
    if truth is None or not np.all(np.asarray(size) > 0):
        return intrinsics
    scale = np.asarray(truth, np.float64) / np.asarray(size, np.float64)
    if abs(scale[0] / scale[1] - 1) * min(size) > 1:
        return intrinsics
    return np.diag([*scale, 1.0]) @ np.asarray(intrinsics, np.float64)


# ------------------------------------------------------------------------------------------------ the table


def table(
    pooled: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None
) -> str:
    """Metrics as rows, start and fit as columns; with `intervals` their bounds and those of the difference."""
    columns = [*pooled, *(name for name in intervals or () if name not in pooled)]
    fit = pooled["fit"]
    counts = [name for name, value in fit.items() if isinstance(value, int)]
    rows = [["", *columns]]
    for name in fit:
        if name not in counts:
            cells = [number(pooled[c][name]) if c in pooled else _difference(pooled, c, name) for c in columns]
            bounds = [_bounds(intervals[c][name]) if intervals else "" for c in columns]
            rows.append([name, *(f"{cell} {bound}".rstrip() for cell, bound in zip(cells, bounds))])
    widths = [max(len(row[i]) for row in rows) + 2 * (i > 0) for i in range(len(columns) + 1)]
    lines = [", ".join(f"{fit[name]} {name}" for name in counts)]
    return "\n".join([*lines, *(_line(row, widths) for row in rows)])


def number(value: float) -> str:
    """Three digits after the point below 10, else one; n.a. for NaN."""
    return "n.a." if math.isnan(value) else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _difference(pooled: Mapping[str, Mapping[str, float]], column: str, name: str) -> str:
    last, first = column.split(" - ")
    return number(pooled[last][name] - pooled[first][name])


def _bounds(interval: tuple[float, float]) -> str:
    return f"[{number(interval[0])}, {number(interval[1])}]"


def _line(row: list[str], widths: list[int]) -> str:
    return (row[0].ljust(widths[0]) + "".join(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))).rstrip()


def without_nan(node):
    """The same JSON data with null for NaN."""
    if isinstance(node, dict):
        return {key: without_nan(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [without_nan(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


if __name__ == "__main__":
    define_flags()
    app.run(main)
