"""One driver at a time for a folder in a bucket, where a process cannot hold a lock.

    with held(place("s3://bucket/fits")) as hold:
        hold.check()        # StoreError where another driver has taken over

Each driver puts `held/<number>.json`, one number after the one before it, on the condition that nobody has; so of several that
try, one succeeds. It renews its object every `HEARTBEAT_S` and marks it as over when it ends. Who finds one that is not over
takes the next number at once where its process is known to be gone (the same machine), else when nothing was renewed for
`SILENCE_S` by its own clock; no clocks are compared. A driver that was only slow sees that and commits nothing more.

A store that knows no conditional put takes the later of two puts, which the earlier one notices at its next heartbeat.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

from absl import logging

from annyfit_jax.records.files import Owner, is_dead, this_process
from annyfit_jax.store.locations import JobWriteError, Location
from annyfit_jax.store.plan import StoreError

HEARTBEAT_S = 10.0
SILENCE_S = 60.0


class TakenError(StoreError):
    """Another process is at work on the folder."""

    def __init__(self, folder: Location, who: str = "") -> None:
        super().__init__(
            f"{folder}: another process is at work on it{who}; one command drives all workers (--engine=ray)"
        )


class Hold:
    """Of this process on a folder."""

    def __init__(self, folder: Location) -> None:
        """Takes it. Raises TakenError where another driver has it, JobWriteError."""
        self._folder, self._holds = folder, folder / "held"
        self._mine: dict[str, Any] = {"owner": this_process()._asdict(), "since": time.time()}
        self._lost = False
        self._number = self._take()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name=f"hold of {folder}")
        self._thread.start()

    def check(self) -> None:
        """Raises StoreError where another driver has taken over."""
        if self._lost:
            raise StoreError(
                f"{self._folder}: another process has taken over, as this one was not heard of for too long"
            )

    def release(self) -> None:
        """Lets the next driver have it."""
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError, JobWriteError):
            if not self._lost and self._is_mine(self._number):  # who removed the folder has removed the hold as well
                self._at(self._number).put_json({**self._mine, "over": True})

    def _at(self, number: int) -> Location:
        return self._holds / f"{number:05d}.json"

    def _is_mine(self, number: int) -> bool:
        return (_read(self._at(number)) or {}).get("owner") == self._mine["owner"]

    def _take(self) -> int:
        # Numbers have five digits, so that the last one of the listing is the highest; it may lag behind.
        listed = list(self._holds.files())
        number = int(listed[-1].removesuffix(".json")) if listed else 0
        while True:
            while self._at(number + 1).exists():
                number += 1
            before = _read(self._at(number))
            if before is not None:
                if not self._is_over(number, before):
                    owner = before.get("owner", {})
                    raise TakenError(self._folder, f" (process {owner.get('pid')} of {owner.get('host')})")
                number += 1
            self._at(number).put_json(self._mine, if_absent=True)
            if self._is_mine(number):
                return number

    def _is_over(self, number: int, before: dict[str, Any]) -> bool:
        """Whether a driver has ended: it or its machine says so, or it is silent for too long."""
        with contextlib.suppress(KeyError, TypeError):
            if before.get("over") or is_dead(Owner(**before["owner"])):
                return True
        logging.info("%s: is held by another process; waiting up to %g s for a sign of it", self._folder, SILENCE_S)
        end = time.monotonic() + SILENCE_S
        while time.monotonic() < end:
            time.sleep(HEARTBEAT_S / 2)
            if (now := _read(self._at(number))) != before:
                return bool(now and now.get("over"))
        return True

    def _beat(self) -> None:
        beats = 0
        while not self._stop.wait(HEARTBEAT_S):
            try:
                if self._at(self._number + 1).exists() or not self._is_mine(self._number):
                    self._lost = True
                    return
                beats += 1
                self._at(self._number).put_json({**self._mine, "beats": beats})
            except (OSError, JobWriteError) as error:
                logging.warning("%s: the hold of this process could not be renewed (%s)", self._folder, error)


@contextlib.contextmanager
def held(folder: Location) -> Iterator[Hold | None]:
    """Holds a folder of a bucket for the block; one on a disk is not held, and gives None.

    Raises TakenError where another driver has it, JobWriteError.
    """
    if not folder.remote:
        yield None
        return
    hold = Hold(folder)
    try:
        yield hold
    finally:
        hold.release()


def _read(at: Location) -> dict[str, Any] | None:
    """What a driver has put; None where there is nothing."""
    try:
        content = json.loads(at.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
