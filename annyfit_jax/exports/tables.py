"""One Parquet table of people, for triage in pandas, Polars or DuckDB:

    duckdb -c "select status, count(*), avg(reprojection_px) from 'people.parquet' group by status"

One row per person: fitted, failed, skipped, and set aside by the reader before the fit. A scene that was set aside and whose
people are not known has one row with a null `person`. Null stands for unknown everywhere.

Columns of fields of a fit are declared with them (`annyfit_jax.people.fitted`), the others in `COLUMNS`; a table of all stands
in `docs/formats.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from annyfit_jax.exports import exported_people
from annyfit_jax.jobs.fit_source import Outcome
from annyfit_jax.jobs.job_rows import word_of
from annyfit_jax.people.fitted import FACTS, columns
from annyfit_jax.people.words import age_class, gender_class
from annyfit_jax.records.files import replacing
from annyfit_jax.records.wire import Field

ROWS_PER_GROUP = 1 << 16
"""People per row group of the file."""
_ROWS_AT_ONCE = 1 << 12
"""People held as Python objects; the rest of a row group waits in Arrow's compact form."""


def _text(meaning: str) -> Field:
    return Field("text", meaning=meaning)


def _number(unit: str, meaning: str, dtype: str = "float32") -> Field:
    return Field("array", (), dtype, unit=unit, meaning=meaning)


def _of_fit() -> dict[str, Field]:
    fields = {}
    for name, fact in FACTS.items():
        for part in (fact.parts or (name,)) if fact.table else ():
            meaning = f"{fact.meaning}: {part}" if fact.parts else fact.meaning
            fields[part] = Field("array", (), "float32", fact.since, unit=fact.unit, meaning=meaning)
    return fields


COLUMNS: dict[str, Field] = {
    "scene": _text("name"),
    "scene_index": _number("", "position in the input", "int64"),
    "scene_status": _text("`ok` = the scene was fitted, else why not, as a word"),
    "scene_reason": _text("why not, in full"),
    "person": _text("the input's name of the person"),
    "row": _number("", "row in the fit, null for people set aside by the reader", "int32"),
    "status": _text("`ok`, `failed:<reason>` or `skipped:<reason>`"),
    "notes": _text("remarks separated by `;`, of people set aside the reason in full"),
    **_of_fit(),
    "seen_keypoints": _number("of 17", "how many keypoints the fit was given", "int32"),
    "mean_confidence": _number("", "how sure of them the detector was"),
    **{
        f"box_{corner}": _number("pixels", f"{corner} of the box around the seen keypoints")
        for corner in ("x0", "y0", "x1", "y1")
    },
    "age_cue": _number("0 to 1", "the anchor that the fit was given"),
    "gender_cue": _number("0 to 1", "the anchor that the fit was given"),
    "age_word": _text("the word nearest to it"),
    "gender_word": _text("the word nearest to it"),
    "start_origin": _text("`cue` (feed-forward initialisation) or `keypoints`"),
    "image_path": _text("the photo"),
    "image_width": _number("pixels", "width of the photo", "int32"),
    "image_height": _number("pixels", "height of the photo", "int32"),
    "focal_px": _number("pixels", "K[0, 0]"),
    "config_hash": _text("config that the row was computed with"),
    "asset_version": _text("body that the row was computed with"),
    "content_hash": _text("cues that the row was computed from"),
    "person_key": _text("name of the result, `jobs.job_rows.person_key`"),
}
"""Every column, in order."""


def arrow_type(column: Field) -> str:
    """Name of a column's type in Arrow."""
    return "string" if column.kind == "text" else column.dtype


def write_people(outcomes: Iterable[Outcome], path: str | Path) -> int:
    """Writes the table, zstd-compressed, and returns the number of its rows. Raises OSError; errors of `outcomes` pass."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema()
    total = 0
    waiting: list[pa.RecordBatch] = []
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for rows in _batches(outcomes):
            total += len(rows)
            arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
            waiting.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
            if sum(map(len, waiting)) >= ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting.clear()
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))
    return total


PARTITIONS = ("scene_status", "status", "age_word", "gender_word", "start_origin", "config_hash", "asset_version")
"""Columns of few values, by which a table can be cut into folders."""


def check_partition(file_format: str, columns: Sequence[str]) -> None:
    """Raises ValueError where a table cannot be cut so."""
    if file_format != "parquet":
        raise ValueError("--partition_by is for --format=parquet")
    for name in columns:
        if name not in (*PARTITIONS, "part"):
            raise ValueError(f"--partition_by={name}: expected part, {', '.join(PARTITIONS)}")


def partitioned(path: Path, folder: Path, columns: Sequence[str]) -> list[Path]:
    """Cuts a table into `<column>=<value>/<name of the table>-0.parquet` below a folder, as Hive does; returns the files.

    The columns are not in the files: readers take them from the folders. Null is `__HIVE_DEFAULT_PARTITION__`.
    """
    from pyarrow import dataset, parquet

    table = parquet.read_table(path)
    layout = dataset.partitioning(table.select(list(columns)).schema, flavor="hive")
    dataset.write_dataset(
        table, folder, format="parquet", partitioning=layout, basename_template=f"{path.stem}-{{i}}.parquet", use_threads=False,
        file_options=dataset.ParquetFileFormat().make_write_options(compression="zstd"),
        existing_data_behavior="overwrite_or_ignore",
    )  # fmt: skip
    moved = []
    for file in sorted(folder.rglob("*.parquet")):  # beside the table, where its place below the output is
        moved.append(path.parent / file.relative_to(folder))
        moved[-1].parent.mkdir(parents=True, exist_ok=True)
        file.rename(moved[-1])
    return moved


def join_people(parts: Iterable[Path], path: str | Path) -> int:
    """One table of several, their rows one after the other; returns the number of rows."""
    from pyarrow import parquet

    total = 0
    with parquet.ParquetWriter(path, _schema(), compression="zstd") as writer:
        for part in parts:
            with parquet.ParquetFile(part) as table:
                for group in range(table.num_row_groups):
                    rows = table.read_row_group(group)
                    total += rows.num_rows
                    writer.write_table(rows)
    return total


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema([(name, pa.type_for_alias(arrow_type(column))) for name, column in COLUMNS.items()])


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
            **{
                part: number
                for name, fact in FACTS.items()
                if fact.table
                for part, number in columns(
                    name, (fit.phenotypes if name == "shape" else getattr(fit, name))[i]
                ).items()
            },
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
