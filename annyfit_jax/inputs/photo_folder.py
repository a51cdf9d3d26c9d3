"""The photos that an input names, in a folder on a disk or in a bucket."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from annyfit_jax.inputs.photos import bucket_photos
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.file_names import file_inside
from annyfit_jax.store.locations import Location, is_remote


@dataclass(frozen=True)
class PhotoFolder:
    """A folder of photos. Can be pickled: that of a bucket is listed once, and a photo is fetched where it is looked at."""

    folder: str
    _listed: frozenset[str] = field(repr=False)

    @staticmethod
    def of(folder: str | Path | Location) -> PhotoFolder:
        """Of a path or URL, which need not exist."""
        names: Iterable[str] = ()
        if is_remote(folder):
            with contextlib.suppress(SceneError):  # no photo in it
                names = bucket_photos(str(folder))[1]
        return PhotoFolder(str(folder).rstrip("/"), frozenset(names))

    def find(self, names: Iterable[str]) -> str | None:
        """Path or URL of the first photo of these names, which are relative to the folder, that is there; None where none is.

        An absolute path and one with `..` name nothing: an annotation file must not choose what is read beside the photos.
        """
        if is_remote(self.folder):
            plain = (PurePosixPath(name).as_posix() for name in names)
            return next((f"{self.folder}/{name}" for name in plain if name in self._listed), None)
        return next((str(path) for name in names if (path := file_inside(self.folder, name)) is not None), None)
