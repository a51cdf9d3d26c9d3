"""Which cue gives what: Anny-Fit's ablation on synthetic scenes with exact truth, with confidence intervals.

    python -m experiments.ablate --output=experiments/results/ablation
    python -m experiments.ablate --output=out/plus --config=experiments/configs/annyfit_plus.py \\
        --row='no metric depth: map.metric_depth=false' --row='no limits: map.joint_limits=false'
    python -m experiments.ablate --output=out/quick --seeds=1 --scenes=6 --worlds=plain --public=

Rows are Anny-Fit's, whatever the config: Init (the start as it comes), +O (optimised on 2D points alone), +O+S (and the words of a
vision-language model), +O+D (and depth), +O+S+D (everything). A row without S or D is fitted to scenes from which that cue has
been taken: for the released schedule the same as `--set=words_set_start=false`, `...weights.words=0`, `...weights.depth_order=0`,
without a program of its own for each row. `--row=NAME: PATH=VALUE ...` adds a row with all cues and changes of the config.

Every world (`plain`, `easy`, `standard`, `hard`) comes with both kinds of start: adult-biased (as Multi-HMR gives) and mild (as
CameraHMR gives); the public sets beside the repository are added where they are there. Intervals are 95 %, from drawing scenes again
over all seeds; differences are paired, over the people whom every row fitted.

Writes OUTPUT.md and OUTPUT.json. What stands in OUTPUT.md from the heading `## Reading` on is kept when it is written again.
"""  # noqa: E501 (commands and lists)

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags, logging

from annyfit_jax import metrics
from annyfit_jax.people.scene import UNKNOWN_WORD, Scene

FLAGS = flags.FLAGS
_FOLDER = Path(__file__).parent
WORLDS = ("plain", "easy", "standard", "hard")
STARTS = {"adult-biased": ("multihmr", (1.0, 1.0)), "mild": ("camerahmr", (0.2, 0.8))}
"""Kind of start -> preset of the rendered world, bias of the plain one."""
PUBLIC = {"adult-biased": "adult_bias", "mild": "mild_bias"}
REFERENCE_ROWS = {"Init": "Init", "+O": "O", "+O+S": "OS", "+O+D": "OD", "+O+S+D": "OSD"}
COLUMNS = {
    "err2d_px": "2D px", "pckh06": "PCKh.6", "mpjpe_root": "root MPJPE mm", "pa_mpjpe": "PA mm",
    "joint_pa_mpjpe": "scene PA mm", "depth_abs_err": "depth err m", "pcrd02": "PCRD.2", "age_f1": "age F1",
    "gender_f1": "gender F1", "height_err": "height err m",
}  # fmt: skip
LOWER_IS_BETTER = ("err2d_px", "mpjpe_root", "pa_mpjpe", "joint_pa_mpjpe", "depth_abs_err", "height_err")
PUBLISHED = (
    ("Relative Human, Multi-HMR", {"mPCKh": (65.4, 78.8), "PCRD 0.2": (59.8, 66.1)}),
    ("Relative Human, Multi-HMR", {"age F1": (23.3, 48.6), "gender F1": (34.8, 81.1)}),
    ("Relative Human, CameraHMR", {"mPCKh": (64.7, 81.1), "PCRD 0.2": (59.6, 67.2)}),
    ("Panoptic children, Multi-HMR", {"root MPJPE mm": (102.2, 92.5), "joint PA-MPJPE mm": (263.8, 223.1)}),
    ("Panoptic children, CameraHMR", {"root MPJPE mm": (149.5, 119.9), "joint PA-MPJPE mm": (658.9, 348.0)}),
)  # fmt: skip
"""Anny-Fit (arXiv 2605.04728): Init and +O+S+D."""
PATTERN = (
    ("2D fit improves on Init", "Init", "+O", "err2d_px"),
    ("2D fit, everything on", "Init", "+O+S+D", "pckh06"),
    ("words give the age", "+O", "+O+S", "age_f1"),
    ("words give the gender", "+O", "+O+S", "gender_f1"),
    ("words make the body right", "+O", "+O+S", "mpjpe_root"),
    ("depth gives the order", "+O", "+O+D", "pcrd02"),
    ("depth helps beside words", "+O+S", "+O+S+D", "pcrd02"),
    ("depth costs no pose beside words", "+O+S", "+O+S+D", "mpjpe_root"),
    ("root MPJPE, everything on", "Init", "+O+S+D", "mpjpe_root"),
    ("scene layout, everything on", "Init", "+O+S+D", "joint_pa_mpjpe"),
    ("depth order, everything on", "Init", "+O+S+D", "pcrd02"),
    ("age, everything on", "Init", "+O+S+D", "age_f1"),
)
"""Claims: (what, without, with, metric that should improve)."""
_READING = "## Reading"

Errors = dict[str, np.ndarray]


class Row(NamedTuple):
    """One line of the table."""

    name: str
    words: bool = True
    depth: bool = True
    overrides: tuple[str, ...] = ()


ROWS = (Row("+O", False, False), Row("+O+S", True, False), Row("+O+D", False, True), Row("+O+S+D"))


class SceneSet(NamedTuple):
    """Scenes with truth."""

    title: str
    start: str
    """Key of `STARTS`."""
    seeds: Mapping[int, Sequence[Scene]]
    reference: dict[str, dict[str, float]] | None = None
    """Figures of the release's objective on the same scenes by another program, by row."""


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string("output", "experiments/results/ablation", "Where to write, without .md and .json.")
    flags.DEFINE_string("config", str(_FOLDER / "configs" / "annyfit.py"), "Python file with get_config().")
    flags.DEFINE_multi_string("set", [], "path=value changes of the config, for all rows.")
    flags.DEFINE_multi_string("row", [], "A further row: 'NAME: path=value path=value'.")
    flags.DEFINE_list("worlds", ["plain", "standard"], f"Synthetic scenes: {', '.join(WORLDS)}; empty = none.")
    flags.DEFINE_list("seeds", ["101", "102", "103"], "Seeds of the synthetic scenes.")
    flags.DEFINE_integer("scenes", 24, "Scenes per seed.", lower_bound=1)
    flags.DEFINE_list("people", ["1", "2", "3", "4", "5", "6"], "World `plain`: people per scene, equal shares.")
    flags.DEFINE_string(
        "public", "../shared/data/annyfit_scenes", "Folder with adult_bias and mild_bias; empty = none."
    )
    flags.DEFINE_integer("bootstrap", 500, "Rounds of the confidence intervals.", lower_bound=2)


def main(_: list[str]) -> None:
    from annyfit_jax.fit.config import load_config
    from annyfit_jax.records.files import write_text
    from annyfit_jax.records.settings import apply_overrides
    from experiments.evaluate import without_nan

    try:
        config = apply_overrides(load_config(FLAGS.config), FLAGS.set or ())
        rows = (*ROWS, *map(parse_row, FLAGS.row or ()))
        for row in rows:
            apply_overrides(config, row.overrides)
        sets = scene_sets(
            FLAGS.worlds, [int(seed) for seed in FLAGS.seeds], FLAGS.scenes, tuple(map(int, FLAGS.people)), FLAGS.public
        )
        if not sets:
            raise ValueError("--worlds and --public are both empty: there is nothing to fit")
    except (ValueError, FileNotFoundError) as error:
        raise app.UsageError(str(error)) from None
    report = ablate(sets, config, rows, rounds=FLAGS.bootstrap)
    report["config"], report["command"] = relative(FLAGS.config), command()
    base = Path(FLAGS.output)
    target = base.with_name(base.name + ".md")
    write_text(target, markdown(report) + kept_reading(target))
    write_text(base.with_name(base.name + ".json"), json.dumps(without_nan(report), indent=1) + "\n")
    print(markdown(report))
    print(f"written: {target}")


def relative(path: str) -> str:
    """A path inside the repository seen from its root, any other as it is."""
    root = _FOLDER.parent
    return str(Path(path).resolve().relative_to(root)) if Path(path).resolve().is_relative_to(root) else path


def command() -> str:
    """The command line without what has its default value."""
    names = ("config", "set", "row", "worlds", "seeds", "scenes", "people", "public", "bootstrap")
    given = [FLAGS[name] for name in names if FLAGS[name].value != FLAGS[name].default]
    return shlex.join(
        ["python", "-m", "experiments.ablate", *(part for f in given for part in f.serialize().split("\n"))]
    )


def parse_row(text: str) -> Row:
    """`no limits: map.joint_limits=false` -> Row. Raises ValueError."""
    name, colon, rest = text.partition(":")
    if not colon or not name.strip() or not rest.split():
        raise ValueError(f"--row: expected 'NAME: path=value path=value', got {text!r}")
    return Row(name.strip(), overrides=tuple(rest.split()))


# ------------------------------------------------------------------------------------------------ scenes


def scene_sets(
    worlds: Sequence[str], seeds: Sequence[int], count: int, people: tuple[int, ...], public: str
) -> list[SceneSet]:
    """All sets of scenes asked for. Raises ValueError on an unknown world."""
    unknown = [world for world in worlds if world not in WORLDS]
    if unknown:
        raise ValueError(f"--worlds: expected some of {', '.join(WORLDS)}, got {unknown[0]!r}")
    sets = []
    for world in worlds:
        make = _maker(world, people)
        sets += [SceneSet(f"{world}, {start}", start, {s: make(start, s, count) for s in seeds}) for start in STARTS]
    return sets + public_sets(public)


def _maker(world: str, people: tuple[int, ...]):
    """(start, seed, count) -> scenes; the body is compiled once."""
    if world == "plain":
        from annyfit_jax.synthetic import Generator, Recipe

        generator = Generator(Recipe(0))
        return lambda start, seed, count: list(
            generator.with_recipe(Recipe(seed, people, STARTS[start][1])).scenes(range(count))
        )
    from annyfit_jax.synthetic.world import World
    from annyfit_jax.synthetic.world_config import preset

    shared = World(0, preset(world))
    return lambda start, seed, count: list(
        shared.with_config(preset(world, STARTS[start][0]), seed).scenes(range(count))
    )


def public_sets(folder: str) -> list[SceneSet]:
    """The development scenes beside the repository, with the figures of the release where they are stored; else nothing."""
    from annyfit_jax.inputs import open_input

    sets = []
    for start, name in PUBLIC.items():
        path = Path(folder) / name
        if folder and path.is_dir():
            source, results = open_input(str(path)), Path(folder) / "results" / f"{name}_metrics.json"
            stored = json.loads(results.read_text()) if results.is_file() else {}
            reference = {ours: stored[name]["pooled"] for ours, name in REFERENCE_ROWS.items() if name in stored}
            scenes = [source.load(i) for i in range(len(source))]
            sets.append(SceneSet(f"public {name}", start, {0: scenes}, reference or None))
        elif folder:
            logging.warning("%s: not there, left out", path)
    return sets


def without_cues(scene: Scene, row: Row) -> Scene:
    """The scene as a row sees it: without words, without depth."""
    unknown, nan = np.full(len(scene), UNKNOWN_WORD), np.full(len(scene), np.nan)
    changes: dict[str, Any] = {"masks": None, "depth_map": None}
    if not row.words:
        changes |= {"age": unknown, "gender": unknown}
    if not row.depth:
        changes |= {"median_depth": nan, "depth_layer": np.full(len(scene), -1)}
    return dataclasses.replace(scene, **changes)


# ------------------------------------------------------------------------------------------------ fits and errors


def ablate(sets: Sequence[SceneSet], config: Any, rows: Sequence[Row], *, rounds: int) -> dict[str, Any]:
    """Fits every row to every set; the report of `markdown`, JSON data."""
    from annyfit_jax.fit.fitter import Fitter
    from annyfit_jax.people.body_meshes import BodyMeshes
    from annyfit_jax.records.settings import apply_overrides
    from body_models import anny

    model = anny.load()
    meshes = BodyMeshes(model)
    columns: list[dict[str, dict[int, list[Errors]]]] = [{} for _ in sets]
    fitted: list[dict[str, dict[int, list[Any]]]] = [{} for _ in sets]
    seconds = {}
    fitters: dict[tuple[str, ...], Fitter] = {}
    for row in rows:  # row by row, so that one program is at work at a time
        if row.overrides not in fitters:
            changed = apply_overrides(config, row.overrides)
            lengths = changed.person_lengths or (64,)
            fitters = {row.overrides: Fitter(dataclasses.replace(changed, person_lengths=lengths), model)}
        started = time.monotonic()
        for k, chosen in enumerate(sets):
            for seed, scenes in chosen.seeds.items():
                fits = list(fitters[row.overrides].fit(without_cues(scene, row) for scene in scenes))
                fitted[k].setdefault(row.name, {})[seed] = fits
        seconds[row.name] = time.monotonic() - started
        logging.info("%s: %.0f s", row.name, seconds[row.name])
    report: dict[str, Any] = {"sets": {}, "seconds": seconds, "rounds": rounds}
    for k, chosen in enumerate(sets):
        columns[k] = _errors(chosen, fitted[k], meshes)
        report["sets"][chosen.title] = _judge(chosen, columns[k], rounds)
    return report


def _errors(chosen: SceneSet, fitted: Mapping[str, Mapping[int, list[Any]]], meshes: Any) -> dict:
    """Errors per row, seed and scene, over the people whom every row fitted."""
    from experiments.evaluate import fitted_people, synthetic_errors

    columns: dict[str, dict[int, list[Errors]]] = {"Init": {}, **{name: {} for name in fitted}}
    for seed, scenes in chosen.seeds.items():
        for i, scene in enumerate(scenes):
            fits = {name: by_seed[seed][i] for name, by_seed in fitted.items()}
            rows = [fitted_people(fit, scene, f"{chosen.title}, {name}") for name, fit in fits.items()]
            people = np.array(sorted(set.intersection(*(set(r.tolist()) for r in rows))), int)
            if not len(people):
                continue
            assert scene.start is not None
            bodies = {"Init": scene.start, **{name: fit.parameters for name, fit in fits.items()}}
            for name, body in bodies.items():
                errors = synthetic_errors(scene, people, body.select(people), meshes)
                columns[name].setdefault(seed, []).append(errors)
    if not columns["Init"]:
        raise ValueError(f"{chosen.title}: nobody was fitted")
    return columns


def _judge(chosen: SceneSet, columns: Mapping[str, Mapping[int, list[Errors]]], rounds: int) -> dict[str, Any]:
    every = {name: [errors for scenes in seeds.values() for errors in scenes] for name, seeds in columns.items()}
    bounds = metrics.intervals(every, metrics.pool, rounds=rounds)
    pattern, differences = [], {}
    for claim, without, with_, metric in PATTERN:
        if without in every and with_ in every:
            name, pair = f"{with_} - {without}", {without: every[without], with_: every[with_]}
            if name not in differences:
                differences[name] = metrics.intervals(pair, metrics.pool, rounds=rounds)[name]
            low, high = differences[name][metric]
            change = metrics.pool(every[with_])[metric] - metrics.pool(every[without])[metric]
            pattern.append(
                {"claim": claim, "without": without, "with": with_, "metric": metric, "change": change, "interval": [low, high]}
            )  # fmt: skip
    return {
        "start": chosen.start,
        "seeds": list(chosen.seeds),
        "pooled": {name: metrics.pool(errors) for name, errors in every.items()},
        "per_seed": {
            name: {str(seed): metrics.pool(errors) for seed, errors in seeds.items()} for name, seeds in columns.items()
        },
        "intervals": {name: bounds[name] for name in every},
        "pattern": pattern,
        "reference": chosen.reference,
    }


# ------------------------------------------------------------------------------------------------ the table


def markdown(report: Mapping[str, Any]) -> str:
    """The report as a document, up to the heading `## Reading`."""
    lines = ["# Ablation", "", f"Written by `{report['command']}` with `{report['config']}`.", ""]
    lines += ["Columns: `annyfit_jax/metrics/scene_scores.py`. Brackets: 95 % interval over scenes, "]
    lines[-1] += (
        f"{report['rounds']} draws. Ref: the released objective by a PyTorch program, as stored with the public sets."
    )
    for title, found in report["sets"].items():
        pooled = found["pooled"]["Init"]
        lines += ["", f"## {title}", ""]
        lines += [
            f"{pooled['scenes']} scenes, {pooled['people']} people, {pooled['pairs']} pairs; seeds {found['seeds']}.",
            "",
        ]
        lines += _rows(["row", *COLUMNS.values()], _table(found))
        lines += ["", *_rows(["claim", "from", "to", "metric", "change", "95 %", "shows"], _claims(found["pattern"]))]
    lines += ["", "## The paper", ""]
    lines += [
        "Published for Init and everything on (arXiv 2605.04728); of its rows in between no figures are at hand.",
        "",
    ]
    cells = [[name, metric, f"{a:g}", f"{b:g}"] for name, row in PUBLISHED for metric, (a, b) in row.items()]
    lines += _rows(["set, start", "metric", "Init", "+O+S+D"], cells)
    return "\n".join(lines) + "\n"


def _table(found: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, values in found["pooled"].items():
        bounds = found["intervals"][name]
        cells = [f"{number(values[key])} [{number(bounds[key][0])}, {number(bounds[key][1])}]" for key in COLUMNS]
        yield [name, *cells]
        if found["reference"] and name in found["reference"]:
            yield [f"{name} (ref)", *(number(found["reference"][name].get(key, math.nan)) for key in COLUMNS)]


def _claims(pattern: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for claim in pattern:
        low, high = claim["interval"]
        yield [
            claim["claim"], claim["without"], claim["with"], COLUMNS[claim["metric"]], signed(claim["change"]),
            f"[{signed(low)}, {signed(high)}]", verdict(claim["metric"], low, high),
        ]  # fmt: skip


def verdict(metric: str, low: float, high: float) -> str:
    """`yes` where the whole interval of the change is an improvement, `no` where it is none, else `open`."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "open"
    better, worse = (high < 0, low > 0) if metric in LOWER_IS_BETTER else (low > 0, high < 0)
    return "yes" if better else "no" if worse else "open"


def number(value: float) -> str:
    """Three digits that matter."""
    if value is None or not math.isfinite(value):
        return "n.a."
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def signed(value: float) -> str:
    """`number` with its sign."""
    return ("+" if value > 0 else "") + number(value)


def _rows(header: Sequence[str], cells) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *cells)]


def kept_reading(path: Path) -> str:
    """What stands in the file from `## Reading` on; empty where there is no such file or heading."""
    text = path.read_text() if path.is_file() else ""
    found = text.find(f"\n{_READING}")
    return text[found:] if found >= 0 else ""


if __name__ == "__main__":
    define_flags()
    app.run(main)
