"""Fits judged against ground truth or hand labels, beside the start that they came from.

    report = evaluate("out/job", "SCENES", "synthetic", bootstrap=500)
    print(evaluation_table.table(report["pooled"], report.get("intervals")))

What a metric is stands in `annyfit_jax.metrics`. `synthetic` and `layers` compare the people of a scene one by one
(`scene_evaluation`); the published protocols look for the labelled people among the fitted ones (`image_evaluation`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from annyfit_jax import metrics
from annyfit_jax.inputs.photos import SUFFIXES
from annyfit_jax.people.fit_meshes import FitMeshes
from annyfit_jax.people.scene import SceneError
from annyfit_jax.store.mirrors import Mirrors, local
from annyfit_jax.truth.image_evaluation import judge_images
from annyfit_jax.truth.scene_evaluation import Columns, judge_scenes
from annyfit_jax.truth.truth_source import PROTOCOLS, TruthOptions

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
_NOT_TRUTH = (*SUFFIXES, ".mp4", ".avi", ".tar", ".gz", ".zip")
"""Files of data sets that no reader of truth opens, and that are not fetched from buckets."""
ALL_PROTOCOLS = (*SCENE_PROTOCOLS, *PROTOCOLS)


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
    kid_template: str = "",
) -> dict[str, Any]:
    """Metrics of the start and of the fit: `pooled`, `per_scene`, `intervals`, `settings`, and what was left out.

    Args:
      protocol: `synthetic`, `layers` or one of `truth.PROTOCOLS`.
      options: choices of the truth readers.
      fits, truth: paths or locations in buckets, as the files of `options`, `parts` and `kid_template`.
      predictions: what `fits` holds (`truth.protocols.KINDS`); anything but `fits` has one column, `fit`.
      parts: folder with the vertex numbers of hands, face and body.
      kid_template: `synthetic`, `layers`: AGORA's file, for fits of SMPL-X whose last beta blends with a child.
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
        bodies = FitMeshes(local((options or TruthOptions()).smplx or ""), local(kid_template))
        left_out = judge_scenes(fits, truth, protocol, collected, bodies) | {"settings": dict(SCENE_SETTINGS[protocol])}
    else:
        mirrors, options = Mirrors(), options or TruthOptions()
        with mirrors.naming():
            here = {
                "fits": fits if predictions == "fits" else mirrors.local(fits),
                "truth": mirrors.local(truth, without=_NOT_TRUTH),
                "options": replace(options, smplx=mirrors.local(options.smplx) if options.smplx else None),
                "parts": mirrors.local(parts) if parts else None,
            }
            figures = judge_images(
                protocol=protocol, kind=predictions, without_fit=without_fit, collected=collected, **here
            )
        pool, left_out = figures.pop("pool"), figures
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
