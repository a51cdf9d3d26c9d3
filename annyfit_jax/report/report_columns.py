"""What the report knows of each person: named columns of numbers, NaN = not known."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from annyfit_jax.exports.exported_people import boxes, seen
from annyfit_jax.metrics.scene_scores import People, scene_errors
from annyfit_jax.metrics.word_scores import AGE_GROUPS, age_years
from annyfit_jax.people.fitted import ADDED, FACTS, SceneFit
from annyfit_jax.people.scene import Scene, SceneError
from annyfit_jax.truth.synthetic_truth import truth_of

Columns = dict[str, Float[np.ndarray, "n"]]


@dataclass(frozen=True)
class Column:
    """How a number is shown."""

    key: str
    label: str
    unit: str = ""
    digits: int = 2
    worse: str = ""
    """`high` or `low`: which end deserves a look; empty = neither."""
    help: str = ""
    groups: tuple[tuple[float, str], ...] = ()
    """Upper end and name of each range that a number is shown as; without them the number itself is shown."""

    def to_json(self) -> dict[str, Any]:
        """For the page."""
        return asdict(self)


def of_fit(name: str) -> Column:
    """The column of a field of `SceneFit` that has a label."""
    fact = FACTS[name]
    unit = {"metres": "m", "pixels": "px"}.get(fact.unit, "")
    return Column(name, fact.label, unit, fact.digits, fact.worse, fact.meaning[:1].upper() + fact.meaning[1:])


FIT = (
    of_fit("trust"),
    Column(
        "age_years",
        "Age",
        "",
        1,
        groups=AGE_GROUPS,
        help="Class of the fitted age. Years would mislead: the word adult "
        "stands for a body that is fully grown, which Anny's calibration calls 16 years; adults are all from 14 to 64",
    ),
    Column("gender", "Gender", "", 2, help="0 male .. 1 female"),
    of_fit("height_m"),
    of_fit("depth_m"),
    Column("x_m", "Sideways", "m", 2, help="Camera x of the root bone"),
    Column("seen_keypoints", "Keypoints seen", "of 17", 0, "low", "How many keypoints the fit was given"),
    of_fit("reprojection_px"),
    Column(
        "start_reprojection_px",
        "Reprojection at the start",
        "px",
        1,
        "",
        "The same for the body that the fit started from",
    ),
    Column(
        "reprojection_share",
        "Reprojection share",
        "%",
        1,
        "high",
        "The same in per cent of the person's size in the image",
    ),
    Column("moved_m", "Moved", "m", 2, "high", "Distance of the root from where the fit started"),
)
ADDED_TO_FIT = tuple(of_fit(name) for name, fact in FACTS.items() if fact.label and name in ADDED and name != "trust")
"""Fields of later versions, a number per person (or per joint), unknown in older fits."""
CUES = (
    Column("cue_gap", "Depth cue gap", "%", 1, "", "Fitted depth of the visible surface against the scaled depth cue"),
)
ERRORS = (
    Column("mpjpe_root", "MPJPE, root", "mm", 0, "high", "Joints with the hips' middle aligned"),
    Column("pa_mpjpe", "PA-MPJPE", "mm", 0, "high", "Joints after a similarity transform of the person"),
    Column("mpjpe_abs", "MPJPE, absolute", "mm", 0, "high", "Joints in camera space"),
    Column("depth_err", "Depth error", "m", 2, "", "Fit less truth"),
    Column("height_err", "Height error", "m", 2, "", "Fit less truth"),
    Column("age_err", "Age error", "years", 1, "", "Fit less truth"),
)
"""Against exact truth."""
ALL = (*FIT, *ADDED_TO_FIT, *CUES, *ERRORS)


def fit_columns(fit: SceneFit) -> Columns:
    """`FIT`, `ADDED_TO_FIT` and `CUES`, for the n people of a fit."""
    x0, y0, x1, y1 = boxes(fit).T
    with np.errstate(invalid="ignore", divide="ignore"):
        share = 100.0 * fit.reprojection_px / np.maximum(np.maximum(x1 - x0, y1 - y0), 1.0)
    gender, age = fit.phenotypes[:, 0], fit.phenotypes[:, 1]
    known = np.isfinite(age)
    columns = {
        "trust": fit.trust,
        "age_years": np.where(known, age_years(age), np.nan),
        "gender": gender,
        "height_m": fit.height_m,
        "depth_m": fit.depth_m,
        "x_m": fit.transl[:, 0],
        "seen_keypoints": seen(fit).sum(1),
        "reprojection_px": fit.reprojection_px,
        "start_reprojection_px": fit.start_reprojection_px,
        "reprojection_share": share,
        "moved_m": np.linalg.norm(np.asarray(fit.transl, np.float64) - fit.start_transl, axis=1),
    }
    for column in ADDED_TO_FIT:
        values = np.asarray(getattr(fit, column.key), np.float64)
        columns[column.key] = np.sqrt((values**2).mean(-1)) if values.ndim == 2 else values
    with np.errstate(invalid="ignore", divide="ignore"):
        columns["cue_gap"] = 100.0 * (fit.visible_depth_m / (fit.depth_cue_m * fit.depth_scale) - 1.0)
    return {key: np.asarray(values, np.float64) for key, values in columns.items()}


def error_columns(fit: SceneFit, scene: Scene) -> Columns:
    """`ERRORS` of the people with status ok; NaN for the others.

    Raises SceneError where the scene has no exact truth, or other people than the fit.
    """
    ids = scene.person_ids or [str(i) for i in range(len(scene))]
    if [str(i) for i in fit.person_ids] != list(ids):
        raise SceneError(f"{scene.name}: person_ids: the truth has {ids}, the fit {fit.person_ids.tolist()}")
    rows = np.flatnonzero(fit.ok)
    truth = truth_of(scene).select(rows)
    shape = fit.phenotypes[rows]
    people = People(fit.fitted_keypoints_3d[rows], fit.depth_m[rows], shape[:, 0], shape[:, 1], fit.height_m[rows])
    errors = scene_errors(people, truth, np.asarray(scene.intrinsics, np.float64))
    age = np.asarray(truth.age_phenotype, np.float64)
    values = {name: errors[name] for name in ("mpjpe_root", "pa_mpjpe", "mpjpe_abs")}
    values["depth_err"] = fit.depth_m[rows] - truth.depth
    values["height_err"] = fit.height_m[rows] - truth.height
    values["age_err"] = age_years(shape[:, 1]) - age_years(age)
    return {key: _spread(value, rows, len(fit)) for key, value in values.items()}


def _spread(values: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    out = np.full(n, np.nan)
    out[rows] = values
    return out
