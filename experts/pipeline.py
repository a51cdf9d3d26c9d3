"""Photos through the experts, one expert after another: resumable, shared by any number of processes.

    STAGES/<cue>-<key>/00003.npz      an expert's answers about the photos of a unit (`store`)
    STAGES/<cue>-<key>/card.json      what the expert was: checkpoint, version, licence
    STAGES/<cue>-<key>/claims/        who works on a unit just now

The key is a checksum of everything that decides the answers: the photos' names and sizes, the expert, its options, and the keys
of the experts whose answers it was given. Another expert for one cue has another key, so only it and what depends on it are
computed again, and a killed run continues with the first missing unit.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from annyfit_jax.inputs.photos import photo_paths, photo_size, read_photo, scene_names
from annyfit_jax.jobs.claims import DEFAULT_LEASE_S, Claims
from annyfit_jax.jobs.durable_files import JobWriteError, publish_json
from annyfit_jax.jobs.hosts import Process
from annyfit_jax.jobs.job_feed import POLL_S
from annyfit_jax.jobs.job_plan import Plan
from annyfit_jax.jobs.runner import Interrupted
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.files import clean_leftovers, read_json
from experts import expert_cues, expert_store
from experts.expert_store import Entry
from experts.interfaces import METHODS, Card, Expert, ExpertError, People, Photo, is_out_of_memory
from experts.registry import ExpertSet, options_of

UPSTREAM: Mapping[str, tuple[str, ...]] = {
    "detector": (),
    "segmenter": ("detector",),
    "keypoints": ("detector",),
    "dense": ("detector",),
    "depth": (),
    "camera": ("depth",),
    "words": ("detector", "segmenter", "keypoints"),
    "start": ("detector", "keypoints", "camera"),
}
"""Cue -> the cues whose answers its expert is given, besides those that the expert names in `uses`."""
READERS = min(8, os.cpu_count() or 1)
"""Threads that decode photos while an expert is at work."""
_KEY_VERSION = 2


@dataclass(frozen=True)
class Collection:
    """The photos of a run, cut into units."""

    names: tuple[str, ...]
    """Scene names."""
    paths: tuple[str, ...]
    files: tuple[str, ...]
    """Paths below the folder."""
    plan: Plan

    @staticmethod
    def of_folder(folder: str | Path, photos_per_unit: int, limit: int | None = None) -> Collection:
        """The photos below a folder, or those that a file name or pattern names. Raises SceneError where there are none."""
        root, paths = photo_paths(folder)
        files = [path.relative_to(root).as_posix() for path in paths]
        names = scene_names(files)[:limit]  # of all photos: a limit changes no name
        sizes = tuple(path.stat().st_size if path.exists() else -1 for path in paths[:limit])  # a link may lead nowhere
        paths = tuple(str(path) for path in paths[:limit])
        return Collection(tuple(names), paths, tuple(files[:limit]), Plan(len(paths), photos_per_unit), sizes)

    sizes: tuple[int, ...]
    """Bytes of each file: a photo that is replaced by another one of the same name is noticed."""

    def checksum(self) -> str:
        """Of names, sizes and cut."""
        content = [
            _KEY_VERSION,
            self.plan.scenes_per_shard,
            list(self.names),
            [os.fsencode(file).hex() for file in self.files],
            list(self.sizes),
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def upstream(cue: str, expert: Expert) -> tuple[str, ...]:
    """The cues whose answers an expert is given. Raises ExpertError where it wants one that is not there yet."""
    uses = tuple(name for name in getattr(expert, "uses", ()) if name not in UPSTREAM[cue])
    order = list(METHODS)
    if late := [name for name in uses if order.index(name) >= order.index(cue)]:
        raise ExpertError(f"{cue}: {expert.card.expert} uses {', '.join(late)}, which are found later")
    return UPSTREAM[cue] + uses


def stage_keys(collection: Collection, experts: ExpertSet) -> dict[str, str]:
    """Cue -> key, for the cues that have an expert."""
    keys: dict[str, str] = {}
    photos = collection.checksum()
    for cue, expert in experts.items():
        content = {
            "photos": photos,
            "cue": cue,
            "card": expert.card.to_json(),
            "options": options_of(expert),
            "upstream": {name: keys[name] for name in upstream(cue, expert) if name in keys},
            # The rules decide which detections later experts see; those about keypoints act when scenes are put together.
            "rules": _detection_rules(experts) if cue == "detector" else None,
        }
        keys[cue] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    return keys


def _detection_rules(experts: ExpertSet) -> dict[str, Any]:
    rules = experts.people
    return {name: getattr(rules, name) for name in ("min_score", "min_side_px", "max_people", "duplicate_iou")}


@dataclass
class Stages:
    """The experts at work on this process's share of a collection."""

    folder: Path
    """STAGES."""
    collection: Collection
    experts: ExpertSet
    process: Process = field(default_factory=lambda: Process(0, 1, "a single process"))
    batch: int = 8
    """Photos per call of an expert; halved where memory runs out."""
    lease_s: float = DEFAULT_LEASE_S
    log_every_s: float = 10.0
    retry_failed: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    redone: set[int] = field(default_factory=set)
    """Units of which an answer was replaced (`retry_failed`)."""
    _tried: set[tuple[str, int]] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        self.keys = stage_keys(self.collection, self.experts)

    def path(self, cue: str, unit: int | None = None) -> Path:
        """The folder of a cue's answers, or a unit's file."""
        folder = self.folder / f"{cue}-{self.keys[cue]}"
        return folder if unit is None else folder / f"{unit:05d}.npz"

    def card(self, cue: str) -> Card:
        """The card of the expert that gave the answers, with the version that was loaded."""
        stored = read_json(self.path(cue) / "card.json")
        return Card(**stored) if isinstance(stored, dict) else getattr(self.experts, cue).card

    def run(self) -> None:
        """All experts, one after another. Raises ExpertError, JobWriteError, Interrupted."""
        for cue, expert in self.experts.items():
            self._run_stage(cue, expert)

    # ---------------------------------------------------------------------------------------- one expert

    def _run_stage(self, cue: str, expert: Expert) -> None:
        folder = self.path(cue)
        for place in (folder, folder / "claims"):
            clean_leftovers(place, older_than_s=10 * self.lease_s)
        left = [unit for unit in self.collection.plan.share(self.process) if self._needed(cue, unit)]
        share = sum(len(self.collection.plan.scenes(unit)) for unit in left)
        if not left:
            logging.info("%s: done before (%s)", cue, folder.name)
            return
        progress = StageProgress(self.folder, self.process, cue, share, self.log_every_s)
        loaded, state, batch = False, "stopped", self.batch
        self.batch = max(batch, getattr(expert, "photos_at_once", 0))
        try:
            with Claims(folder, self.lease_s) as claims:
                while left:
                    held = []
                    for unit in left:
                        if not self._needed(cue, unit):
                            continue
                        if not claims.acquire(unit):
                            held.append(unit)
                            continue
                        if self._needed(cue, unit):  # still, now that nobody else can finish it
                            if not loaded:
                                loaded = True
                                self._load(cue, expert)
                                progress.begin()
                            self._run_unit(cue, expert, unit, progress)
                        claims.release(unit)
                    left = held
                    if left and self.stop.wait(POLL_S):
                        raise Interrupted
            state = "finished"
        finally:
            if loaded:
                expert.close()
            self.batch = batch  # memory that ran out is no news about the next expert
            progress.report(state)

    def _load(self, cue: str, expert: Expert) -> None:
        if hasattr(expert, "place"):  # another device for another process
            expert.place(self.process.index)  # pyright: ignore[reportAttributeAccessIssue]
        expert.load()
        path, card = self.path(cue) / "card.json", expert.card
        publish_json(path, card.to_json(), first_wins=True)
        current = self.card(cue)
        if current != card:
            local = current.version.startswith("sha256:")
            pin = "give the earlier folder" if local else f"pin it with --set={cue}.revision={current.version}"
            raise ExpertError(
                f"{cue}: {card.expert}: the earlier answers in {path.parent} are of version {current.version}, the checkpoint "
                f"is now {card.version}: {pin}, or choose another --stages"
            )

    def _needed(self, cue: str, unit: int) -> bool:
        entries = expert_store.read_index(self.path(cue, unit))
        if entries is None or len(entries) != len(self.collection.plan.scenes(unit)):
            return True
        return self.retry_failed and (cue, unit) not in self._tried and any(entry.error for entry in entries)

    def _run_unit(self, cue: str, expert: Expert, unit: int, progress: StageProgress) -> None:
        indices = list(self.collection.plan.scenes(unit))
        before = expert_store.read_index(self.path(cue, unit)) or []
        entries: dict[int, Entry] = {}
        with ExitStack() as stack:
            if len(before) == len(indices):  # a retry: what has an answer keeps it
                opened = stack.enter_context(expert_store.open_unit(self.path(cue, unit)))
                entries = {i: opened.entry(k) for k, i in enumerate(indices) if not before[k].error}
                self.redone.add(unit)
            earlier = {
                name: stack.enter_context(expert_store.open_unit(self.path(name, unit)))
                for name in upstream(cue, expert)
                if name in self.keys
            }
            reader = stack.enter_context(ThreadPoolExecutor(READERS, "photos"))
            todo = [i for i in indices if i not in entries]
            # The detector's turn comes first and proves that a photo is whole, also where boxes are read from a file.
            with_pixels = cue == "detector" or getattr(expert, "needs_pixels", True)
            for chunk, photos in self._photos(reader, todo, with_pixels):
                if self.stop.is_set():
                    raise Interrupted
                known = [{name: opened.entry(i - indices[0]) for name, opened in earlier.items()} for i in chunk]
                for i, entry in zip(chunk, self._answers(cue, expert, photos, known), strict=True):
                    entries[i] = entry
                    progress.add(entry)
        expert_store.write_unit(self.path(cue, unit), [entries[i] for i in indices])
        self._tried.add((cue, unit))

    def _photos(
        self, reader: ThreadPoolExecutor, indices: Sequence[int], with_pixels: bool
    ) -> Iterator[tuple[Sequence[int], list[Photo | Entry]]]:
        """Chunks of photos, the next one read while the expert is at work on the last."""

        def read(chunk: Sequence[int]) -> list[Future[Photo | Entry]]:
            return [reader.submit(self._photo, i, with_pixels) for i in chunk]

        chunks = [indices[k : k + self.batch] for k in range(0, len(indices), self.batch)]
        ahead = read(chunks[0]) if chunks else []
        for position, chunk in enumerate(chunks):
            photos = [future.result() for future in ahead]
            ahead = read(chunks[position + 1]) if position + 1 < len(chunks) else []
            yield chunk, photos

    def _photo(self, index: int, with_pixels: bool) -> Photo | Entry:
        name, path = self.collection.names[index], self.collection.paths[index]
        try:
            path.encode()  # a name that is not Unicode cannot be stored
            pixels = read_photo(path) if with_pixels else _no_pixels(*photo_size(path))
            return Photo(name, path, pixels, self.collection.files[index])
        except (SceneError, UnicodeError) as error:
            return Entry(name, error=f"photo: {error}", blocked=True)

    def _answers(
        self, cue: str, expert: Expert, photos: Sequence[Photo | Entry], known: Sequence[dict[str, Entry]]
    ) -> list[Entry]:
        """An entry per photo: an answer, or why there is none."""
        result: list[Entry | None] = [photo if isinstance(photo, Entry) else None for photo in photos]
        questions: list[tuple[int, Photo, People | None, Any]] = []
        for i, (photo, entries) in enumerate(zip(photos, known, strict=True)):
            if isinstance(photo, Entry):
                continue
            detector = entries.get("detector")
            if detector is not None and detector.error:
                result[i] = Entry(photo.name, error=f"detector: {detector.error}", blocked=True)
                continue
            usable = {name: entry for name, entry in entries.items() if not entry.error}
            people = expert_cues.people_of(usable, photo.size) if "detector" in usable else None
            if cue in expert_cues.NEEDS_PEOPLE and not len(people or ()):
                result[i] = expert_cues.empty(cue, photo)
                continue
            depth = usable["depth"].arrays.get("intrinsics") if "depth" in usable else None
            questions.append((i, photo, people, depth))
        for (i, *_), entry in zip(questions, self._ask(cue, expert, [q[1:] for q in questions]), strict=True):
            result[i] = entry
        return [entry for entry in result if entry is not None]

    def _ask(self, cue: str, expert: Expert, questions: list[tuple[Photo, People | None, Any]]) -> list[Entry]:
        """Answers of the expert; a call that fails is repeated in halves, down to the photo that it fails on."""
        if not questions:
            return []
        photos, people, depths = (list(part) for part in zip(*questions, strict=True))
        try:
            answers = expert_cues.ask(cue, expert, photos, people, depths)
        except (ExpertError, Interrupted, JobWriteError):
            raise
        except Exception as error:
            if len(questions) > 1:
                half = len(questions) // 2
                if is_out_of_memory(error):
                    self.batch = min(self.batch, half)
                    gc.collect()
                    logging.warning(
                        "%s: out of memory with %d photos, now %d at a time", cue, len(questions), self.batch
                    )
                return self._ask(cue, expert, questions[:half]) + self._ask(cue, expert, questions[half:])
            return [self._failed(cue, photos[0], error)]
        entries = []
        for photo, person, answer in zip(photos, people, answers, strict=True):
            if isinstance(answer, Exception):
                entries.append(self._failed(cue, photo, answer))
                continue
            try:
                entries.append(expert_cues.encode(cue, answer, photo, person, self.experts.people))
            except SceneError as error:
                entries.append(self._failed(cue, photo, error))
        return entries

    def _failed(self, cue: str, photo: Photo, error: Exception) -> Entry:
        reason = " ".join(str(error).split())[:500]
        reason = reason if isinstance(error, SceneError) else f"{type(error).__name__}: {reason}"
        logging.warning("%s: %s: %s", cue, photo.name, reason)
        return Entry(photo.name, error=reason)


def _no_pixels(width: int, height: int) -> np.ndarray:
    """(H, W, 3) zeros that take no memory."""
    return np.broadcast_to(np.uint8(0), (height, width, 3))


def failures(stages: Stages) -> list[dict[str, str]]:
    """Every photo that an expert has no answer about: scene, cue, reason. Those that only follow from another are left out."""
    rows, told = [], set()
    for cue in METHODS:
        if cue not in stages.keys:
            continue
        for unit in range(stages.collection.plan.num_units):
            for entry in expert_store.read_index(stages.path(cue, unit)) or []:
                if entry.error and not (entry.blocked and (entry.name in told or entry.error.startswith("detector: "))):
                    told.add(entry.name)
                    rows.append({"scene": entry.name, "cue": "photo" if entry.blocked else cue, "reason": entry.error})
    return rows


class StageProgress:
    """The progress of an expert: a log line and a JSON line every few seconds."""

    def __init__(self, folder: Path, process: Process, cue: str, total: int, every_s: float) -> None:
        self._path = folder / f"progress-{process.index:05d}-of-{process.count:05d}.jsonl"
        self._cue, self._total, self._every_s = cue, total, every_s
        self.photos = self.failed = 0
        self._started = self._last = time.monotonic()

    def begin(self) -> None:
        """The model is loaded: the rate counts from now."""
        self._started = self._last = time.monotonic()

    def add(self, entry: Entry) -> None:
        """One more photo has its entry."""
        self.photos += 1
        self.failed += bool(entry.error)
        if time.monotonic() - self._last >= self._every_s:
            self.report("running")

    def report(self, state: str) -> None:
        """Log and JSON line; one that cannot be written is a warning."""
        self._last = time.monotonic()
        seconds = self._last - self._started
        rate = self.photos / max(seconds, 1e-9)
        line = {
            "time": round(time.time(), 3), "cue": self._cue, "state": state, "seconds": round(seconds, 3),
            "photos": self.photos, "photos_total": self._total, "failed": self.failed, "photos_per_s": round(rate, 3),
            "seconds_left": round((self._total - self.photos) / rate, 1) if self.photos else None,
        }  # fmt: skip
        logging.info(
            "%s: %s, %d/%d photos, %d failed, %.2f photos/s",
            self._cue,
            state,
            self.photos,
            self._total,
            self.failed,
            rate,
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            logging.warning("%s: %s", self._path, error)
