"""A job from photos that is killed at random times, beside the same job left alone: is anything lost or different?

    python -m experiments.studies.photo_copies --data=DATA --output=out/copies --random=100
    python -m experiments.studies.killed_photos --photos=out/copies/random --output=out/killed_photos --kills=5

Runs `annyfit fit` on the folder of photos, which detects people and fits them, in a process of its own: once to the end, then
with SIGKILL to it and its children and the same command again. What was done at each kill is the number of units of photos that
every expert has answered and the number of scenes that were fitted. Exit code 1 where people, scenes or digests differ."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import app, flags

from annyfit_jax.jobs import job_status
from annyfit_jax.records import files
from annyfit_jax.store.plan import StoreError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string("photos", None, "Folder of photos.", required=True)
    flags.DEFINE_string("output", None, "Folder of the two jobs.", required=True)
    flags.DEFINE_integer("kills", 5, "How often the second job is killed.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the times of the kills.")
    flags.DEFINE_integer("scenes_per_shard", 20, "Photos of a unit.", lower_bound=1)
    flags.DEFINE_multi_string("fit", [], "More arguments of annyfit fit.")
    flags.DEFINE_string("json", None, "Also write the figures here.")


def main(_: list[str]) -> None:
    began = time.monotonic()
    alone = start("alone")
    alone.wait()
    seconds = time.monotonic() - began
    figures = {"alone": {"wall_s": round(seconds, 1), **figures_of("alone", alone)}}
    rng, done = random.Random(FLAGS.seed), []
    began = time.monotonic()
    process = start("killed")
    for _kill in range(FLAGS.kills):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.5, 1.5) * seconds / (FLAGS.kills + 1))
            break  # it came to its end
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        done.append(progress("killed"))
        process = start("killed")
    process.wait()
    wall = round(time.monotonic() - began, 1)
    figures["killed"] = {"wall_s": wall, **figures_of("killed", process), "kills": len(done), "done_at_kill": done}
    print("| | alone | killed |", "| --- | --- | --- |", sep="\n")
    for name, value in figures["killed"].items():
        print(f"| {name} | {figures['alone'].get(name, '')} | {value} |")
    same = all(figures["alone"][name] == figures["killed"][name] for name in ("scenes", "people", "digest"))
    print(f"nothing lost and nothing different: {same}")
    if FLAGS.json:
        files.write_text(FLAGS.json, json.dumps({**figures, "same": same}, indent=1) + "\n")
    if not same or len(done) < FLAGS.kills:
        raise SystemExit(1)


def start(name: str) -> subprocess.Popen:
    """`annyfit fit` on the photos, in a process group of its own."""
    Path(FLAGS.output).mkdir(parents=True, exist_ok=True)
    with open(Path(FLAGS.output) / f"{name}.log", "a") as log:
        return subprocess.Popen(
            [
                sys.executable, "-m", "experiments.fit", f"--input={FLAGS.photos}", f"--output={Path(FLAGS.output) / name}",
                f"--scenes_per_shard={FLAGS.scenes_per_shard}", *FLAGS.fit,
            ],
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def progress(name: str) -> dict[str, int]:
    """Units that each expert has answered, and scenes that were fitted."""
    job = Path(FLAGS.output) / name
    stages = (folder for folder in sorted((job / "cues" / "stages").glob("*")) if folder.is_dir())
    units = {stage.name.partition("-")[0]: len(list(stage.glob("*.npz"))) for stage in stages}
    try:
        return {**units, "scenes": job_status.status(job)["scenes"]["done"]}
    except StoreError:  # the fit has not begun
        return {**units, "scenes": 0}


def figures_of(name: str, process: subprocess.Popen) -> dict[str, Any]:
    """What a finished job holds. Raises RuntimeError where it is not finished."""
    state = job_status.status(Path(FLAGS.output) / name)
    if process.returncode or not state["finished"]:
        raise RuntimeError(f"{name}: exit code {process.returncode}, {state['units']}; see {name}.log")
    people = {kind: state["people"][kind] for kind in ("done", "ok", "failed", "skipped")}
    digest = job_status.digest(Path(FLAGS.output) / name)["digest"]
    return {"scenes": state["scenes"]["done"], "people": people, "digest": digest}


if __name__ == "__main__":
    define_flags()
    app.run(main)
