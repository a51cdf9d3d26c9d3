"""The front door of the truth readers: a lazy sequence of labelled images, one at a time in memory."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from annyfit_jax.metrics.people_of_image import TruthPeople
from annyfit_jax.people.scene import SceneError

PROTOCOLS = ("relative_human", "panoptic", "agora", "ehf", "ubody", "arctic", "egobody")
_READERS = {"arctic": "humandata_truth", "egobody": "humandata_truth"}
"""Modules of protocols that do not have one of their name."""


@dataclass(frozen=True)
class TruthOptions:
    """Choices of the readers. Each option names the data sets it concerns; the others ignore it."""

    split: str = "test"
    """relative_human: which `<split>_annots.npz` of a folder; ubody: `test` keeps the videos of the test list, else all."""
    cameras: tuple[str, ...] = ()
    """panoptic: names of HD cameras such as `00_16`; default those with a folder in `hdImgs`, else 00_16 and 00_30."""
    frame_step: int = 1
    """panoptic: n reads only every n-th frame of a sequence; HumanData: every n-th picture of a file."""
    smplx: str | None = None
    """ehf, ubody, arctic, egobody: the user's SMPL-X model file, for its joint regressor and to pose the truth, or a folder
    with a file per gender (`smplx_truth`)."""
    pattern: str = ""
    """all: regular expression; only images whose name or group matches it are read."""

    def __post_init__(self) -> None:
        if self.frame_step < 1:
            raise SceneError(f"option frame_step: expected 1 or more, got {self.frame_step}")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise SceneError(f"option pattern: not a regular expression ({error}): {self.pattern!r}") from None


@dataclass(frozen=True)
class TruthSource:
    """Labelled images in reading order; nothing but an index is read before `load`."""

    names: tuple[str, ...]
    """Unique."""
    loader: Callable[[int], TruthPeople] = field(repr=False)
    location: str = ""
    notes: tuple[str, ...] = ()
    """What the reader assumed or left out."""

    def load(self, index: int) -> TruthPeople:
        """The people of image `index`. Raises SceneError naming file and field."""
        return self.loader(index)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[TruthPeople]:
        return (self.load(index) for index in range(len(self)))


def open_truth(protocol: str, path: str, options: TruthOptions | None = None) -> TruthSource:
    """Opens the truth of a data set. Raises SceneError where it is not there, or not of the layout the protocol reads."""
    if protocol not in PROTOCOLS:
        raise SceneError(f"protocol {protocol!r}: expected one of {', '.join(PROTOCOLS)}")
    if not Path(path).exists():
        raise SceneError(f"{path}: no such file or folder")
    options = options or TruthOptions()
    # Imported here: the SMPL-X readers need the body model, the others do not.
    module = _READERS.get(protocol, f"{protocol}_truth")
    reader = importlib.import_module(f"annyfit_jax.truth.{module}")
    source: TruthSource = reader.open_source(Path(path), options)
    if options.pattern:
        source = _matching(source, options.pattern)
    if not source.names:
        raise SceneError(
            f"{path}: no image left to judge by{f' whose name has {options.pattern!r}' * bool(options.pattern)}"
        )
    name, count = Counter(source.names).most_common(1)[0]
    if count > 1:
        raise SceneError(f"{path}: {count} images are called {name}")
    return source


def _matching(source: TruthSource, pattern: str) -> TruthSource:
    kept = [i for i, name in enumerate(source.names) if re.search(pattern, name)]
    return TruthSource(
        tuple(source.names[i] for i in kept), lambda index: source.load(kept[index]), source.location, source.notes
    )
