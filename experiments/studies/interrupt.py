"""A job that is killed again and again, beside the same job left alone: nothing may be lost, nothing may be there twice.

    python -m experiments.synthesize --output=dataset --scenes=10000 --seed=7
    python -m experiments.studies.interrupt --input=dataset --output=out/killed --kills=10 --json=out/killed.json

Runs `experiments.fit` on the dataset in `OUT/alone`, then in `OUT/killed` with SIGKILL to all its processes after random times,
each time started again with another number of processes. Prints a table: wall time, people per second, padding, memory, and
whether every person of the input has one terminal row and both jobs have the same digest. Exit code 1 where not.
"""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from annyfit_jax.inputs import open_input
from annyfit_jax.jobs import job_status
from annyfit_jax.records import files

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string("input", None, "Cue dataset.")
    flags.DEFINE_string("output", None, "Folder for both jobs; must not exist.")
    flags.DEFINE_integer("kills", 10, "How often.", lower_bound=1)
    flags.DEFINE_integer("processes", 2, "Largest number of processes that the job runs with.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the times and numbers of processes.")
    flags.DEFINE_multi_string("set", [], "As of experiments.fit.")
    flags.DEFINE_string("json", None, "Also write the figures here.")


def main(_: list[str]) -> None:
    for name in ("input", "output"):
        if not FLAGS[name].value:
            raise app.UsageError(f"--{name} is missing")
    output = Path(FLAGS.output)
    if output.exists():
        raise app.UsageError(f"--output={output} exists")
    output.mkdir(parents=True)
    alone = uninterrupted(output / "alone")
    killed = interrupted(output / "killed", alone["wall_s"])
    figures = {
        "scenes": alone["scenes"], "kills": FLAGS.kills, "alone": alone, "killed": killed,
        "accounted_for": accounted_for(output / "killed"),
        "same_digest": alone["digest"] == killed["digest"],
        "comparison": job_status.compare(output / "alone", output / "killed"),
    }  # fmt: skip
    print(table(figures))
    if FLAGS.json:
        files.write_text(FLAGS.json, json.dumps(figures, indent=1) + "\n")
    if not (figures["same_digest"] and figures["accounted_for"]):
        raise SystemExit(1)


def start(folder: Path, count: int) -> list[subprocess.Popen]:
    """The processes of a job, one core each where there are several."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    processes = []
    for index in range(count):
        command = [
            sys.executable, "-m", "experiments.fit", f"--input={FLAGS.input}", f"--output={folder}", "--steal",
            f"--process_index={index}", f"--process_count={count}", *(f"--set={change}" for change in FLAGS.set),
        ]  # fmt: skip
        if count > 1 and len(cores) >= count:
            command = ["taskset", "--cpu-list", str(cores[index]), *command]
        log = (folder.parent / f"{folder.name}-{index}.log").open("a")
        processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        log.close()
    return processes


def finish(processes: list[subprocess.Popen]) -> None:
    """Wait for all. Raises RuntimeError where one fails."""
    codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError(f"experiments.fit ended with {codes}; see the logs in {FLAGS.output}")


def uninterrupted(folder: Path) -> dict[str, Any]:
    """The job left alone, with all processes."""
    before = time.monotonic()
    finish(start(folder, FLAGS.processes))
    return figures_of(folder, time.monotonic() - before)


def interrupted(folder: Path, expected_s: float) -> dict[str, Any]:
    """The job with its kills, spread over the time that it would take; wall time with the starts."""
    rng = random.Random(FLAGS.seed)
    before = time.monotonic()
    done = []
    for number in range(FLAGS.kills):
        processes = start(folder, rng.randint(1, FLAGS.processes))
        time.sleep(rng.uniform(0.2, 1.8) * expected_s / (FLAGS.kills + 1))
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        try:
            done.append(job_status.status(folder)["scenes"]["done"])
        except job_status.JobError:
            done.append(0)  # killed before the job had a plan
        logging.info("kill %d: %d scenes were done", number + 1, done[-1])
    finish(start(folder, FLAGS.processes))
    return {**figures_of(folder, time.monotonic() - before), "done_at_kill": done}


def figures_of(folder: Path, wall_s: float) -> dict[str, Any]:
    """What a finished job took. Padding and memory are those of the processes that ended it."""
    state, checksums, lines = job_status.status(folder), job_status.digest(folder), job_status.last_lines(folder)
    if not state["finished"]:
        raise RuntimeError(f"{folder} is not finished: {state['units']}")
    return {
        "wall_s": round(wall_s, 1),
        "scenes": state["scenes"]["done"],
        "people": state["people"],
        "people_per_s": round(state["people"]["ok"] / wall_s, 2),
        "padding": [line["padding"] for line in lines],
        "peak_memory_mb": [line["peak_memory_mb"] for line in lines],
        "digest": checksums["digest"],
    }


def accounted_for(folder: Path) -> bool:
    """Whether every person of every scene of the input has exactly one row, and nobody else has."""
    rows = collections.Counter()
    for row in job_status.finished_rows(folder):
        rows[row.name] += len(row)
    people = collections.Counter()
    for scene in open_input(FLAGS.input):
        people[scene.name] += len(scene)
    return rows == people


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| | alone | killed |", "| --- | --- | --- |"]
    for name in ("wall_s", "scenes", "people", "people_per_s", "padding", "peak_memory_mb", "digest"):
        cells = [figures[side][name] for side in ("alone", "killed")]
        if name == "people":
            cells = [
                ", ".join(f"{k} {sum(v.values()) if isinstance(v, dict) else v}" for k, v in c.items()) for c in cells
            ]
        lines.append("| " + " | ".join([name, *(c[:16] if name == "digest" else str(c) for c in cells)]) + " |")
    lines += [
        "",
        f"{figures['kills']} kills; scenes done at each: {figures['killed']['done_at_kill']}",
        f"every person accounted for: {figures['accounted_for']}; same digest: {figures['same_digest']}; "
        f"largest differences: {figures['comparison']['largest_difference']}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    define_flags()
    app.run(main)
