"""Photos from tars and lists of URLs: files in a folder, whatever the members are called, once."""

from __future__ import annotations

import csv
import functools
import http.server
import io
import json
import os
import tarfile
import threading
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from annyfit_jax.inputs import photo_sources
from annyfit_jax.inputs.photo_sources import as_folder, is_photo_source
from annyfit_jax.inputs.photos import bucket_photos, jpeg_bytes, list_photos, read_photo
from annyfit_jax.people.scene import SceneError
from annyfit_jax.store.locations import place
from experts.pipeline import Collection


def jpeg(colour: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), colour, np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return path


def photos(folder: str | Path) -> dict[str, int]:
    """Path below the folder -> the grey of the photo."""
    folder = Path(folder)
    return {path.relative_to(folder).as_posix(): int(read_photo(path)[0, 0, 0]) for path in list_photos(folder)}


def test_photos_of_tars_become_files_and_stay_in_the_folder(tmp_path):
    write_tar(tmp_path / "in" / "00000.tar", {"a.jpg": jpeg(10), "a.json": b"{}", "../../b.jpg": jpeg(20)})
    write_tar(tmp_path / "in" / "00001.tar", {"a.jpg": jpeg(30), "/c/d.jpg": jpeg(40)})
    (tmp_path / "in" / "00000.parquet").write_bytes(b"")
    for location in (tmp_path / "in", tmp_path / "in" / "*.tar"):
        assert is_photo_source(location)
        out = tmp_path / f"out{len(location.name)}"
        assert as_folder(location, out) == str(out)
        found = photos(out)
        assert len(found) == 4 and sorted(found.values()) == [10, 20, 30, 40]
        assert {Path(name).parent.as_posix() for name in found} == {"00000", "00001"}
    assert not (tmp_path / "b.jpg").exists()
    assert photos(as_folder(tmp_path / "in" / "00001.tar", tmp_path / "one")).keys() == {"00001/a.jpg", "00001/c_d.jpg"}


def test_a_tar_is_unpacked_once_and_again_where_it_has_changed(tmp_path):
    tar = write_tar(tmp_path / "in" / "s.tar", {"a.jpg": jpeg(10)})
    out = Path(as_folder(tar, tmp_path / "out"))
    (out / "s" / "a.jpg").unlink()
    assert not list((Path(as_folder(tar, out)) / "s").glob("*.jpg"))
    write_tar(tar, {"a.jpg": jpeg(10), "b.jpg": jpeg(50)})
    assert sorted(photos(as_folder(tar, out)).values()) == [10, 50]


def test_tars_and_photos_in_a_bucket(tmp_path):
    """Tars of a bucket become photos of a bucket, which are read as those of a disk are."""
    bucket = place(f"memory://tars-{tmp_path.name}-{os.getpid()}")
    for name in ("00000.tar", "00001.tar"):
        tar = write_tar(tmp_path / name, {"a.jpg": jpeg(10), "b.JPG": jpeg(20), ".hidden.jpg": jpeg(30)})
        (bucket / "in" / name).put(tar.read_bytes())
    for location in (f"{bucket}/in", f"{bucket}/in/*.tar"):
        assert is_photo_source(location)
        assert as_folder(location, bucket / "out") == f"{bucket}/out"
    root, stamps = bucket_photos(f"{bucket}/out")
    assert root == f"{bucket}/out" and len(set(stamps.values())) >= 1
    assert list(stamps) == [f"0000{tar}/{name}" for tar in (0, 1) for name in ("a.jpg", "b.JPG", "hidden.jpg")]
    assert read_photo(f"{root}/00001/b.JPG").shape == (8, 8, 3) and jpeg_bytes(f"{root}/00001/a.jpg") == jpeg(10)
    alone, (name,) = bucket_photos(f"{root}/00000/a.jpg")
    assert f"{alone}/{name}" == f"{root}/00000/a.jpg"
    collection = Collection.of_folder(f"{bucket}/out", limit=4)
    assert (collection.files[3], collection.names[3]) == ("00001/a.jpg", "00001_a")
    assert collection.stamp(0) == stamps["00000/a.jpg"] and read_photo(collection.paths[0])[0, 0, 0] == 10
    with pytest.raises(SceneError, match="no photo"):
        bucket_photos(f"{bucket}/lost")
    with pytest.raises(SceneError, match="no such file"):
        read_photo(f"{bucket}/lost.jpg")


def test_a_broken_tar_is_named(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"no tar")
    with pytest.raises(SceneError, match=r"x\.tar: not a readable tar"):
        as_folder(tmp_path / "x.tar", tmp_path / "out")


def test_a_photo_that_is_too_large_is_left_out_and_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(photo_sources, "MAX_BYTES", len(jpeg(10)))
    tar = write_tar(tmp_path / "in" / "s.tar", {"a.jpg": jpeg(10), "b.jpg": jpeg(10) + b"x"})
    out = Path(as_folder(tar, tmp_path / "out"))
    assert list(photos(out)) == ["s/a.jpg"]
    assert json.loads((out / "not_fetched.jsonl").read_text())["photo"] == "s.tar/b.jpg"


@pytest.fixture
def site(tmp_path):
    """A web server on the loopback; its URL and the paths that it was asked for."""
    folder, asked = tmp_path / "site", []
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.jpg").write_bytes(jpeg(20 * index))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *_: object) -> None:
            asked.append(self.path)

        def log_error(self, format: str, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv", "parquet"])
def test_lists_of_urls(site, tmp_path, suffix):
    base, asked = site
    urls = [f"{base}/0.jpg", f"{base}/gone.jpg", f"{base}/2.jpg?size=1", "file:///etc/passwd"]
    path = tmp_path / f"urls.{suffix}"
    if suffix == "txt":
        path.write_text("\n".join(urls) + "\n")
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps({"url": url, "caption": "x"}) + "\n" for url in urls))
    elif suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([("caption", "url"), *(("a, b", url) for url in urls)])
    else:
        pyarrow.parquet.write_table(pyarrow.table({"url": urls}), path)
    assert is_photo_source(path)
    out = Path(as_folder(path, tmp_path / "out"))
    assert photos(out) == {"00000000.jpg": 0, "00000002.jpg": 40}
    missing = [json.loads(line) for line in (out / "not_fetched.jsonl").read_text().splitlines()]
    assert [row["photo"] for row in missing] == [urls[1], urls[3]] and "404" in missing[0]["reason"]
    before = len(asked)
    as_folder(path, out)
    assert asked[before:] == ["/gone.jpg"]


def test_other_files_are_no_photo_sources(tmp_path):
    (tmp_path / "notes.txt").write_text("hello\n")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty.jsonl").write_text("")
    for name in ("notes.txt", "table.csv", "empty.jsonl", "none.tar", "*.tar", "."):
        assert not is_photo_source(tmp_path / name), name
