"""SMPL-X found again from projected points, and what a person costs beside Anny's: tables of `experiments/results/smplx.md`.

    python -m experiments.studies.smplx_recovery --body_file=SMPLX_NEUTRAL.npz --people=16
    python -m experiments.studies.smplx_recovery --body_file=SMPLX_NEUTRAL.npz --people=16 --parts
    python -m experiments.studies.smplx_recovery --fits=OUT --truth=pose2sim/truth.json

People are drawn: betas N(0, .8^2), everyday poses about the relaxed one, 3 to 6 m away, upright within some degrees. A photo of
each has its 17 keypoints and, in some rows, 138 points of its surface, without noise and with 2 px of it. The distance of the
pelvis is told to 1 mm where the table says so; words say `adult`. Errors are medians over people of each person's mean.

With `--parts` people bend fingers, jaw, eyes and toes and have expressions, and the 116 points of COCO-WholeBody beyond the 17
are seen as well. Fingers bend by one share of their range with differences of their own, turns of the jaw and expressions are
N(0, 1) of their spread: not what the fit's prior says of fingers, what it says of faces.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from annyfit_jax.fit.config import FitConfig, load_config
from annyfit_jax.fit.fitter import Fitter
from annyfit_jax.inputs.point_sets import FEET, LEFT_HAND, RIGHT_HAND, WHOLE_BODY
from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.metrics.joint_errors import pa_mpjpe
from annyfit_jax.people import part_motion
from annyfit_jax.people.camera import project
from annyfit_jax.people.fit_meshes import SmplxMeshes
from annyfit_jax.people.fitted import PARTS, SceneFit
from annyfit_jax.people.named_points import NamedPoints
from annyfit_jax.people.scene import BodyParameters, Scene, SmplxParameters
from annyfit_jax.records.settings import apply_overrides
from annyfit_jax.smplx_fit.smplx_fitter import BothBodies, SmplxChoice, SmplxFitter, config_for_smplx
from annyfit_jax.smplx_fit.smplx_map_body import Laying, corresponding_points, retargeted
from annyfit_jax.smplx_fit.smplx_part_body import joint_motions, joints_of
from annyfit_jax.smplx_fit.smplx_points import smplx_points
from body_models import smplx

FLAGS = flags.FLAGS

EXACT = ("map.noise_share=2e-5", "map.estimate_noise=false", "map.correlated_noise=false", "map.robust_sigmas=1e5")
"""Points are known to a hundredth of a pixel: priors have no say in what they tell."""
_K = np.array([[1000.0, 0.0, 640.0], [0.0, 1000.0, 480.0], [0.0, 0.0, 1.0]])
_NAMES = ("root_rotvec", "transl", "pose", "shape")


EXACT_PARTS = (
    "parts.noise_share=1e-4", "parts.noise_floor_px=0.01", "parts.robust_sigmas=1e5", "parts.outlier_sigmas=1e5",
    "parts.iterations=40",
)  # fmt: skip


def draw(laying: Laying, count: int, rng: np.random.Generator) -> BodyParameters:
    """People of SMPL-X with 10 betas; hands as the file's mean."""
    known, frames = retargeted(laying.anny_model, laying.frames), laying.frames
    own = np.zeros((count, 54, 3))
    own[:, 24:] = np.asarray(laying.model.hand_means, np.float64).reshape(30, 3)
    u = frames.of_own(own)
    free = [row for row in range(21) if np.isfinite(known.limit_low[row]).all()]
    spread = 0.6 * known.spread.clip(0.0, 0.4)[:, None]
    u[:, free] = (known.relaxed + spread * rng.standard_normal((count, 54, 3)))[:, free]
    root = np.array([np.pi / 2, 0.0, 0.0]) + 0.2 * rng.standard_normal((count, 3))
    transl = np.stack([rng.uniform(-1, 1, count), np.full(count, 0.1), rng.uniform(3, 6, count)], 1)
    return BodyParameters(frames.root_of_anny(root), transl, frames.own(u), 0.8 * rng.standard_normal((count, 10)))


def with_parts(laying: Laying, people: BodyParameters, rng: np.random.Generator) -> SmplxParameters:
    """The people with fingers, jaw, eyes and toes of their own, and expressions."""
    anatomy, count = part_motion.Anatomy(laying.anny_model), len(people)
    u = laying.frames.of_own(people.pose)
    for part in PARTS:
        joints = joints_of(laying.model, part)
        bent = rng.beta(0.9, 1.2, count)
        own = [m for m in joint_motions(laying, anatomy.motions(part), joints) if m.read is None]
        moved = {joint for motion in own for joint, _ in motion.turns}
        for joint in moved:
            u[:, smplx.JOINTS.index(joint) - 1] = 0.0
        for motion in own:
            if motion.name.endswith(("_1 bend", "_2 bend")) and not motion.name.startswith("thumb"):
                share = (bent + rng.normal(0.0, 0.15, count)).clip(0.0, 1.0)
                size = motion.low + (0.2 + 0.7 * share) * (motion.high - motion.low)
            else:
                size = (motion.mean + motion.sd * rng.standard_normal(count)).clip(motion.low, motion.high)
            for joint, vector in motion.turns:
                u[:, smplx.JOINTS.index(joint) - 1] += size[:, None] * np.array(vector)
    face = rng.standard_normal((count, laying.model.labels.num_expression))
    return SmplxParameters(people.root_rotvec, people.transl, laying.frames.own(u), people.shape, face)


def photos(
    laying: Laying, people: BodyParameters, vertices: np.ndarray, keypoints: np.ndarray, *, surface: bool, noise_px: float,
    distance: bool, rng: np.random.Generator, parts: np.ndarray | None = None,
) -> list[Scene]:  # fmt: skip
    """One person each.

    Args:
      parts: (n, 116, 3) points beyond the 17, where they are seen.
    """
    dense = np.einsum("kv,nvi->nki", corresponding_points(laying)[:, : smplx.NUM_VERTICES], vertices)
    scenes = []
    for i in range(len(people)):
        points = []
        for where in (keypoints[i], dense[i]):
            pixels = project(where[None], _K) + noise_px * rng.standard_normal((1, len(where), 2))
            points.append(np.concatenate([pixels, np.ones((1, len(where), 1))], -1))
        told = np.array([[np.linalg.norm(people.transl[i]), 1e-3]]) if distance else None
        extra: dict[str, Any] = {}
        if parts is not None:
            pixels = project(parts[i][None], _K) + noise_px * rng.standard_normal((1, parts.shape[1], 2))
            seen = np.concatenate([pixels, np.ones((1, parts.shape[1], 1))], -1)
            extra["keypoints_133"] = np.concatenate([points[0], seen], 1)
        scenes.append(
            Scene(
                f"person{i}", (1280, 960), _K, points[0], points[1] * float(surface), np.full(1, np.nan),
                np.full(1, -1), np.full(1, 0.66), np.full(1, -1.0), person_ids=["0"], keypoint_convention="smplx",
                distances=told, extra=extra,
            )
        )  # fmt: skip
    return scenes


def fitted(fitter: SmplxFitter, scenes: list[Scene]) -> tuple[list[SceneFit], SmplxParameters]:
    """The fits of SMPL-X, and their people."""
    fits: list[SceneFit] = []
    for fit in fitter.fit(scenes):
        assert isinstance(fit, BothBodies) and fit.smplx is not None
        fits.append(fit.smplx)
    parts = (np.concatenate([getattr(fit, name) for fit in fits]) for name in (*_NAMES, "expression"))
    return fits, SmplxParameters(*parts)


def points_of(points: NamedPoints, meshes: SmplxMeshes, people: BodyParameters) -> np.ndarray:
    """(n, K, 3) named points of people."""
    return np.concatenate([
        points.of(np.asarray(out.vertices, np.float64), np.asarray(out.bone_poses, np.float64))
        for out in meshes.outputs(people)
    ])  # fmt: skip


def parts_row(
    title: str, fitter: SmplxFitter, scenes: list[Scene], wanted: np.ndarray, truth: SmplxParameters, points: NamedPoints,
    meshes: SmplxMeshes,
) -> str:  # fmt: skip
    """A line of the table of parts: all errors are those of a part's points about their own middle, hands about the wrist."""
    fits, found = fitted(fitter, scenes)
    got = points_of(points, meshes, found)
    name = np.array(points.names)
    told = []
    for hand in (LEFT_HAND, RIGHT_HAND):
        rows = np.array([points.names.index(n) for n in hand])
        apart = (got - got[:, rows[:1]] - wanted + wanted[:, rows[:1]])[:, rows]
        off = np.linalg.norm(apart, axis=-1)
        pa = [pa_mpjpe(a, b) for a, b in zip(got[:, rows], wanted[:, rows], strict=True)]
        told.append((off[:, [4, 8, 12, 16, 20]].mean(1), np.array(pa, float)))
    tips, hands = (np.concatenate(both) for both in zip(*told))
    columns = [tips, hands]
    for group in (np.char.startswith(name, "face"), np.char.startswith(name, "left") & np.isin(name, FEET)):
        a, b = got[:, group], wanted[:, group]
        columns.append(np.linalg.norm(a - a.mean(1, keepdims=True) - b + b.mean(1, keepdims=True), axis=-1).mean(1))
    far = np.linalg.norm(got - wanted, axis=-1)
    face = np.abs(np.nan_to_num(found.expression) - truth.expression).max(1)
    seen, px, before = (
        np.concatenate([getattr(fit, n) for fit in fits]) for n in ("parts_seen", "parts_px", "start_parts_px")
    )
    mm = " | ".join(f"{1e3 * np.median(c):.2f}" for c in columns)
    pixels = " | ".join("" if np.isnan(p).all() else f"{np.nanmean(p):.2f}" for p in (before, px))
    return (
        f"| {title} | {int(np.nansum(seen))} | {pixels} | {mm} | {1e3 * np.median(far):.2f} | {np.median(face):.2f} |"
    )


def row(title: str, fitter: SmplxFitter, scenes: list[Scene], truth: BodyParameters, meshes: SmplxMeshes) -> str:
    """A line of the table."""
    fits, found = fitted(fitter, scenes)
    vertices, wanted = (np.asarray(meshes.vertices(p), np.float64) for p in (found, truth))
    off = np.linalg.norm(vertices - wanted, axis=-1)
    each = off.mean(1)
    joints = [np.asarray(meshes.keypoints_and_height(p)[0], np.float64) for p in (found, truth)]
    aligned = [j - j[:, 11:13].mean(1, keepdims=True) for j in joints]
    apart = np.linalg.norm(aligned[0] - aligned[1], axis=-1)
    pose = np.degrees(np.median(np.abs(found.pose - truth.pose)[:, :21].max(-1).mean(1)))
    beta = np.median(np.abs(found.shape - truth.shape).max(1))
    px, before = (
        np.concatenate([getattr(fit, n) for fit in fits]) for n in ("reprojection_px", "start_reprojection_px")
    )
    near = f"{1e3 * np.median(each):.2f} | {1e3 * each.max():.1f} | {(each < 1e-3).sum()}"
    parts = f"{1e3 * np.median(apart.mean(1)):.2f} | {beta:.2f} | {pose:.2f}"
    return f"| {title} | {before.mean():.1f} | {px.mean():.2f} | {near} | {parts} |"


def parts_table(config: FitConfig, people: int, timed: int, rng: np.random.Generator) -> None:
    """Prints how far hands, faces and feet are found again, and what they cost."""
    config = dataclasses.replace(config, person_lengths=(people,))
    choice = SmplxChoice(FLAGS.body_file)
    own = SmplxFitter(config, choice)
    laying, mine = own.laying, config_for_smplx(config)
    other = lambda mine: SmplxFitter(config, choice, own.model, smplx_config=mine, laying=laying)  # noqa: E731
    frozen = dataclasses.replace(config, parts=dataclasses.replace(config.parts, on=False))
    rest = SmplxFitter(frozen, choice, own.model, laying=laying)
    carried = other(dataclasses.replace(mine, parts=dataclasses.replace(mine.parts, on=False)))
    exact = other(apply_overrides(mine, (*EXACT, *EXACT_PARTS)))
    meshes = SmplxMeshes(laying.model)
    points = smplx_points(laying.laid, laying.anny_model, laying.model).select(WHOLE_BODY[17:])

    def made(count: int) -> tuple[SmplxParameters, Any, np.ndarray]:
        truth = with_parts(laying, draw(laying, count, rng), rng)
        keypoints, vertices = meshes.keypoints_and_height(truth)[0], meshes.vertices(truth)
        whole = points_of(points, meshes, truth)

        def of(**how: Any) -> list[Scene]:
            return photos(
                laying, truth, np.asarray(vertices, np.float64), np.asarray(keypoints, np.float64), rng=rng, parts=whole, **how
            )  # fmt: skip

        return truth, of, whole

    truth, of, whole = made(people)
    print("| points | parts moved | px, body alone | px | fingertips mm | hands, PA | face | left foot | all, in space | "
          "largest error of an expression |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind, how, fitters in (
        ("exact, distance told", {"surface": True, "noise_px": 0.0, "distance": True},
         (("frozen", rest), ("carried over", carried), ("own, fitted as exact", exact), ("own", own))),
        ("0.5 px", {"surface": False, "noise_px": 0.5, "distance": False},
         (("frozen", rest), ("carried over", carried), ("own", own))),
    ):  # fmt: skip
        scenes = of(**how)
        for title, fitter in fitters:
            print(parts_row(f"{kind}: {title}", fitter, scenes, whole, truth, points, meshes), flush=True)
    if not timed:
        return
    config = dataclasses.replace(config, person_lengths=(timed,))
    _, of, _ = made(timed)
    scenes = of(surface=False, noise_px=0.5, distance=False)
    off = lambda c: dataclasses.replace(c, parts=dataclasses.replace(c.parts, on=False))  # noqa: E731
    print("\n| 17 + 116 points, parts fitted of | ms a person |\n| --- | --- |")
    for title, fitter in (
        ("nobody: Anny's body", Fitter(off(config), own.model)),
        ("Anny", Fitter(config, own.model)),
        ("Anny, with SMPL-X's body", SmplxFitter(config, choice, own.model, smplx_config=off(mine), laying=laying)),
        ("Anny and SMPL-X", SmplxFitter(config, choice, own.model, laying=laying)),
    ):
        print(f"| {title} | {milliseconds(fitter, scenes):.1f} |", flush=True)


def milliseconds(fitter: Fitter, scenes: Sequence[Scene], rounds: int = 3) -> float:
    """Processor time of a person, median of the rounds after one that compiles."""
    spent = []
    for _ in range(rounds + 1):
        begun = time.process_time()
        list(fitter.fit(scenes))
        spent.append(time.process_time() - begun)
    return 1e3 * float(np.median(spent[1:])) / len(scenes)


def judge(name: str, folder: str, truth: dict[str, Any]) -> str:
    """A line: errors of people by id, over the twelve joints of the body."""
    body, hips, found = np.arange(5, 17), [11, 12], []
    for fit in open_fits(folder):
        for person in np.flatnonzero(fit.ok):
            entry = truth.get(str(fit.person_ids[person]))
            joints = np.full((17, 3), np.nan) if entry is None else np.array(entry["j17"], float)
            if not np.isfinite(joints[hips]).all():
                continue
            known = body[np.isfinite(joints[body]).all(1)]
            points = np.asarray(fit.fitted_keypoints_3d[person], float)
            off = (points - points[hips].mean(0) - joints + joints[hips].mean(0))[known]
            depth = abs(points[hips, 2].mean() / joints[hips, 2].mean() - 1.0)
            pa = float(pa_mpjpe(points[known], joints[known]))
            found.append((1e3 * np.linalg.norm(off, axis=-1).mean(), 1e3 * pa, 100 * depth, float(fit.height_m[person]),
                          float(fit.reprojection_px[person])))  # fmt: skip
    mpjpe, pa, depth, height, px = np.array(found).T
    return (
        f"| {name} | {len(found)} | {mpjpe.mean():.0f} | {pa.mean():.0f} | {depth.mean():.1f} | {height.mean():.2f} | "
        f"{px.mean():.1f} |"
    )


def main(_: list[str]) -> None:
    if FLAGS.fits:
        truth = json.loads(Path(FLAGS.truth).read_text())
        print("| | people | MPJPE mm | PA mm | depth % | height m | px |\n| --- | --- | --- | --- | --- | --- | --- |")
        print(judge("Anny", FLAGS.fits, truth))
        print(judge("SMPL-X", f"{FLAGS.fits}/smplx", truth))
        return
    config = load_config(Path(__file__).parents[1] / "configs" / "annyfit_plus.py")
    if FLAGS.parts:
        parts_table(config, FLAGS.people, FLAGS.timed, np.random.default_rng(FLAGS.seed))
        return
    lengths: FitConfig = dataclasses.replace(config, person_lengths=(FLAGS.people,))
    choice = SmplxChoice(FLAGS.body_file)
    fitter = SmplxFitter(lengths, choice)
    exact = SmplxFitter(
        lengths,
        choice,
        fitter.model,
        smplx_config=apply_overrides(config_for_smplx(lengths), EXACT),
        laying=fitter.laying,
    )
    laying, meshes = fitter.laying, SmplxMeshes(fitter.laying.model)
    rng = np.random.default_rng(FLAGS.seed)
    truth = draw(laying, FLAGS.people, rng)
    keypoints = np.asarray(meshes.keypoints_and_height(truth)[0], np.float64)
    vertices = np.asarray(meshes.vertices(truth), np.float64)
    print(
        f"| points | px, start | px | vertices mm | worst person | of {len(truth)} within 1 mm | joints mm, hips aligned | "
        "largest error of a beta | turns, degrees |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for title, one, surface, noise, distance in (
        ("17 + 138, exact, distance told; fitted as exact", exact, True, 0.0, True),
        ("17 + 138, exact, distance told; default", fitter, True, 0.0, True),
        ("17 + 138, exact; default", fitter, True, 0.0, False),
        ("17 + 138, 2 px; default", fitter, True, 2.0, False),
        ("17, exact; default", fitter, False, 0.0, False),
        ("17, 2 px; default", fitter, False, 2.0, False),
    ):
        scenes = photos(
            laying, truth, vertices, keypoints, surface=surface, noise_px=noise, distance=distance, rng=rng
        )  # fmt: skip
        print(row(title, one, scenes, truth, meshes), flush=True)
    if not FLAGS.timed:
        return
    print("\n| cues | Anny alone, ms a person | with SMPL-X | SMPL-X |\n| --- | --- | --- | --- |")
    lengths = dataclasses.replace(config, person_lengths=(FLAGS.timed,))
    both = SmplxFitter(lengths, choice, fitter.model, laying=fitter.laying)
    alone = Fitter(lengths, fitter.model)
    truth = draw(laying, FLAGS.timed, rng)
    keypoints = np.asarray(meshes.keypoints_and_height(truth)[0], np.float64)
    vertices = np.asarray(meshes.vertices(truth), np.float64)
    for title, surface in (("17 keypoints, age word", False), ("and 138 points of the surface", True)):
        scenes = photos(laying, truth, vertices, keypoints, surface=surface, noise_px=2.0, distance=False, rng=rng)
        one, two = milliseconds(alone, scenes), milliseconds(both, scenes)
        print(f"| {title} | {one:.1f} | {two:.1f} | {two - one:.1f} |", flush=True)


if __name__ == "__main__":
    flags.DEFINE_string("body_file", "", "The user's SMPL-X file.")
    flags.DEFINE_integer("people", 16, "People of each row.", lower_bound=1)
    flags.DEFINE_integer("timed", 64, "People whose fits are timed together; 0 = none.")
    flags.DEFINE_string("fits", "", "Judge a job with --body=smplx instead, by --truth.")
    flags.DEFINE_string("truth", "", "By person id: `j17` (17, 3) metres in camera axes, and `height`.")
    flags.DEFINE_bool("parts", False, "Hands, faces and feet instead.")
    flags.DEFINE_integer("seed", 0, "Of people and noise.")
    app.run(main)
