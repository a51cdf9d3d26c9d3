"""Stored fits, one way to read them all: of a job (finished or under way), of a folder of fit files, of one file.

    fits = open_fits("out/job")
    for fit in fits: ...                # SceneFit by SceneFit, in order, one at a time in memory
    fits.load("photo_17")               # one scene, by name
    for outcome in fits.outcomes(): ... # with the scenes of which nobody was fitted, and why

A job's rows are the truth: a fit file beside them (`fits/<scene>.npz`, which small jobs have) adds what rows lack (start,
loss curves, vertices) and is used only where it holds the row's very parameters. A unit of work that is not finished yet is
left out and counted (`unfinished`); a finished one whose shard is damaged is an error, for nothing may be lost unnoticed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from annyfit_jax.inputs.cue_source import Records
from annyfit_jax.jobs import job_rows
from annyfit_jax.jobs.fit_store import job_store, rows
from annyfit_jax.jobs.job_rows import SceneRow
from annyfit_jax.records import fit_files
from annyfit_jax.records.file_names import MARK, file_stem
from annyfit_jax.records.fit_files import FitFileError, SceneFit
from annyfit_jax.records.wire import Record
from annyfit_jax.store.locations import Location, place
from annyfit_jax.store.plan import StoreError
from body_models import anny, anny_asset

_OPEN_SHARDS = 16
"""Shards kept open for random access; a large job has more than a process may have files."""


@dataclass(frozen=True)
class Outcome:
    """What became of one scene of the input."""

    fit: SceneFit
    """Where nobody was fitted: the scene's people with their statuses and NaN parameters."""
    status: str = "ok"
    """`ok` = the scene was fitted; else why not, as a word: `skipped:<word>` or `failed:<word>`."""
    reason: str = ""
    """The same in full."""
    index: int = -1
    """Position in the input of the job; -1 where that is not stored."""
    content_hash: str = ""
    """Of the scene's cues, hex; empty where it is not stored."""
    person_keys: tuple[str, ...] = ()
    """`job_rows.person_key` of the n people of `fit` and the m of `fit.set_aside`; empty where they are not stored."""

    @property
    def fitted(self) -> bool:
        """Whether the scene was fitted."""
        return self.status == "ok"


class FitSource(ABC):
    """Fits by scene name; can be pickled. Everything is read when asked for; errors are FitFileError naming file and field."""

    location: str
    """The path it was opened from."""
    total: int
    """Scenes stored, with those of which nobody was fitted."""
    unfinished: int = 0
    """Scenes of the job that are not done yet."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digits that change when the stored fits do; a continued export compares them."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Unique names of the scenes with a fit, in order. A job's are read from its records at the first call."""

    @abstractmethod
    def where(self, name: str) -> str:
        """Where the fit of a scene stands, for messages."""

    @abstractmethod
    def outcome(self, name: str) -> Outcome:
        """What became of a stored scene. Raises FitFileError where there is none of that name."""

    @abstractmethod
    def part(self, span: range) -> Iterator[Outcome]:
        """The stored scenes at some consecutive positions of `range(total)`, one after the other."""

    def outcomes(self) -> Iterator[Outcome]:
        """All stored scenes in order, one after the other."""
        return self.part(range(self.total))

    def load(self, name: str) -> SceneFit:
        """The fit of a scene of `names`. Raises FitFileError where there is none, with the reason where that is stored."""
        outcome = self.outcome(name)
        if not outcome.fitted:
            raise FitFileError(f"{self.where(name)}: was not fitted: {outcome.status} ({outcome.reason})")
        return outcome.fit

    def __iter__(self) -> Iterator[SceneFit]:
        return (outcome.fit for outcome in self.outcomes() if outcome.fitted)


def open_fits(path: str | Path, *, details: bool = True) -> FitSource:
    """The fits at a path: the output folder of `annyfit fit`, its `fits` folder, or one `<scene>.npz`.

    Args:
      details: also read the fit files of a job for what its rows lack. Without them, and where a job has none, `start_*` and
        `shape_raw` are NaN, the loss arrays are empty and `vertices` is None.

    Raises FileNotFoundError where there are no fits, FitFileError on a job that cannot be read.
    """
    location = place(path)
    if (location / "job.json").exists():
        return _JobFits(location, details)
    if location.is_file():
        return _FitFiles((location,), str(location))
    inside = location / "fits" if (location / "fits").is_dir() else location
    files = tuple(inside / name for name in inside.files() if name.endswith(".npz"))
    if not files:
        raise FileNotFoundError(f"{inside}: no fits (<scene>.npz), expected the --output of annyfit fit")
    return _FitFiles(files, str(location))


# ------------------------------------------------------------------------------------------------ fit files


class _FitFiles(FitSource):
    """Fit files in the order given; the name of a scene is that of its file, or what the file says where that is derived."""

    def __init__(self, files: tuple[Location, ...], location: str) -> None:
        self.location, self.total = location, len(files)
        self._files = {_scene_name(file): file for file in files}

    @property
    def fingerprint(self) -> str:
        states = [(name, *_state(file)) for name, file in self._files.items()]
        return hashlib.sha256(json.dumps(states).encode()).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._files)

    def where(self, name: str) -> str:
        return str(self._files.get(name, f"{self.location}: scene {name}"))

    def outcome(self, name: str) -> Outcome:
        if name not in self._files:
            raise FitFileError(f"{self.location}: no fit of scene {name}")
        return Outcome(fit_files.load(self._files[name].fetched()))

    def part(self, span: range) -> Iterator[Outcome]:
        return (self.outcome(name) for name in self.names[span.start : span.stop])


def _state(file: Location) -> tuple[Any, ...]:
    if file.remote:
        return (file.stamp(),)
    return file.path.stat().st_size, file.path.stat().st_mtime_ns


def _scene_name(file: Location) -> str:
    stem = file.name.removesuffix(".npz")
    if MARK in stem:
        with contextlib.suppress(FitFileError):
            name = fit_files.load(file.fetched()).name
            if file_stem(name) == stem:
                return name
    return stem


# ------------------------------------------------------------------------------------------------ jobs


class _Place(NamedTuple):
    unit: int
    position: int
    status: str


class _JobFits(FitSource):
    """The rows of a job's finished units."""

    def __init__(self, folder: Location, details: bool, units: tuple[int, ...] | None = None) -> None:
        """`units`: those that are read; default all that are finished."""
        self.location = str(folder)
        try:
            self._store, job = job_store(folder)
        except StoreError as error:
            raise FitFileError(str(error)) from None
        self._configs = {name: json.dumps(config) for name, config in job["configs"].items()}
        self._units = sorted(self._store.entries if units is None else units)
        self._details = details
        if not self._units:
            raise FileNotFoundError(f"{folder}: the job has no finished unit yet; run the same annyfit fit again")
        self._files = (folder / "fits").path if details and not folder.remote else None
        self._shards: OrderedDict[int, Records] = OrderedDict()
        self.total = sum(len(self._store.spans[unit]) for unit in self._units)
        self.unfinished = self._store.cut.total - self.total

    def __reduce__(self) -> Any:
        # Where it is opened again, units that were finished meanwhile must not shift the positions of scenes.
        return _JobFits, (place(self.location), self._details, tuple(self._units))

    @property
    def fingerprint(self) -> str:
        entries = (self._store.entries[unit] for unit in self._units)
        return hashlib.sha256("|".join(str(entry["sha256"]) for entry in entries).encode()).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, found in self._places.items() if found.status == "ok")

    def where(self, name: str) -> str:
        return f"{self.location}: scene {name}"

    def outcome(self, name: str) -> Outcome:
        found = self._places.get(name)
        if found is None:
            raise FitFileError(f"{self.location}: no fit of scene {name}")
        return self._outcome(self._row(found))

    def part(self, span: range) -> Iterator[Outcome]:
        first = 0
        for unit in self._units:
            last = first + len(self._store.spans[unit])
            if max(first, span.start) < min(last, span.stop):
                wanted = itertools.islice(self._rows(unit), max(span.start - first, 0), span.stop - first)
                yield from map(self._outcome, wanted)
            first = last

    def _outcome(self, row: SceneRow) -> Outcome:
        keys = tuple(row.person_keys)
        return Outcome(self._fit(row), row.scene_status, row.scene_reason, row.scene_index, row.content_hash, keys)

    def _rows(self, unit: int) -> Iterator[SceneRow]:
        self._check(unit)
        with _naming(self._store.shard(unit)):
            yield from rows(self._store, unit)

    def _row(self, found: _Place) -> SceneRow:
        """One row by random access."""
        if found.unit in self._shards:
            self._shards.move_to_end(found.unit)
        else:
            self._check(found.unit)
            self._shards[found.unit] = self._records(found.unit)
            if len(self._shards) > _OPEN_SHARDS:
                self._shards.popitem(last=False)
        shard = self._shards[found.unit]
        with _naming(self._store.shard(found.unit)):
            return job_rows.decode(shard[found.position], shard.where(found.position))

    def _records(self, unit: int) -> Records:
        return Records((str(self._store.fetched(unit)),), (len(self._store.spans[unit]),))

    def _check(self, unit: int) -> None:
        if self._store.done(unit) is None:
            raise FitFileError(
                f"{self._store.shard(unit)}: does not have the checksum of its entry in done/; "
                "run the same annyfit fit again to have it fitted anew"
            )

    @functools.cached_property
    def _places(self) -> dict[str, _Place]:
        """Where each scene is; nothing but names and statuses is decoded."""
        places = {}
        for unit in self._units:
            self._check(unit)
            with _naming(self._store.shard(unit)):
                shard = self._records(unit)
                for position in range(len(shard)):
                    record = Record(shard[position], shard.where(position))
                    name, status = (record.read(key, job_rows.FIELDS[key]) for key in ("name", "scene_status"))
                    places[name] = _Place(unit, position, status)
        return places

    def _fit(self, row: SceneRow) -> SceneFit:
        """The row's fit file where it is there and of the same fit, else what the row has."""
        fit = fit_of_row(row, self._configs.get(row.config_hash, ""))
        path = self._files / f"{file_stem(row.name)}.npz" if self._files and row.scene_status == "ok" else None
        if path is None or not path.is_file():
            return fit
        try:
            stored = fit_files.load(path)
        except FitFileError as error:
            logging.warning("%s; the row of the job is used", error)
            return fit
        same = stored.config_hash == fit.config_hash and all(
            np.array_equal(getattr(stored, name), getattr(fit, name), equal_nan=True) for name in job_rows.PARAMETERS
        )
        return stored if same else fit


@contextlib.contextmanager
def _naming(path: Location) -> Iterator[None]:
    """Turns what a broken shard raises (SceneError, RuntimeError, OSError) into a FitFileError that names the file."""
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        raise FitFileError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def fit_of_row(row: SceneRow, config_json: str = "") -> SceneFit:
    """The fit that a row of a job stores; what rows do not hold is NaN or empty (see `open_fits`).

    The names of bones and phenotypes are those of the bundled body; of rows fitted with another one they are unknown, empty.
    """
    inside = row.person_index >= 0
    people, aside = np.flatnonzero(inside), np.flatnonzero(~inside)

    def texts(values: list[str]) -> np.ndarray:
        return np.array([values[i] for i in people], np.str_)

    fields: dict[str, Any] = {name: array[people] for name, array in row.arrays.items()}
    unknown: dict[str, Any] = {
        name: np.full_like(fields[name.removeprefix("start_").removesuffix("_raw")], np.nan)
        for name in ("shape_raw", *(f"start_{parameter}" for parameter in job_rows.PARAMETERS))
    }
    version, bones, phenotypes = _labels()
    known = row.asset_version == version
    return SceneFit(
        name=row.name,
        image_size=row.image_size,
        image_path=row.image_path,
        K=row.K,
        person_ids=texts(row.person_ids),
        status=texts(row.status),
        notes=texts(row.notes),
        **fields,
        **unknown,
        start_origin=row.start_origin,
        lens=row.lens,
        loss_names=np.zeros(0, np.str_),
        loss_curve=np.zeros((0, 0), np.float32),
        bone_labels=bones if known else bones[:0],
        phenotype_labels=phenotypes if known else phenotypes[:0],
        asset_version=row.asset_version,
        config_hash=row.config_hash,
        config_json=config_json,
        scene_notes=np.array(row.scene_notes, np.str_),
        set_aside=np.array([(row.person_ids[i], row.notes[i]) for i in aside], np.str_).reshape(-1, 2),
    )


@functools.cache
def _labels() -> tuple[str, np.ndarray, np.ndarray]:
    """Version, posed bones and phenotypes of the bundled body."""
    asset = anny_asset.read()
    bones = np.array([str(label) for label in asset["bone_labels"]])
    return str(asset["asset_version"]), bones[1:], np.array(anny.PHENOTYPE_LABELS)
