"""Which cue gives what: Anny-Fit's ablation on scenes with exact truth, with confidence intervals.

    report = ablate(scene_sets(("plain",), (101,), 24), config, ROWS, rounds=500)
    print(ablation_report.markdown(report))

Rows are Anny-Fit's, whatever the config: Init (the start as it comes), +O (optimised on 2D points alone), +O+S (and the words of
a vision-language model), +O+D (and depth), +O+S+D (everything). A row without S or D is fitted to scenes from which that cue has
been taken: for the released schedule the same as `words_set_start=false`, `...weights.words=0`, `...weights.depth_order=0`,
without a program of its own for each row.
"""  # noqa: E501

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from annyfit_jax import metrics
from annyfit_jax.fit.config import FitConfig
from annyfit_jax.fit.fitter import Fitter
from annyfit_jax.inputs import open_input
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.scene import UNKNOWN_WORD, Scene
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.records.settings import apply_overrides
from annyfit_jax.synthetic import Generator, Recipe
from annyfit_jax.synthetic.world import World
from annyfit_jax.synthetic.world_config import preset
from annyfit_jax.truth.scene_evaluation import Errors, fitted_people, synthetic_errors
from body_models import anny

WORLDS = ("plain", "easy", "standard", "hard")
STARTS = {"adult-biased": ("multihmr", (1.0, 1.0)), "mild": ("camerahmr", (0.2, 0.8))}
"""Kind of start -> preset of the rendered world, bias of the plain one."""
PUBLIC = {"adult-biased": "adult_bias", "mild": "mild_bias"}
REFERENCE_ROWS = {"Init": "Init", "+O": "O", "+O+S": "OS", "+O+D": "OD", "+O+S+D": "OSD"}
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


def parse_row(text: str) -> Row:
    """`no limits: map.joint_limits=false` -> Row. Raises ValueError."""
    name, colon, rest = text.partition(":")
    if not colon or not name.strip() or not rest.split():
        raise ValueError(f"--row: expected 'NAME: path=value path=value', got {text!r}")
    return Row(name.strip(), overrides=tuple(rest.split()))


def scene_sets(
    worlds: Sequence[str],
    seeds: Sequence[int],
    count: int,
    people: tuple[int, ...] = (1, 2, 3, 4, 5, 6),
    public: str = "",
) -> list[SceneSet]:
    """All sets of scenes asked for: every world with both kinds of start, and the public ones.

    Args:
      worlds: some of `WORLDS`.
      seeds, count: of the synthetic scenes: `count` of each seed.
      people: numbers of people in the scenes of the world `plain`, equally frequent.
      public: folder of the public sets; empty: none.

    Raises ValueError on an unknown world.
    """
    unknown = [world for world in worlds if world not in WORLDS]
    if unknown:
        raise ValueError(f"--worlds: expected some of {', '.join(WORLDS)}, got {unknown[0]!r}")
    sets = []
    for world in worlds:
        make = _maker(world, people)
        sets += [SceneSet(f"{world}, {start}", start, {s: make(start, s, count) for s in seeds}) for start in STARTS]
    return sets + public_sets(public)


def _maker(world: str, people: tuple[int, ...]) -> Callable[[str, int, int], list[Scene]]:
    """(start, seed, count) -> scenes; the body is compiled once."""
    if world == "plain":
        generator = Generator(Recipe(0))
        return lambda start, seed, count: list(
            generator.with_recipe(Recipe(seed, people, STARTS[start][1])).scenes(range(count))
        )
    shared = World(0, preset(world))
    return lambda start, seed, count: list(
        shared.with_config(preset(world, STARTS[start][0]), seed).scenes(range(count))
    )


def public_sets(folder: str) -> list[SceneSet]:
    """The development scenes beside the repository, with the figures of the release where they are stored; else nothing."""
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


def ablate(sets: Sequence[SceneSet], config: FitConfig, rows: Sequence[Row], *, rounds: int) -> dict[str, Any]:
    """Fits every row to every set of scenes; returns the report of `ablation_report.markdown` as JSON data.

    Args:
      rounds: how often scenes are drawn again for the confidence intervals.

    Raises ValueError where nobody of a set was fitted.
    """
    model = anny.load()
    meshes = BodyMeshes(model)
    fitted: list[dict[str, dict[int, list[SceneFit]]]] = [{} for _ in sets]
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
        report["sets"][chosen.title] = _judge(chosen, _errors(chosen, fitted[k], meshes), rounds)
    return report


def _errors(
    chosen: SceneSet, fitted: Mapping[str, Mapping[int, list[SceneFit]]], meshes: BodyMeshes
) -> dict[str, dict[int, list[Errors]]]:
    """Errors per row, seed and scene, over the people whom every row fitted."""
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
