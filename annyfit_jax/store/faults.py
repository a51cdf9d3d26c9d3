"""Write boundaries by name: nothing in production, the places where the fault tests kill the process."""

from __future__ import annotations

from collections.abc import Callable

_handler: Callable[[str], None] | None = None


def fault_point(name: str) -> None:
    """Called before and after every step that changes the output folder."""
    if _handler is not None:
        _handler(name)


def install(handler: Callable[[str], None] | None) -> None:
    """Have `handler(name)` called at every boundary (tests); None removes it."""
    global _handler
    _handler = handler
