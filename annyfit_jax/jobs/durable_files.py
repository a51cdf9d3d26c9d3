"""Writing to the folder of a job: `annyfit_jax.records.files`, flushed to disk.

There is one error for all of them, and every write boundary has a name.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from annyfit_jax.jobs.faults import fault_point
from annyfit_jax.records.files import replacing


class JobWriteError(RuntimeError):
    """The output folder cannot be written to (disk full, quota, permissions). Nothing half-written is left."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what a full or failing disk raises (ArrayRecord: RuntimeError) into one JobWriteError that names the file."""
    try:
        yield
    except JobWriteError:
        raise
    except (OSError, RuntimeError) as error:
        raise JobWriteError(f"{path}: cannot be written ({error}); make room and run the same command again") from error


def publish(path: Path, content: bytes, *, first_wins: bool = False) -> None:
    """Writes a file under a temporary name, flushes and renames it. Raises JobWriteError.

    With `first_wins` a file that another process has put there meanwhile stays.
    """
    publish_parts(path, [content], first_wins=first_wins)


def publish_parts(path: Path, parts: Iterable[bytes], *, first_wins: bool = False) -> None:
    """`publish` of parts that are made one after the other and need not be in memory together."""
    with writing(path):
        fault_point(f"{path.name}: before writing")
        with replacing(path, flush=True, first_wins=first_wins) as temporary:
            with temporary.open("wb") as file:
                file.writelines(parts)
            fault_point(f"{path.name}: before renaming")
        fault_point(f"{path.name}: renamed")


def publish_json(path: Path, content: Any, *, first_wins: bool = False) -> None:
    """`publish` of JSON data."""
    publish(path, (json.dumps(content, indent=1) + "\n").encode(), first_wins=first_wins)
