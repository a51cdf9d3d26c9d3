"""The declaration of a fitted person: everything that stores or shows one derives from it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from fake_job import fake_fit, make_scene

from annyfit_jax.exports import coco_export, scene_files, tables, training_set
from annyfit_jax.jobs import job_rows
from annyfit_jax.jobs.fit_source import Outcome
from annyfit_jax.people import fitted
from annyfit_jax.people.fitted import FACTS, FORMAT_VERSION, Fact, SceneFit
from annyfit_jax.records import fit_files
from annyfit_jax.report.report_columns import fit_columns


@pytest.fixture(scope="module")
def fit() -> SceneFit:
    return fake_fit(make_scene(0))


def test_every_field_is_declared_with_shape_and_meaning(fit):
    assert list(FACTS) == [field.name for field in dataclasses.fields(SceneFit)]
    for name, fact in FACTS.items():
        assert fact.meaning, name
        assert not fact.row or fact.per_person, f"{name}: rows of jobs hold people"
        assert not fact.listed or fact.row, f"{name}: people.jsonl is made from rows"
        assert set(fact.listed) <= {name, *fact.parts}
        value = getattr(fit, name)
        if fact.per_person and value is not None and fact.kind != "texts":
            assert value.shape == (len(fit), *fact.row_shape()), name


def test_a_field_reaches_every_place_that_its_declaration_names(fit):
    """Values are followed from the fit to rows, lists, tables, training set, exports and report."""
    scene = make_scene(0)
    row = job_rows.row_of_fit(job_rows.scene_info(0, scene.name, scene, "c"), fit)
    person = int(np.flatnonzero(fit.ok)[0])
    line = job_rows.people_table(row)[person]
    table = tables.person_rows(Outcome(fit))[person]
    example = training_set.example(Outcome(fit))
    entry = coco_export.annotation_entry(fit, person, 1, 1, np.zeros(4))["anny"]
    exported = scene_files.parameter_arrays(fit, np.eye(4), "camera")
    shown = fit_columns(fit)
    for name, fact in FACTS.items():
        value = getattr(fit, name)
        if fact.row:
            np.testing.assert_array_equal(row.arrays[name], value)
        for part, number in fitted.columns(
            name, value[person] if fact.per_person and value is not None else None
        ).items():
            if part in fact.listed:
                assert line[part] == pytest.approx(float(number), abs=1e-4)
            if fact.table:
                assert table[part] == (pytest.approx(float(number)) if np.isfinite(number) else None), part
        if fact.training:
            np.testing.assert_array_equal(example[fact.training], value)
        if fact.exported:
            np.testing.assert_allclose(np.asarray(entry[fact.exported], float), np.asarray(value)[person], atol=1e-6)
            np.testing.assert_array_equal(exported[fact.exported], value)
        if fact.label:
            squares = np.asarray(value, np.float64) ** 2
            want = np.sqrt(squares.mean(-1)) if squares.ndim == 2 else np.asarray(value, np.float64)
            np.testing.assert_allclose(shown[name], want, rtol=1e-12)
    assert json.dumps(line)


def test_versions_are_those_of_the_declaration(fit, tmp_path):
    assert max(fact.since for fact in FACTS.values()) == FORMAT_VERSION == job_rows.ROW_VERSION == training_set.VERSION
    assert {name for name, field in job_rows.FIELDS.items() if field.since > 1} == set(fitted.ADDED)
    path = tmp_path / "old.npz"
    fit_files.save(fit, path)
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files if name not in fitted.ADDED}
    np.savez(path, **{**arrays, "format_version": np.array(1)})
    back = fit_files.load(path)
    assert back.format_version == FORMAT_VERSION
    for name, fact in fitted.ADDED.items():
        np.testing.assert_array_equal(getattr(back, name), fact.absent(len(fit)))


def test_what_is_not_known_keeps_its_type():
    assert Fact(("n", 17), "", kind="bool", unknown=0).absent(2).tolist() == [[False] * 17] * 2
    assert Fact(("n",), "", kind="int32", unknown=-1).absent(2).tolist() == [-1, -1]
    assert np.isnan(Fact(("n", "bones", 3), "").absent(1)).all()
    assert Fact(("n", "bones", 3), "").row_shape(bones=4) == (4, 3)


def test_the_table_is_markdown():
    text = fitted.markdown(["transl", "status"])
    assert text.splitlines() == [
        "| field | shape | unit | meaning | since version |",
        "| --- | --- | --- | --- | --- |",
        "| `transl` | (n, 3) | metres, camera axes | position of the root bone's head | 1 |",
        "| `status` | (n,) | text | `ok`, `failed:<reason>` or `skipped:<reason>` | 1 |",
    ]
    assert len(fitted.markdown().splitlines()) == 2 + len(FACTS)
    with pytest.raises(KeyError):
        fitted.markdown(["none"])
