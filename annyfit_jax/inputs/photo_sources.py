"""Photos that do not come as a folder: WebDataset tars (img2dataset writes such) and lists of URLs, laid out as a folder of
files.

| location | what is taken |
| --- | --- |
| `shard.tar`, `shards/*.tar`, a folder of `.tar` | every photo in them, `<shard>/<member>` |
| `urls.txt` | a URL a line |
| `urls.jsonl`, `urls.csv`, `urls.parquet` | the column `url` |

What is there already is not read or fetched again, so that a killed run goes on. What cannot be had is listed in
`not_fetched.jsonl`."""

from __future__ import annotations

import csv
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
from annyfit_jax.records.files import json_lines, replacing, write_bytes

MAX_BYTES = 100 << 20
"""Of a photo; a larger one is left out."""
_LISTS = (".txt", ".jsonl", ".csv", ".parquet")
_FETCHERS = 16
_TIMEOUT_S = 30.0


def is_photo_source(location: str | Path) -> bool:
    """Whether a location is tars of photos or a list of URLs, by its look."""
    return bool(_tars(location)) or _is_list(Path(location))


def as_folder(location: str | Path, folder: str | Path) -> Path:
    """Lays the photos of a location out as files below `folder`; returns that folder.

    Raises SceneError where a tar or a list cannot be read.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tars = _tars(location)
    missing = [row for tar in tars for row in _unpack(tar, folder)] if tars else _fetch_all(Path(location), folder)
    if missing:
        logging.warning("%s: %d photos could not be had; see %s", location, len(missing), folder / "not_fetched.jsonl")
    write_bytes(folder / "not_fetched.jsonl", b"".join(json_lines(missing)))
    return folder


def _tars(location: str | Path) -> list[Path]:
    path = Path(location)
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    if path.suffix == ".tar" and not any(sign in path.name for sign in "*?["):
        return [path] if path.is_file() else []
    return sorted(path.parent.glob(path.name)) if path.name.endswith(".tar") else []


def _is_list(path: Path) -> bool:
    """A text file counts where its first line is a URL, a table where it has the column."""
    if path.suffix not in _LISTS or not path.is_file():
        return False
    try:
        return _is_url(next(_urls(path), ""))
    except (SceneError, OSError, ValueError):
        return False


def _is_url(text: str) -> bool:
    return urlsplit(text).scheme in ("http", "https")


# ------------------------------------------------------------------------------------------------ tars


def _unpack(tar: Path, folder: Path) -> list[dict[str, str]]:
    """Writes the photos of a tar; returns those that cannot be. A finished tar is known by its mark."""
    place, missing = folder / tar.stem, []
    mark = place / ".finished"
    state = f"{tar.stat().st_size} {tar.stat().st_mtime_ns}"
    if mark.exists() and mark.read_text() == state:
        return []
    try:
        with tarfile.open(tar) as archive:
            for member in archive:
                name = _safe(member.name)
                if not (member.isfile() and name.lower().endswith(SUFFIXES)):
                    continue
                file = archive.extractfile(member) if member.size <= MAX_BYTES else None
                if file is None:
                    missing.append({"photo": f"{tar.name}/{member.name}", "reason": f"{member.size} bytes"})
                    continue
                target = place / name
                if not target.exists() or target.stat().st_size != member.size:
                    with replacing(target) as temporary:
                        temporary.write_bytes(file.read())
    except (tarfile.TarError, EOFError) as error:
        raise SceneError(f"{tar}: not a readable tar file ({error})") from None
    write_bytes(mark, state.encode())
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


def _fetch_all(path: Path, folder: Path) -> list[dict[str, str]]:
    import urllib3

    # Redirects and answers of busy servers are followed and repeated; each URL has its row's number as its name.
    retries = urllib3.Retry(4, backoff_factor=0.3, status_forcelist=(429, 500, 502, 503, 504))
    pool = urllib3.PoolManager(maxsize=_FETCHERS, retries=retries, timeout=_TIMEOUT_S)

    def fetch(row: tuple[int, str]) -> dict[str, str] | None:
        number, url = row
        if not _is_url(url):
            return {"photo": url, "reason": "not an http or https URL"}
        suffix = os.path.splitext(urlsplit(url).path)[1].lower()
        target = folder / f"{number:08d}{suffix if suffix in SUFFIXES else '.jpg'}"
        if target.exists():
            return None
        try:
            with pool.request("GET", url, preload_content=False) as answer:
                content = answer.read(MAX_BYTES + 1)
                if answer.status != 200 or len(content) > MAX_BYTES:
                    return {"photo": url, "reason": f"status {answer.status}, {len(content)} bytes"}
        except urllib3.exceptions.HTTPError as error:
            return {"photo": url, "reason": f"{type(error).__name__}: {error}"}
        write_bytes(target, content)
        return None

    with ThreadPoolExecutor(_FETCHERS, "photos") as threads:
        return [row for row in threads.map(fetch, enumerate(_urls(path))) if row is not None]
