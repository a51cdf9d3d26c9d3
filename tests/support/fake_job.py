"""A job with a fitter that costs nothing: fits are a plain function of the cues and of the batch they came in.

Imported by child processes that are killed, so it needs neither JAX nor pytest.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from annyfit_jax.engine.stages import Engine
from annyfit_jax.engine.stopping import Interrupted, stop_on_signal
from annyfit_jax.inputs.scene_source import SceneSource
from annyfit_jax.jobs.fit_store import plan_of
from annyfit_jax.jobs.job_driver import JobOptions, run_job
from annyfit_jax.people.scene import Scene, SceneError
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.store import faults
from annyfit_jax.store.locations import JobWriteError, Location, place
from annyfit_jax.store.units import Store
from experiments.program import EXIT_FILES, EXIT_INTERRUPTED

CONFIG_HASH = "00000000c0ffee00"


def make_scene(index: int, people: int | None = None, name: str | None = None) -> Scene:
    """A valid scene of one to four people."""
    rng = np.random.default_rng(index)
    n = 1 + index % 4 if people is None else people
    keypoints = np.concatenate([rng.uniform(0, 480, (n, 17, 2)), np.ones((n, 17, 1))], 2)
    return Scene(
        name=name or f"scene{index:04d}",
        image_size=(640, 480),
        intrinsics=np.array([[500.0, 0, 320], [0, 500.0, 240], [0, 0, 1]]),
        keypoints=keypoints,
        dense_keypoints=np.zeros((n, 138, 3)),
        median_depth=rng.uniform(2, 6, n),
        depth_layer=np.full(n, -1),
        age=np.full(n, -1.0),
        gender=np.full(n, -1.0),
        person_ids=[f"{index}-{i}" for i in range(n)],
    )


def load_varied(index: int) -> Scene:
    """Mostly valid scenes; every 13th is unreadable, every 11th has a NaN, every 7th a person that was set aside."""
    if index % 13 == 12:
        raise SceneError(f"scene{index:04d}.npz: not a readable file")
    scene = make_scene(index)
    if index % 11 == 10:
        scene.keypoints[0, 3, 0] = np.nan
    if index % 7 == 6:
        scene.skipped.append(("crowd7", "crowd annotation: 12 people"))
    return scene


def source_of(count: int, loader: Callable[[int], Scene] = load_varied) -> SceneSource:
    return SceneSource("fake", tuple(f"scene{i:04d}" for i in range(count)), loader, "memory")


class FakeFitter:
    """Three scenes a batch. A result depends on the size of its batch, so other batches would give another digest."""

    def __init__(self, seconds: float = 0.0, broken: Callable[[Scene], bool] = lambda _: False) -> None:
        self.seconds, self.broken = seconds, broken

    def prepare(self, scene: Scene) -> Scene:
        return scene

    def batches(self, scenes: Iterable[Scene]) -> Iterator[list[Scene]]:
        batch = []
        for scene in scenes:
            batch.append(scene)
            if len(batch) == 3:
                yield batch
                batch = []
        if batch:
            yield batch

    def dispatch(self, batch: Sequence[Scene]) -> list[Scene]:
        return list(batch)

    def collect(self, pending: list[Scene]) -> list[SceneFit]:
        time.sleep(self.seconds)
        if any(self.broken(scene) for scene in pending):
            raise ArithmeticError("a scene that breaks its batch")
        return [fake_fit(scene, 0.001 * len(pending)) for scene in pending]


def fake_fit(scene: Scene, offset: float = 0.0) -> SceneFit:
    n = len(scene)
    value = scene.keypoints.mean((1, 2)).astype(np.float32) / 100 + np.float32(offset)
    empty: dict[str, Any] = {
        "person_ids": np.array(scene.person_ids),
        "status": np.full(n, "ok"),
        "notes": np.full(n, ""),
    }
    arrays: dict[str, Any] = {
        "root_rotvec": np.tile(value[:, None], (1, 3)),
        "transl": np.tile(value[:, None], (1, 3)) + 1,
        "pose": np.tile(value[:, None, None], (1, 162, 3)),
        "shape": np.tile(value[:, None], (1, 6)),
    }
    numbers: dict[str, Any] = dict.fromkeys(
        ("height_m", "depth_m", "reprojection_px", "start_reprojection_px", "age_word", "gender_word"), value
    )
    return SceneFit(
        name=scene.name, image_size=np.array(scene.image_size, np.int32), image_path="",
        K=scene.intrinsics.astype(np.float32), **empty, **arrays, shape_raw=arrays["shape"],
        **{f"start_{name}": array for name, array in arrays.items()}, start_origin="keypoints",
        **numbers, keypoints_2d=scene.keypoints.astype(np.float32),
        fitted_keypoints_3d=scene.keypoints.astype(np.float32), loss_names=np.array(["keypoints"]),
        loss_curve=np.zeros((2, 1), np.float32), bone_labels=np.array(["bone"]), phenotype_labels=np.array(["age"]),
        asset_version="fake", config_hash=CONFIG_HASH, config_json="{}", scene_notes=np.array(["note"]),
        set_aside=np.array(scene.skipped, dtype=np.str_).reshape(-1, 2), trust=value % 1,
    )  # fmt: skip


def run(
    folder: str | Path | Location, source: SceneSource, *, scenes_per_shard: int = 4, fitter: Any = None,
    fit_files: bool = False, stop: threading.Event | None = None, retry_failed: bool = False,
    engine: Engine | None = None, log_every_s: float = 10.0,
) -> int:  # fmt: skip
    """Opens, runs and finishes a job as experiments.fit does; returns the number of units committed by this call."""
    plan = plan_of(
        source.kind, source.names, {CONFIG_HASH: {"fake": True}}, asset_version="fake", package_version="0", options={},
        scenes_per_shard=scenes_per_shard, stamp=source.stamp,
    )  # fmt: skip
    fitter = fitter or FakeFitter()
    options = JobOptions(
        fit_files=fit_files, retry_failed=retry_failed, engine=engine or Engine(), log_every_s=log_every_s
    )
    committed, commit = [], Store.commit

    def counted(store: Store, entry: dict[str, Any]) -> None:
        commit(store, entry)
        committed.append(entry["unit"])

    Store.commit = counted  # pyright: ignore[reportAttributeAccessIssue]
    try:
        run_job(place(folder), plan, source, config_of, functools.partial(the, fitter), options, stop)
    finally:
        Store.commit = commit
    return len(committed)


def leave_out(folder: Path, *units: int) -> None:
    """Makes a finished job one in which some units are not done yet."""
    for unit in units:
        (folder / "done" / f"{unit:05d}.json").unlink()
    (folder / "finished.json").unlink()


def config_of(_: Scene) -> str:
    return CONFIG_HASH


def the(fitter: Any, _: str) -> Any:
    return fitter


def child(
    folder: str, count: int, kill_at: int | None = None, terminate_at: str | None = None, seconds: float = 0.0,
    committed_file: str | None = None, **options: Any,
) -> int:  # fmt: skip
    """The main program of a child process, with the exit codes of experiments.fit.

    It kills itself at write boundary number `kill_at`, and sends itself SIGTERM at the boundary named `terminate_at`.
    """
    seen = 0

    def count_down(name: str) -> None:
        nonlocal seen
        seen += 1
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == terminate_at:
            os.kill(os.getpid(), signal.SIGTERM)

    faults.install(count_down)
    stop = threading.Event()
    try:
        with stop_on_signal(stop):
            committed = run(Path(folder), source_of(count), fitter=FakeFitter(seconds), stop=stop, **options)
    except Interrupted:
        return EXIT_INTERRUPTED
    except JobWriteError:
        return EXIT_FILES
    if committed_file is not None:
        Path(committed_file).write_text(str(committed))
    return 0


def serve() -> None:
    """Forks a process per request on standard input: quick to start, as everything is imported, and really killable."""
    for line in sys.stdin:
        name, arguments = json.loads(line)
        if name == "wait":
            _, status = os.waitpid(arguments["pid"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = {"child": child}[name](**arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
