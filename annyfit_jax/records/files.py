"""Files that appear complete or not at all, whose temporary files tell which process they belong to.

Everything this project writes goes through `replacing`: a temporary name in the same folder, then a rename. What a killed
process leaves is a file that ends in `.tmp` and names its process, so that others know it is dead (`clean_leftovers`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_TEMPORARY = re.compile(r"^\..+\.(?P<machine>[0-9a-f]{12})-(?P<pid>\d+)-[0-9a-f]{8}\.tmp$")


_LONGEST_BEGINNING = 150
"""Bytes of a file's name that its temporary name begins with."""


# ------------------------------------------------------------------------------------------------ writing


@contextlib.contextmanager
def replacing(path: str | Path, *, flush: bool = False, first_wins: bool = False) -> Iterator[Path]:
    """Gives a temporary name to write to; at the end of the block that file takes the place of `path`.

    Where the block or the rename fails, the temporary file is removed and `path` is what it was.

    Args:
      flush: wait until content and name are on the disk, so that not even a power cut loses what others rely on.
      first_wins: a file that another process has put there meanwhile stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        if flush:
            sync(temporary)
        if not (first_wins and _linked(temporary, path)):
            os.replace(temporary, path)
        if flush:
            sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _linked(temporary: Path, path: Path) -> bool:
    """Whether a file is there now: this one or another's. False where there are no hard links."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:
        return False
    temporary.unlink()
    return True


def write_bytes(path: str | Path, content: bytes, *, flush: bool = False) -> None:
    """Write a file by `replacing`."""
    with replacing(path, flush=flush) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file by `replacing`."""
    write_bytes(path, text.encode())


def write_npz(path: str | Path, arrays: dict) -> None:
    """`np.savez_compressed`, by `replacing`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def write_json(path: str | Path, data: Any) -> None:
    """JSON data, indented, that appears whole or not at all; NaN and infinities become null."""
    write_text(path, json.dumps(without_nan(data), indent=1) + "\n")


def without_nan(node: Any) -> Any:
    """JSON data with None, which is written as null, in place of NaN and infinities."""
    if isinstance(node, dict):
        return {key: without_nan(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [without_nan(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def json_lines(entries: Iterable[Any]) -> Iterator[bytes]:
    """JSON data as lines of a `.jsonl` file."""
    return ((json.dumps(entry) + "\n").encode() for entry in entries)


def open_regular(path: str | Path) -> BinaryIO:
    """A file for reading, never a named pipe or a device, which would keep the program waiting. Raises OSError, ValueError."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{path}: not a regular file")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_json(path: Path) -> Any | None:
    """The content, None where there is no such file or it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def sync(path: Path) -> None:
    """Flushes a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Checksum of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------ whose is it


class Owner(NamedTuple):
    """A process, told apart from every other one on any machine."""

    host: str
    """For people to read."""
    machine: str
    """12 hex digits of host name, boot and process namespace: where a process id means something."""
    pid: int
    born: str
    """Start time of the process as the kernel counts it; tells a process from a later one with the same id."""
    token: str
    """Random."""


@functools.lru_cache(maxsize=4)
def _owner_of(pid: int) -> Owner:
    boot = _read("/proc/sys/kernel/random/boot_id")
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    host = socket.gethostname()
    machine = hashlib.sha256(f"{host}|{boot}|{namespace}".encode()).hexdigest()[:12]
    return Owner(host, machine, pid, _born(pid), secrets.token_hex(8))


def this_process() -> Owner:
    """The calling process."""
    return _owner_of(os.getpid())


def is_dead(owner: Owner) -> bool:
    """Whether a process is known to be gone; False where this machine cannot tell."""
    if owner.machine != this_process().machine:
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return bool(owner.born) and _born(owner.pid) not in ("", owner.born)


def _born(pid: int) -> str:
    stat = _read(f"/proc/{pid}/stat")
    fields = stat.rpartition(")")[2].split()
    # A zombie holds its id until its parent looks, but writes nothing any more.
    return "zombie" if fields[:1] == ["Z"] else fields[19] if len(fields) > 19 else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def temporary_name(path: Path) -> Path:
    """A name in the same folder that only this process uses, and that tells whose it is."""
    owner = this_process()
    # A name may take all 255 bytes that file systems allow: of a long one only the beginning is repeated.
    beginning = path.name.encode(errors="surrogateescape")[:_LONGEST_BEGINNING].decode(errors="ignore")
    return path.with_name(f".{beginning}.{owner.machine}-{owner.pid}-{secrets.token_hex(4)}.tmp")


def clean_leftovers(folder: Path, older_than_s: float) -> int:
    """Removes temporary files of dead processes; those of other machines when they are old."""
    removed = 0
    try:
        entries = [Path(entry.path) for entry in os.scandir(folder) if entry.name.endswith(".tmp")]
    except FileNotFoundError:
        return 0
    here = this_process()
    for path in entries:
        match = _TEMPORARY.match(path.name)
        if not match:
            continue
        local = match["machine"] == here.machine
        with contextlib.suppress(FileNotFoundError):
            gone = is_dead(Owner("", match["machine"], int(match["pid"]), "", "")) if local else False
            # Local time is good enough here: a wrongly removed file only makes its writer redo a unit.
            if gone or (not local and time.time() - path.stat().st_mtime > older_than_s):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed += 1
    return removed
