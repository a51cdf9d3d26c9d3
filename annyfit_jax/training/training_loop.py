"""A training run in a folder: started, or continued where it was interrupted.

| in the folder | what |
| --- | --- |
| `config.json` | what decides the run |
| `metrics.jsonl` | a line per logged step |
| `checkpoints/` | state and place in the data |
| `pictures/` | what the network sees, where asked for (`config.pictures_every`) |
| `progress-train.jsonl` | steps done, loss, rate, last checkpoint: a line every few seconds, for `annyfit status` |
| `tensorboard/` | where asked for |
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
from absl import logging

from annyfit_jax.records.files import read_json, write_text
from annyfit_jax.store.holds import held
from annyfit_jax.store.locations import Location, place
from annyfit_jax.store.work_progress import WorkProgress
from annyfit_jax.training import bucket_runs, flops, training_data, training_metrics
from annyfit_jax.training import training_state as states
from annyfit_jax.training.protocol import Regressor, Variables
from annyfit_jax.training.training_checkpoints import Checkpoints
from annyfit_jax.training.training_config import MAY_CHANGE, TrainConfig, describe
from annyfit_jax.training.training_state import TrainState


class TrainingStopped(ValueError):
    """A run that ended early because its loss or gradient was not finite many times in a row."""


def train(
    config: TrainConfig,
    folder: str | Path | Location,
    *,
    stop: threading.Event | None = None,
    tensorboard: bool = False,
) -> TrainState:
    """Runs until `config.steps` steps are done or `stop` is set; then everything is on disk.

    A step whose loss or gradient is not finite changes nothing but the number of steps, and is counted in the metrics
    (`skipped`). After `config.stop_after_skipped` such steps in a row the run ends; the last good state is on disk.

    The folder may be in a bucket (`bucket_runs`), which process 0 then holds.

    Raises TakenError where another run is at work on the folder, of a bucket; ValueError where the folder belongs to another
    run, where none of its checkpoints is whole, or where the batch cannot be split over the devices; TrainingStopped where too
    many steps in a row were skipped.
    """
    first, run = jax.process_index() == 0, place(folder)
    progress = WorkProgress(run, "train", config.steps, "steps", logs=False, writes=first)
    with held(run) if first else nullcontext() as hold, bucket_runs.run_folder(run, hold) as (local, put):
        state = "stopped"
        try:
            trained = _train(config, local, put, stop, tensorboard, progress)
            state = "finished" if int(trained.step) >= config.steps else "interrupted"
            return trained
        finally:
            if progress.begun:
                progress.report(state)


def _train(
    config: TrainConfig, folder: Path, put: Callable[[], None] | None, stop: threading.Event | None, tensorboard: bool,
    progress: WorkProgress,
) -> TrainState:  # fmt: skip
    """As `train`, in a local folder; `put`, where there is one, is called when a checkpoint is complete."""
    mesh = states.data_mesh()
    processes = jax.process_count()
    if config.batch % mesh.size:
        raise ValueError(f"config.batch={config.batch} cannot be split evenly over {mesh.size} devices")
    regressor = config.regressor
    if config.pictures_every and not regressor.draws_pictures:
        raise ValueError(f"config.pictures_every: {type(regressor).__name__} draws no pictures; leave it at 0")
    claim(folder, config)
    variables = initial_variables(config)
    state = states.create(regressor, variables, config.optimiser, mesh)
    constants = states.on_devices(regressor.constants(), mesh, split=False)
    step = states.make_step(regressor, variables, config.optimiser, config.seed, mesh)
    share = config.batch // processes
    rows = iter(
        training_data.rows(
            config.feed, share, config.seed, process=jax.process_index(), processes=processes,
            threads=config.reader_threads,
        )
    )  # fmt: skip
    checkpoints = Checkpoints(folder / "checkpoints", config.keep_checkpoints, apart=put is not None and processes > 1)
    if checkpoints.latest is not None:
        state = checkpoints.restore(state, rows)
        checkpoints.set_damaged_aside()
        logging.info("%s: continues after step %d", folder, int(state.step))
    done = int(state.step)
    log = training_metrics.Log(folder, first_step=done, tensorboard=tensorboard)
    cost = _Cost(regressor, variables, constants)
    skips = _Skips(folder, config.stop_after_skipped)
    clock, last_saved, skipped = training_metrics.Clock(), done, 0
    progress.more["last_checkpoint"] = done or None
    progress.begin(done, workers=processes)
    while done < config.steps and not _stopped(stop) and not skips.over:
        batch = training_data.padded(config.feed, next(rows))
        clock.add(config.batch, 3.0 * processes * cost.of(batch))  # the gradient costs twice the forward pass
        state, step_metrics = step(state, constants, states.on_devices(batch, mesh, split=True))
        done += 1
        skips.add(step_metrics["skipped"])
        logs = done % config.log_every == 0 or done == config.steps
        if logs or done % config.checkpoint_every == 0:
            new = skips.look(done)
            skipped += new
            progress.add(0, {"not finite": new} if new else {})
        if logs:
            values = {name: float(value) for name, value in jax.device_get(step_metrics).items()}
            values |= {"skipped": float(skipped)} | clock.look()
            skipped = 0
            log.write(done, values)
            loss = values["loss"]
            progress.more |= {
                "loss": loss if math.isfinite(loss) else None,
                "images_per_s": round(values["images_per_second"], 3),
            }
            logging.info("step %d of %d: %s", done, config.steps, spell(values))
        if config.pictures_every and done % config.pictures_every == 0 and jax.process_index() == 0:
            log.pictures(done, _draw(config, state, variables, batch))
        if done % config.checkpoint_every == 0:
            checkpoints.save(state, rows)
            if put is not None:
                checkpoints.wait()
                put()
            last_saved = done
            progress.more["last_checkpoint"] = done
        progress.add(1)
        if last_saved == done:
            progress.report("running")
    if last_saved != done:
        checkpoints.save(state, rows)
    skips.look(done)
    checkpoints.close()
    log.close()
    if put is not None:
        put()
    progress.more["last_checkpoint"] = done
    if skips.over:
        raise TrainingStopped(
            f"{folder}: the loss or the gradient of the last {config.stop_after_skipped} steps or more was not finite; the "
            f"last good state is the checkpoint of step {done}. Look at the data, or lower optimiser.lr or optimiser.clip"
        )
    return state


def claim(folder: Path, config: TrainConfig) -> None:
    """Makes the folder one of this config. Raises ValueError if it is of another one."""
    path = folder / "config.json"
    check_config(read_json(path), config, str(path))
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(describe(config), indent=1) + "\n")


def check_config(stored: Any, config: TrainConfig, where: str) -> None:
    """Raises ValueError where the stored description of a run is that of another config; None is that of no run."""
    described = describe(config)
    if stored is not None:
        differing = [name for name in described if name not in MAY_CHANGE and stored.get(name) != described[name]]
        if differing:
            raise ValueError(f"{where}: a run with another {', '.join(differing)}; give another --output")


def initial_variables(config: TrainConfig) -> Variables:
    """Variables before the first step: drawn, or with those of `config.start_from` in their places."""
    variables = config.regressor.init(jax.random.key(config.seed))
    if not config.start_from:
        return variables
    return config.regressor.start_from(variables, config.start_from)


def _draw(config: TrainConfig, state: TrainState, variables: Variables, batch: Any) -> Any:
    """Pictures of the first examples of this process's batch, on one device."""
    averaged = jax.tree.map(lambda x: x.addressable_data(0), states.inference_variables(state, variables))
    return config.regressor.pictures(averaged, jax.tree.map(lambda x: x[: config.pictures], batch))


def spell(values: dict[str, float]) -> str:
    """One line for people: loss, gradient, speed."""
    parts = [f"loss {values['loss']:.6g}", f"|gradient| {values['gradient_norm']:.4g}"]
    parts += [f"{values['images_per_second']:.3g} images/s", f"{values['tflops']:.3g} TFLOP/s"]
    if "mfu" in values:
        parts.append(f"MFU {100 * values['mfu']:.1f} %")
    return ", ".join(parts)


def _stopped(stop: threading.Event | None) -> bool:
    """Whether any process was told to stop."""
    wanted = stop is not None and stop.is_set()
    if jax.process_count() == 1:
        return wanted
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(np.max(multihost_utils.process_allgather(np.array(wanted))))


class _Skips:
    """Counts the steps that were skipped, without waiting for the devices at every step."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._unread: list[Any] = []
        self._in_a_row = 0

    def add(self, skipped: Any) -> None:
        """Notes a step's `skipped`, still on the devices."""
        self._unread.append(skipped)

    def look(self, done: int) -> int:
        """How many of the steps since the last look were skipped. `over` afterwards says whether the run must end."""
        flags = [bool(flag) for flag in jax.device_get(self._unread)]
        self._unread = []
        for flag in flags:
            self._in_a_row = self._in_a_row + 1 if flag else 0
        if any(flags):
            logging.warning(
                "%s: %d of the %d steps up to step %d changed nothing, because their loss or gradient was not finite",
                self._folder, sum(flags), len(flags), done,
            )  # fmt: skip
        return sum(flags)

    @property
    def over(self) -> bool:
        """Whether the run must end because too many steps in a row were skipped."""
        return self._in_a_row >= self._limit


class _Cost:
    """Operations of the forward pass by the shape of the batch."""

    def __init__(self, regressor: Regressor, variables: Variables, constants: Any) -> None:
        self._regressor, self._known = regressor, {}
        self._shapes = jax.tree.map(_shape, (variables, constants))

    def of(self, batch: Any) -> float:
        """Of this process's part of a batch; traced once for each shape."""
        shapes = jax.tree.map(_shape, batch)
        key = tuple(x.shape for x in jax.tree.leaves(shapes))
        if key not in self._known:
            self._known[key] = flops.count(self._regressor.loss, *self._shapes, shapes, jax.random.key(0))
        return self._known[key]


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)
