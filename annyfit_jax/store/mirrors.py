"""A file or folder of a bucket as local files, for whoever can read nothing but files.

    mirror = Mirror.of(place("s3://bucket/keypoints"), (".json",))
    folder = mirror.fetch()                      # a local folder with those files
    mirror.named(f"{folder}/a.json: broken")     # "s3://bucket/keypoints/a.json: broken"

Files are fetched whole and compared with size and checksum of their objects. Those that are there from an earlier run and whose
objects are the same stay. A mirror can be pickled: a worker on another machine fetches the same files to the same path.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from absl import logging

from annyfit_jax.records.files import read_json, write_json
from annyfit_jax.store import locations
from annyfit_jax.store.locations import Location, place

_FETCHERS = 16
_BATCH = 1000
"""Files after which is noted what is there, for a run that is killed meanwhile."""
_LEDGER = "fetched.json"
"""Beside the files of a mirror: `{path: fingerprint of the object that it was fetched from}`."""
_LOCK = "lock"


@dataclass(frozen=True)
class Mirror:
    """The objects at a location as they were listed once."""

    location: Location
    is_file: bool
    root: Path
    """Local folder of this mirror alone."""
    objects: dict[str, dict[str, Any]] = field(repr=False)
    """Path below `folder` -> what the store says of the object."""
    folders: frozenset[str] = field(repr=False)
    """Of all objects, also of those that are not fetched."""

    @staticmethod
    def of(location: str | Location, suffixes: Sequence[str] = (), without: Sequence[str] = ()) -> Mirror:
        """Lists a location of a bucket: a file, or a folder with all that is below it.

        Args:
          suffixes, without: of the names, in lower case, of a folder's files that are fetched (default all) or left out.

        Raises FileNotFoundError where nothing is there.
        """
        location = place(location)
        objects = location.listed()
        is_file = not objects
        if is_file:
            try:
                objects = {location.name: location.info()}
            except FileNotFoundError:
                raise FileNotFoundError(f"{location}: no such file or folder") from None
        inside = {name: info for name, info in objects.items() if _is_inside(name)}
        kept = {
            name: info
            for name, info in inside.items()
            if is_file
            or (name.lower().endswith(tuple(suffixes or ("",))) and not name.lower().endswith(tuple(without)))
        }
        key = hashlib.sha256(f"{location}|{','.join(suffixes)}|{','.join(without)}".encode()).hexdigest()[:16]
        folders = frozenset(PurePosixPath(name).parent.as_posix() for name in inside)
        return Mirror(location, is_file, locations.cache() / "mirrors" / key, kept, folders)

    @property
    def origin(self) -> Location:
        """The folder of the bucket that `folder` shows."""
        return self.location.parent if self.is_file else self.location

    @property
    def folder(self) -> Path:
        """The local folder, whose path also tells the bucket."""
        return self.root / str(self.origin).replace("://", "/")

    @property
    def path(self) -> Path:
        """The local file or folder."""
        return self.folder / self.location.name if self.is_file else self.folder

    def named(self, text: str) -> str:
        """A text in which the local paths of the mirror are those of the bucket."""
        return text.replace(str(self.folder), str(self.origin))

    def fetch(self) -> Path:
        """The local file or folder, with every object as it was listed, or newer. Raises OSError."""
        self.root.mkdir(parents=True, exist_ok=True)
        _held(self.root)
        os.utime(self.root)
        with (self.root / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of two processes, the second finds what the first has fetched
            known = read_json(self.root / _LEDGER) or {}
            there = {name: stamp for name, stamp in known.items() if self._is_there(name, stamp)}
            for name in known.keys() - there.keys():
                (self.folder / name).unlink(missing_ok=True)
            for folder in self.folders:
                (self.folder / folder).mkdir(parents=True, exist_ok=True)
            wanted = [name for name in self.objects if name not in there]
            with ThreadPoolExecutor(_FETCHERS, "fetch") as threads:
                for start in range(0, len(wanted), _BATCH):
                    names = wanted[start : start + _BATCH]
                    there |= dict(zip(names, threads.map(self._get, names), strict=True))
                    write_json(self.root / _LEDGER, there)
        if wanted:
            logging.info("%s: %d of %d files fetched", self.location, len(wanted), len(self.objects))
            _make_room(self.root)
        return self.path

    def _is_there(self, name: str, stamp: str) -> bool:
        return (
            name in self.objects and locations.stamp_of(self.objects[name]) == stamp and (self.folder / name).is_file()
        )

    def _get(self, name: str) -> str:
        return (self.origin / name).fetch_to(self.folder / name, self.objects[name])


class Mirrors(list[Mirror]):
    """Those of some locations, for messages about all of them."""

    def local(self, location: str, suffixes: Sequence[str] = (), without: Sequence[str] = ()) -> str:
        """A local path as it is; that of a location of a bucket, fetched. Raises FileNotFoundError where nothing is there."""
        if not locations.is_remote(location):
            return location
        self.append(Mirror.of(location, suffixes, without))
        return str(self[-1].fetch())

    def named(self, text: str) -> str:
        """`Mirror.named` of each."""
        for mirror in self:
            text = mirror.named(text)
        return text

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Errors of the block tell the bucket's names."""
        try:
            yield
        except Exception as error:
            error.args = tuple(self.named(part) if isinstance(part, str) else part for part in error.args)
            raise


def local(location: str) -> str:
    """A local path as it is; that of a location of a bucket, fetched. Raises FileNotFoundError where nothing is there."""
    return Mirrors().local(location)


def _is_inside(name: str) -> bool:
    return bool(name) and not name.endswith("/") and ".." not in PurePosixPath(name).parts


@functools.cache
def _held(root: Path) -> int:
    """Keeps a mirror from making way as long as this process lives. The lock goes with the process."""
    handle = os.open(root, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def _make_room(latest: Path) -> None:
    """Removes the mirrors unused for longest, and by no process now, where there are too many bytes of them."""
    roots = sorted((path for path in latest.parent.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    sizes = {root: sum(size for size, _ in place(root).tree().values()) for root in roots}
    total = sum(sizes.values())
    for root in roots:
        if total <= locations.CACHE_BYTES:
            return
        handle = os.open(root, os.O_RDONLY)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(root, ignore_errors=True)
            total -= sizes[root]
        os.close(handle)
