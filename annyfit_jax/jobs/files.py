"""Files that appear complete or not at all, and the leftovers of processes that died while writing one."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from annyfit_jax.jobs.faults import fault_point

_TEMPORARY = re.compile(r"^\..+\.(?P<machine>[0-9a-f]{12})-(?P<pid>\d+)-[0-9a-f]{8}\.tmp$")


class JobWriteError(RuntimeError):
    """The output folder cannot be written to (disk full, quota, permissions). Nothing half-written is left."""


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


# ------------------------------------------------------------------------------------------------ writing


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what a full or failing disk raises (ArrayRecord: RuntimeError) into one JobWriteError that names the file."""
    try:
        yield
    except JobWriteError:
        raise
    except (OSError, RuntimeError) as error:
        raise JobWriteError(f"{path}: cannot be written ({error}); make room and run the same command again") from error


def temporary_name(path: Path) -> Path:
    """A name in the same folder that only this process uses, and that tells whose it is."""
    owner = this_process()
    return path.with_name(f".{path.name}.{owner.machine}-{owner.pid}-{secrets.token_hex(4)}.tmp")


def publish(path: Path, content: bytes, *, first_wins: bool = False) -> None:
    """Writes a file under a temporary name, flushes and renames it. Raises JobWriteError.

    With `first_wins` a file that another process has put there meanwhile stays.
    """
    temporary = temporary_name(path)
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fault_point(f"{path.name}: before writing")
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            fault_point(f"{path.name}: before renaming")
            if not (first_wins and _linked(temporary, path)):
                os.replace(temporary, path)
            sync(path.parent)
            fault_point(f"{path.name}: renamed")
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


def publish_json(path: Path, content: Any, *, first_wins: bool = False) -> None:
    """`publish` of JSON data."""
    publish(path, (json.dumps(content, indent=1) + "\n").encode(), first_wins=first_wins)


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


def clean_leftovers(folder: Path, older_than_s: float) -> int:
    """Removes temporary files of dead processes; of other machines' processes those untouched for so many seconds."""
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
