"""A job on a Ray cluster, from and to a bucket, whose workers, nodes and driver are killed, beside the same job in one process.

    python -m experiments.studies.fleet --scenes=600 --kills=20 --json=out/fleet.json

Everything is on this machine and its loopback: an S3 server that fails now and then (`faulty_s3`), a Ray cluster of three
raylets with a core each, synthetic scenes. First one process fits them (`alone`), then the cluster with one and with two
workers left alone (`ray1`, `ray2`), then the cluster with kills at random times (`killed`): of a worker, of a raylet, which a
new one replaces, or of the driver, which is started again with the same command. Prints a table, and whether every person of
the input has one terminal row and all jobs have the same digest. Exit code 1 where not.

Processor time is that of all processes but this one, which holds the server, at the end of a job; killed processes are not in
it. `steady` is from the first commit to the last, without starts of workers: people, wall and processor seconds."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging

from annyfit_jax.engine.stages import EachUnit
from annyfit_jax.inputs import open_input
from annyfit_jax.jobs import job_status
from annyfit_jax.records import files
from annyfit_jax.store.locations import place
from experiments.studies.faulty_s3 import FaultyS3

FLAGS = flags.FLAGS
_TICKS = os.sysconf("SC_CLK_TCK")


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_integer("scenes", 600, "How many synthetic scenes.", lower_bound=1)
    flags.DEFINE_string("people", "coco", "People of a scene, as of experiments.synthesize.")
    flags.DEFINE_integer("scenes_per_shard", 10, "Scenes of a unit.", lower_bound=1)
    flags.DEFINE_integer("kills", 20, "How often something is killed.", lower_bound=0)
    flags.DEFINE_float("pause_s", 8.0, "Mean of the seconds between kills.")
    flags.DEFINE_float("faults", 0.01, "Share of the server's requests that fail.")
    flags.DEFINE_float("lag_s", 0.0, "For how long a new object is missing in listings.", lower_bound=0.0)
    flags.DEFINE_integer("seed", 0, "Of what is killed, and when.")
    flags.DEFINE_list(
        "jobs", ["alone", "ray1", "ray2", "killed"], "Which jobs run; `driver` alone measures an idle unit."
    )
    flags.DEFINE_string("config", "annyfit", "As of experiments.fit.")
    flags.DEFINE_multi_string("set", [], "As of experiments.fit.")
    flags.DEFINE_string("json", None, "Also write the figures here.")


def main(_: list[str]) -> None:
    # Ray takes another address of the machine than the loopback otherwise; it reads this when it is imported.
    if FLAGS.jobs == ["driver"]:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        print(f"{driver_ms():.2f} ms of the driver a unit")
        return
    # Ray's workers give way to other programs by default; here they are compared with one process, which does not.
    os.environ |= {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0",
    }  # fmt: skip
    with FaultyS3(FLAGS.faults, FLAGS.seed, lag_s=FLAGS.lag_s) as server:
        os.environ |= server.environment
        program(
            "synthesize", "--output=s3://bucket/cues", f"--scenes={FLAGS.scenes}", "--seed=7", "--scenes_per_shard=100",
            f"--people={FLAGS.people}",
        ).wait()  # fmt: skip
        figures: dict[str, Any] = {}
        for name in FLAGS.jobs:
            server.requests.clear()
            SAMPLES.clear()
            load = os.getloadavg()[0]
            run = {"alone": alone, "killed": killed}.get(name, left_alone)
            figures[name] = run(name)
            server.lag_s = 0.0  # what is looked at here is what is there
            figures[name] |= figures_of(name) | {"requests": dict(server.requests)}
            figures[name] |= {"load": [round(load, 1), round(os.getloadavg()[0], 1)]}
            if name != "killed":
                figures[name] |= {"steady": steady(server, name)}
            server.lag_s = FLAGS.lag_s
            logging.info("%s: %s", name, figures[name])
        digests = {figures[name]["digest"] for name in figures}
        checks = {
            "every person accounted for": all(accounted_for(name) for name in figures),
            "same digest": len(digests) == 1,
            "faults of the server": dict(server.faults),
        }
    print(table(figures), *(f"{name}: {value}" for name, value in checks.items()), sep="\n")
    if FLAGS.json:
        files.write_text(FLAGS.json, json.dumps({**figures, **checks}, indent=1) + "\n")
    if not (checks["every person accounted for"] and checks["same digest"]):
        raise SystemExit(1)


# ------------------------------------------------------------------------------------------------ the jobs


def program(name: str, *arguments: str) -> subprocess.Popen:
    """A program of this project; its log goes to standard error."""
    command = [sys.executable, "-m", f"experiments.{name}", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def fit(name: str, *arguments: str) -> subprocess.Popen:
    """The program that fits the scenes to the job of a name."""
    return program(
        "fit", "--input=s3://bucket/cues", f"--output=s3://bucket/{name}", f"--config={FLAGS.config}", "--log_every_s=5",
        f"--scenes_per_shard={FLAGS.scenes_per_shard}", *(f"--set={change}" for change in FLAGS.set), *arguments,
    )  # fmt: skip


def alone(name: str) -> dict[str, Any]:
    """One process, without Ray."""
    began = time.monotonic()
    wait(fit(name), name)
    return {"wall_s": time.monotonic() - began, "cpu_s": CPU.pop(name)}


def left_alone(name: str) -> dict[str, Any]:
    """A cluster with as many workers as the name says."""
    with cluster() as made:
        idle = processor_s()
        began = time.monotonic()
        wait(fit(name, "--engine=ray", f"--address={made.address}", f"--workers={name.removeprefix('ray')}"), name)
        return {"wall_s": time.monotonic() - began, "cpu_s": CPU.pop(name) - idle}


def killed(name: str) -> dict[str, Any]:
    """A cluster of which something is killed at random times."""
    rng, done = random.Random(FLAGS.seed), []
    victims: collections.Counter[str] = collections.Counter()
    with cluster() as made:
        began, nodes = time.monotonic(), list(made.worker_nodes)
        start = lambda: fit(name, "--engine=ray", f"--address={made.address}")  # noqa: E731
        driver = start()
        for _ in range(FLAGS.kills):
            time.sleep(rng.uniform(0.5, 1.5) * FLAGS.pause_s)
            if driver.poll() is not None:
                break
            victim = rng.choice(("worker", "worker", "raylet", "driver"))
            while not (workers := processes("ray::fit")) and victim == "worker" and driver.poll() is None:
                time.sleep(0.5)  # on a busy machine a worker needs long to start
            if driver.poll() is not None:
                break
            victims[victim] += 1
            if victim == "worker":
                os.kill(rng.choice(workers), signal.SIGKILL)
            elif victim == "raylet":
                node = nodes.pop(rng.randrange(len(nodes)))
                made.remove_node(node, allow_graceful=False)
                nodes.append(add_node(made))
            else:
                driver.kill()
                driver.wait()
                driver = start()
            with contextlib.suppress(ValueError):
                done.append(job_status.status(f"s3://bucket/{name}")["scenes"]["done"])
            logging.info("killed a %s; %s scenes are done", victim, done[-1] if done else 0)
        wait(driver, name)
        CPU.pop(name)
        return {"wall_s": time.monotonic() - began, "killed": dict(victims), "done_at_kill": done}


def driver_ms(units: int = 2000) -> float:
    """Processor milliseconds that the driver needs for a unit that does nothing, on two workers."""
    import ray

    from annyfit_jax.engine.ray_engine import _environment
    from annyfit_jax.engine.running import run
    from annyfit_jax.engine.stages import Engine, Stage

    options: dict[str, Any] = {"log_to_driver": False, "runtime_env": {"env_vars": _environment()}}
    ray.init(address="local", num_cpus=2, _node_ip_address="127.0.0.1", include_dashboard=False, **options)
    run([Stage("warm", idle_worker, range(50))], Engine("ray"))
    began = time.process_time()
    run([Stage("idle", idle_worker, range(units))], Engine("ray"))
    seconds = time.process_time() - began
    ray.shutdown()
    return 1e3 * seconds / units


def idle_worker(_: threading.Event) -> EachUnit:
    """A worker that does nothing."""
    return EachUnit(lambda unit: (unit, {"unit": unit}))


CPU: dict[str, float] = {}
"""Processor seconds of all processes at the end of a job, until they are read."""


SAMPLES: list[tuple[float, float]] = []
"""`time.monotonic()` and processor seconds of all processes while a job runs."""


def steady(server: FaultyS3, name: str) -> dict[str, float]:
    """People, wall and processor seconds between the first commit of a job and its last."""
    done = {key: at for key, at in server.put_at.items() if key.startswith(f"{name}/done/")}
    first, last = min(done.values()), max(done.values())
    people = 0
    for key, at in done.items():
        counts = (place(f"s3://bucket/{key}").read_json() or {}).get("counts", {}).get("people", {})
        people += sum(counts.values()) if at > first else 0
    times, used = zip(*SAMPLES, strict=True)
    cpu = float(np.interp(last, times, used) - np.interp(first, times, used))
    return {
        "people": people,
        "wall_s": round(last - first, 1),
        "cpu_s": round(cpu, 1),
        "people_per_cpu_s": round(people / cpu, 1),
    }


def wait(process: subprocess.Popen, name: str) -> None:
    """Waits for a program. Raises RuntimeError where it fails."""
    while process.poll() is None:
        SAMPLES.append((time.monotonic(), processor_s()))
        CPU[name] = max(CPU.get(name, 0.0), SAMPLES[-1][1])  # workers end before the driver
        time.sleep(0.25)
    if process.returncode:
        raise RuntimeError(f"experiments.fit ended with {process.returncode}")


# ------------------------------------------------------------------------------------------------ the cluster


@contextlib.contextmanager
def cluster():
    """Three raylets with a core each."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=_node())
    try:
        for _ in range(2):
            add_node(made)
        yield made
    finally:
        made.shutdown()


def add_node(made: Any) -> Any:
    """One more raylet."""
    return made.add_node(**_node())


def _node() -> dict[str, Any]:
    return {"num_cpus": 1, "object_store_memory": 80 << 20, "node_ip_address": "127.0.0.1"}


def _stat(pid: int) -> tuple[str, list[str]]:
    """Name and fields of a process from `/proc`, the fields from its state on."""
    head, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    return head.partition("(")[2], rest.split()


def _descendants() -> dict[int, tuple[str, list[str]]]:
    stats = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stats[int(folder.name)] = _stat(int(folder.name))
    found: dict[int, tuple[str, list[str]]] = {}
    grown = True
    while grown:
        more = {
            pid: stat for pid, stat in stats.items() if pid not in found and int(stat[1][1]) in {os.getpid(), *found}
        }
        found |= more
        grown = bool(more)
    return found


def processes(title: str) -> list[int]:
    """Processes below this one whose command line begins with a title."""
    chosen = []
    for pid in _descendants():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title.encode()):
                chosen.append(pid)
    return chosen


def processor_s() -> float:
    """Processor seconds of all processes below this one, with those of their children that have ended."""
    return sum(sum(map(int, fields[11:15])) for _, fields in _descendants().values()) / _TICKS


# ------------------------------------------------------------------------------------------------ what came of it


def figures_of(name: str) -> dict[str, Any]:
    """What a finished job holds."""
    state = job_status.status(f"s3://bucket/{name}")
    if not state["finished"]:
        raise RuntimeError(f"{name} is not finished: {state['units']}")
    return {
        "scenes": state["scenes"]["done"],
        "people": state["people"]["done"],
        "ok": state["people"]["ok"],
        "digest": job_status.digest(f"s3://bucket/{name}")["digest"],
    }


def accounted_for(name: str) -> bool:
    """Whether every person of every scene of the input has exactly one row, and nobody else has."""
    rows: collections.Counter[str] = collections.Counter()
    for row in job_status.finished_rows(f"s3://bucket/{name}"):
        rows[row.name] += len(row)
    people: collections.Counter[str] = collections.Counter()
    for scene in open_input("s3://bucket/cues"):
        people[scene.name] += len(scene)
    return rows == people


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    names = list(figures)
    lines = ["| | " + " | ".join(names) + " |", "| --- " * (len(names) + 1) + "|"]
    for row in (
        "wall_s",
        "cpu_s",
        "steady",
        "load",
        "scenes",
        "people",
        "ok",
        "digest",
        "requests",
        "killed",
        "done_at_kill",
    ):
        cells = [figures[name].get(row, "") for name in names]
        shown = [f"{cell:.1f}" if isinstance(cell, float) else str(cell)[:90] for cell in cells]
        lines.append("| " + " | ".join([row, *(text[:16] if row == "digest" else text for text in shown)]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    define_flags()
    app.run(main)
