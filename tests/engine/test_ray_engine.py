"""Jobs on a Ray cluster of three nodes on the loopback: the same results as one process, whatever is lost on the way."""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from export_cases import make_job
from fake_job import FakeFitter, fake_fit, load_varied, make_scene, run, source_of
from PIL import Image

from annyfit_jax.engine.running import run as run_stages
from annyfit_jax.engine.stages import EachUnit, Engine, EngineError, Stage
from annyfit_jax.engine.stopping import Interrupted
from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.jobs import job_status
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.regressors.photo_predictions import Predicting, predict_photos
from annyfit_jax.store.locations import JobWriteError, place

# Ray takes another address of the machine than the loopback otherwise; it reads this when it is imported.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
ray = pytest.importorskip("ray")
ray_engine = pytest.importorskip("annyfit_jax.engine.ray_engine")
pytestmark = [pytest.mark.process, pytest.mark.slow]
SCENES = 22
RAY = Engine("ray")
TWO = Engine("ray", workers=2)
"""Where a worker for each node shows nothing more: each is a process that has to start."""


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": 80 << 20, "node_ip_address": "127.0.0.1"},
    )
    for _ in range(2):
        made.add_node(num_cpus=1, object_store_memory=80 << 20, node_ip_address="127.0.0.1")
    # As `run_on_ray` does it: workers find the modules of these tests.
    from annyfit_jax.engine.ray_engine import _environment

    ray.init(
        address=made.address,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        runtime_env={"env_vars": _environment()},
    )
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "out"
    run(folder, source_of(SCENES))
    return folder


def test_a_cluster_gives_what_one_process_gives(cluster, reference, tmp_path):
    assert run(tmp_path, source_of(SCENES), engine=RAY) == 6
    assert job_status.digest(tmp_path) == job_status.digest(reference)
    assert job_status.status(tmp_path)["finished"]
    line = job_status.last_line(tmp_path)
    assert line is not None and (line["state"], line["workers"], line["scenes_done"]) == ("finished", 3, SCENES)
    assert run(tmp_path, source_of(SCENES), engine=RAY) == 0
    assert run(tmp_path, source_of(SCENES)) == 0


class Killer(FakeFitter):
    """Ends its process at a scene as long as `armed` is there."""

    def __init__(self, armed: Path, scene: str, always: bool = False) -> None:
        super().__init__()
        self.armed, self.scene, self.always = armed, scene, always

    def collect(self, pending):
        if any(scene.name == self.scene for scene in pending) and self.armed.exists():
            if not self.always:
                self.armed.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().collect(pending)


def test_a_worker_that_is_lost_costs_its_unit_a_second_attempt(cluster, reference, tmp_path):
    armed = tmp_path / "armed"
    armed.touch()
    run(tmp_path / "out", source_of(SCENES), fitter=Killer(armed, "scene0009"), engine=TWO)
    assert not armed.exists()
    assert job_status.digest(tmp_path / "out") == job_status.digest(reference)


def test_a_unit_that_always_takes_its_worker_along_is_given_up_and_the_others_are_done(
    cluster, reference, tmp_path, monkeypatch
):
    from annyfit_jax.engine import ray_engine

    monkeypatch.setattr(ray_engine, "ATTEMPTS", 2)
    armed = tmp_path / "armed"
    armed.touch()
    with pytest.raises(EngineError, match=r"1 units were given up after 2 attempts: 2 \(ActorDiedError\)"):
        run(tmp_path / "out", source_of(SCENES), fitter=Killer(armed, "scene0009", always=True), engine=TWO)
    assert job_status.status(tmp_path / "out")["units"] == {"done": 5, "left": 1, "total": 6}
    armed.unlink()
    assert run(tmp_path / "out", source_of(SCENES), engine=TWO) == 1
    assert job_status.digest(tmp_path / "out") == job_status.digest(reference)


def test_a_node_that_is_lost_costs_nothing(cluster, reference, tmp_path):
    node = cluster.add_node(num_cpus=1, object_store_memory=80 << 20, node_ip_address="127.0.0.1")
    thread = threading.Timer(1.5, lambda: cluster.remove_node(node, allow_graceful=False))
    thread.start()
    run(tmp_path, source_of(SCENES), fitter=FakeFitter(seconds=0.4), engine=RAY)
    thread.join()
    assert job_status.digest(tmp_path) == job_status.digest(reference)


def write_error(unit: int) -> tuple[int, int]:
    if unit == 3:
        raise JobWriteError("unit 3: cannot be written (No space left on device)")
    return unit, unit


def test_what_a_worker_raises_reaches_the_driver_as_itself(cluster):
    stage = Stage("write", lambda stop: EachUnit(write_error), range(6))
    with pytest.raises(JobWriteError, match="No space left"):
        run_stages([stage], TWO)


def test_resources_of_a_stage_that_is_none_are_refused(cluster):
    stage = Stage("write", lambda stop: EachUnit(write_error), range(6))
    with pytest.raises(ValueError, match=r"^--resources: there is no stage wirte; did you mean write\?$"):
        run_stages([stage], replace(TWO, of_stage={"wirte": {"CPU": 1.0}}))


def one(task: int) -> tuple[int, int]:
    return task, 1


@pytest.mark.parametrize("grows", [False, True])
def test_what_no_machine_has_is_waited_for_where_one_may_come(cluster, monkeypatch, grows):
    monkeypatch.setattr(ray_engine, "_may_grow", lambda: grows)
    monkeypatch.setattr(ray_engine, "_LOOK_EVERY_S", 0.1)
    said: list[str] = []
    added = []

    def waits(what: str) -> None:
        said.append(what)
        if what:
            added.append(cluster.add_node(num_cpus=1, resources={"rare": 1}, object_store_memory=80 << 20))

    engine, done = Engine("ray", resources={"rare": 1.0}), []
    stage = Stage(
        "one", functools.partial(_each, one), range(2), commit=lambda *result: done.append(result), waits=waits
    )
    if not grows:
        with pytest.raises(ValueError, match=r"a worker of one takes CPU=1,rare=1, but the most .* is CPU=1,rare=0"):
            run_stages([stage], engine)
        assert not done
        return
    assert run_stages([stage], engine) == 2
    assert said[:2] == ["CPU=1,rare=1", ""] and sorted(done) == [(0, 1), (1, 1)]
    cluster.remove_node(added[0])


def _each(function, stop: threading.Event) -> EachUnit:
    return EachUnit(function)


def test_an_address_that_nobody_answers_at_is_said_at_once():
    with pytest.raises(ConnectionError, match=r"^--address=127.0.0.1:9: cannot reach a Ray cluster: "):
        ray_engine._connect("127.0.0.1:9")


@pytest.mark.parametrize(
    ("status", "grows"),
    [
        (None, True),
        ({}, True),
        ({"autoscaler_report": {"active_nodes": {f"node_{'0a' * 28}": 1}}}, False),
        ({"autoscaler_report": {"active_nodes": {"ray.head.default": 1}}}, True),
    ],
)
def test_a_cluster_without_an_autoscaler_does_not_grow(monkeypatch, status, grows):
    from ray.experimental import internal_kv

    monkeypatch.setattr(internal_kv, "_internal_kv_get", lambda key: status and json.dumps(status).encode())
    assert ray_engine._may_grow() is grows


def broken_make(stop: threading.Event) -> EachUnit:
    raise ValueError("no such checkpoint")


def test_a_worker_that_cannot_be_made_says_why(cluster):
    with pytest.raises(ValueError, match="no such checkpoint"):
        run_stages([Stage("load", broken_make, range(2))], TWO)


def test_a_stop_leaves_what_is_committed(cluster, reference, tmp_path):
    stop = threading.Event()
    threading.Timer(2.0, stop.set).start()
    with pytest.raises(Interrupted):
        run(tmp_path, source_of(SCENES), fitter=FakeFitter(seconds=1.0), engine=TWO, stop=stop)
    assert job_status.status(tmp_path)["units"]["done"] < 6
    run(tmp_path, source_of(SCENES))
    assert job_status.digest(tmp_path) == job_status.digest(reference)


@pytest.mark.parametrize("file_format", ["npz", "parquet", "humandata", "webdataset", "tfds"])
def test_exports_are_the_same_whoever_writes_them(cluster, tmp_path, file_format):
    job = make_job(tmp_path / "job")
    for name, engine in (("alone", None), ("ray", TWO)):
        export_fits(str(job), str(tmp_path / name), file_format, scenes_per_shard=2, people_per_file=3, engine=engine)
    alone, other = (place(tmp_path / name) for name in ("alone", "ray"))
    assert alone.tree().keys() == other.tree().keys()
    # Records and lines of progress say when and where.
    files = [name for name in alone.tree() if not name.startswith("done/") and "progress" not in name]
    assert files and all((alone / name).read_bytes() == (other / name).read_bytes() for name in files)


class People:
    """A network that finds as many people as the photo's grey says."""

    def fit(self, name: str, image: np.ndarray, image_path: str = "") -> SceneFit:
        people = int(image[0, 0, 0]) // 10
        fit = fake_fit(make_scene(people, people, name))
        return replace(fit, notes=np.full(people, "score=0.5"))


def test_predictions_are_the_same_whoever_makes_them(cluster, tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(9):
        Image.fromarray(np.full((8, 8, 3), 10 * index, np.uint8)).save(tmp_path / "photos" / f"{index}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"nothing")
    for name, engine in (("alone", None), ("ray", TWO)):
        done = predict_photos(People, tmp_path / "photos", tmp_path / name, Predicting(2, engine))
        assert done == (9, 36, 1)
    for name in ("people.jsonl", "set_aside.jsonl", *(f"fits/{index}.npz" for index in range(9))):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()


def test_stages_share_the_room_and_leave_it_to_the_others(cluster, tmp_path):
    """Four stages on three cores: all have a worker, and the last one gets more when the others are over."""
    log, names = tmp_path / "log", ("one", "two", "three", "four")
    workers: dict[str, int] = {}
    stages = [
        Stage(
            name, functools.partial(lambda name, stop: EachUnit(functools.partial(slow, log, name)), name), range(12),
            after=names[:k][-1:], accelerator=False, begin=lambda units, count, name=name: workers.update({name: count}),
        )
        for k, name in enumerate(names)
    ]  # fmt: skip
    assert run_stages(stages, RAY) == 48
    pids = {
        name: {line.split()[1] for line in log.read_text().splitlines() if line.startswith(f"{name} ")}
        for name in names
    }
    assert workers == dict.fromkeys(names, 1) and all(pids.values())
    assert len(pids["four"]) > 1


def slow(log: Path, name: str, unit: int) -> tuple[int, str]:
    """The first unit of the last stage lasts until a second worker of it is at work, whose start may take long."""
    time.sleep(0.05)
    with log.open("a") as file:
        file.write(f"{name} {os.getpid()}\n")
    patience = 3000 if (name, unit) == ("four", 0) else 0
    while patience and len({line for line in log.read_text().splitlines() if line.startswith("four ")}) < 2:
        time.sleep(0.1)
        patience -= 1
    return unit, name


def times(log: Path, name: str, unit: int) -> tuple[int, str]:
    """The last look lasts until a fit was begun, whose worker may need long to start; in vain for ever, hence the end."""
    time.sleep(0.1)
    patience = 3000 if (name, unit) == ("look", 11) else 0
    while patience and "fit " not in (log.read_text() if log.exists() else ""):
        time.sleep(0.1)
        patience -= 1
    with log.open("a") as file:
        file.write(f"{name} {unit} {time.time()}\n")
    return unit, name


def test_no_stage_waits_for_another_but_for_its_units(cluster, tmp_path):
    """The second stage begins before the first one has ended, and never before the first one has done the unit."""
    log, committed = tmp_path / "log", []
    stages = [
        Stage(
            name,
            functools.partial(lambda name, stop: EachUnit(functools.partial(times, log, name)), name),
            range(12),
            commit=lambda unit, result: committed.append((result, unit)),
            after=after,
            accelerator=False,
        )
        for name, after in (("look", ()), ("fit", ("look",)))
    ]
    assert run_stages(stages, Engine("ray", workers=1)) == 24
    lines = [line.split() for line in log.read_text().splitlines()]
    at = {(name, int(unit)): float(when) for name, unit, when in lines}
    assert all(at["look", unit] < at["fit", unit] for unit in range(12))
    assert min(at["fit", unit] for unit in range(12)) < at["look", 11]
    assert sorted(committed) == sorted((name, unit) for name in ("look", "fit") for unit in range(12))


def read(log: Path, task: tuple[int, int]) -> tuple[int, np.ndarray]:
    with log.open("a") as file:
        file.write(f"read {task[0]}\n")
    return task[0], np.full(100_000, float(task[0]))


def used(log: Path, name: str, task: tuple) -> tuple[int, float]:
    """The sum of what was given; without that it reads itself."""
    unit, _, *given = task
    array = given[0] if given else read(log, task)[1]
    time.sleep(0.05)
    with log.open("a") as file:
        file.write(f"{name} {unit}\n")
    return unit, float(array.sum())


@pytest.mark.parametrize("relieved", [True, False])
def test_what_is_handed_on_is_made_once_and_not_far_ahead(cluster, tmp_path, relieved):
    """Two stages are given arrays that a third one makes, where that is asked for; else each makes them itself."""
    log, sums = tmp_path / "log", {}
    names = ("read", "one", "two")
    stages = [
        Stage(
            name, functools.partial(lambda name, stop: EachUnit(make_function(log, name)), name), range(20),
            task=lambda unit: (unit, unit), commit=lambda unit, total, name=name: sums.update({(name, unit): total}),
            after=("read", *names[1:k]) if k else (), accelerator=False, hands_on=not k, given="read" if k else "",
        )
        for k, name in enumerate(names)
    ]  # fmt: skip
    run_stages(stages, Engine("ray", workers=1, of_stage={"read": {"CPU": 0.5}} if relieved else {}))
    assert sums == {(name, unit): 1e5 * unit for name in names[1:] for unit in range(20)}
    lines = [line.split() for line in log.read_text().splitlines()]
    reads = [int(unit) for name, unit in lines if name == "read"]
    assert sorted(reads) == (list(range(20)) if relieved else sorted([*range(20), *range(20)]))
    if relieved:  # what is read and not used up by both: three units, and those of which the driver does not know yet
        ahead = [
            sum(name == "read" for name, _ in lines[:k]) - sum(name == "two" for name, _ in lines[:k])
            for k in range(len(lines))
        ]
        assert max(ahead) <= 2 * 1 + 1
    assert run_stages(stages) == 40


def make_function(log: Path, name: str):
    return functools.partial(read, log) if name == "read" else functools.partial(used, log, name)


def test_the_varied_collection_is_what_is_fitted(reference):
    assert load_varied(0).name == "scene0000" and job_status.digest(reference)["scenes"] == SCENES
