"""Which process of how many this is: from flags, from `jax.distributed`, or from what a launcher put into the environment.

Fitting needs no communication: each process takes every n-th unit and writes files of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple


class Process(NamedTuple):
    """A process among those that share a job."""

    index: int
    count: int
    origin: str
    """Where the numbers come from, for the log."""


def find_process(
    index: int | None = None, count: int | None = None, environment: Mapping[str, str] | None = None
) -> Process:
    """The first of these that says anything:

    1. the arguments (`--process_index`, `--process_count`; both or none);
    2. `jax.distributed`, where the user has initialised it;
    3. SLURM: array task (`SLURM_ARRAY_TASK_ID`, `_MIN`, `_STEP`, `_COUNT`) and task of an `srun` step (`SLURM_PROCID` of
       `SLURM_STEP_NUM_TASKS`), combined where there are both;
    4. Kubernetes indexed job: `JOB_COMPLETION_INDEX`, which Kubernetes sets, of `JOB_COMPLETIONS`, which the launch file sets;
    5. TPU pod: `TPU_WORKER_ID` among `TPU_WORKER_HOSTNAMES`;
    6. process 0 of 1.

    Raises ValueError naming the variable that is missing or wrong.
    """
    if index is not None or count is not None:
        if index is None or count is None:
            raise ValueError("--process_index and --process_count: expected both or none")
        return _checked(index, count, "--process_index, --process_count")
    if environment is None:
        initialised = _from_jax()
        if initialised is not None:
            return initialised
    environment = os.environ if environment is None else environment
    for rule in (_from_slurm, _from_kubernetes, _from_tpu_pod):
        process = rule(environment)
        if process is not None:
            return process
    return Process(0, 1, "a single process")


def _checked(index: int, count: int, origin: str) -> Process:
    if not 0 <= index < count:
        raise ValueError(f"{origin}: expected 0 <= index < count, got {index} of {count}")
    return Process(index, count, origin)


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise ValueError(f"environment variable {name}: expected a whole number, got {text!r}") from None


def _from_jax() -> Process | None:
    jax = sys.modules.get("jax")  # not imported: a user who called jax.distributed.initialize has done that
    if jax is None or not jax.distributed.is_initialized():
        return None
    return _checked(jax.process_index(), jax.process_count(), "jax.distributed")


def _from_slurm(environment: Mapping[str, str]) -> Process | None:
    index, count, origins = 0, 1, []
    if "SLURM_ARRAY_TASK_ID" in environment:
        first, step = (_number(environment, f"SLURM_ARRAY_TASK_{k}", d) for k, d in (("MIN", 0), ("STEP", 1)))
        index = (_number(environment, "SLURM_ARRAY_TASK_ID") - first) // max(step, 1)
        count = _number(environment, "SLURM_ARRAY_TASK_COUNT")
        origins.append("SLURM array")
    # A batch script outside `srun` is one process, whatever SLURM_NTASKS says; only a step has several.
    tasks = _number(environment, "SLURM_STEP_NUM_TASKS", 1)
    if tasks > 1:
        index, count = index * tasks + _number(environment, "SLURM_PROCID"), count * tasks
        origins.append("SLURM step")
    return _checked(index, count, " and ".join(origins)) if origins else None


def _from_kubernetes(environment: Mapping[str, str]) -> Process | None:
    if "JOB_COMPLETION_INDEX" not in environment:
        return None
    if "JOB_COMPLETIONS" not in environment:
        raise ValueError(
            "environment variable JOB_COMPLETIONS: missing beside JOB_COMPLETION_INDEX; set it to the job's `completions` "
            "(experiments/launch/kubernetes.yaml), or pass --process_index and --process_count"
        )
    return _checked(
        _number(environment, "JOB_COMPLETION_INDEX"), _number(environment, "JOB_COMPLETIONS"), "Kubernetes indexed job"
    )


def _from_tpu_pod(environment: Mapping[str, str]) -> Process | None:
    hosts = [name for name in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if name.strip()]
    if "TPU_WORKER_ID" not in environment or not hosts:
        return None
    return _checked(_number(environment, "TPU_WORKER_ID"), len(hosts), "TPU pod")
