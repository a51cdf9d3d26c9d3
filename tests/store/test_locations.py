"""Locations: the same behaviour on a disk, in memory and in a bucket whose server fails."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from bucket_server import failing_server

from annyfit_jax.store import locations
from annyfit_jax.store.locations import JobWriteError, Location, is_remote, place, read_all
from experiments.studies.faulty_s3 import FaultyS3


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyS3]:
    with failing_server(share=0.2) as made:
        yield made


@pytest.fixture(params=["disk", "memory", "s3", "gs"])
def folder(request, tmp_path, monkeypatch) -> Location:
    monkeypatch.setenv("ANNYFIT_CACHE", str(tmp_path / "cache"))
    if request.param == "disk":
        return place(tmp_path / "folder")
    if request.param == "gs":
        return place(request.getfixturevalue("gs")) / tmp_path.name
    if request.param == "memory":
        return place(f"memory://{tmp_path.name}-{os.getpid()}")
    server = request.getfixturevalue("server")
    return place(f"s3://{server.bucket}/{tmp_path.name}")


def test_what_is_put_is_read(folder):
    file = folder / "a" / "b.json"
    assert not file.exists() and not file.is_file() and file.read_json() is None and file.stamp() == ""
    file.put_json({"x": [1, 2]})
    assert file.is_file() and folder.is_dir() and file.read_json() == {"x": [1, 2]}
    assert file.size() == len(file.read_bytes()) > 0
    file.put_parts([b"one ", b"two"])
    assert file.read_bytes() == b"one two"
    assert file.fetched().read_bytes() == b"one two"


def test_a_fetched_copy_follows_the_object(folder):
    file = folder / "shard"
    file.put(b"x" * 300_000)
    first, stamp = file.fetched(), file.stamp()
    assert first.read_bytes() == b"x" * 300_000
    file.put(b"y" * 300_000)
    assert file.fetched().read_bytes() == b"y" * 300_000
    assert len(stamp) == 16 and file.stamp() != stamp


def test_the_files_of_a_folder(folder):
    assert folder.files() == {}
    for name in ("b", "a", "c/d"):
        (folder / name).put(name.encode() * 3)
    assert folder.files() == {"a": 3, "b": 3}
    assert read_all(folder, ["a", "b"]) == {"a": b"aaa", "b": b"bbb"}
    assert read_all(folder, ["a"]) == {"a": b"aaa"}
    (folder / "a").remove()
    (folder / "a").remove()
    assert list(folder.files()) == ["b"]
    (folder / "c").remove()
    assert not (folder / "c").exists()


def test_the_first_put_wins_where_it_is_asked_for(folder):
    file = folder / "plan"
    file.put(b"first", if_absent=True)
    file.put(b"second", if_absent=True)
    assert file.read_bytes() == b"first"
    file.put(b"third")
    assert file.read_bytes() == b"third"


def test_a_second_name(folder):
    (folder / "a").put(b"content")
    (folder / "b").linked_to(folder / "a")
    (folder / "a").remove()
    assert (folder / "b").read_bytes() == b"content"


def test_lines(folder):
    file = folder / "progress.jsonl"
    file.append("one\n")
    file.append("two\n")
    assert file.read_bytes().splitlines()[-1] == b"two"


def test_locations_are_values(folder):
    assert pickle.loads(pickle.dumps(folder / "a")) == folder / "a" != folder / "b"
    assert (folder / "a").name == "a" and place(folder) is folder and len({folder / "a", place(str(folder / "a"))}) == 1


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("s3://b/k", True),
        ("gs://b", True),
        ("memory://x", True),
        ("/a/b", False),
        ("file:///a", False),
        ("a:b//c", False),
    ],
)
def test_what_is_remote(text, remote):
    assert is_remote(text) is remote


def test_file_urls_are_paths(tmp_path):
    assert place(f"file://{tmp_path}/a").path == tmp_path / "a"


def test_the_server_really_failed(server):
    """The tests before this one may have met every kind already."""
    kinds = ("500", "slow down", "cut")
    for index in range(200):
        if min(server.faults[kind] for kind in kinds) > 0:
            break
        (place(f"s3://{server.bucket}/many") / str(index)).put(b"x" * 1000)
        assert (place(f"s3://{server.bucket}/many") / str(index)).read_bytes() == b"x" * 1000
    assert min(server.faults[kind] for kind in kinds) > 0


def test_errors_that_stay_are_said(server, monkeypatch):
    monkeypatch.setattr(locations, "ATTEMPTS", 2)
    monkeypatch.setattr(server, "share", 1.0)
    with pytest.raises(JobWriteError, match="s3://bucket/lost: cannot be written"):
        place(f"s3://{server.bucket}/lost").put(b"x")
    monkeypatch.undo()


def test_a_server_that_was_never_reached_is_tried_for_a_short_time(server, monkeypatch):
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        patch.setattr(locations, "FIRST_CONTACT_S", 0.5)
        patch.setattr(locations, "_reached", set())
        patch.setattr(locations.logging, "warning", lambda text, *values: said.append(text % values))
        locations._fs_of.cache_clear()
        with pytest.raises(OSError, match="s3://bucket/x: EndpointConnectionError"):
            place("s3://bucket/x").exists()
    locations._fs_of.cache_clear()
    assert len(said) == 1 and "http://127.0.0.1:9" in said[0] and "trying again for 0.5 s" in said[0]


def test_fetched_objects_make_way(folder, monkeypatch):
    if not folder.remote:
        pytest.skip("nothing is copied on a disk")
    monkeypatch.setattr(locations, "CACHE_BYTES", 2500)
    for name in "abc":
        (folder / name).put(name.encode() * 1000)
        (folder / name).fetched()
    kept = [path.name[-1] for path in Path(os.environ["ANNYFIT_CACHE"]).iterdir()]
    assert sorted(kept) == ["b", "c"]


def test_a_missing_package_is_named(monkeypatch):
    def missing(*_: object, **__: object) -> None:
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    locations._fs_of.cache_clear()
    with pytest.raises(ValueError, match=r"pip install 'annyfit-jax\[gs\]'"):
        place("gs://bucket/x").exists()
