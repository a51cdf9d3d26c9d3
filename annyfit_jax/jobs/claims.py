"""Who works on a unit just now: claim files with a lease, so that two processes rarely do the same work.

Rarely, not never: a claim is taken over when its process is dead, or has not renewed it for the length of the lease. Should
both still be at work, they commit the same rows, one after the other (`ledger`); claims save time, they do not guard data.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

from annyfit_jax.jobs.durable_files import writing
from annyfit_jax.jobs.faults import fault_point
from annyfit_jax.records.files import Owner, is_dead, read_json, temporary_name, this_process

DEFAULT_LEASE_S = 120.0


class Claim(NamedTuple):
    """A claim file."""

    unit: int
    owner: Owner | None
    """None where the file cannot be read."""
    idle_s: float
    """Seconds since it was renewed, by the clock of the file system."""
    stale: bool
    """Its process is dead or the lease has run out."""


class Claims:
    """The claims of this process. Use as a context: a thread renews them, and leaving it gives them back."""

    def __init__(self, folder: Path, lease_s: float = DEFAULT_LEASE_S) -> None:
        self.folder, self.lease_s = folder / "claims", lease_s
        self._held: dict[int, Path] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claims", daemon=True)

    def __enter__(self) -> Claims:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for unit in list(self._held):
            self.release(unit)

    def acquire(self, unit: int) -> bool:
        """Whether the unit is now this process's. Raises JobWriteError."""
        path = claim_path(self.folder.parent, unit)
        with writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._create(path) and not (self._remove_stale(path, unit) and self._create(path)):
                return False
        with self._lock:
            self._held[unit] = path
        fault_point(f"claim {unit}: taken")
        return True

    def release(self, unit: int) -> None:
        """Gives a unit back; a claim that another process has taken over stays."""
        with self._lock:
            path = self._held.pop(unit, None)
        if path is None:
            return
        fault_point(f"claim {unit}: before release")
        claim = _read(path, unit, self.lease_s)
        if claim is not None and claim.owner == this_process():
            with contextlib.suppress(OSError):
                path.unlink()

    def _create(self, path: Path) -> bool:
        """Makes the claim file with its content in one step; False where there is one already."""
        temporary = temporary_name(path)
        content = json.dumps({**this_process()._asdict(), "since": time.time()}).encode()
        try:
            temporary.write_bytes(content)
            try:
                os.link(temporary, path)
                return True
            except FileExistsError:
                return os.stat(temporary).st_nlink == 2  # on NFS a lost answer is repeated, and then finds its own link
            except OSError:  # no hard links here
                pass
            try:
                with path.open("xb") as file:
                    file.write(content)
                return True
            except FileExistsError:
                return False
        finally:
            temporary.unlink(missing_ok=True)

    def _remove_stale(self, path: Path, unit: int) -> bool:
        """Takes a stale claim away; False where it is live, or another process was quicker."""
        claim = _read(path, unit, self.lease_s)
        if claim is None:
            return True  # given back meanwhile
        if not claim.stale:
            return False
        aside = temporary_name(path)
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return False
        moved = _read(aside, unit, self.lease_s)
        fresh = moved is not None and not moved.stale
        if fresh:  # between the look and the rename somebody else took it over: put it back
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink(missing_ok=True)
        return not fresh

    def _renew(self) -> None:
        while not self._stop.wait(self.lease_s / 4):
            with self._lock:
                paths = list(self._held.values())
            for path in paths:
                with contextlib.suppress(OSError):
                    os.utime(path)


def claim_path(folder: Path, unit: int) -> Path:
    """The claim file of a unit of a job folder."""
    return folder / "claims" / f"{unit:05d}.json"


def read_claims(folder: Path, lease_s: float = DEFAULT_LEASE_S) -> list[Claim]:
    """All claims of a job folder by unit."""
    paths = sorted((folder / "claims").glob("[0-9]*.json"))
    claims = (_read(path, int(path.stem), lease_s) for path in paths if path.stem.isdigit())
    return [claim for claim in claims if claim is not None]


def _read(path: Path, unit: int, lease_s: float) -> Claim | None:
    try:
        idle = _file_system_now(path.parent) - path.stat().st_mtime
    except FileNotFoundError:
        return None
    content = read_json(path)
    try:
        owner = Owner(**{name: content[name] for name in Owner._fields})  # pyright: ignore[reportOptionalSubscript]
    except (KeyError, TypeError):
        owner = None
    return Claim(unit, owner, idle, (owner is not None and is_dead(owner)) or idle > lease_s)


def _file_system_now(folder: Path) -> float:
    """The clock that stamps files: on a shared file system the server's, not this machine's."""
    probe = temporary_name(folder / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
