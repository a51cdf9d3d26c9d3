"""Photos that do not come as a folder: WebDataset tars (img2dataset writes such) and lists of URLs, laid out as a folder of
files.

| location | what is taken |
| --- | --- |
| `shard.tar`, `shards/*.tar`, a folder of `.tar` | every photo in them, `<shard>/<member>` |
| `urls.txt` | a URL a line |
| `urls.jsonl`, `urls.csv`, `urls.parquet` | the column `url` |

Location and folder may be in buckets. What is there already is not read or fetched again, so that a killed run goes on. What
cannot be had is listed in `not_fetched.jsonl`."""

from __future__ import annotations

import csv
import fnmatch
import json
import os
import re
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from absl import logging

from annyfit_jax.inputs.photos import SUFFIXES
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.files import json_lines
from annyfit_jax.store.locations import Location, place

MAX_BYTES = 100 << 20
"""Of a photo; a larger one is left out."""
_LISTS = (".txt", ".jsonl", ".csv", ".parquet")
_FETCHERS = 16
_TIMEOUT_S = 30.0


def is_photo_source(location: str | Path) -> bool:
    """Whether a location is tars of photos or a list of URLs, by its look."""
    return bool(_tars(location)) or _is_list(place(str(location)))


def as_folder(location: str | Path, folder: str | Path | Location) -> str:
    """Lays the photos of a location out as files below `folder`; returns that folder.

    Raises SceneError where a tar or a list cannot be read.
    """
    folder = place(folder)
    tars = _tars(location)
    if tars:
        missing = [row for tar in tars for row in _unpack(tar, folder / tar.name.removesuffix(".tar"))]
    else:
        missing = _fetch_all(place(str(location)).fetched(), folder)
    if missing:
        logging.warning("%s: %d photos could not be had; see %s", location, len(missing), folder / "not_fetched.jsonl")
    (folder / "not_fetched.jsonl").put_parts(json_lines(missing))
    return str(folder)


def _tars(location: str | Path) -> list[Location]:
    folder, _, pattern = str(location).rpartition("/")
    if not pattern.endswith(".tar"):
        folder, pattern = str(location), "*.tar"
    names = place(folder or ".").files()
    return [place(folder or ".") / name for name in sorted(names) if fnmatch.fnmatchcase(name, pattern)]


def _is_list(location: Location) -> bool:
    """A text file counts where its first line is a URL, a table where it has the column."""
    if not location.name.endswith(_LISTS) or not location.is_file():
        return False
    path = location.fetched()
    try:
        return _is_url(next(_urls(path), ""))
    except (SceneError, OSError, ValueError):
        return False


def _is_url(text: str) -> bool:
    return urlsplit(text).scheme in ("http", "https")


# ------------------------------------------------------------------------------------------------ tars


def _unpack(tar: Location, folder: Location) -> list[dict[str, str]]:
    """Writes the photos of a tar into a folder; returns those that cannot be. A finished tar is known by its mark."""
    missing: list[dict[str, str]] = []
    mark, state = folder / ".finished", tar.stamp().encode()
    if mark.exists() and mark.read_bytes() == state:
        return missing
    there = folder.files()
    try:
        with tarfile.open(tar.fetched()) as archive:
            for member in archive:
                name = _safe(member.name)
                if not (member.isfile() and name.lower().endswith(SUFFIXES)):
                    continue
                file = archive.extractfile(member) if member.size <= MAX_BYTES else None
                if file is None:
                    missing.append({"photo": f"{tar.name}/{member.name}", "reason": f"{member.size} bytes"})
                elif there.get(name) != member.size:
                    (folder / name).put(file.read())
    except (tarfile.TarError, EOFError) as error:
        raise SceneError(f"{tar}: not a readable tar file ({error})") from None
    mark.put(state)
    return missing


def _safe(name: str) -> str:
    """A member's path as one file name; whatever it tries, it stays in the folder."""
    return re.sub(r"[^\w.-]+", "_", "_".join(PurePosixPath(name).parts)).lstrip("._")[-150:]


# ------------------------------------------------------------------------------------------------ URLs


def _urls(path: Path) -> Iterator[str]:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.ParquetFile(path)
            for batch in table.iter_batches(columns=["url"]):
                yield from (str(url) for url in batch.column(0).to_pylist())
        except (KeyError, IndexError, pyarrow.ArrowException) as error:
            raise SceneError(f"{path}: no column `url` ({error})") from None
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        if path.suffix == ".csv":
            for row in csv.DictReader(lines):
                yield str(row.get("url", ""))
        elif path.suffix == ".jsonl":
            for line in lines:
                content = json.loads(line)
                yield str(content.get("url", "")) if isinstance(content, dict) else ""
        else:
            yield from (line.strip() for line in lines if line.strip())


def _fetch_all(path: Path, folder: Location) -> list[dict[str, str]]:
    import urllib3

    # Redirects and answers of busy servers are followed and repeated; each URL has its row's number as its name.
    retries = urllib3.Retry(4, backoff_factor=0.3, status_forcelist=(429, 500, 502, 503, 504))
    pool = urllib3.PoolManager(maxsize=_FETCHERS, retries=retries, timeout=_TIMEOUT_S)

    there = folder.files()

    def fetch(row: tuple[int, str]) -> dict[str, str] | None:
        number, url = row
        if not _is_url(url):
            return {"photo": url, "reason": "not an http or https URL"}
        suffix = os.path.splitext(urlsplit(url).path)[1].lower()
        name = f"{number:08d}{suffix if suffix in SUFFIXES else '.jpg'}"
        if name in there:
            return None
        try:
            with pool.request("GET", url, preload_content=False) as answer:
                content = answer.read(MAX_BYTES + 1)
                if answer.status != 200 or len(content) > MAX_BYTES:
                    return {"photo": url, "reason": f"status {answer.status}, {len(content)} bytes"}
        except urllib3.exceptions.HTTPError as error:
            return {"photo": url, "reason": f"{type(error).__name__}: {error}"}
        (folder / name).put(content)
        return None

    with ThreadPoolExecutor(_FETCHERS, "photos") as threads:
        return [row for row in threads.map(fetch, enumerate(_urls(path))) if row is not None]
