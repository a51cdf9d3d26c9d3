"""What `experiments.benchmarks.benchmark` says about its measurements: one flat summary and Markdown tables. Pure functions.

The measurements are plain data, as `experiments.benchmarks.benchmark` collects them: a "run" is
`{"cpu_s": ..., "wall_s": ...}`; sections are `facts`, `clock`, `missing`, `fit`, `agreement`, `body`, `throughput`,
`memory`, `compile`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BATCHES = (1, 8, 32)
BODY_ROWS = {
    "forward": "full mesh, forward",
    "mesh": "full mesh, forward + gradient",
    "coco": "COCO-17, forward + gradient",
    "points": "COCO-17 and 138 dense points, forward + gradient",
}


def median(runs: Sequence[dict[str, float]], clock: str) -> float | None:
    """Median seconds of runs; None where there is none."""
    return float(np.median([run[clock] for run in runs])) if runs else None


def scene_seconds(measured: Sequence[tuple[int, float]], counts: Sequence[int]) -> float | None:
    """Seconds for scenes of these sizes, one at a time, from measured (people, seconds) of a few.

    A scene costs a + b n to a good approximation (dispatch, and work per person): least squares over what was measured; sizes
    that were measured are taken as measured. One measured size alone is scaled by people. None where nothing was measured.
    """
    if not measured:
        return None
    known = {n: float(np.median([t for m, t in measured if m == n])) for n in {n for n, _ in measured}}
    sizes, times = np.array(list(known)), np.array(list(known.values()))
    if len(known) > 1:
        slope, offset = np.polyfit(sizes, times, 1)
    else:
        slope, offset = times[0] / sizes[0], 0.0
    return float(np.sum([known[n] if n in known else offset + slope * n for n in counts]))


def ratio(slow: float | None, fast: float | None) -> float | None:
    """slow / fast; None where either is unknown."""
    return None if slow is None or not fast else slow / fast


def per_person(entry: dict[str, Any] | None, clock: str) -> float | None:
    """Median seconds per person of a fit entry (`people`, `runs`)."""
    if not entry or not entry["runs"]:
        return None
    seconds = median(entry["runs"], clock)
    return None if seconds is None else seconds / entry["people"]


def body_ms(results: dict[str, Any], side: str, what: str, batch: int) -> float | None:
    """Milliseconds per person of a body timing; for `body_models` points, the faster of its two ways."""
    table = results.get("body", {}).get(str(batch), {}).get(side, {})
    names = [what, f"{what}_own"] if side == "body_models" else [what]
    times = [t for name in names if (t := median(table.get(name, []), results["clock"])) is not None]
    return min(times) * 1e3 / batch if times else None


def values_apart(body: dict[str, Any]) -> float | None:
    """Largest relative difference between what the other sides computed and what ours did; None without another side."""
    differences = [
        abs(value / by_side["ours"][what.removesuffix("_own")] - 1.0)
        for by_side in (tables.get("values", {}) for tables in body.values())
        for side, values in by_side.items()
        for what, value in values.items()
        if side != "ours"
    ]
    return max(differences, default=None)


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """The numbers of the last line, flat. A value that was not measured is None, and `missing` says why."""
    clock, fit = results["clock"], results.get("fit", {})
    ours = per_person(fit.get("ours"), clock)
    single = torch_single_per_person(results)
    lone = fit.get("torch_single", {}).get(str(fit.get("lone_scene")))
    out: dict[str, Any] = {
        "fit_speedup_vs_torch_single": ratio(single, ours),
        "fit_speedup_vs_torch_batched": ratio(
            per_person(fit.get("torch_batched"), clock), per_person(fit.get("ours_subset"), clock)
        ),
        "fit_speedup_one_scene": ratio(per_person(lone, clock), per_person(fit.get("ours_lone"), clock)),
        "people_per_second": ratio(1.0, ours),
        "people_per_second_subset": ratio(1.0, per_person(fit.get("ours_subset"), clock)),
        "torch_single_s_per_person": single,
        "torch_batched_s_per_person": per_person(fit.get("torch_batched"), clock),
        "points_gradient_ms_per_person": body_ms(results, "ours", "points", max(BATCHES)),
        "compile_seconds": results.get("compile", {}).get("cold", {}).get(clock),
        "compile_seconds_cached": results.get("compile", {}).get("cached", {}).get(clock),
    }
    for what in BODY_ROWS:
        for batch in BATCHES:
            mine = body_ms(results, "ours", what, batch)
            for side in ("torch", "body_models"):
                out[f"body_{what}_ratio_{side}_b{batch}"] = ratio(body_ms(results, side, what, batch), mine)
    out["agreement"] = {
        name: {key: values[key] for key in ("max", "p99")}
        for name, values in results.get("agreement", {}).get("groups", {}).items()
    }
    memory = results.get("memory", {})
    out["memory_kb_per_person"] = memory.get("ours_kb_per_person")
    out["torch_memory_kb_per_person"] = memory.get("torch_kb_per_person")
    out["clock"], out["missing"] = clock, results.get("missing", {})
    return {name: _rounded(value) for name, value in out.items()}


def torch_single_per_person(results: dict[str, Any]) -> float | None:
    """Seconds per person of the one-scene-at-a-time baseline over all scenes, extrapolated from those it was run on."""
    fit, clock = results.get("fit", {}), results["clock"]
    measured = [(e["people"], run[clock]) for e in fit.get("torch_single", {}).values() for run in e["runs"]]
    counts = fit.get("counts", [])
    seconds = scene_seconds(measured, counts)
    return None if seconds is None else seconds / sum(counts)


def agreement(ours: dict[str, np.ndarray], exact: dict[str, np.ndarray], against: str) -> dict[str, Any]:
    """Differences of end parameters: Euclidean per person (mm, rad) and per bone (rad), and per shape value."""
    units = {"transl": (1e3, "mm"), "root_rotvec": (1.0, "rad"), "pose": (1.0, "rad"), "shape": (1.0, "")}
    groups = {}
    for name, (scale, unit) in units.items():
        difference = np.asarray(ours[name], np.float64) - np.asarray(exact[name], np.float64)
        size = np.abs(difference) if name == "shape" else np.linalg.norm(difference, axis=-1)
        worst = size.reshape(len(size), -1).max(1) * scale  # the worst bone or value of each person
        groups[name] = {
            "unit": unit,
            "median": float(np.median(worst)),
            "p99": float(np.percentile(worst, 99)),
            "max": float(worst.max()),
        }
    return {"against": against, "people": len(ours["transl"]), "groups": groups}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _rounded(v) for name, v in value.items()}
    return value


# ------------------------------------------------------------------------------------------------ Markdown


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; numbers with three significant digits, None as a dash."""

    def cell(value: Any) -> str:
        if value is None:
            return "–"
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(cell(v) for v in row) + " |" for row in rows)])


def markdown(results: dict[str, Any]) -> str:
    """The whole report."""
    parts = ["# Benchmark", _facts(results), _fit(results), _agreement(results), _body(results)]
    parts += [_throughput(results), _memory(results), _compile(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(results: dict[str, Any]) -> str:
    facts = "\n".join(f"- {name}: {value}" for name, value in results["facts"].items())
    clock = {
        "cpu_s": "process CPU time (every side pinned to the same cores, so neighbours on the machine do not count)",
        "wall_s": "wall time",
    }[results["clock"]]
    missing = "".join(f"\n- not measured: {name}: {reason}" for name, reason in results.get("missing", {}).items())
    return (
        f"{facts}\n- seconds are {clock}, medians of interleaved runs; compilation, loading and the derived files of the "
        f"`anny` package are not in them{missing}"
    )


def _fit(results: dict[str, Any]) -> str:
    fit, clock = results.get("fit"), results["clock"]
    if not fit:
        return ""
    rows = []

    def add(label: str, entry: dict[str, Any] | None, versus: float | None, note: str) -> None:
        seconds = per_person(entry, clock)
        if entry and seconds is not None:
            rows.append(
                [label, entry["people"], len(entry["runs"]), seconds, 1.0 / seconds, ratio(versus, seconds), note]
            )

    single = torch_single_per_person(results)
    batched = per_person(fit.get("torch_batched"), clock)
    for key, entry in sorted(fit.get("torch_single", {}).items(), key=lambda item: item[1]["people"]):
        add(f"torch, scene {key} alone", entry, None, "")
    if single is not None:
        rows.append(
            ["torch, one scene at a time, all scenes", sum(fit["counts"]), "", single, 1 / single, None, "extrapolated"]
        )
    add("torch, one batch", fit.get("torch_batched"), None, "")
    lone = fit.get("torch_single", {}).get(str(fit.get("lone_scene")))
    lanes = lambda entry: f"{entry['batches']} batches, {entry['lanes']} lanes" if entry else ""  # noqa: E731
    add("ours, all scenes", fit.get("ours"), single, lanes(fit.get("ours")) + "; ratio to torch one scene at a time")
    add("ours, the scenes of the torch batch", fit.get("ours_subset"), batched, lanes(fit.get("ours_subset")))
    add("ours, one lone scene", fit.get("ours_lone"), per_person(lone, clock), lanes(fit.get("ours_lone")))
    header = [
        "full three-stage fit (100 / 100 / 200 Adam steps)",
        "people",
        "runs",
        "s / person",
        "people / s",
        "times",
        "",
    ]
    text = (
        "Same scenes, starts, schedule and cores. torch: `experiments/benchmarks/torch_baseline.py` (float32, `anny` with its "
        "compact basis and `warp_lbs`, all vertices in the mesh regulariser). Ours: the default config (sampled "
        "mesh regulariser)."
    )
    return f"## The fit\n\n{text}\n\n{table(header, rows)}"


def _agreement(results: dict[str, Any]) -> str:
    agreement = results.get("agreement")
    if not agreement:
        return ""
    rows = [
        [name, g["unit"], g["median"], g["p99"], g["max"]] for name, g in agreement["groups"].items()
    ]  # fmt: skip
    against = f"{agreement['against']}, {agreement['people']} people"
    text = f"End parameters of the same run against {against}, worst bone or value of each."
    return f"## Agreement with the exact objective\n\n{text}\n\n" + table(["", "unit", "median", "99 %", "max"], rows)


def _body(results: dict[str, Any]) -> str:
    if not results.get("body"):
        return ""
    rows = []
    for what, label in BODY_ROWS.items():
        for batch in BATCHES:
            mine, torch, other = (body_ms(results, side, what, batch) for side in ("ours", "torch", "body_models"))
            if mine is not None:
                rows.append([label, batch, mine, torch, other, ratio(torch, mine), ratio(other, mine)])
    header = [
        "ms per person",
        "batch",
        "ours",
        "`anny` (torch)",
        "`body-models` (JAX)",
        "times `anny`",
        "times `body-models`",
    ]
    text = (
        "Gradients with respect to phenotypes, all rotation vectors and translation; of the sum of squares of the points, or "
        "the mean square of the mesh. `body-models`: the faster of its `forward_points` and its vertices regressed."
    )
    apart = values_apart(results["body"])
    if apart is not None:
        text += f" All sides compute the same values (relative difference at most {apart:.1e})."
    return f"## The body model alone\n\n{text}\n\n{table(header, rows)}"


def _throughput(results: dict[str, Any]) -> str:
    throughput = results.get("throughput")
    if not throughput:
        return ""
    blocks = []
    for title, header, entries in (
        ("People per scene", "people per scene", throughput.get("people_per_scene", {})),
        ("Scenes per batch", "scenes", throughput.get("scenes", {})),
        ("Devices (virtual CPU devices on all cores)", "devices", throughput.get("devices", {})),
    ):
        rows = []
        for key, e in entries.items():
            cpu, wall = median(e["runs"], "cpu_s"), median(e["runs"], "wall_s")
            waste = 100.0 * (e["lanes"] / e["people"] - 1.0)
            rows.append([key, e["people"], e["lanes"], waste, e["devices_used"], e["people"] / cpu, e["people"] / wall])
        if rows:
            columns = [header, "people", "lanes", "padding %", "devices used", "people / CPU s", "people / wall s"]
            blocks.append(f"### {title}\n\n" + table(columns, rows))
    return "## Throughput\n\n" + "\n\n".join(blocks)


def _memory(results: dict[str, Any]) -> str:
    m = results.get("memory")
    if not m:
        return ""
    rows = [
        ["ours: kB per person, arguments, results and temporaries of the compiled fit", m.get("ours_kb_per_person")],
        ["ours: model, MB, once", m.get("ours_model_mb")],
        ["ours: peak of the whole process, compilation included, MB", m.get("ours_process_mb")],
        ["torch: kB per person, growth of the process peak from loading to the batch", m.get("torch_kb_per_person")],
        ["torch: peak of the whole process, MB", m.get("torch_process_mb")],
    ]
    return "## Memory\n\n" + table(["", ""], rows)


def _compile(results: dict[str, Any]) -> str:
    seconds = results.get("compile")
    if not seconds:
        return ""
    rows = [
        [name, seconds[name].get("cpu_s"), seconds[name].get("wall_s")]
        for name in ("cold", "cached")
        if name in seconds
    ]
    text = (
        f"First fit of a fresh process less the second one, {seconds['people']} people: tracing, lowering, compiling."
    )
    return f"## Compilation of the three-stage program\n\n{text}\n\n" + table(["cache", "CPU s", "wall s"], rows)
