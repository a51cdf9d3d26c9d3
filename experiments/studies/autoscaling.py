"""A job on a Ray cluster whose head has no cores: does an autoscaler start nodes for it, and let them go afterwards?

    python -m experiments.studies.autoscaling --scenes=40 --nodes=2 --json=experiments/results/autoscaling.json

Everything is on this machine's loopback: Ray's provider of fake nodes starts a raylet for each node that is asked for.
The job is `annyfit synthesize --engine=ray`, once on that cluster and once in this process. Prints how many nodes there were
when, and whether both datasets have the same files. Exit code 1 where not, where no node was started, or where one stayed.

Ray's `AutoscalingCluster` does the same, but ends every Ray process of the machine when it starts and stops."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import app, flags

from annyfit_jax.records import files
from annyfit_jax.store.locations import place

FLAGS = flags.FLAGS
_PORT = 6379
"""The provider of fake nodes joins them to this one, whatever the head's is."""
_MEMORY = 80 << 20


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_integer("scenes", 40, "How many synthetic scenes.", lower_bound=1)
    flags.DEFINE_integer("scenes_per_shard", 5, "Scenes of a unit.", lower_bound=1)
    flags.DEFINE_integer(
        "nodes", 2, "Nodes of one core that may be started, and workers that are asked for.", lower_bound=1
    )
    flags.DEFINE_float("idle_s", 6.0, "After how long an idle node is let go.")
    flags.DEFINE_float("patience_s", 240.0, "How long to wait for that.")
    flags.DEFINE_string("json", None, "Also write the figures here.")


def main(_: list[str]) -> None:
    # On the loopback, which Ray takes with the first; nobody else sees the cluster, so it needs no token.
    os.environ |= {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
    }
    folder = Path(tempfile.mkdtemp(prefix="autoscaling-"))
    try:
        figures = measure(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, value in figures.items():
        print(f"{name}: {value}")
    if FLAGS.json:
        files.write_text(FLAGS.json, json.dumps(figures, indent=1) + "\n")
    if figures["nodes_most"] < 2 or figures["nodes_at_the_end"] != 1 or not figures["same_files"]:
        raise SystemExit(1)


def measure(folder: Path) -> dict[str, Any]:
    """The job on the cluster and alone, and how many nodes there were."""
    import ray

    command = [
        sys.executable, "-m", "experiments.synthesize", f"--scenes={FLAGS.scenes}", "--seed=1", "--people=1,2",
        f"--scenes_per_shard={FLAGS.scenes_per_shard}",
    ]  # fmt: skip
    seen: list[tuple[float, int]] = []

    def look() -> int:
        nodes = sum(node["Alive"] for node in ray.nodes())
        if not seen or seen[-1][1] != nodes:
            seen.append((round(time.monotonic() - began, 1), nodes))
        time.sleep(0.5)
        return nodes

    with head(folder):
        ray.init(f"127.0.0.1:{_PORT}", _node_ip_address="127.0.0.1", log_to_driver=False, logging_level=logging.WARNING)
        began = time.monotonic()
        look()
        on_ray = [
            *command, f"--output={folder / 'ray'}", "--engine=ray", f"--address=127.0.0.1:{_PORT}", f"--workers={FLAGS.nodes}",
        ]  # fmt: skip
        with subprocess.Popen(on_ray) as job:
            while job.poll() is None:
                look()
        ended = time.monotonic()
        if job.returncode:
            raise RuntimeError(f"the job ended with {job.returncode}")
        while look() > 1 and time.monotonic() - ended < FLAGS.patience_s:
            pass
        gone = time.monotonic() - ended
        ray.shutdown()
    subprocess.run([*command, f"--output={folder / 'alone'}"], check=True)
    return {
        "scenes": FLAGS.scenes, "nodes_before": seen[0][1], "nodes_most": max(nodes for _, nodes in seen),
        "nodes_at_the_end": seen[-1][1], "job_s": round(ended - began, 1), "last_node_gone_after_s": round(gone, 1),
        "nodes_at_s": seen, "same_files": units(folder / "ray") == units(folder / "alone"),
    }  # fmt: skip


def units(folder: Path) -> dict[str, int]:
    """Units of a dataset: their names, which depend on their content, and bytes."""
    return place(folder / "units").files()


@contextlib.contextmanager
def head(folder: Path) -> Iterator[None]:
    """A head without cores, whose autoscaler starts nodes of one core."""
    node = {"node_config": {}, "min_workers": 0}
    empty: dict[str, Any] = {name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")}
    empty |= {f"{which}_commands": [] for which in ("initialization", "setup", "head_setup", "worker_setup")}
    empty |= {f"{which}_start_ray_commands": [] for which in ("head", "worker")}
    empty |= {name: {} for name in ("file_mounts", "docker", "head_node", "worker_nodes")}
    config = {
        **empty,
        "cluster_name": "fake",
        "max_workers": FLAGS.nodes,
        "provider": {
            "type": "fake_multinode",
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "use_node_id_as_ip": True,  # all nodes have one address
        },
        "auth": {"ssh_user": "nobody"},
        "file_mounts_sync_continuously": False,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": FLAGS.idle_s / 60,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {**node, "resources": {"CPU": 0}, "max_workers": 0},
            "worker": {**node, "resources": {"CPU": 1, "object_store_memory": _MEMORY}, "max_workers": FLAGS.nodes},
        },
    }
    path = folder / "autoscaling.yaml"
    path.write_text(json.dumps(config))  # YAML reads JSON
    short = tempfile.mkdtemp(prefix="ray-")  # Ray's sockets are below it, whose names must not be long
    command = [
        "ray", "start", "--head", "--block", f"--autoscaling-config={path}", "--node-ip-address=127.0.0.1",
        f"--port={_PORT}", "--num-cpus=0", f"--object-store-memory={_MEMORY}", "--include-dashboard=false",
        f"--temp-dir={short}",
    ]  # fmt: skip
    environment = {**os.environ, "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    with (folder / "head.log").open("w") as log:
        started = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        for _ in range(600):
            if "Ray runtime started" in (folder / "head.log").read_text() or started.poll() is not None:
                break
            time.sleep(0.2)
        if started.poll() is not None:
            raise RuntimeError(f"the head did not start: {(folder / 'head.log').read_text()[-2000:]}")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGTERM)
        started.wait()
        shutil.rmtree(short, ignore_errors=True)


if __name__ == "__main__":
    define_flags()
    app.run(main)
