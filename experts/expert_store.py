"""Results of one expert on disk: a file per unit of photos, written at once, read photo by photo.

A file is an `.npz`: `index` is JSON text with an entry per photo (name, error, texts), `<position>/<array>` are the arrays. No
pickles. Equal results give equal bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.npz import Npz, open_npz
from annyfit_jax.store.locations import Location

FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """What an expert said about a photo, or why it said nothing."""

    name: str
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    texts: dict[str, Any] = field(default_factory=dict)
    """JSON data."""
    error: str = ""
    """Empty where there is a result."""
    blocked: bool = False
    """The error is an earlier expert's, or the photo's."""


def write_unit(path: Location, entries: Sequence[Entry]) -> None:
    """Writes a unit's file; it appears complete or not at all. Raises JobWriteError."""
    index = [{"name": e.name, "error": e.error, "blocked": e.blocked, "texts": e.texts} for e in entries]
    text = json.dumps({"format": FORMAT, "photos": index}, ensure_ascii=False)
    arrays = {f"{i}/{key}": value for i, entry in enumerate(entries) for key, value in entry.arrays.items()}
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, index=np.frombuffer(text.encode(), np.uint8), **arrays)
    path.put(stream.getvalue())


def read_index(path: Location) -> list[Entry] | None:
    """The entries of a unit without their arrays; None where the file is missing, damaged or of another format."""
    try:
        with open_npz(str(path.fetched())) as npz:
            return [Entry(**entry) for entry in _index(npz)]
    except (SceneError, TypeError, OSError):
        return None


class Unit:
    """An open unit file."""

    def __init__(self, npz: Npz) -> None:
        self._npz = npz
        self._entries = _index(npz)

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, position: int) -> Entry:
        """A photo's entry with its arrays."""
        prefix = f"{position}/"
        arrays = {key.removeprefix(prefix): self._npz.read(key) for key in self._npz.keys() if key.startswith(prefix)}  # noqa: SIM118
        return Entry(arrays=arrays, **self._entries[position])


@contextmanager
def open_unit(path: Location):
    """The unit for reading. Raises SceneError on a damaged file."""
    with open_npz(str(path.fetched())) as npz:
        yield Unit(npz)


def _index(npz: Npz) -> list[Mapping[str, Any]]:
    try:
        content = json.loads(npz.read("index").tobytes().decode())
        if content["format"] != FORMAT:
            raise SceneError(f"{npz.path}: format {content['format']}, expected {FORMAT}")
        return content["photos"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SceneError(
            f"{npz.path}: field `index`: not what a unit holds ({type(error).__name__}: {error})"
        ) from error
