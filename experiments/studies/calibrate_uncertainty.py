"""How far the standard deviations and the trust score of second-order fits can be believed, and the factors that make them so.

    python -m experiments.studies.calibrate_uncertainty                 # coverage on synthetic scenes of the test seeds
    python -m experiments.studies.calibrate_uncertainty --write         # fit the factors on other seeds first
    python -m experiments.studies.calibrate_uncertainty --scenes=FOLDER          # coverage on scene files with truth (gt_*)
    python -m experiments.studies.calibrate_uncertainty --set=map.height_sd=0.02 # a prior that is too sure of itself

For depth of the root, height, and COCO-17 joints: z = error / standard deviation, of a joint |error| / expected distance.
Prints the share of |z| below the normal quantiles of 68 % and 90 %, the root mean square of z, and the rank correlation of
predicted spread and error. A factor is the 90 % quantile of |z| on the calibration seeds over its normal value, at least the
root mean square over 1.2: tails count too. Factors go to `annyfit_jax/data/uncertainty.json`. People of whom only keypoints are
known have further ones, 90 % quantiles alone, on the sets `alone` and `halves` of `experiments.studies.hard_sets`.

Then the people that `annyfit_jax.fit.trust` would keep, and how many are right: depth within 10 %, joints within 80 mm with the
hips aligned. Once for the scenes as they are, once with `spoiled` cues: what a score is for.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from jaxtyping import Float

from annyfit_jax.fit import trust
from annyfit_jax.fit.second_order.uncertainty import QUANTITIES
from annyfit_jax.metrics.joint_errors import root_mpjpe
from annyfit_jax.people.scene import Scene
from annyfit_jax.people.words import AGE_CLASSES
from annyfit_jax.records.fit_files import SceneFit

REPO = Path(__file__).resolve().parents[2]
FACTORS = REPO / "annyfit_jax" / "data" / "uncertainty.json"
CONFIG = REPO / "experiments" / "configs" / "annyfit_plus.py"
CALIBRATION_SEEDS, TEST_SEEDS = (2001, 2002), (3001, 3002)
"""Starts of odd seeds are biased to adults, of even ones mildly so."""
HARD_SEEDS = (6101, 6102)
"""Of the sets for the factors of people from keypoints alone."""
PEOPLE = (1, 2, 3, 4, 5, 6)
QUANTILES = {"cover68": 0.9945, "cover90": 1.6449}
"""Normal quantiles of two-sided intervals."""
_TAIL_RMS = 1.2
RIGHT_DEPTH, RIGHT_JOINTS_MM = 0.10, 80.0
SPOIL_SEED = 5001
SPOILED = {"depth": 0.08, "age": 0.08, "points of another": 0.06, "few points": 0.06}
"""Shares of people with such a cue."""


@dataclasses.dataclass(frozen=True)
class Errors:
    """Errors and predicted standard deviations of fitted people, one entry per value."""

    error: Float[np.ndarray, "n"]
    sd: Float[np.ndarray, "n"]


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string("scenes", "", "Folder of scene .npz with truth; default: synthetic scenes.")
    flags.DEFINE_integer("count", 40, "Synthetic scenes per seed.", lower_bound=1)
    flags.DEFINE_bool("write", False, "Fit the factors on the calibration seeds and write them.")
    flags.DEFINE_multi_string("set", [], "path=value changes of the config.")


def main(_: list[str]) -> None:
    from annyfit_jax.fit.config import load_config
    from annyfit_jax.fit.fitter import Fitter
    from annyfit_jax.fit.second_order import uncertainty
    from annyfit_jax.inputs import open_input
    from annyfit_jax.records.settings import apply_overrides

    values = flags.FLAGS
    config = apply_overrides(load_config(CONFIG), values["set"].value or ())
    fitter = Fitter(config)
    if values.write:
        if values["set"].value or values.scenes:
            raise app.UsageError(
                "--write calibrates the shipped config on synthetic scenes: leave out --set and --scenes"
            )
        errors = collect(fitter, synthetic(fitter, CALIBRATION_SEEDS, values.count))
        old = uncertainty.calibration()
        always = {name: round(old[uncertainty.ALWAYS][name] * factor(errors[name]), 4) for name in QUANTITIES}
        print(table(errors, f"before, seeds {CALIBRATION_SEEDS}"))
        content = {uncertainty.ALWAYS: always, "seeds": CALIBRATION_SEEDS, "scenes_per_seed": values.count}
        alike = {uncertainty.WITHOUT_WORD: "alone", uncertainty.FEW_KEYPOINTS: "halves"}
        content |= {group: dict.fromkeys(uncertainty.HARDER, 1.0) for group in alike} | {"hard_seeds": HARD_SEEDS}
        _write(content)
        for group, name in alike.items():
            hard = hard_people(fitter, name, values.count)
            content[group] = {q: round(max(quantile_factor(hard[q]), 1.0), 4) for q in uncertainty.HARDER}
            print(table(hard, f"before, {name}, seeds {HARD_SEEDS}"))
        _write(content)
        print(f"{content} written to {FACTORS.relative_to(REPO)}")
    scenes: list[Scene]
    if values.scenes:
        source = open_input(values.scenes)
        scenes = [source.load(i) for i in range(len(source))]
        where = values.scenes
    else:
        scenes, where = synthetic(fitter, TEST_SEEDS, values.count), f"seeds {TEST_SEEDS}"
    fits = list(fitter.fit(scenes))
    print(table(pooled(scenes, fits), where))
    print(trust_table(scenes, fits, "cues as they are"))
    bad = spoiled(scenes)
    print(trust_table(bad, list(fitter.fit(bad)), "spoiled cues"))


def _write(content: dict[str, Any]) -> None:
    from annyfit_jax.fit.second_order import uncertainty

    FACTORS.write_text(json.dumps(content) + "\n")
    uncertainty.calibration.cache_clear()


def hard_people(fitter: Any, name: str, count: int) -> dict[str, Errors]:
    """Errors on a set of `hard_sets`, of the calibration seeds; of `halves` those with few keypoints alone."""
    from annyfit_jax.fit.second_order.uncertainty import MANY_KEYPOINTS
    from experiments.studies import hard_sets

    scenes = [s for seed in HARD_SEEDS for s in hard_sets.make(name, fitter.model, seed, count)]
    scenes = [s for s in scenes if hard_sets.can_be_fitted(fitter, s)]
    fits = list(fitter.fit(scenes))
    if name == "halves":
        fits = [
            dataclasses.replace(fit, status=np.where(fit.seen.sum(1) < MANY_KEYPOINTS, fit.status, "skipped:many"))
            for fit in fits
        ]
    return pooled(scenes, fits)


def synthetic(fitter: Any, seeds: Iterable[int], count: int) -> list[Scene]:
    """Scenes of the plain generator: one recipe per seed."""
    from annyfit_jax.synthetic import Generator, Recipe

    generator = Generator(Recipe(seed=0), fitter.model)
    scenes: list[Scene] = []
    for seed in seeds:
        bias = (1.0, 1.0) if seed % 2 else (0.2, 0.8)
        scenes += generator.with_recipe(Recipe(seed=seed, people=PEOPLE, bias=bias)).scenes(range(count))
    return scenes


def collect(fitter: Any, scenes: Iterable[Scene]) -> dict[str, Errors]:
    """Fit scenes with truth; errors and standard deviations of each quantity over all people that were fitted."""
    kept = list(scenes)
    return pooled(kept, list(fitter.fit(kept)))


def pooled(scenes: Sequence[Scene], fits: Sequence[SceneFit]) -> dict[str, Errors]:
    """Errors and standard deviations of each quantity over all people that were fitted."""
    by_quantity: dict[str, list[Errors]] = {name: [] for name in QUANTITIES}
    for scene, fit in zip(scenes, fits, strict=True):
        for name, errors in errors_of(scene, fit).items():
            by_quantity[name].append(errors)
    return {
        name: Errors(np.concatenate([e.error for e in all_]), np.concatenate([e.sd for e in all_]))
        for name, all_ in by_quantity.items()
    }


def errors_of(scene: Scene, fit: SceneFit) -> dict[str, Errors]:
    """Errors of one scene's people with status `ok`. Raises ValueError for a scene without truth."""
    if scene.truth is None or not {"gt_body_height", "gt_coco3d"} <= set(scene.extra):
        raise ValueError(f"{scene.name}: no truth (gt_* fields); --scenes takes scene files that have it")
    ok = fit.ok
    joints = np.linalg.norm(fit.fitted_keypoints_3d - scene.extra["gt_coco3d"], axis=-1)
    return {
        "depth": Errors((fit.depth_m - scene.truth.transl[:, 2])[ok], fit.sd_depth_m[ok]),
        "height": Errors((fit.height_m - scene.extra["gt_body_height"])[ok], fit.sd_height_m[ok]),
        "joints": Errors(joints[ok].ravel(), fit.sd_joints_m[ok].ravel()),
    }


def spoiled(scenes: Sequence[Scene]) -> list[Scene]:
    """Scenes in which some cues are plainly wrong or missing, by `SPOILED`; seeded."""
    rng = np.random.default_rng(SPOIL_SEED)
    anchors = list(AGE_CLASSES.values())
    out = []
    for scene in scenes:
        n = len(scene)
        depth = scene.median_depth * np.where(rng.random(n) < SPOILED["depth"], rng.choice([0.6, 1.5], n), 1.0)
        age = np.where(rng.random(n) < SPOILED["age"], rng.choice(anchors, n), scene.age)
        keypoints, dense = np.array(scene.keypoints), np.array(scene.dense_keypoints)
        fate = rng.random(n)
        for i in range(n):
            if fate[i] < SPOILED["points of another"]:
                other = rng.integers(n)
                keypoints[i], dense[i] = scene.keypoints[other], scene.dense_keypoints[other]
            elif fate[i] < SPOILED["points of another"] + SPOILED["few points"]:
                dense[i, :, 2] = 0.0
                keypoints[i, rng.permutation(17)[:11], 2] = 0.0
        out.append(dataclasses.replace(scene, median_depth=depth, age=age, keypoints=keypoints, dense_keypoints=dense))
    return out


def trust_table(scenes: Sequence[Scene], fits: Sequence[SceneFit], where: str) -> str:
    """Markdown: of the people that a threshold keeps, how many are right."""
    score, right = [], []
    for scene, fit in zip(scenes, fits, strict=True):
        assert scene.truth is not None
        ok, depth = fit.ok, scene.truth.transl[:, 2]
        joints = root_mpjpe(fit.fitted_keypoints_3d[ok].astype(np.float64), scene.extra["gt_coco3d"][ok]) * 1000.0
        score.append(trust.judge(fit).score[ok])
        right.append((np.abs(fit.depth_m / depth - 1.0)[ok] <= RIGHT_DEPTH) & (joints <= RIGHT_JOINTS_MM))
    scores, rights = np.concatenate(score), np.concatenate(right)
    lines = [f"trust, {where}: {len(rights)} people, {rights.mean():.3f} right", ""]
    lines += ["| score at least | kept | right among them | right among the others |", "|---|---|---|---|"]
    for threshold in sorted({trust.THRESHOLD, 0.3, 0.6}):
        keep = scores >= threshold
        share = [f"{rights[s].mean():.3f}" if s.any() else "-" for s in (keep, ~keep)]
        lines.append(f"| {threshold} | {keep.mean():.3f} | {share[0]} | {share[1]} |")
    return "\n".join(lines) + "\n"


def quantile_factor(errors: Errors) -> float:
    """What standard deviations must be multiplied by for nine in ten errors to lie in their 90 % interval."""
    return float(np.quantile(np.abs(errors.error / errors.sd), 0.9) / QUANTILES["cover90"])


def factor(errors: Errors) -> float:
    """What standard deviations must be multiplied by, tails counted too."""
    z = np.abs(errors.error / errors.sd)
    return float(max(quantile_factor(errors), np.sqrt((z**2).mean()) / _TAIL_RMS))


def statistics(errors: Errors) -> dict[str, float]:
    """Coverage, root mean square z, rank correlation of spread and error, and the means of both, metres."""
    z = np.abs(errors.error / errors.sd)
    rank = lambda values: values.argsort().argsort().astype(float)  # noqa: E731
    return {
        **{name: float((z <= bound).mean()) for name, bound in QUANTILES.items()},
        "rms_z": float(np.sqrt((z**2).mean())),
        "rank_corr": float(np.corrcoef(rank(errors.sd), rank(np.abs(errors.error)))[0, 1]),
        "mean_sd": float(errors.sd.mean()),
        "mean_error": float(np.abs(errors.error).mean()),
        "values": len(z),
    }


def table(by_quantity: dict[str, Errors], where: str) -> str:
    """Markdown."""
    lines = [
        f"{where}:",
        "",
        "| quantity | in 68 % | in 90 % | RMS z | rank corr. | mean sd m | mean error m | values |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, errors in by_quantity.items():
        s = statistics(errors)
        lines.append(
            f"| {name} | {s['cover68']:.2f} | {s['cover90']:.2f} | {s['rms_z']:.2f} | {s['rank_corr']:.2f} | "
            f"{s['mean_sd']:.3f} | {s['mean_error']:.3f} | {s['values']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    define_flags()
    app.run(main)
