"""Names in data as file names, and files that data name: nothing outside a folder, whatever the names are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import fake_job as fj
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.inputs import cue_dataset, open_input
from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.records import fit_files
from annyfit_jax.records.file_names import TABLE, file_inside, file_stem, write_table
from annyfit_jax.records.files import temporary_name, write_bytes

HOSTILE = [
    "../../escaped", "<script>alert(1)</script>", "x" * 300, "a\nb", "ok", "/tmp/absolute", ".", "..", "a/b/c",
    "\u202egpj.exe",
    "CON", "nul.txt", "a~b", "x" * 244, "ü" * 120, "\ud800", "trailing.", " leading", "a\\b", "C:\\x", "é", "e\u0301",
    "nul\0byte",
    "-rf", "a" * 231,
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300))
@example("")
@example("con.tar.gz")
def test_every_name_has_a_safe_short_file_name(name):
    stem = file_stem(name)
    assert 0 < len(stem.encode()) <= 230
    assert not set(stem) & set('/\\:*?"<>|\0\n')
    assert stem not in (".", "..") and not stem.startswith(".") and stem == stem.strip(" .")
    assert stem.isprintable()
    assert file_stem(stem) == stem or "~" in stem


def test_hostile_names_have_different_file_names_and_good_ones_their_own():
    stems = [file_stem(name) for name in HOSTILE]
    assert len(set(stems)) == len(HOSTILE)
    for name in ("ok", "photo 17", "Straße_2.jpg", "-rf", "東京-001", "world_small_0_0000001"):
        assert file_stem(name) == name
    assert file_stem(file_stem("../x")) != file_stem("../x")  # a name that looks derived is no other name's file


def test_the_table_leads_back(tmp_path):
    write_table(tmp_path, HOSTILE)
    found = {line["file"]: line["scene"] for line in map(json.loads, (tmp_path / TABLE).read_text().splitlines())}
    assert {name: found.get(file_stem(name), file_stem(name)) for name in HOSTILE} == {name: name for name in HOSTILE}
    write_table(tmp_path / "other", ["plain"])
    assert not (tmp_path / "other").exists()


def test_temporary_files_have_names_too(tmp_path):
    """A name of 255 bytes, which every file system allows, can be written; it is known as this process's while it is."""
    for name in ("x" * 251 + ".npz", "ü" * 125 + ".npz"):
        write_bytes(tmp_path / name, b"content")
        assert (tmp_path / name).read_bytes() == b"content"
        assert len(os.fsencode(temporary_name(tmp_path / name).name)) <= 255


def test_files_are_found_inside_their_folder_only(tmp_path):
    inside, outside = tmp_path / "photos", tmp_path / "secret.jpg"
    (inside / "sub").mkdir(parents=True)
    for path in (outside, inside / "a.jpg", inside / "sub" / "b.jpg"):
        path.write_bytes(b"x")
    assert file_inside(inside, "a.jpg") == inside / "a.jpg"
    assert file_inside(str(inside), "sub/b.jpg") == inside / "sub" / "b.jpg"
    assert file_inside(inside, str(inside / "a.jpg")) == inside / "a.jpg"
    for name in (
        "../secret.jpg",
        str(outside),
        "sub/../../secret.jpg",
        "/etc/hostname",
        "",
        ".",
        "..",
        "sub",
        "x" * 300,
        "\0",
    ):
        assert file_inside(inside, name) is None, name


# ------------------------------------------------------------------------------------------------ from cues to exports


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """A finished job, with fit files, of a cue dataset whose scenes have hostile names."""
    root = tmp_path_factory.mktemp("root")
    names = [name for name in HOSTILE if name.encode(errors="ignore").decode() == name]

    def scenes(span):
        for index in span:
            scene = fj.make_scene(index, 2, f"s{index}")
            scene.name = names[index]
            yield scene

    cue_dataset.write(root / "cues", cue_dataset.Plan(len(names), {"x": 1}), scenes)
    folder = root / "a" / "b" / "job"
    fj.run(folder, open_input(str(root / "cues")), fit_files=True, scenes_per_shard=4)
    return folder


def outside(job: Path) -> list[str]:
    root = job.parents[2]
    allowed = (root / "cues", job, root / "a" / "b" / "out")
    return [str(p) for p in root.rglob("*") if p.is_file() and not any(p.is_relative_to(folder) for folder in allowed)]


def test_nothing_is_written_outside_the_output(job):
    names = open_fits(job).names
    assert len(names) == len([name for name in HOSTILE if "\ud800" not in name])
    assert len(list((job / "fits").glob("*.npz"))) == len(names)
    assert not outside(job)
    assert not Path("/tmp/absolute.npz").exists()


def test_every_fit_is_found_by_its_scene(job):
    """By the job, by its folder of files alone, and by the table."""
    alone = open_fits(job / "fits")
    assert set(alone.names) == set(open_fits(job).names)
    for name in alone.names:
        assert alone.load(name).name == name
        assert open_fits(job).load(name).name == name
    table = [json.loads(line) for line in (job / TABLE).read_text().splitlines()]
    for line in table:
        assert str(fit_files.load(job / "fits" / f"{line['file']}.npz").name) == line["scene"]
    derived = {path.stem for path in (job / "fits").glob("*~*.npz")}
    assert {line["file"] for line in table} == derived


def test_exports_stay_inside_their_folder(job):
    output = job.parent / "out"
    written, _ = export_fits(str(job), str(output), "npz")
    assert len(written) == len(open_fits(job).names) == len(set(written))
    assert all(path.parent == output and path.is_file() for path in written)
    assert not outside(job)
    with np.load(output / f"{file_stem('../../escaped')}.npz") as exported:
        assert str(exported["name"]) == "../../escaped"
    assert (output / TABLE).is_file()
