"""Reading `.npz` files from strangers: no code runs, no array is allocated before its size is known to be in the file.

Plain arrays are read from their header and bytes. Object arrays (dictionaries of results, sparse matrices) are pickles; they
are read only on request, by `body_models.restricted_pickle`.
"""

from __future__ import annotations

import io
import math
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.lib import format as npy

from body_models.restricted_pickle import Budget, ForeignFileError, Names, array_of, foreign, load

MAX_MEMBER_BYTES = 4 << 30
"""A larger entry is refused; 20 masks of a 24 megapixel photo take half a gigabyte."""
_PLAIN_KINDS = "biufUS"
_CODECS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Npz:
    """An open `.npz`: entries are read on access. Every failure is an `error` naming file and entry."""

    def __init__(
        self, archive: zipfile.ZipFile, path: str, pickles: Names | None, error: type[Exception], budget: Budget
    ) -> None:
        self.path = path
        self._archive = archive
        self._pickles, self._error, self._budget = pickles, error, budget
        self._members = {name.removesuffix(".npy"): name for name in archive.namelist()}

    def __contains__(self, key: str) -> bool:
        return key in self._members

    def keys(self) -> list[str]:
        """Names of the entries, without `.npy`."""
        return list(self._members)

    def where(self, key: str) -> str:
        """File and field, for messages."""
        return f"{self.path}: field `{key}`"

    def read(self, key: str) -> Any:
        """The entry: a numpy array in native byte order; of an object array its content, with arrays inside."""
        if key not in self:
            raise self._error(
                f"{self.where(key)}: missing; the file has {', '.join(sorted(self.keys())[:20]) or 'none'}"
            )
        try:
            with foreign(".npz entry"):
                info = self._archive.getinfo(self._members[key])
                if info.compress_type not in _CODECS:  # the others make gigabytes out of bytes
                    raise ForeignFileError(f"compression method {info.compress_type} is not accepted")
                if info.file_size > MAX_MEMBER_BYTES:
                    raise ForeignFileError(f"{info.file_size} bytes; at most {MAX_MEMBER_BYTES} are read")
                with self._archive.open(info) as stream:
                    return read_npy(stream, info.file_size, self._pickles, self._budget)
        except ForeignFileError as error:
            raise self._error(f"{self.where(key)}: {error}") from error


def read_npy(stream: Any, size: int, pickles: Names | None, budget: Budget) -> Any:
    """An `.npy` file of `size` bytes from its start, as `Npz.read` does it. Raises ForeignFileError."""
    with foreign(".npy file"):
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ForeignFileError(f"array format {version} is not known; expected (1, 0) or (2, 0)")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
        payload_size = size - stream.tell()
        if dtype.kind == "O":
            return _read_pickle(stream, shape, payload_size, pickles, budget)
        if dtype.kind not in _PLAIN_KINDS or dtype.hasobject:
            raise ForeignFileError(f"array type {dtype} is not accepted; expected numbers, booleans or text")
        if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize != payload_size:
            raise ForeignFileError(
                f"an array of shape {shape} and type {dtype} does not fit the {payload_size} bytes stored"
            )
        return array_of(stream.read(), dtype, shape, fortran)


def _read_pickle(stream: Any, shape: tuple[int, ...], size: int, pickles: Names | None, budget: Budget) -> np.ndarray:
    if pickles is None:
        raise ForeignFileError("holds pickled Python objects; plain numbers or text are expected here")
    budget.take(size)
    content = load(io.BytesIO(stream.read()), pickles, budget=budget)
    if not isinstance(content, np.ndarray) or content.shape != shape:
        raise ForeignFileError(f"the pickled content is not the array of shape {shape} that the header announces")
    return content


@contextmanager
def open_npz(path: str, pickles: Names | None = None, error: type[Exception] = ForeignFileError) -> Iterator[Npz]:
    """Opens an `.npz`.

    Args:
      path: the file.
      pickles: the stand-ins allowed in object arrays, see `restricted_pickle.load`. None refuses object arrays.
      error: what is raised, with file and field in its text, for whatever is wrong with the file.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError("not a regular file")  # a named pipe would be waited for
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as missing:
        raise error(f"{path}: no such file") from missing
    except Exception as broken:  # the directory of a broken zip can fail in many ways
        raise error(f"{path}: not a readable .npz file ({type(broken).__name__}: {broken})") from broken
    with archive:
        size = archive.fp.seek(0, io.SEEK_END) if archive.fp is not None else 0
        yield Npz(archive, path, pickles, error, Budget.for_file(size))
