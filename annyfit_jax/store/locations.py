"""Files and folders, wherever they are: plain paths, `file://`, `memory://`, `s3://`, `gs://` and what else fsspec knows.

    folder = place("s3://bucket/fits")
    (folder / "job.json").put(b"{}")             # whole or not at all
    with_path = (folder / "shard").fetched()     # a local file with the content

On a disk a file is written beside its place, flushed and renamed. An object of a bucket is put whole. Requests that fail for a
reason that may pass (a server's error, a slow-down answer, a connection that is cut) are repeated with growing pauses, and what
arrives is compared with the size that the store states.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import hashlib
import itertools
import json
import math
import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from absl import logging

from annyfit_jax.records.files import clean_leftovers, open_regular, read_json, replacing
from annyfit_jax.store.faults import fault_point

ATTEMPTS = 11
"""How often a request to a bucket is made before its error is believed: for one to two minutes."""
FIRST_PAUSE_S = 0.1
FIRST_CONTACT_S = 20.0
"""For how long a server is tried that has not been reached yet: its address may be wrong."""
_CONNECT_S = 10
_reached: set[str] = set()
"""Protocols whose server has answered this process."""
CACHE_BYTES = 20 << 30
"""Room for fetched objects on the local disk; the ones unused for longest make way."""
_ENDS = 1 << 16
"""Bytes of the beginning and of the end of a local file that its fingerprint reads."""
_PATIENCE = 2
"""Failures of a request that are nothing to speak of."""
_PERMANENT = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
T = TypeVar("T")


class JobWriteError(RuntimeError):
    """The output cannot be written to (disk full, quota, permissions). Nothing half-written is left."""


@contextlib.contextmanager
def writing(path: Path | Location) -> Iterator[None]:
    """Turns what a full or failing disk raises (ArrayRecord: RuntimeError) into one JobWriteError that names the file."""
    try:
        yield
    except JobWriteError:
        raise
    except (OSError, RuntimeError) as error:
        full = isinstance(error, RuntimeError) or error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "make room and run the same command again" if full else "run the same command again once it can be"
        raise JobWriteError(f"{path}: cannot be written ({error}); {advice}") from error


def is_remote(text: str | Path | Location) -> bool:
    """Whether a location is a URL of something else than the local disk."""
    scheme, separator, _ = str(text).partition("://")
    return bool(separator) and scheme.isalnum() and scheme != "file"


def place(text: str | Path | Location) -> Location:
    """The location of a path or URL."""
    return text if isinstance(text, Location) else Location(str(text))


class Location:
    """A file or folder. Two locations are equal where their texts are; can be pickled."""

    def __init__(self, text: str) -> None:
        self.remote = is_remote(text)
        self._text = text.rstrip("/") if self.remote else os.fspath(Path(text.removeprefix("file://")))

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"place({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __truediv__(self, name: str) -> Location:
        return Location(f"{self._text}/{name}" if self.remote else os.path.join(self._text, name))

    @property
    def name(self) -> str:
        """The last part."""
        return self._text.rpartition("/")[2]

    @property
    def parent(self) -> Location:
        """The folder that it is in."""
        return Location(self._text.rpartition("/")[0] if self.remote else os.fspath(self.path.parent))

    @property
    def path(self) -> Path:
        """The path of a local one. Raises ValueError for a remote one."""
        if self.remote:
            raise ValueError(f"{self}: expected a path on the local disk")
        return Path(self._text)

    # ---------------------------------------------------------------------------------------- reading

    def exists(self) -> bool:
        """Whether there is a file or a folder."""
        return _retried(lambda: _fs(self).exists(_key(self)), self) if self.remote else self.path.exists()

    def is_file(self) -> bool:
        """Whether there is a file."""
        return _retried(lambda: _fs(self).isfile(_key(self)), self) if self.remote else self.path.is_file()

    def is_dir(self) -> bool:
        """Whether there is a folder; in a bucket, anything below."""
        return _retried(lambda: _fs(self).isdir(_key(self)), self) if self.remote else self.path.is_dir()

    def size(self) -> int:
        """Bytes of a file. Raises FileNotFoundError."""
        return int(self.info()["size"]) if self.remote else self.path.stat().st_size

    def read_bytes(self) -> bytes:
        """The content. Raises FileNotFoundError, OSError."""
        if not self.remote:
            return self.path.read_bytes()

        def read() -> bytes:
            content = _fs(self).cat_file(_key(self))
            if len(content) != self.size():
                raise OSError(f"{self}: {len(content)} of {self.size()} bytes arrived")
            return content

        return _retried(read, self)

    def read_json(self) -> Any | None:
        """The content, None where there is no such file or it is not JSON."""
        if not self.remote:
            return read_json(self.path)
        try:
            return json.loads(self.read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def fetched(self) -> Path:
        """A local file with the content: the file itself, or a copy of an object in the cache. Raises FileNotFoundError."""
        if not self.remote:
            return self.path
        info = self.info()
        kept = cache() / f"{hashlib.sha256(f'{self}|{_stated(info)}'.encode()).hexdigest()[:24]}-{self.name[-100:]}"
        if kept.exists() and kept.stat().st_size == info["size"]:
            os.utime(kept)
            return kept
        self.fetch_to(kept, info)
        _make_room(kept)
        return kept

    def fetch_to(self, target: Path, info: dict[str, Any]) -> str:
        """Copies an object to a local file, which appears whole; returns its `stamp`. Raises FileNotFoundError, OSError.

        Size and checksum are those that the store states. A checksum that is none (S3 states one of encrypted objects that is
        not of their content) is told by the same content arriving twice.

        Args:
          info: what the store last said of the object.
        """
        arrived: set[str] = set()

        def get() -> None:
            nonlocal info
            _fs(self).get_file(_key(self), os.fspath(temporary))
            size, checksum = temporary.stat().st_size, _md5_of(info)
            got = _md5(temporary) if checksum and size == info["size"] else ""
            if size != info["size"] or (got != checksum and got not in arrived):
                arrived.add(got)
                stated, info = info["size"], self.info()  # it may be another object by now
                raise OSError(f"{self}: {size} bytes arrived, not the {stated} that the store has, or others")

        with replacing(target) as temporary:
            _retried(get, self)
        return stamp_of(info)

    def files(self) -> dict[str, int]:
        """The files of a folder, without those below its subfolders: name -> bytes, sorted by name; empty where there is
        none."""
        if not self.remote:
            try:
                entries = [entry for entry in os.scandir(self.path) if entry.is_file()]
            except (FileNotFoundError, NotADirectoryError):
                return {}
            return {entry.name: entry.stat().st_size for entry in sorted(entries, key=lambda entry: entry.name)}
        try:
            listed = _retried(lambda: _fs(self).ls(_key(self), detail=True, refresh=True), self)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        names = {entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in listed if entry["type"] == "file"}
        return {name: int(names[name]["size"]) for name in sorted(names) if name}

    def tree(self) -> dict[str, tuple[int, str]]:
        """All files below a folder: path below it -> bytes and, of an object, its `stamp`; sorted, else empty."""
        if not self.remote:
            files = [path for path in self.path.rglob("*") if path.is_file()]
            return {path.relative_to(self.path).as_posix(): (path.stat().st_size, "") for path in sorted(files)}
        return {name: (int(info["size"]), stamp_of(info)) for name, info in self.listed().items()}

    def listed(self) -> dict[str, dict[str, Any]]:
        """All objects below a folder of a bucket: path below it -> what the store says of it; sorted, else empty."""
        found = _retried(lambda: _fs(self).find(_key(self), detail=True), self)
        below = f"{_key(self).rstrip('/')}/"
        return {key.removeprefix(below): info for key, info in sorted(found.items()) if key.startswith(below)}

    def stamp(self) -> str:
        """A cheap fingerprint of a file's content, 16 hex digits; empty where there is no file.

        Of an object what the store says (size and ETag); of a local file its size, its beginning and its end.
        """
        if self.remote:
            try:
                return stamp_of(self.info())
            except FileNotFoundError:
                return ""
        digest = hashlib.sha256()
        try:
            with open_regular(self.path) as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(f"{size}|".encode() + file.read(_ENDS))
                if size > 2 * _ENDS:
                    file.seek(-_ENDS, os.SEEK_END)
                digest.update(file.read(_ENDS))
        except (OSError, ValueError):
            return ""
        return digest.hexdigest()[:16]

    def info(self) -> dict[str, Any]:
        """What the store says of an object, its `size` among it. Raises FileNotFoundError."""
        return _retried(lambda: _fs(self).info(_key(self), refresh=True), self)

    # ---------------------------------------------------------------------------------------- writing

    def put(self, content: bytes, *, if_absent: bool = False) -> None:
        """Writes a whole file, flushed to the disk. With `if_absent` one that is there already stays. Raises JobWriteError."""
        self.put_parts([content], if_absent=if_absent)

    def put_json(self, content: Any, *, if_absent: bool = False) -> None:
        """`put` of JSON data."""
        self.put((json.dumps(content, indent=1) + "\n").encode(), if_absent=if_absent)

    def put_parts(self, parts: Iterable[bytes], *, if_absent: bool = False) -> None:
        """`put` of parts that are made one after the other and need not be in memory together."""
        with writing(self), self.replacing(if_absent=if_absent) as temporary, temporary.open("wb") as file:
            file.writelines(parts)

    @contextlib.contextmanager
    def replacing(self, *, if_absent: bool = False) -> Iterator[Path]:
        """Gives a local file to write to, which takes this place at the end of the block."""
        fault_point(f"{self.name}: before writing")
        if not self.remote:
            with replacing(self.path, flush=True, first_wins=if_absent) as temporary:
                yield temporary
                fault_point(f"{self.name}: before renaming")
        else:
            with tempfile.TemporaryDirectory(prefix="annyfit-") as scratch:
                temporary = Path(scratch) / self.name[-100:]
                yield temporary
                fault_point(f"{self.name}: before renaming")
                self._upload(temporary, if_absent)
        fault_point(f"{self.name}: renamed")

    def _upload(self, file: Path, if_absent: bool) -> None:
        if if_absent:
            # A put that is repeated may find its own object: its content is then the same.
            with contextlib.suppress(FileExistsError):
                _retried(lambda: _fs(self).pipe_file(_key(self), file.read_bytes(), mode="create"), self)
            return

        def send() -> None:
            _fs(self).put_file(os.fspath(file), _key(self))
            if self.size() != file.stat().st_size:
                raise OSError(f"{self}: {self.size()} of {file.stat().st_size} bytes arrived")

        _retried(send, self)

    def linked_to(self, other: Location) -> None:
        """Makes this a second name of `other`: a hard link on a disk where it can be one, else a copy."""
        if self.remote:
            _retried(lambda: _fs(self).copy(_key(other), _key(self)), self)
            return
        with replacing(self.path) as temporary:
            try:
                os.link(other.path, temporary)
            except OSError:
                shutil.copyfile(other.path, temporary)

    def remove(self) -> None:
        """Removes a file, or a folder with all that is in it; nothing where there is none."""
        with contextlib.suppress(FileNotFoundError):
            if self.remote:
                _retried(lambda: _fs(self).rm(_key(self), recursive=True), self)
            elif self.path.is_dir() and not self.path.is_symlink():
                shutil.rmtree(self.path)
            else:
                self.path.unlink()

    def clean(self, older_than_s: float = 3600.0) -> None:
        """Removes what killed processes left in a local folder; a bucket has no such leftovers."""
        if not self.remote:
            clean_leftovers(self.path, older_than_s)

    def append(self, line: str) -> None:
        """Adds a line to a local file. In a bucket, where nothing can be added, the object becomes that line."""
        if self.remote:
            self.put(line.encode())
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(line)


@contextlib.contextmanager
def filled(folder: str | Path | Location) -> Iterator[Path]:
    """Gives a local folder to write to; the files of one in a bucket are put there at the end of the block, each whole."""
    folder = place(folder)
    if not folder.remote:
        yield folder.path
        return
    with tempfile.TemporaryDirectory(prefix="annyfit-") as scratch:
        yield Path(scratch)
        for name in place(scratch).tree():
            with (folder / name).replacing() as upload:
                shutil.move(Path(scratch) / name, upload)


def read_all(folder: Location, names: Iterable[str]) -> dict[str, bytes]:
    """The content of files of a folder, requests to a bucket side by side; files that are gone meanwhile are left out."""
    if not folder.remote:
        return {name: (folder.path / name).read_bytes() for name in names}
    found, wanted = {}, {_key(folder / name): name for name in names}
    for key, content in _fs(folder).cat(list(wanted), on_error="return").items() if wanted else ():
        name = wanted[key.lstrip("/") if key not in wanted else key]
        with contextlib.suppress(FileNotFoundError):
            found[name] = content if isinstance(content, bytes) else (folder / name).read_bytes()
    return found


@functools.lru_cache(maxsize=64)
def _fs_of(protocol: str, process: int) -> Any:
    import fsspec
    from fsspec.config import conf

    # What others write must be seen at once: no listing is kept.
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True} if protocol != "memory" else {}
    if protocol == "s3":  # `_retried` repeats requests, and says so
        theirs = conf.get("s3", {}).get("config_kwargs", {})
        options["config_kwargs"] = {"retries": {"max_attempts": 0}, "connect_timeout": _CONNECT_S, **theirs}
    try:
        return fsspec.filesystem(protocol, **options)
    except ImportError as error:
        extra = {"s3": "s3", "gs": "gs", "gcs": "gs"}.get(protocol)
        hint = f": pip install 'annyfit-jax[{extra}]'" if extra else ""
        raise ValueError(f"{protocol}://: {error}{hint}") from None


def _fs(location: Location) -> Any:
    return _fs_of(str(location).partition("://")[0], os.getpid())  # a fork must not share connections


def _key(location: Location) -> str:
    return _fs(location)._strip_protocol(str(location))


def _retried(request: Callable[[], T], location: Location) -> T:
    """The answer of a request that is repeated where its error may pass. Raises OSError."""
    protocol, began = str(location).partition("://")[0], time.monotonic()
    for attempt in itertools.count():
        try:
            answer = request()
            _reached.add(protocol)
            return answer
        except _PERMANENT as error:
            if str(location) in str(error):
                raise
            raise type(error)(f"{location}: {error}") from error
        except (
            Exception
        ) as error:  # of botocore, aiohttp, google-api-core, ...: their hierarchies have nothing in common
            if isinstance(error, ValueError | TypeError | AttributeError | KeyError) and not isinstance(error, OSError):
                raise
            new = protocol not in _reached and "Connect" in type(error).__name__
            over = time.monotonic() - began > FIRST_CONTACT_S if new else attempt + 1 >= ATTEMPTS
            if over or "Credentials" in type(error).__name__:
                raise OSError(f"{location}: {type(error).__name__}: {error}") from error
            if new and attempt == 0:
                logging.warning("%s: %s; trying again for %g s", location, error, FIRST_CONTACT_S)
            say = logging.warning if attempt == _PATIENCE and not new else logging.debug
            say("%s: %r, once more", location, error)
            time.sleep(min(FIRST_PAUSE_S * 2**attempt, 2.0 if new else math.inf) * random.uniform(0.5, 1.0))
    raise AssertionError


def _stated(info: dict[str, Any]) -> str:
    named = [str(info[key]) for key in ("ETag", "etag", "md5Hash", "crc32c", "created", "mtime") if info.get(key)]
    return f"{info['size']}|{named[0] if named else ''}"


def stamp_of(info: dict[str, Any]) -> str:
    """A fingerprint of an object from what the store says of it, 16 hex digits."""
    return hashlib.sha256(_stated(info).encode()).hexdigest()[:16]


def _md5_of(info: dict[str, Any]) -> str:
    """The checksum of an object's content that the store states, hex; empty where it states none."""
    if coded := info.get("md5Hash"):
        return base64.b64decode(coded).hex()
    tag = str(info.get("ETag", "")).strip('"')
    return tag if re.fullmatch("[0-9a-f]{32}", tag) else ""


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def cache() -> Path:
    """The local folder of what was fetched: `ANNYFIT_CACHE`."""
    folder = Path(os.environ.get("ANNYFIT_CACHE", "~/.cache/annyfit-jax/objects")).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _make_room(latest: Path) -> None:
    """Removes the fetched objects unused for longest where there are too many bytes of them."""
    states = sorted((entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(latest.parent))
    total = sum(size for _, size, _ in states)
    for _, size, path in states:
        if total <= CACHE_BYTES:
            return
        if path != os.fspath(latest):
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size
