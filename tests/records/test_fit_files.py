"""Fit files: what is saved comes back, a broken write leaves nothing, a broken file says what is broken."""

from __future__ import annotations

import contextlib
from dataclasses import fields

import numpy as np
import pytest
from fitted_people import make_fit
from hypothesis import given, settings
from hypothesis import strategies as st

from annyfit_jax.records import files, fit_files
from annyfit_jax.records.fit_files import FitFileError, SceneFit


def rewrite(path, change) -> None:
    """Save the file again with its arrays changed."""
    with np.load(path) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(path, **arrays)


@pytest.mark.parametrize("vertices", [None, np.ones((3, 4, 3), np.float32)])
def test_what_is_saved_comes_back_exactly(tmp_path, vertices):
    fit = make_fit(vertices=vertices)
    fit_files.save(fit, tmp_path / "fits" / "photo.npz")
    back = fit_files.load(tmp_path / "fits" / "photo.npz")
    for field in fields(SceneFit):
        before, after = getattr(fit, field.name), getattr(back, field.name)
        assert type(before) is type(after), field.name
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype, field.name
        np.testing.assert_array_equal(before, after, err_msg=field.name)
    np.testing.assert_array_equal(back.ok, [True, True, False])
    assert len(back) == 3


def test_nothing_in_a_fit_file_is_pickled(tmp_path):
    fit_files.save(make_fit(), tmp_path / "photo.npz")
    with np.load(tmp_path / "photo.npz", allow_pickle=False) as archive:
        assert {archive[name].dtype.kind for name in archive.files} <= set("fiU")


class Unwritable:
    """Fails where numpy turns it into an array, after other members have been written."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("the disk is full")


def test_a_failing_write_leaves_no_file_behind(tmp_path):
    with pytest.raises(RuntimeError, match="disk is full"):
        files.write_npz(tmp_path / "photo.npz", {"a": np.zeros(1000), "b": Unwritable()})
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "photo.npz"
    fit_files.save(make_fit(), path)
    with pytest.raises(RuntimeError, match="disk is full"):
        files.write_npz(path, {"a": np.zeros(1000), "b": Unwritable()})
    assert [p.name for p in tmp_path.iterdir()] == ["photo.npz"]
    assert fit_files.load(path).name == "photo"


def _truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(255 - x for x in content[middle : middle + 200]) + content[middle + 200 :]


@pytest.mark.parametrize(
    "damage",
    [_truncate, _flip, lambda _: b"", lambda _: b"not a zip file"],
    ids=["truncated", "flipped", "empty", "text"],
)
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "photo.npz"
    fit_files.save(make_fit(), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FitFileError, match=r"photo\.npz"):
        fit_files.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FitFileError, match=r"nobody\.npz"):
        fit_files.load(tmp_path / "nobody.npz")


@pytest.mark.parametrize("field", ["pose", "K", "config_json"])
def test_a_missing_field_is_named(tmp_path, field):
    path = tmp_path / "photo.npz"
    fit_files.save(make_fit(), path)
    rewrite(path, lambda arrays: arrays.pop(field))
    with pytest.raises(FitFileError, match=rf"photo\.npz.*{field}"):
        fit_files.load(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("K", np.zeros(9), r"K: expected shape \(3, 3\), got \(9,\)"),
        ("pose", np.zeros((2, 162, 3)), r"pose: expected shape \(3, bones, 3\), got \(2, 162, 3\)"),
        ("transl", np.zeros(3), r"transl: expected shape \(3, 3\), got \(3,\)"),
        ("keypoints_2d", np.zeros((3, 133, 3)), r"keypoints_2d: expected shape \(3, 17, 3\)"),
        ("status", np.zeros(3), "status: expected text, got float64"),
        ("depth_m", np.array(["a", "b", "c"]), "depth_m: expected numbers, got <U1"),
    ],
)
def test_an_array_of_another_shape_is_named(tmp_path, field, value, message):
    path = tmp_path / "photo.npz"
    fit_files.save(make_fit(), path)
    rewrite(path, lambda arrays: arrays.update({field: value}))
    with pytest.raises(FitFileError, match=rf"photo\.npz: {message}"):
        fit_files.load(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_happens_to_the_bytes_it_is_a_fit_or_one_error(tmp_path, data):
    path = tmp_path / "photo.npz"
    if not path.exists():
        fit_files.save(make_fit(), path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    broken = tmp_path / "broken.npz"
    broken.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    with contextlib.suppress(FitFileError):  # anything else is an error of the reader
        assert fit_files.load(broken).pose.shape == (3, 162, 3)


def test_another_format_version_is_refused(tmp_path):
    path = tmp_path / "photo.npz"
    fit_files.save(make_fit(), path)
    rewrite(path, lambda arrays: arrays.update(format_version=np.array(99)))
    with pytest.raises(FitFileError, match=r"photo\.npz.*format_version 99"):
        fit_files.load(path)


def test_pickled_content_is_refused(tmp_path):
    path = tmp_path / "photo.npz"
    fit_files.save(make_fit(), path)
    rewrite(path, lambda arrays: arrays.update(notes=np.array([{"a": 1}, None, None], dtype=object)))
    with pytest.raises(FitFileError, match=r"photo\.npz"):
        fit_files.load(path)
