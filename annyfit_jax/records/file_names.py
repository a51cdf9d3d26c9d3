"""File names from names in data, and files that data name: nothing is written outside a folder, or read outside one.

A scene's name is data: it may hold slashes, be 300 letters long, or be the name of a device. The file of a scene is named by
`file_stem`, which keeps a name that is good as it is. `write_table` notes the others, so that a file's scene is found back.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePath

from annyfit_jax.records.files import json_lines, write_bytes

TABLE = "file_names.jsonl"
"""In a folder of files by scene: a line `{"file": stem, "scene": name}` for each name that is no file name."""
MARK = "~"
"""In every derived name and in no kept one."""
_LONGEST = 230
"""Bytes of a name that is kept: with any suffix of ours it stays below the 255 of common file systems."""
_LONGEST_BEGINNING = 60
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def file_stem(name: str) -> str:
    """A file name, without suffix, for a name in data; different names have different ones.

    A name that every common file system takes is kept. Of another one the harmless characters at its beginning are kept,
    followed by `~` and 16 hex digits of the name's SHA-256.
    """
    if _is_good(name):
        return name
    # Halves of characters (lone surrogates) can come from JSON.
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    harmless = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", name.encode(errors="ignore").decode()))
    beginning = harmless.encode()[:_LONGEST_BEGINNING].decode(errors="ignore").strip("._")
    return f"{beginning or 'scene'}{MARK}{digest}"


def _is_good(name: str) -> bool:
    return (
        bool(name)
        and name.isprintable()
        and not set(name) & set('/\\:*?"<>|' + MARK)
        and name == name.strip(" .")
        and name == unicodedata.normalize("NFC", name)
        and len(name.encode(errors="replace")) <= _LONGEST
        and not _RESERVED.fullmatch(name)
    )


def table_lines(names: Iterable[str]) -> Iterable[bytes]:
    """The lines of `TABLE`: file and scene of every name that is no file name."""
    return json_lines({"file": file_stem(name), "scene": name} for name in names if not _is_good(name))


def write_table(folder: str | Path, names: Iterable[str]) -> None:
    """Writes `TABLE` into a folder; none where every name is a file name."""
    if content := b"".join(table_lines(names)):
        write_bytes(Path(folder) / TABLE, content)


def file_inside(folder: str | Path, name: str) -> Path | None:
    """The regular file of that name in or below a folder; None where there is none.

    A name that leads out of the folder, by `..` or by its beginning, is none of its files. Symbolic links are followed: who
    may put links into the folder has given what they lead to.
    """
    folder = Path(folder)
    try:
        path = PurePath(name)
        if path.is_absolute():
            path = path.relative_to(folder.absolute())
    except ValueError:  # elsewhere
        return None
    if not path.parts or ".." in path.parts:
        return None
    file = folder / path
    return file if os.path.isfile(file) else None
