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
from collections.abc import Sequence
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

    @staticmethod
    def of(location: str | Location, suffixes: Sequence[str] = ()) -> Mirror:
        """Lists a location of a bucket: a file, or a folder with all that is below it.

        Args:
          suffixes: of the names of a folder's files that are kept, in lower case; default all.

        Raises FileNotFoundError where nothing is there.
        """
        location = place(location)
        objects = location.listed()
        is_file = not objects
        if is_file:
            objects = {location.name: location.info()}
        kept = {
            name: info
            for name, info in objects.items()
            if (is_file or not suffixes or name.lower().endswith(tuple(suffixes))) and _is_inside(name)
        }
        key = hashlib.sha256(f"{location}|{','.join(suffixes)}".encode()).hexdigest()[:16]
        return Mirror(location, is_file, locations.cache() / "mirrors" / key, kept)

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


def local(location: str, suffixes: Sequence[str] = ()) -> str:
    """The path of a local file or folder as it is; one of a bucket fetched. Raises OSError where a bucket has none."""
    return str(Mirror.of(location, suffixes).fetch()) if locations.is_remote(location) else location


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
