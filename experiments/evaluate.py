"""Judge fits against ground truth or hand labels, beside the start they came from.

    python -m experiments.evaluate --fits=OUT --truth=SCENES --protocol=synthetic         # scene .npz with gt_* and init_*
    python -m experiments.evaluate --fits=OUT --truth=annotations.json --protocol=layers  # labelled keypoints, depth layers

Prints a table, start and fit side by side, and writes it with a table per scene as JSON with --json. Metrics are defined in
`annyfit_jax.metrics`. The start is the scene's own (`init_*`) where it has one, else the start stored in the fit. Both
columns are over the same people: those with status `ok`; the others are counted as `not_fitted`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
from absl import app, flags, logging

from annyfit_jax import export, metrics, results
from annyfit_jax.inputs import open_input
from annyfit_jax.meshes import BodyMeshes
from annyfit_jax.results import FitFileError, SceneFit
from annyfit_jax.scene import BodyParameters, Scene, SceneError

TRUTH_KEYS = ("gt_coco3d", "gt_coco2d", "gt_visible", "gt_head_px", "gt_body_height", "gt_age_cat", "gt_gender_cat")

Errors = dict[str, np.ndarray]


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string("fits", "", "Output folder of experiments.fit, or its `fits` folder.")
    flags.DEFINE_string("truth", "", "What the fits are judged by: folder of scene .npz, or COCO .json.")
    flags.DEFINE_enum("protocol", "synthetic", ["synthetic", "layers"], "synthetic: gt_*; layers: hand labels.")
    flags.DEFINE_string("json", None, "File to write the pooled and the per-scene metrics to.")


def main(_: list[str]) -> None:
    for name in ("fits", "truth"):
        if not flags.FLAGS[name].value:
            raise app.UsageError(f"--{name} is missing")
    try:
        report = evaluate(flags.FLAGS.fits, flags.FLAGS.truth, flags.FLAGS.protocol)
    except (SceneError, FitFileError, FileNotFoundError, ValueError) as error:
        logging.error("%s", error)
        raise SystemExit(2) from None
    print(table(report["pooled"]))
    print(f"people not fitted: {report['not_fitted']}; scenes without a fit: {len(report['scenes_without_fit'])}")
    if flags.FLAGS.json:
        results.write_text(flags.FLAGS.json, json.dumps(without_nan(report), indent=1) + "\n")


def evaluate(fits: str, truth: str, protocol: str) -> dict:
    """Metrics of the start and of the fit: `pooled`, `per_scene`, and what was left out.

    Raises FileNotFoundError without fits, SceneError where the truth cannot be read or lacks what the protocol needs,
    ValueError where no scene of the truth has a fit or a fit does not have the truth's people.
    """
    files = {path.stem: path for path in export.fit_files(fits)}
    source = open_input(truth)
    indices = [i for i, name in enumerate(source.names) if name in files]
    if not indices:
        raise ValueError(f"{truth}: none of its {len(source)} scenes has a fit in {fits}")
    errors_of, pool = {
        "synthetic": (synthetic_errors, metrics.pool),
        "layers": (layer_errors, metrics.pool_labelled),
    }[protocol]
    meshes = BodyMeshes()
    collected: dict[str, dict[str, Errors]] = {}
    not_fitted = 0
    for index in indices:
        scene, fit = source.load(index), results.load(files[source.names[index]])
        rows = fitted_people(fit, scene, str(files[scene.name]))
        not_fitted += len(scene) - len(rows)
        if len(rows):
            start = start_parameters(fit) if scene.start is None else scene.start
            collected[scene.name] = {
                "init": errors_of(scene, rows, start.select(rows), meshes),
                "fit": errors_of(scene, rows, export.fit_parameters(fit).select(rows), meshes),
            }
    if not collected:
        raise ValueError(f"{fits}: nobody was fitted")
    return {
        "protocol": protocol,
        "fits": fits,
        "truth": truth,
        "pooled": {column: pool([scene[column] for scene in collected.values()]) for column in ("init", "fit")},
        "per_scene": {
            name: {column: pool([errors]) for column, errors in scene.items()} for name, scene in collected.items()
        },
        "not_fitted": not_fitted,
        "scenes_without_fit": sorted(set(source.names) - set(files)),
    }


def start_parameters(fit: SceneFit) -> BodyParameters:
    """The start stored in the fit; words have already overwritten its age and gender."""
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
    """Errors of some people of a scene against its ground truth (`TRUTH_KEYS` and `gt_transl`).

    The body is evaluated with shapes clipped to [0, 1], like the tool that defines the protocol.
    """
    missing = [key for key in TRUTH_KEYS if key not in scene.extra] + ["gt_transl"] * (scene.truth is None)
    if missing or scene.truth is None:
        raise SceneError(f"{scene.name}: the synthetic protocol needs {', '.join(missing)}")
    extra = scene.extra
    truth = metrics.Truth(
        joints=extra["gt_coco3d"],
        depth=scene.truth.transl[:, 2],
        gender=extra["gt_gender_cat"],
        age=extra["gt_age_cat"],
        height=extra["gt_body_height"],
        joints_px=extra["gt_coco2d"],
        visible=extra["gt_visible"],
        head_px=extra["gt_head_px"],
    ).select(rows)
    visible = BodyParameters(people.root_rotvec, people.transl, people.pose, np.clip(people.shape, 0.0, 1.0))
    joints, height = meshes.keypoints_and_height(visible)
    fitted = metrics.People(joints, people.transl[:, 2], people.shape[:, 0], people.shape[:, 1], height)
    return metrics.scene_errors(fitted, truth, scene.intrinsics)


def layer_errors(scene: Scene, rows: np.ndarray, people: BodyParameters, meshes: BodyMeshes) -> Errors:
    """Errors of some people of a photo against labelled keypoints and `hand_label.depth_id`."""
    if scene.boxes is None:
        raise SceneError(f"{scene.name}: the layers protocol needs boxes")
    layer = scene.extra.get("hand_depth_layer", np.full(len(scene), -1))
    joints, _ = meshes.keypoints_and_height(people)
    return metrics.labelled_errors(
        joints, people.transl[:, 2], layer[rows], scene.keypoints[rows], scene.boxes[rows], scene.intrinsics
    )


def table(pooled: dict[str, dict[str, float]]) -> str:
    """Metrics as rows, start and fit as columns."""
    counts = [name for name, value in pooled["fit"].items() if isinstance(value, int)]
    lines = [", ".join(f"{pooled['fit'][name]} {name}" for name in counts), f"{'':<20}{'init':>10}{'fit':>10}"]
    number: Callable[[float], str] = lambda x: "-" if math.isnan(x) else f"{x:.3f}" if abs(x) < 10 else f"{x:.1f}"  # noqa: E731
    for name in pooled["fit"]:
        if name not in counts:
            lines.append(f"{name:<20}{number(pooled['init'][name]):>10}{number(pooled['fit'][name]):>10}")
    return "\n".join(lines)


def without_nan(node):
    """The same JSON data with null for NaN."""
    if isinstance(node, dict):
        return {key: without_nan(value) for key, value in node.items()}
    return None if isinstance(node, float) and math.isnan(node) else node


if __name__ == "__main__":
    define_flags()
    app.run(main)
