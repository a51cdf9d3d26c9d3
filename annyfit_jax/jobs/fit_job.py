"""A collection of scenes fitted as a job: everything between an opened input and the results in a folder.

    configs = by_start(with_start=annyfit, without_start=annyfit_keypoints)
    totals = fit_job(open_input("SCENES"), "out/job", configs)

The job may be stopped and continued, and shared by processes; see `annyfit_jax.jobs`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

import annyfit_jax
from annyfit_jax.fit.config import FitConfig
from annyfit_jax.fit.fitter import Fitter
from annyfit_jax.fit.objective import check_terms
from annyfit_jax.inputs.scene_source import InputOptions, SceneSource
from annyfit_jax.jobs.claims import DEFAULT_LEASE_S
from annyfit_jax.jobs.finish import finish
from annyfit_jax.jobs.hosts import Process, find_process
from annyfit_jax.jobs.job_feed import Job
from annyfit_jax.jobs.job_plan import DEFAULT_SCENES_PER_SHARD, Identity, Plan, hash_names, open_job
from annyfit_jax.jobs.ledger import Ledger
from annyfit_jax.jobs.progress import Profiler, Progress
from annyfit_jax.jobs.runner import Runner
from annyfit_jax.people.scene import Scene
from annyfit_jax.records.settings import config_hash, to_json
from body_models import anny


class Configs(NamedTuple):
    """The configs that scenes of a job may be fitted with."""

    by_hash: dict[str, FitConfig]
    choose: Callable[[Scene], str]
    """Hash of the config that a scene takes."""


def one_config(config: FitConfig) -> Configs:
    """The same config for every scene. Raises ValueError where it weighs a term that there is none of."""
    check_terms(config.stages)
    name = config_hash(config)
    return Configs({name: config}, lambda _: name)


def by_start(with_start: FitConfig, without_start: FitConfig) -> Configs:
    """One config for scenes that come with a start, another for those that do not. Raises ValueError as `one_config`."""
    check_terms([*with_start.stages, *without_start.stages])
    names = config_hash(with_start), config_hash(without_start)

    def choose(scene: Scene) -> str:
        return names[scene.start is None]

    return Configs(dict(zip(names, (with_start, without_start))), choose)


@dataclass(frozen=True)
class JobOptions:
    """Choices that do not change the fits. `limit` and `scenes_per_shard` must stay the same until the job is finished."""

    limit: int | None = None
    """Number of scenes, counted from the first; None: all."""
    scenes_per_shard: int = DEFAULT_SCENES_PER_SHARD
    fit_files: bool | None = None
    """Write `fits/<scene>.npz`; None: yes, except for cue datasets."""
    save_vertices: bool = False
    """Store posed vertices in the fit files, which are then written in any case."""
    process_index: int | None = None
    """This process among `process_count`; None: from the launcher (`find_process`)."""
    process_count: int | None = None
    steal: bool = False
    """When its own share is done, this process helps with units that no process works on."""
    retry_failed: bool = False
    overwrite: bool = False
    """Remove the results of an earlier job first; one process only."""
    lease_s: float = DEFAULT_LEASE_S
    log_every_s: float = 10.0
    tensorboard: bool = False
    profile: str | None = None
    """Folder for a `jax.profiler` trace of the first batches."""
    identity: dict[str, Any] = field(default_factory=lambda: identity_of({}))
    """What decides the scenes besides the input itself: a job is only continued with the same (`identity_of`)."""

    def writes_fit_files(self, source: SceneSource) -> bool:
        """Whether there is a file per scene."""
        return self.save_vertices or (source.kind != "cues" if self.fit_files is None else self.fit_files)


class JobState(NamedTuple):
    """What a process left behind."""

    process: Process
    units_left: int
    """Units that other processes still have to do."""
    totals: dict[str, Any] | None
    """Counts of scenes and people by status; None while units are left."""
    new_scenes: int = 0
    """Scenes that this run went through; 0 where the job was finished before."""

    @property
    def scenes(self) -> int:
        """Scenes that were fitted."""
        return 0 if self.totals is None else self.totals["scenes"].get("ok", 0)

    @property
    def set_aside(self) -> int:
        """Scenes that were not."""
        return 0 if self.totals is None else sum(self.totals["scenes"].values()) - self.scenes

    @property
    def people(self) -> tuple[int, int]:
        """(people fitted, people in all)."""
        people = {} if self.totals is None else self.totals["people"]
        return people.get("ok", 0), sum(people.values())


def fit_job(
    source: SceneSource,
    folder: str | Path,
    configs: Configs,
    options: JobOptions | None = None,
    stop: threading.Event | None = None,
) -> JobState:
    """Fits this process's share of the scenes, and finishes the job where it was the last one.

    Args:
      folder: of the job, made or continued.
      stop: set it to have the function raise Interrupted after the batch under way.

    Raises JobError where the folder is that of another job, JobWriteError where it cannot be written, Interrupted.
    """
    options, folder = options or JobOptions(), Path(folder)
    process = find_process(options.process_index, options.process_count)
    if options.overwrite and process.count > 1:
        raise ValueError("--overwrite is for a single process: the others might already be at work on the new job")
    total = min(len(source), options.limit or len(source))
    plan = Plan(total, options.scenes_per_shard)
    logging.info("%s: %d scenes (%s); process %d of %d (%s)", source.location, total, source.kind, *process)
    model = anny.load()
    identity = Identity(
        kind=source.kind,
        names_sha256=hash_names(source.names[:total]),
        plan=plan,
        configs={name: to_json(config) for name, config in configs.by_hash.items()},
        asset_version=str(model.labels.asset_version),
        package_version=annyfit_jax.__version__,
        options=options.identity,
    )
    open_job(folder, identity, overwrite=options.overwrite)
    fitters: dict[str, Fitter] = {}

    def fitter_of(name: str) -> Fitter:
        if name not in fitters:
            fitters[name] = Fitter(configs.by_hash[name], model)
        return fitters[name]

    ledger = Ledger(folder, plan)
    job = Job(
        folder, source, ledger, configs.choose, fitter_of, identity.config_hash, identity.asset_version,
        retry_failed=options.retry_failed, steal=options.steal,
    )  # fmt: skip
    share = sum(len(plan.scenes(unit)) for unit in plan.share(process))
    progress = Progress(folder, process, share, every_s=options.log_every_s, tensorboard=options.tensorboard)
    Runner(
        job, process, progress, lease_s=options.lease_s, fit_files=options.writes_fit_files(source),
        save_vertices=options.save_vertices, profiler=Profiler(options.profile), stop=stop or threading.Event(),
    ).run()  # fmt: skip
    totals = finish(folder, ledger)
    left = 0 if totals is not None else sum(ledger.entry(unit) is None for unit in range(plan.num_units))
    return JobState(process, left, totals, progress.scenes)


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
            identity[name] = hashlib.sha256(Path(options[name]).read_bytes()).hexdigest()[:16]
    identity |= {name: options[name] for name in ("skeleton", "image_size") if name in options}
    return identity
