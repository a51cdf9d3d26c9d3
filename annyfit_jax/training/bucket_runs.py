"""Training runs in buckets: at work in a local folder, whose checkpoints are put into the bucket one after the other.

    RUN/checkpoints/2000/...       the files of a checkpoint, as on a disk
    RUN/checkpoints/2000.complete  put after them, with their names: a checkpoint without it is not looked at

The other files of a run (`config.json`, `metrics.jsonl`, ...) are put with each checkpoint, before its mark. Where several
processes train, each begins with what is complete in the bucket, and process 0 alone puts.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from annyfit_jax.store.holds import Hold
from annyfit_jax.store.locations import Location, place

_COMPLETE = ".complete"


@contextlib.contextmanager
def run_folder(
    run: str | Path | Location, hold: Hold | None = None
) -> Iterator[tuple[Path, Callable[[], None] | None]]:
    """A local folder with what there is of a run, and what puts back what is new; on a disk the folder itself, and None.

    Args:
      hold: of who puts; nothing is put where another process has taken over.
    """
    run = place(run)
    if not run.remote:
        yield run.path, None
        return
    with tempfile.TemporaryDirectory(prefix="annyfit-run-") as scratch:
        folder = Path(scratch)
        kept = _fetch(run, folder)

        def put() -> None:
            if hold is not None:
                hold.check()
            if jax.process_index() == 0:
                _put(run, folder, kept)

        yield folder, put


def _step(name: str) -> str:
    """The step of a checkpoint's file, empty for other files."""
    parts = name.split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "checkpoints" else ""


def _told(name: str) -> bool:
    """Whether a file holds lines of progress, which are put as they are said, or is the hold of a process."""
    return name.startswith(("progress-", "held/"))


def _fetch(run: Location, folder: Path) -> set[str]:
    """Copies the complete checkpoints and the other files; returns the steps."""
    there = run.tree()
    marks = [name for name in there if name.endswith(_COMPLETE)]
    names = [name for name in there if not _step(name) and name not in marks and not _told(name)]
    for mark in marks:
        names += (run / mark).read_json() or []
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((run / name).read_bytes())
    return {_step(name) for name in names} - {""}


def _put(run: Location, folder: Path, kept: set[str]) -> None:
    """Puts new checkpoints and the other files, then what says that the checkpoints are complete; removes those that are gone.

    The other files come before the marks: a run that goes on at a checkpoint finds the lines of all steps before it, and cuts
    off those after it.
    """
    here = place(folder).tree()
    steps = {_step(name) for name in here} - {""}
    new = {step: [name for name in here if _step(name) == step] for step in sorted(steps - kept)}
    for step, names in new.items():
        (run / "checkpoints" / step).remove()  # what a killed process put of it
        for name in names:
            (run / name).put((folder / name).read_bytes())
    for name in (name for name in here if not _step(name) and not _told(name)):
        (run / name).put((folder / name).read_bytes())
    for step, names in new.items():
        (run / "checkpoints" / f"{step}{_COMPLETE}").put_json(names)
    for step in kept - steps:
        (run / "checkpoints" / f"{step}{_COMPLETE}").remove()
        (run / "checkpoints" / step).remove()
    kept.clear()
    kept |= steps
