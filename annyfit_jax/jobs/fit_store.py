"""The store of a fit job: what is in it, what makes two runs the same job, and its rows."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from annyfit_jax.jobs import job_rows
from annyfit_jax.jobs.job_rows import SceneRow
from annyfit_jax.records.file_names import file_stem
from annyfit_jax.store.locations import Location, place, writing
from annyfit_jax.store.plan import Kind, Plan, StoreError, read_cut, read_names
from annyfit_jax.store.units import Store, remove_store

DEFAULT_SCENES_PER_SHARD = 256
KIND = Kind(
    "fits",
    job_rows.ROW_VERSION,
    job_rows.FIELDS,
    "Bodies fitted to the people of images, one record per image.",
    identity="job.json",
    program="annyfit fit",
)
MADE = ("people.jsonl", "scenes_set_aside.jsonl", "config.json", "finished.json")
"""What a finished job has besides the files of its store."""


class FitPlan(Plan):
    """What is to be fitted, with what."""

    @property
    def described(self) -> Mapping[str, Any]:
        """The entries of `source`, each by itself."""
        return self.source


def plan_of(
    kind: str, names: Sequence[str], configs: Mapping[str, Any], *, asset_version: str, package_version: str,
    options: Mapping[str, Any], scenes_per_shard: int = DEFAULT_SCENES_PER_SHARD, stamp: Callable[[int], str] | None = None,
) -> FitPlan:  # fmt: skip
    """What a job is: everything that decides its rows.

    Args:
      kind: of the source, e.g. `coco`.
      names: of the scenes in input order.
      configs: config hash -> resolved config, JSON. Several where the scenes choose (with or without a start).
      options: of the reader, JSON.
      stamp: fingerprint of an input scene.
    """
    source = {
        "source": {"kind": kind}, "options": dict(options), "configs": dict(configs), "asset_version": asset_version,
        "package_version": package_version,
    }  # fmt: skip
    return FitPlan(len(names), source, scenes_per_shard, tuple(names), stamp, kind=KIND)


def hash_of_configs(configs: Mapping[str, Any]) -> str:
    """Of all configs together; stands in for a scene's own where that is unknown."""
    return hashlib.sha256("|".join(sorted(configs)).encode()).hexdigest()[:16]


def job_store(folder: str | Path | Location) -> tuple[Store, dict[str, Any]]:
    """The store and the settings of an existing job. Raises StoreError where the folder has none."""
    cut, settings = read_cut(place(folder), KIND)
    return Store(folder, KIND, cut), settings


def rows(store: Store, unit: int) -> Iterator[SceneRow]:
    """The rows of a finished unit, in order. Raises SceneError, RuntimeError or OSError on a broken file."""
    shard = store.shard(unit)
    for position, record in enumerate(store.records(unit)):
        yield job_rows.decode(record, f"{shard}: record {position}")


def remove_job(folder: str | Path | Location) -> None:
    """Removes the files of a job, the fits of its scenes among them, and nothing else. Raises JobWriteError.

    Those of SMPL-X go all: no rows say which of them are this job's, and whoever reads their folder would take all.
    """
    folder = place(folder)
    settings = (folder / KIND.identity).read_json()
    with contextlib.suppress(StoreError):  # of version 0.1, or broken: what is not known to be its own stays
        old = {f"{file_stem(name)}.npz" for name in read_names(folder, len(read_cut(folder, KIND)[0].parts))}
        with writing(folder):
            for name in old & (folder / "fits").files().keys():
                (folder / "fits" / name).remove()
    options = settings.get("options") if isinstance(settings, dict) else None
    if isinstance(options, dict) and options.get("body") == "smplx":
        with writing(folder):
            (folder / "smplx" / "fits").remove()
    remove_store(folder, KIND, MADE)
