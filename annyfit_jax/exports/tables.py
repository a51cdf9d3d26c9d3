"""One Parquet table of people, for triage in pandas, Polars or DuckDB:

    duckdb -c "select status, count(*), avg(reprojection_px) from 'people.parquet' group by status"

One row per person: fitted, failed, skipped, and set aside by the reader before the fit. A scene that was set aside and whose
people are not known has one row with a null `person`. Null stands for unknown everywhere.

| column | meaning |
|---|---|
| `scene`, `scene_index` | name; position in the input |
| `scene_status`, `scene_reason` | `ok` = the scene was fitted, else why not, as a word and in full |
| `person`, `row` | the input's name of the person; row in the fit, null for people set aside by the reader |
| `status` | `ok`, `failed:<reason>` or `skipped:<reason>` |
| `notes` | remarks separated by `;`, of people set aside the reason in full |
| `gender`, `age`, `muscle`, `weight`, `height`, `proportions` | fitted phenotypes, 0 to 1 |
| `height_m`, `depth_m` | metres: height of the resting body; camera z of the root |
| `transl_x`, `transl_y`, `transl_z` | metres, camera axes (x right, y down, z forward): head of the root bone |
| `root_x`, `root_y`, `root_z` | radians: rotation vector of the root bone in camera axes |
| `reprojection_px`, `start_reprojection_px` | pixels: mean over the seen keypoints, at the end and at the start |
| `seen_keypoints`, `mean_confidence` | how many of the 17 keypoints the fit was given, and how sure of them the detector was |
| `box_x0`, `box_y0`, `box_x1`, `box_y1` | pixels: `people.boxes` |
| `age_cue`, `gender_cue`, `age_word`, `gender_word` | the anchor that the fit was given, and the word nearest to it |
| `start_origin` | `cue` (feed-forward initialisation) or `keypoints` |
| `image_path`, `image_width`, `image_height`, `focal_px` | the photo; pixels; K[0, 0] |
| `config_hash`, `asset_version`, `content_hash` | what the row was computed from: config, body, cues |
| `person_key` | name of the result, `jobs.rows.person_key` |
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from annyfit_jax.exports import exported_people
from annyfit_jax.jobs.fit_source import Outcome
from annyfit_jax.jobs.job_rows import word_of
from annyfit_jax.people.words import age_class, gender_class
from annyfit_jax.records.files import replacing
from body_models.anny import PHENOTYPE_LABELS

ROWS_PER_GROUP = 1 << 16
"""People per row group of the file."""
_ROWS_AT_ONCE = 1 << 12
"""People held as Python objects; the rest of a row group waits in Arrow's compact form."""

COLUMNS: dict[str, str] = {
    "scene": "string", "scene_index": "int64", "scene_status": "string", "scene_reason": "string", "person": "string",
    "row": "int32", "status": "string", "notes": "string",
    **dict.fromkeys(PHENOTYPE_LABELS, "float32"),
    **dict.fromkeys(("height_m", "depth_m"), "float32"),
    **{f"{name}_{axis}": "float32" for name in ("transl", "root") for axis in "xyz"},
    "reprojection_px": "float32", "start_reprojection_px": "float32", "seen_keypoints": "int32", "mean_confidence": "float32",
    **dict.fromkeys(("box_x0", "box_y0", "box_x1", "box_y1", "age_cue", "gender_cue"), "float32"),
    "age_word": "string", "gender_word": "string", "start_origin": "string", "image_path": "string", "image_width": "int32",
    "image_height": "int32", "focal_px": "float32", "config_hash": "string", "asset_version": "string",
    "content_hash": "string", "person_key": "string",
}  # fmt: skip
"""Name and Arrow type of every column, in order."""


def write_people(outcomes: Iterable[Outcome], path: str | Path) -> int:
    """Writes the table, zstd-compressed, and returns the number of its rows. Raises OSError; errors of `outcomes` pass."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    total = 0
    waiting: list[pa.RecordBatch] = []
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for rows in _batches(outcomes):
            total += len(rows)
            columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
            waiting.append(pa.RecordBatch.from_arrays(columns, schema=schema))
            if sum(map(len, waiting)) >= ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting.clear()
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))
    return total


def _batches(outcomes: Iterable[Outcome]) -> Iterable[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        rows += person_rows(outcome)
        if len(rows) >= _ROWS_AT_ONCE:
            yield rows
            rows = []
    if rows:
        yield rows


def person_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """The rows of a scene by column; a column that is absent is null."""
    fit = outcome.fit
    width, height = (int(side) or None for side in fit.image_size)
    scene = {
        "scene": fit.name,
        "scene_index": outcome.index if outcome.index >= 0 else None,
        "scene_status": outcome.status,
        "scene_reason": outcome.reason or None,
        "start_origin": fit.start_origin or None,
        "image_path": fit.image_path or None,
        "image_width": width,
        "image_height": height,
        "focal_px": _known(fit.K[0, 0]),
        "config_hash": fit.config_hash or None,
        "asset_version": fit.asset_version or None,
        "content_hash": outcome.content_hash or None,
    }
    if not len(fit) and not len(fit.set_aside):
        return [] if outcome.fitted else [{**scene, "status": outcome.status}]
    keys = outcome.person_keys or (None,) * (len(fit) + len(fit.set_aside))
    seen, box = exported_people.seen(fit), exported_people.boxes(fit)
    rows = []
    for i, key in zip(range(len(fit)), keys):
        confidence = fit.keypoints_2d[i, seen[i], 2]
        numbers = {
            # By position: fits of a body of another version come without labels.
            **dict(zip(PHENOTYPE_LABELS, fit.shape[i])),
            "height_m": fit.height_m[i],
            "depth_m": fit.depth_m[i],
            **{f"transl_{axis}": value for axis, value in zip("xyz", fit.transl[i])},
            **{f"root_{axis}": value for axis, value in zip("xyz", fit.root_rotvec[i])},
            "reprojection_px": fit.reprojection_px[i],
            "start_reprojection_px": fit.start_reprojection_px[i],
            "mean_confidence": confidence.mean() if len(confidence) else np.nan,
            **dict(zip(("box_x0", "box_y0", "box_x1", "box_y1"), box[i])),
        }
        rows.append(
            {
                **scene,
                "person": str(fit.person_ids[i]),
                "row": i,
                "status": str(fit.status[i]),
                "notes": str(fit.notes[i]) or None,
                **{name: _known(value) for name, value in numbers.items()},
                "seen_keypoints": int(seen[i].sum()),
                **_words("age", fit.age_word[i], age_class),
                **_words("gender", fit.gender_word[i], gender_class),
                "person_key": key,
            }
        )
    for (person, reason), key in zip(fit.set_aside, keys[len(fit) :]):
        aside = {"person": str(person), "status": f"skipped:{word_of(str(reason))}", "notes": str(reason)}
        rows.append({**scene, **aside, "person_key": key})
    return rows


def _words(cue: str, anchor: float, word_of_anchor: Any) -> dict[str, Any]:
    known = bool(anchor >= 0)
    return {
        f"{cue}_cue": float(anchor) if known else None,
        f"{cue}_word": word_of_anchor(float(anchor)) if known else None,
    }


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
