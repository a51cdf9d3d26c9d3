"""Exports in parts: whatever the cut, on a disk or in a bucket, the same files; partitioned tables with exact counts."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pyarrow.compute
import pyarrow.parquet
import pytest
from export_cases import FITTED, make_job
from pyarrow import dataset

from annyfit_jax.engine.running import Interrupted
from annyfit_jax.exports import export_fits as exports
from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.store.locations import place

MARKS = (".parts", "data_card")


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    return make_job(tmp_path_factory.mktemp("job") / "out")


def content(folder: str | Path) -> dict[str, bytes]:
    """The files of an export, without its records."""
    there = place(folder)
    return {name: (there / name).read_bytes() for name in there.tree() if not any(mark in name for mark in MARKS)}


@pytest.mark.parametrize("file_format", ["npz", "parquet", "coco", "humandata", "webdataset", "bvh"])
def test_the_cut_and_the_place_do_not_matter(job, tmp_path, file_format):
    whole, _ = export_fits(str(job), str(tmp_path / "whole"), file_format)
    bucket = f"memory://export-{tmp_path.name}-{os.getpid()}"
    step = 512 if file_format == "webdataset" else 1
    written, _ = export_fits(str(job), bucket, file_format, scenes_per_shard=step)
    assert [path.name for path in written] == [path.name for path in whole]
    there, here = content(bucket), content(tmp_path / "whole")
    assert set(there) == set(here) == {path.name for path in whole}
    if file_format == "parquet":  # of parts the groups of rows are other ones
        places = [place(folder) / "people.parquet" for folder in (bucket, tmp_path / "whole")]
        one, other = (pyarrow.parquet.read_table(file.fetched()) for file in places)
        assert one.equals(other) and one.num_rows > 8
    elif file_format != "webdataset":
        assert there == here
    card = (place(bucket) / "data_card.json").read_json()
    assert card == json.loads((tmp_path / "whole" / "data_card.json").read_text())


def test_a_partitioned_table_has_every_row_once_where_its_value_says(job, tmp_path):
    export_fits(str(job), str(tmp_path / "people.parquet"), "parquet")
    rows = pyarrow.parquet.read_table(tmp_path / "people.parquet").to_pylist()
    columns = ["status", "age_word"]
    files, _ = export_fits(str(job), str(tmp_path / "cut"), "parquet", scenes_per_shard=2, partition_by=columns)
    assert len(files) == len(set(files)) and all(path.is_file() for path in files)
    cut = dataset.dataset(tmp_path / "cut", format="parquet", partitioning="hive")  # as any reader of such folders
    assert (tmp_path / "cut" / "_data_card.json").exists()
    counts = Counter(row["status"] for row in rows)
    found = cut.to_table().to_pylist()
    assert Counter(str(row["status"]) for row in found) == counts and len(counts) > 2

    def key(row: dict) -> tuple:
        return row["scene"], row["person"] or "", row["row"] or 0

    assert sorted(found, key=key) == sorted(rows, key=key)
    ok = cut.to_table(filter=pyarrow.compute.field("status") == "ok")
    assert ok.num_rows == counts["ok"]
    plain, _ = export_fits(str(job), str(tmp_path / "files"), "parquet", scenes_per_shard=4, partition_by=["part"])
    assert [path.name for path in plain] == ["part-00000.parquet", "part-00001.parquet"]
    assert sum(pyarrow.parquet.read_metadata(path).num_rows for path in plain) == len(rows)


def test_a_table_is_cut_by_columns_of_few_values_only(job, tmp_path):
    with pytest.raises(ValueError, match="--partition_by=height_m: expected part, scene_status"):
        export_fits(str(job), str(tmp_path / "a"), "parquet", partition_by=["height_m"])
    with pytest.raises(ValueError, match="is for --format=parquet"):
        export_fits(str(job), str(tmp_path / "a"), "npz", partition_by=["status"])


def test_a_stopped_export_goes_on_and_leaves_no_parts(job, tmp_path, monkeypatch):
    calls, write = [], exports._scene_files

    def stopped(*arguments):
        if len(calls) == 2:
            raise Interrupted
        calls.append(arguments[-1])
        return write(*arguments)

    monkeypatch.setattr(exports, "_scene_files", stopped)
    with pytest.raises(Interrupted):
        export_fits(str(job), str(tmp_path / "out"), "npz", scenes_per_shard=1)
    assert not (tmp_path / "out" / "data_card.json").exists()
    monkeypatch.setattr(exports, "_scene_files", lambda *arguments: (calls.append(arguments[-1]), write(*arguments))[1])
    written, _ = export_fits(str(job), str(tmp_path / "out"), "npz", scenes_per_shard=1)
    assert calls == list(range(open_fits(job).total))
    assert [path.stem for path in written] == [*FITTED, "failed"]
    export_fits(str(job), str(tmp_path / "one" / "a.json"), "coco", scenes_per_shard=1)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["a.data_card.json", "a.json"]
