"""The Parquet table of people: every person of a job once, nulls for what is unknown, read back with pyarrow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from export_cases import FITTED, NAMES, make_job
from fitted_people import make_fit
from pyarrow import parquet

from annyfit_jax.exports import exported_people, tables
from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.jobs import job_status
from annyfit_jax.jobs.fit_source import Outcome, open_fits
from annyfit_jax.records import fit_files


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    return make_job(tmp_path_factory.mktemp("job") / "out")


@pytest.fixture(scope="module")
def table(job, tmp_path_factory) -> pa.Table:
    path = tmp_path_factory.mktemp("table") / "people.parquet"
    assert export_fits(str(job), str(path), "parquet") == ([path], [])
    return parquet.read_table(path)


def row_of(table: pa.Table, scene: str, person: str | None) -> dict:
    found = [row for row in table.to_pylist() if (row["scene"], row["person"]) == (scene, person)]
    assert len(found) == 1
    return found[0]


def test_every_person_of_the_job_has_one_row(table, job):
    rows = [(row["scene"], row["person"], row["status"], row["person_key"]) for row in table.to_pylist()]
    expected = [
        (row.name, *person)
        for row in job_status.finished_rows(job)
        for person in zip(row.person_ids, row.status, row.person_keys)
    ]  # fmt: skip
    assert [row for row in rows if row[1] is not None] == expected
    assert len(rows) == len(set(rows)) == len(expected) + 1
    assert [row[:3] for row in rows if row[1] is None] == [("unreadable", None, "skipped:unreadable")]


def test_columns_are_those_documented(table):
    assert table.schema.names == list(tables.COLUMNS)
    assert all(column.meaning for column in tables.COLUMNS.values())
    assert [str(field.type) for field in table.schema] == [
        {"float32": "float"}.get(kind, kind) for kind in map(tables.arrow_type, tables.COLUMNS.values())
    ]


def test_a_fitted_person(table, job):
    fit = open_fits(job).load("trio")
    row = row_of(table, "trio", "4-2")
    for column, value in {
        "age": fit.shape[2, 1], "proportions": fit.shape[2, 5], "height_m": fit.height_m[2], "transl_z": fit.transl[2, 2],
        "depth_m": fit.depth_m[2], "root_x": fit.root_rotvec[2, 0], "reprojection_px": fit.reprojection_px[2],
        "start_reprojection_px": fit.start_reprojection_px[2], "focal_px": fit.K[0, 0], "age_cue": np.float32(0.66),
        "box_y1": exported_people.boxes(fit)[2, 3],
        "mean_confidence": fit.keypoints_2d[2, [*range(4), *range(5, 17)], 2].mean(),
    }.items():  # fmt: skip
        assert row[column] == pytest.approx(float(value), rel=1e-6), column
    exact = {
        "scene_index": 4, "scene_status": "ok", "scene_reason": None, "row": 2, "status": "ok", "notes": "no_words",
        "seen_keypoints": 16, "age_word": "adult", "gender_word": None, "gender_cue": None, "image_width": 640,
        "image_height": 480, "image_path": "photos/trio.jpg", "config_hash": fit.config_hash,
        "asset_version": fit.asset_version,
    }  # fmt: skip
    assert {column: row[column] for column in exact} == exact


def test_people_without_a_fit_say_why_and_are_null_elsewhere(table):
    skipped, failed = row_of(table, "mixed", "1-1"), row_of(table, "failed", "5-0")
    aside, invalid = row_of(table, "mixed", "crowd7"), row_of(table, "invalid", "3-1")
    assert (skipped["status"], failed["status"]) == ("skipped:no_keypoints", "failed:not_finite")
    assert (aside["status"], aside["notes"], aside["row"]) == (
        "skipped:crowd_annotation", "crowd annotation: 12 people", None
    )  # fmt: skip
    assert (invalid["status"], invalid["scene_status"]) == ("skipped:invalid_cues", "skipped:invalid_cues")
    assert "expected finite" in invalid["scene_reason"]
    for row in (skipped, failed, aside, invalid):
        assert row["age"] is row["transl_z"] is row["height_m"] is row["root_x"] is None
    assert row_of(table, "unreadable", None)["scene_reason"] == "unreadable.npz: not a readable .npz file"
    assert failed["seen_keypoints"] == 16 and failed["box_x0"] is not None  # what it was given is known


def test_triage_reads_only_what_it_needs(table, job, tmp_path):
    (path,), _ = export_fits(str(job), str(tmp_path), "parquet")
    ok = parquet.read_table(path, columns=["age"], filters=[("status", "==", "ok")])
    assert len(ok) == sum(FITTED.values()) and ok["age"].null_count == 0
    counts = {entry["values"]: entry["counts"] for entry in table["status"].value_counts().to_pylist()}
    assert counts["ok"] == 7 and counts["skipped:invalid_cues"] == 2


def test_groups_bound_the_memory_and_change_nothing(table, job, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 8)
    monkeypatch.setattr(tables, "_ROWS_AT_ONCE", 3)
    held, original = [], tables._batches
    monkeypatch.setattr(tables, "_batches", lambda outcomes: (held.append(len(b)) or b for b in original(outcomes)))
    assert tables.write_people(open_fits(job).outcomes(), tmp_path / "t.parquet") == len(table) == 13
    assert held == [6, 3, 3, 1]  # whole scenes, until there are three people
    metadata = parquet.ParquetFile(tmp_path / "t.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [9, 4]
    assert parquet.read_table(tmp_path / "t.parquet").equals(table)


def test_a_folder_of_fit_files_and_chosen_scenes(tmp_path):
    for name in ("a", "b"):
        fit_files.save(make_fit(name), tmp_path / "fits" / f"{name}.npz")
    (written,), _ = export_fits(str(tmp_path), str(tmp_path / "out"), "parquet", ["b"])
    assert written == tmp_path / "out" / "people.parquet"
    rows = parquet.read_table(written).to_pylist()
    assert [(row["scene"], row["person"], row["scene_index"], row["person_key"]) for row in rows] == [
        ("b", person, None, None) for person in ("7", "left one", "9", "12")
    ]


def test_nobody_at_all_is_an_empty_table(tmp_path):
    fit = make_fit(set_aside=np.zeros((0, 2), "<U1"))
    empty = {name: getattr(fit, name)[:0] for name in ("person_ids", "status", "notes", "keypoints_2d", "shape")}
    outcome = Outcome(make_fit(set_aside=fit.set_aside, **empty, fitted_keypoints_3d=np.zeros((0, 17, 3))))
    assert tables.write_people([outcome], tmp_path / "t.parquet") == 0
    assert parquet.read_table(tmp_path / "t.parquet").schema.names == list(tables.COLUMNS)


def test_a_failure_in_the_middle_leaves_no_file(job, tmp_path):
    def broken():
        yield from open_fits(job).part(range(3))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tables.write_people(broken(), tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []


def test_the_names_of_the_case_are_all_there(table):
    assert list(dict.fromkeys(table["scene"].to_pylist())) == list(NAMES)
