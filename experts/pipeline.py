"""Photos through the experts, unit by unit: each expert is a stage of the engine (`annyfit_jax.engine`).

    STAGES/<cue>-<key>/<unit>.npz     an expert's answers about the photos of a unit (`expert_store`)
    STAGES/<cue>-<key>/card.json      what the expert was: checkpoint, version, licence

The key is a checksum of everything that decides the answers: the expert, its options, and the keys of the experts whose answers
it was given; the name of a unit one of its photos' names and fingerprints. Another expert for one cue has another key, so only
it and what depends on it are computed again; of photos that are added or changed only their units; and a killed run continues
with the first missing unit."""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from annyfit_jax.engine.stages import EachUnit, Stage
from annyfit_jax.engine.stopping import Interrupted
from annyfit_jax.inputs.photos import bucket_photos, photo_paths, photo_size, read_photo, scene_names
from annyfit_jax.people.scene import SceneError
from annyfit_jax.store.locations import JobWriteError, Location, is_remote, place
from annyfit_jax.store.work_progress import WorkProgress, reason_of
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
READING = "decode"
"""The stage that reads photos for all experts, where cores relieve accelerators."""
READERS = min(8, os.cpu_count() or 1)
"""Threads that decode photos while an expert is at work."""
_KEY_VERSION = 3


@dataclass(frozen=True)
class Collection:
    """The photos of a run."""

    names: tuple[str, ...]
    """Scene names."""
    paths: tuple[str, ...]
    files: tuple[str, ...]
    """Paths below the folder."""
    stamps: tuple[str, ...]
    """Fingerprints: a photo that is replaced by another one of the same name is noticed. Empty where a link leads nowhere."""

    @staticmethod
    def of_folder(folder: str | Path, limit: int | None = None) -> Collection:
        """The photos below a folder, also in a bucket, or those that a file name or pattern names.

        Raises SceneError where there are none.
        """
        if is_remote(folder):
            place_of, stamped = bucket_photos(str(folder))
            files = tuple(stamped)[:limit]
            names = tuple(scene_names(tuple(stamped))[:limit])
            stamps = tuple(stamped[file] for file in files)
            return Collection(names, tuple(f"{place_of}/{file}" for file in files), files, stamps)
        root, paths = photo_paths(folder)
        files = [path.relative_to(root).as_posix() for path in paths]
        names = scene_names(files)[:limit]  # of all photos: a limit changes no name
        chosen = tuple(str(path) for path in paths[:limit])
        with ThreadPoolExecutor(READERS, "stamps") as threads:
            stamps = tuple(threads.map(lambda path: place(path).stamp(), chosen))
        return Collection(tuple(names), chosen, tuple(files[:limit]), stamps)

    def __len__(self) -> int:
        return len(self.names)

    def stamp(self, index: int) -> str:
        """The fingerprint of a photo."""
        return self.stamps[index]

    def checksum(self, indices: Sequence[int]) -> str:
        """Of the names and fingerprints of some photos, 16 hex digits."""
        content = [_KEY_VERSION, *([self.names[i], os.fsencode(self.files[i]).hex(), self.stamps[i]] for i in indices)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def upstream(cue: str, expert: Expert) -> tuple[str, ...]:
    """The cues whose answers an expert is given. Raises ExpertError where it wants one that is not there yet."""
    uses = tuple(name for name in getattr(expert, "uses", ()) if name not in UPSTREAM[cue])
    order = list(METHODS)
    if late := [name for name in uses if order.index(name) >= order.index(cue)]:
        raise ExpertError(f"{cue}: {expert.card.expert} uses {', '.join(late)}, which are found later")
    return UPSTREAM[cue] + uses


def stage_keys(experts: ExpertSet) -> dict[str, str]:
    """Cue -> key, for the cues that have an expert."""
    keys: dict[str, str] = {}
    for cue, expert in experts.items():
        content = {
            "version": _KEY_VERSION,
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
    """The experts, a collection, and the folder of what they say. Can be pickled where the experts can."""

    folder: Location
    """STAGES."""
    collection: Collection
    experts: ExpertSet
    batch: int = 8
    """Photos per call of an expert; halved where memory runs out."""
    log_every_s: float = 10.0
    retry_failed: bool = False
    progress: Location | None = None
    """Folder for the lines of progress; default `folder`."""
    redone: set[int] = field(default_factory=set)
    """Units of which an answer was replaced (`retry_failed`)."""

    def __post_init__(self) -> None:
        self.keys = stage_keys(self.experts)

    def path(self, cue: str, indices: Sequence[int] | None = None) -> Location:
        """The folder of a cue's answers, or the file of those about the photos of a unit."""
        folder = self.folder / f"{cue}-{self.keys[cue]}"
        return folder if indices is None else folder / f"{self.collection.checksum(indices)}.npz"

    def card(self, cue: str) -> Card:
        """The card of the expert that gave the answers, with the version that was loaded."""
        stored = (self.path(cue) / "card.json").read_json()
        return Card(**stored) if isinstance(stored, dict) else getattr(self.experts, cue).card

    def stages(self, units: int, indices: Callable[[int], Sequence[int]]) -> list[Stage]:
        """A stage of the engine per expert. Their workers raise ExpertError, JobWriteError, Interrupted.

        Args:
          units: how many there are.
          indices: the photos of a unit.
        """
        asked = [self._stage(cue, expert, units, indices) for cue, expert in self.experts.items()]
        looking = [stage for stage in asked if stage.given]
        reading = Stage(
            READING, functools.partial(_make_reader, self.collection), range(units),
            lambda unit: any(stage.needed(unit) for stage in looking), lambda unit: (unit, tuple(indices(unit))),
            accelerator=False, hands_on=True,
        )  # fmt: skip
        return [reading, *asked]

    def _stage(self, cue: str, expert: Expert, units: int, indices: Callable[[int], Sequence[int]]) -> Stage:
        folder, tried, looks = self.path(cue), set(), _looks(cue, expert)
        folder.clean()
        there = set(folder.files())

        def needed(unit: int) -> bool:
            path = self.path(cue, indices(unit))
            if path.name not in there:
                return True
            if folder.remote and not self.retry_failed:
                return False
            entries = expert_store.read_index(path)
            if entries is None or len(entries) != len(indices(unit)):
                return True
            return self.retry_failed and unit not in tried and any(entry.error for entry in entries)

        def begin(_: int, workers: int) -> None:
            left = sum(len(indices(unit)) for unit in range(units) if needed(unit))
            progress.begin(len(self.collection) - left, workers=workers)

        def commit(unit: int, result: tuple[int, Counter[str], bool]) -> None:
            photos, failed, again = result
            tried.add(unit)
            there.add(self.path(cue, indices(unit)).name)
            if again:
                self.redone.add(unit)
            progress.add(photos, failed)

        progress = WorkProgress(
            self.progress or self.folder, cue, len(self.collection), "photos", every_s=self.log_every_s
        )
        return Stage(
            cue, functools.partial(_make_worker, self, cue, expert), range(units), needed,
            lambda unit: (unit, tuple(indices(unit))), commit,
            tuple(name for name in upstream(cue, expert) if name in self.keys) + (READING,) * looks, begin=begin,
            end=progress.report, waits=progress.waits, given=READING if looks else "",
        )  # fmt: skip


def _looks(cue: str, expert: Expert) -> bool:
    """Whether photos are decoded for an expert.

    The detector's turn comes first and proves that a photo is whole, also where boxes are read from a file.
    """
    return cue == "detector" or getattr(expert, "needs_pixels", True)


def read(collection: Collection, with_pixels: bool, index: int) -> Photo | Entry:
    """A photo, or why there is none."""
    name, path = collection.names[index], collection.paths[index]
    try:
        path.encode()  # a name that is not Unicode cannot be stored
        pixels = read_photo(path) if with_pixels else _no_pixels(*photo_size(path))
        return Photo(name, path, pixels, collection.files[index])
    except (SceneError, UnicodeError) as error:
        return Entry(name, error=f"photo: {error}", blocked=True)


def _make_reader(collection: Collection, _: threading.Event) -> EachUnit:
    threads = max(int(os.environ.get("OMP_NUM_THREADS") or 1), 1)  # as many as the cores that Ray gives an actor
    pool = ThreadPoolExecutor(threads, "photos")

    def read_all(task: tuple[int, Sequence[int]]) -> tuple[int, list[Photo | Entry]]:
        return task[0], list(pool.map(functools.partial(read, collection, True), task[1]))

    return EachUnit(read_all, pool.shutdown)


def _make_worker(stages: Stages, cue: str, expert: Expert, stop: threading.Event) -> ExpertWorker:
    return ExpertWorker(stages, cue, expert, stop)


class ExpertWorker:
    """One expert at work on units of photos (`engine.stages.Worker`)."""

    def __init__(self, stages: Stages, cue: str, expert: Expert, stop: threading.Event) -> None:
        self.stages, self.collection, self.stop = stages, stages.collection, stop
        self.cue, self.expert = cue, expert
        self.batch = max(stages.batch, getattr(expert, "photos_at_once", 0))
        if hasattr(expert, "place"):  # the engine shows a worker its own devices only
            expert.place(0)  # pyright: ignore[reportAttributeAccessIssue]
        expert.load()
        path, card = stages.path(cue) / "card.json", expert.card
        path.put_json(card.to_json(), if_absent=True)
        current = stages.card(cue)
        if current != card:
            expert.close()
            local = current.version.startswith("sha256:")
            pin = "give the earlier folder" if local else f"pin it with --set={cue}.revision={current.version}"
            raise ExpertError(
                f"{cue}: {card.expert}: the earlier answers in {stages.path(cue)} are of version {current.version}, the "
                f"checkpoint is now {card.version}: {pin}, or choose another --stages"
            )

    def close(self) -> None:
        """Gives the expert's memory back."""
        self.expert.close()

    def stream(self, tasks: Iterator[tuple[Any, ...]]) -> Iterator[tuple[int, tuple[int, Counter[str], bool]]]:
        """(unit, (photos asked about, reasons of those that failed, whether earlier answers were replaced)) of every unit.

        A task is a unit, its photos by their indices, and perhaps what `READING` has read of them.
        """
        return ((unit, self._unit(indices, *given)) for unit, indices, *given in tasks)

    def _unit(self, indices: Sequence[int], given: Sequence[Photo | Entry] = ()) -> tuple[int, Counter[str], bool]:
        cue, expert, stages = self.cue, self.expert, self.stages
        target = stages.path(cue, indices)
        before = (expert_store.read_index(target) if stages.retry_failed else None) or []
        entries: dict[int, Entry] = {}
        again = len(before) == len(indices)
        position = {index: k for k, index in enumerate(indices)}
        with ExitStack() as stack:
            if again:  # a retry: what has an answer keeps it
                opened = stack.enter_context(expert_store.open_unit(target))
                entries = {i: opened.entry(k) for k, i in enumerate(indices) if not before[k].error}
            earlier = {
                name: stack.enter_context(expert_store.open_unit(stages.path(name, indices)))
                for name in upstream(cue, expert)
                if name in stages.keys
            }
            reader = stack.enter_context(ThreadPoolExecutor(READERS, "photos"))
            todo = [i for i in indices if i not in entries]
            for chunk, photos in self._photos(reader, todo, dict(zip(indices, given))):
                if self.stop.is_set():
                    raise Interrupted
                known = [{name: opened.entry(position[i]) for name, opened in earlier.items()} for i in chunk]
                for i, entry in zip(chunk, self._answers(cue, expert, photos, known), strict=True):
                    entries[i] = entry
        expert_store.write_unit(target, [entries[i] for i in indices])
        failed = Counter(reason_of(error, entries[i].name) for i in todo if (error := entries[i].error))
        return len(todo), failed, again

    def _photos(
        self, reader: ThreadPoolExecutor, indices: Sequence[int], given: Mapping[int, Photo | Entry]
    ) -> Iterator[tuple[Sequence[int], list[Photo | Entry]]]:
        """Chunks of photos, the next one read while the expert is at work on the last, where they are not given."""
        one = functools.partial(read, self.collection, _looks(self.cue, self.expert))

        def begun(chunk: Sequence[int]) -> list[Future[Photo | Entry]]:
            return [reader.submit(given.__getitem__, i) if i in given else reader.submit(one, i) for i in chunk]

        chunks = [indices[k : k + self.batch] for k in range(0, len(indices), self.batch)]
        ahead = begun(chunks[0]) if chunks else []
        for position, chunk in enumerate(chunks):
            photos = [future.result() for future in ahead]
            ahead = begun(chunks[position + 1]) if position + 1 < len(chunks) else []
            yield chunk, photos

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
                entries.append(expert_cues.encode(cue, answer, photo, person, self.stages.experts.people))
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


def failures(stages: Stages, units: Sequence[Sequence[int]]) -> list[dict[str, str]]:
    """Every photo that an expert has no answer about: scene, cue, reason. Those that only follow from another are left out.

    Args:
      units: the photos of every unit.
    """
    rows, told = [], set()
    for cue in METHODS:
        if cue not in stages.keys:
            continue
        for indices in units:
            for entry in expert_store.read_index(stages.path(cue, indices)) or []:
                if entry.error and not (entry.blocked and (entry.name in told or entry.error.startswith("detector: "))):
                    told.add(entry.name)
                    rows.append({"scene": entry.name, "cue": "photo" if entry.blocked else cue, "reason": entry.error})
    return rows
