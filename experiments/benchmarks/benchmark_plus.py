"""Speed of `annyfit_plus` beside the batched `annyfit`: one process, the same people, runs taking turns.

    python -m experiments.benchmarks.benchmark_plus --length=64 --rounds=7 --json=FILE

Both configs fit the same synthetic scenes, packed into one list per run, from prepared scenes to finished arrays on the device
(assembling counts, compiling does not). Reported: medians and quartiles of wall and process CPU time per list, people per
second, the median of the rounds' ratios, and what an iteration costs in full Adam steps of the same run.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from annyfit_jax.records import files

REPO = Path(__file__).resolve().parents[2]
CONFIGS = REPO / "experiments" / "configs"
SEED = 4001
ADAM_STEPS = 100
"""Of the run that times a step with everything free."""


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_integer("length", 64, "Length of the list of people.", lower_bound=8)
    flags.DEFINE_integer("rounds", 7, "Turns of each side.", lower_bound=1)
    flags.DEFINE_string("json", None, "File for every single timing.")


def main(_: list[str]) -> None:
    values = flags.FLAGS
    report = measure(values.length, values.rounds)
    print(table(report))
    if values.json:
        files.write_text(values.json, json.dumps(report, indent=1) + "\n")


def measure(length: int, rounds: int) -> dict[str, Any]:
    """Run all sides in turn; times in seconds, one entry per round."""
    import jax

    from annyfit_jax.fit import config as configs
    from annyfit_jax.fit.fitter import Fitter
    from annyfit_jax.synthetic import Generator, Recipe
    from body_models import anny

    model = anny.load()
    released = configs.load_config(CONFIGS / "annyfit.py")
    plus = configs.load_config(CONFIGS / "annyfit_plus.py")
    pose = dataclasses.replace(released.stages[-1], steps=ADAM_STEPS)
    sides = {
        "annyfit": released,
        "annyfit_plus": plus,
        "adam_steps": dataclasses.replace(released, stages=(pose,)),
    }
    scenes = list(Generator(Recipe(seed=SEED), model).scenes(range(length)))
    runs: dict[str, Callable[[], None]] = {}
    compile_s, people = {}, 0
    for name, config in sides.items():
        fitter = Fitter(dataclasses.replace(config, person_lengths=(length,)), model, jax.devices()[:1])
        batch = next(iter(fitter.batches(fitter.prepare(scene) for scene in scenes)))
        people = sum(len(ready.scene) for ready in batch)

        run = functools.partial(_run, fitter, batch)
        start = time.perf_counter()
        run()
        compile_s[name] = time.perf_counter() - start
        runs[name] = run
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - started[0])
            cpu[name].append(time.process_time() - started[1])
    return {
        "people": people, "length": length, "rounds": rounds, "device": jax.devices()[0].device_kind,
        "load_average": os.getloadavg()[0], "iterations": plus.lm.rounds * plus.lm.iterations,
        "adam_steps": ADAM_STEPS, "wall_s": wall, "cpu_s": cpu, "first_run_s": compile_s,
    }  # fmt: skip


def _run(fitter: Any, batch: list) -> None:
    import jax

    jax.block_until_ready(fitter.dispatch(batch).outcome)


def table(report: dict[str, Any]) -> str:
    """Markdown."""
    people = report["people"]
    lines = [
        f"{people} people in a list of {report['length']}, {report['rounds']} rounds, device {report['device']}, load average "
        f"{report['load_average']:.1f}",
        "",
        "| side | wall s (quartiles) | CPU s (quartiles) | people/s (wall) | people/CPU s |",
        "|---|---|---|---|---|",
    ]
    for name in ("annyfit", "annyfit_plus"):
        cells = []
        for times in (report["wall_s"][name], report["cpu_s"][name]):
            low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
            cells.append(f"{middle:.2f} ({low:.2f}..{high:.2f})")
        speed = [people / float(np.median(report[kind][name])) for kind in ("wall_s", "cpu_s")]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {speed[0]:.1f} | {speed[1]:.1f} |")
    for kind in ("wall_s", "cpu_s"):
        times = {name: np.asarray(values) for name, values in report[kind].items()}
        ratio = float(np.median(times["annyfit"] / times["annyfit_plus"]))
        iteration = times["annyfit_plus"] / (report["iterations"] + 1)
        steps = float(np.median(iteration / (times["adam_steps"] / report["adam_steps"])))
        lines += [
            "",
            f"{kind}: annyfit_plus fits {ratio:.2f} times as many people per second as annyfit; an iteration (the whole fit "
            f"over its {report['iterations']} iterations and the last look) costs {steps:.1f} Adam steps.",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    define_flags()
    app.run(main)
