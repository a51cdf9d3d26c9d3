"""The driver of a job: opens its store, has an engine do what is left, commits, and finishes. Knows nothing of the fitter."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from absl import logging

from annyfit_jax.engine.running import run
from annyfit_jax.engine.stages import Engine, Stage
from annyfit_jax.inputs.scene_source import InputOptions, SceneSource
from annyfit_jax.jobs import fit_store
from annyfit_jax.jobs.finish import finish
from annyfit_jax.jobs.fit_store import DEFAULT_SCENES_PER_SHARD
from annyfit_jax.jobs.fit_worker import make_fit_worker
from annyfit_jax.jobs.job_feed import Job, SceneFitter, Task
from annyfit_jax.jobs.progress import Progress
from annyfit_jax.people.scene import Scene
from annyfit_jax.store.datasets import Dataset, open_dataset
from annyfit_jax.store.locations import Location, place
from annyfit_jax.store.plan import Plan
from annyfit_jax.store.units import Store


@dataclass(frozen=True)
class JobOptions:
    """Choices that do not change the fits. `scenes_per_shard` stays the same; `limit` may grow."""

    limit: int | None = None
    """Number of scenes, counted from the first; None: all."""
    scenes_per_shard: int = DEFAULT_SCENES_PER_SHARD
    fit_files: bool | None = None
    """Write `fits/<scene>.npz`; None: yes, except for cue datasets."""
    save_vertices: bool = False
    """Store posed vertices in the fit files, which are then written in any case."""
    engine: Engine = field(default_factory=Engine)
    """Who does the work."""
    retry_failed: bool = False
    overwrite: bool = False
    """Remove the results of an earlier job first."""
    log_every_s: float = 10.0
    tensorboard: bool = False
    profile: str | None = None
    """Folder for a `jax.profiler` trace of the first batches."""
    identity: dict[str, Any] = field(default_factory=lambda: identity_of({}))
    """What decides the scenes besides the input itself: a job is only continued with the same (`identity_of`)."""

    def writes_fit_files(self, source: SceneSource) -> bool:
        """Whether there is a file per scene."""
        return self.save_vertices or (source.kind != "cues" if self.fit_files is None else self.fit_files)


class Before(NamedTuple):
    """Stages that make the input of a job while it runs."""

    stages: Sequence[Stage]
    store: Store
    """What they write to; locked while they work."""
    order: Sequence[int]
    """The input index of every position of that store."""
    redone: set[int]
    """Units that they have made anew although they were there; grows while they work."""


class JobState(NamedTuple):
    """What became of a job."""

    totals: dict[str, Any]
    """Counts of scenes and people by status."""
    new_scenes: int = 0
    """Scenes that this run went through; 0 where the job was finished before."""

    @property
    def scenes(self) -> int:
        """Scenes that were fitted."""
        return self.totals["scenes"].get("ok", 0)

    @property
    def set_aside(self) -> int:
        """Scenes that were not."""
        return sum(self.totals["scenes"].values()) - self.scenes

    @property
    def people(self) -> tuple[int, int]:
        """(people fitted, people in all)."""
        people = self.totals["people"]
        return people.get("ok", 0), sum(people.values())


def run_job(
    folder: Location,
    plan: Plan,
    source: SceneSource,
    config_of: Callable[[Scene], str],
    make_fitter: Callable[[str], SceneFitter],
    options: JobOptions,
    stop: threading.Event | None = None,
    before: Before | None = None,
) -> JobState:
    """A job with any fitter: opens the store of a plan, does what is left of it, and finishes it.

    Args:
      before: where the scenes are still being made; a unit is fitted as soon as its scenes are there.
    """
    dataset = open_dataset(folder, plan)
    store, stored = dataset.store, plan.source["configs"]
    job = Job(
        store, source, config_of, make_fitter, fit_store.hash_of_configs(stored), plan.source["asset_version"],
        options.writes_fit_files(source), options.save_vertices, options.profile,
    )  # fmt: skip
    progress = Progress(folder, store.cut.total, every_s=options.log_every_s, tensorboard=options.tensorboard)
    with store.alone(), before.store.alone() if before else contextlib.nullcontext():
        engine, stages = options.engine, list(before.stages) if before else []
        # Both are cut alike unless one of them was killed between two growths.
        if before and (before.store.cut, list(before.order)) != (store.cut, list(dataset.order)):
            run(stages, options.engine.of(stage.name for stage in stages), stop)
            engine, stages = engine.of(["fit"]), []
        after = tuple(stage.name for stage in stages if not stage.hands_on)
        run(
            [*stages, fit_stage(dataset, job, progress, options, after, before.redone if before else set())],
            engine,
            stop,
        )
        totals = finish(store, stored)
    assert totals is not None
    return JobState(totals, progress.scenes)


def fit_stage(
    dataset: Dataset, job: Job, progress: Progress, options: JobOptions, after: tuple[str, ...], redone: set[int]
) -> Stage:
    """The stage that fits the units of a job; those of `redone` in any case."""
    store, here = dataset.store, options.engine.in_process

    def needed(unit: int) -> bool:
        return dataset.needed(unit) or unit in redone

    def retried(unit: int) -> bool:
        entry = store.entry(unit)
        return options.retry_failed and entry is not None and entry["counts"]["retryable"] > 0

    def task(unit: int) -> Task:
        return Task(unit, dataset.indices(unit), dataset.stamp(unit), None if needed(unit) else store.entry(unit))

    def begin(units: int, workers: int) -> None:
        progress.workers = workers
        left = sum(len(span) for unit, span in enumerate(store.spans) if needed(unit) or retried(unit))
        progress.found(store.cut.total - left)
        progress.start()

    def commit(unit: int, entry: dict[str, Any]) -> None:
        store.commit(entry)
        if not here:
            progress.committed(entry)
        logging.info("unit %d: %d scenes, people %s", unit, entry["num_records"], entry["counts"]["people"])

    return Stage(
        "fit", functools.partial(make_fit_worker, job, progress if here else None), range(store.num_units),
        needed=lambda unit: needed(unit) or retried(unit), task=task, commit=commit, after=after,
        begin=begin, end=progress.report, waits=progress.waits,
    )  # fmt: skip


def identity_of(options: dict[str, Any]) -> dict[str, Any]:
    """What decides the fits among the options that an input was opened with, where they differ from the defaults."""
    # Folders may move between runs; only whether they are given counts. The words and the
    # camera decide the fit, so their content does.
    known = InputOptions()
    identity: dict[str, Any] = {
        name: options.get(name, getattr(known, name)) for name in ("fov_degrees", "translation")
    }
    identity |= {name: bool(value) for name, value in options.items() if name not in identity}
    identity.pop("images", None)
    for name in ("words", "calibration"):
        if name in options:
            identity[name] = hashlib.sha256(place(options[name]).read_bytes()).hexdigest()[:16]
    identity |= {name: options[name] for name in ("skeleton", "image_size") if name in options}
    return identity
