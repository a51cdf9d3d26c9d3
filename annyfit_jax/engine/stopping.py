"""SIGTERM and SIGINT as an event that work between two pieces looks at."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from absl import logging


class Interrupted(Exception):
    """The program was asked to stop; everything committed so far stays."""


@contextlib.contextmanager
def stop_on_signal(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set the event; a second SIGINT interrupts at once. The former handlers come back at the end."""

    def ask(number: int, _: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()
        logging.warning("%s: stopping after the batch under way", signal.Signals(number).name)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
