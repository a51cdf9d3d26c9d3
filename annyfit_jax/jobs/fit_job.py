"""A collection of scenes fitted as a job: everything between an opened input and the results in a folder.

    configs = by_start(with_start=annyfit, without_start=annyfit_keypoints)
    totals = fit_job(open_input("SCENES"), "out/job", configs)

The job may be stopped and continued, and done by a cluster; see `annyfit_jax.jobs` and `annyfit_jax.engine`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from absl import logging

import annyfit_jax
from annyfit_jax.fit.config import FitConfig
from annyfit_jax.fit.fitter import Fitter
from annyfit_jax.fit.objective import check_terms
from annyfit_jax.inputs.scene_source import SceneSource
from annyfit_jax.jobs import fit_store
from annyfit_jax.jobs.job_driver import Before, JobOptions, JobState, run_job
from annyfit_jax.people.scene import Scene
from annyfit_jax.records.settings import config_hash, to_json
from annyfit_jax.smplx_fit.smplx_fitter import SmplxChoice, SmplxFitter, config_for_smplx
from annyfit_jax.store.locations import Location, place
from body_models import anny, anny_asset


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


def fit_job(
    source: SceneSource,
    folder: str | Path | Location,
    configs: Configs,
    options: JobOptions | None = None,
    stop: threading.Event | None = None,
    before: Before | None = None,
    smplx: SmplxChoice | None = None,
) -> JobState:
    """Fits the scenes that are not fitted yet, and finishes the job.

    Args:
      folder: of the job, made or continued.
      stop: set it to have the function raise Interrupted after the batch under way.
      before: stages that make the scenes, where they are not there yet.
      smplx: people are fitted as SMPL-X too, into `folder/smplx/fits`; it decides a job as its configs do.

    Raises ValueError where a config is not for SMPL-X, StoreError where the folder is that of another job or another process is
    at work on it, JobWriteError where it cannot be written, Interrupted, EngineError.
    """
    options, folder = options or JobOptions(), place(folder)
    if smplx is not None:
        for config in configs.by_hash.values():
            config_for_smplx(config)
        options = replace(options, identity=options.identity | smplx.identity())
    total = min(len(source), options.limit or len(source))
    logging.info("%s: %d scenes (%s)", source.location, total, source.kind)
    if options.overwrite:
        fit_store.remove_job(folder)
    stored = {name: to_json(config) for name, config in configs.by_hash.items()}
    version = str(anny_asset.read()["asset_version"])
    plan = fit_store.plan_of(
        source.kind, source.names[:total], stored, asset_version=version, package_version=annyfit_jax.__version__,
        options=options.identity, scenes_per_shard=options.scenes_per_shard, stamp=source.stamp,
    )  # fmt: skip
    make_fitter = functools.partial(_fitter, configs.by_hash, smplx)
    return run_job(folder, plan, source, configs.choose, make_fitter, options, stop, before)


def _fitter(configs: dict[str, FitConfig], smplx: SmplxChoice | None, name: str) -> Fitter:
    if smplx is not None:
        return SmplxFitter(configs[name], smplx, _model())
    return Fitter(configs[name], _model())


@functools.cache
def _model() -> anny.AnnyModel:
    return anny.load()
