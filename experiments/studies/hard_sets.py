"""Hard synthetic sets: how many people a config fits badly, and what each switch is worth there.

    python -m experiments.studies.hard_sets --sets=words,alone,halves --seed=7001
    python -m experiments.studies.hard_sets --sets=words --switches=gravity,pose_prior,starts --set=map.noise_share=0.015
    python -m experiments.studies.hard_sets --sets=mocap --mocap=DIR
    python -m experiments.studies.hard_sets --sets=real,real_alone --real=POSE2SIM --switches=gravity,pose_prior

A person is broken where joints (hips aligned) are off by more than 150 mm or the depth by more than 20 %. The sets:

| set | cues |
|---|---|
| `all` | everything that the plain generator gives |
| `words`, `alone` | keypoints and words; keypoints |
| `halves` | `words`, a random half of each person hidden |
| `swapped`, `legs` | `words`, left and right exchanged of everybody; of the legs |
| `faces`, `swapped_faces` | `words`, noses and eyes of heads that look away not seen, as in photos; and all sides exchanged |
| `fov` | all cues of cameras of 35 and 90 degrees, told as a guess of 60 degrees |
| `depth` | all cues, each metric depth off by another 30 % per person |
| `seated`, `babies` | `words`, people of the rendered world who sit; who are younger than 1.5 years |
| `mocap` | `faces`, adults in poses of the motion capture's held-out clips (`build_pose_prior.HELD_OUT`) |
| `real`, `real_alone` | people with 3D truth: `pose2sim.json` and `pose2sim_nowords.json` of a folder with `truth.json` |

The plain generator shows faces that look away too: a body with exchanged sides and its mirror image in depth are then the same
keypoints but for perspective, which is why `swapped` cannot be told from people who face the other way; `swapped_faces` can.

`lean` is the angle between the true and the fitted axis from ankles to shoulders. Real people are judged by their joints below
the face that are known. Seeds below 7000 were used for choosing scales; report others.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags
from jaxtyping import Float

from annyfit_jax.fit.config import load_config
from annyfit_jax.fit.fitter import Fitter
from annyfit_jax.fit.second_order.hypotheses import READINGS
from annyfit_jax.fit.starts import select_people
from annyfit_jax.inputs import open_input
from annyfit_jax.metrics.joint_errors import LEFT_HIP, RIGHT_HIP, pa_mpjpe
from annyfit_jax.people.camera import intrinsics_from_fov, project
from annyfit_jax.people.scene import COCO17, NUM_DENSE, BodyParameters, NobodyToFit, Scene
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.records.settings import apply_overrides
from annyfit_jax.synthetic import plain
from body_models import anny

FLAGS = flags.FLAGS
BROKEN_MPJPE_MM, BROKEN_DEPTH = 150.0, 0.2
_Z90 = 1.645
_HIPS = [LEFT_HIP, RIGHT_HIP]
_SHOULDERS, _ANKLES = ([COCO17.index(f"{side}_{part}") for side in ("left", "right")] for part in ("shoulder", "ankle"))
_FACE = 5
"""Keypoints of the face, which come first."""
_EARS = [COCO17.index("left_ear"), COCO17.index("right_ear")]
_AWAY_DEGREES = 110.0
_REAL = {"real": "pose2sim.json", "real_alone": "pose2sim_nowords.json"}


def without(scene: Scene, *cues: str) -> Scene:
    """The scene without its `dense` points, metric `depth`, `words`, `start`."""
    dense, nobody = np.zeros_like(scene.dense_keypoints), np.full(len(scene), -1.0)
    changes = {
        "dense": {"dense_keypoints": dense},
        "depth": {"median_depth": np.full(len(scene), np.nan), "depth_layer": np.full(len(scene), -1)},
        "words": {"age": nobody, "gender": nobody},
        "start": {"start": None},
    }
    return dataclasses.replace(scene, **{k: v for cue in cues for k, v in changes[cue].items()})


def keypoints_and_words(scene: Scene) -> Scene:
    return without(scene, "dense", "depth", "start")


def halved(scene: Scene, rng: np.random.Generator) -> Scene:
    """A half plane through the middle of each person is hidden, at least four keypoints are left."""
    keypoints, pixels = np.array(scene.keypoints), scene.extra["gt_coco2d"]
    for i in range(len(scene)):
        angle = rng.uniform(0, 2 * np.pi)
        middle = 0.5 * (pixels[i].min(0) + pixels[i].max(0))
        hidden = (pixels[i] - middle) @ [np.cos(angle), np.sin(angle)] > 0
        keypoints[i, ~hidden if (~hidden).sum() < 4 else hidden, 2] = 0
    return dataclasses.replace(scene, keypoints=keypoints)


def faces_away_hidden(scene: Scene) -> Scene:
    """Noses and eyes are not seen of heads that look away from the camera by more than `_AWAY_DEGREES`."""
    joints = np.asarray(scene.extra["gt_coco3d"], np.float64)
    forward = joints[:, 0] - joints[:, _EARS].mean(1)
    sight = joints[:, 0] / np.linalg.norm(joints[:, 0], axis=-1, keepdims=True)
    cosine = (forward * sight).sum(-1) / np.linalg.norm(forward, axis=-1)
    keypoints = np.array(scene.keypoints)
    keypoints[cosine > -np.cos(np.deg2rad(_AWAY_DEGREES)), :3, 2] = 0.0
    return dataclasses.replace(scene, keypoints=keypoints)


def told_as(scene: Scene, degrees: float) -> Scene:
    """The scene with a guessed field of view; its start moves with it."""
    k = intrinsics_from_fov(scene.image_size, degrees)
    start = scene.start
    if start is not None:
        ratio = k[0, 0] / scene.intrinsics[0, 0]
        transl = np.array(start.transl) * [1.0, 1.0, ratio]
        start = dataclasses.replace(start, transl=transl.astype(np.float32))
    return dataclasses.replace(
        scene, intrinsics=k, start=start, notes=[f"intrinsics: {degrees:g} degree field of view"]
    )


def noisy_depth(scene: Scene, rng: np.random.Generator) -> Scene:
    factor = np.exp(rng.normal(0.0, 0.3, len(scene)))
    return dataclasses.replace(scene, median_depth=(scene.median_depth * factor).astype(np.float32))


def plain_scenes(model: anny.AnnyModel, seed: int, count: int, fov: tuple[float, float] | None = None) -> list[Scene]:
    before = plain.FOV_DEGREES
    try:
        plain.FOV_DEGREES = fov or before
        return list(plain.Generator(plain.Recipe(seed=seed), model).scenes(range(count)))
    finally:
        plain.FOV_DEGREES = before


def world_people(model: anny.AnnyModel, seed: int, count: int, wanted: Callable[[Scene], np.ndarray]) -> list[Scene]:
    """Scenes of the rendered world, of the wanted people alone."""
    from annyfit_jax.synthetic.world import World
    from annyfit_jax.synthetic.world_config import preset

    out = []
    for scene in World(seed, preset("standard"), model).scenes(range(count)):
        index = np.flatnonzero(wanted(scene))
        if len(index):
            chosen = select_people(dataclasses.replace(scene, masks=None), index)
            extra = {k: v[index] for k, v in scene.extra.items() if isinstance(v, np.ndarray) and len(v) == len(scene)}
            out.append(dataclasses.replace(chosen, extra=extra, depth_map=None))
    return out


def mocap_scenes(model: anny.AnnyModel, seed: int, count: int, folder: Path) -> list[Scene]:
    """One adult per scene in a held-out pose of the motion capture; pixel noise of 1 %, a 15th of keypoints hidden."""
    import jax
    import jax.numpy as jnp
    from scipy.spatial.transform import Rotation

    from annyfit_jax.fit.keypoint_start import calibrated_phenotypes
    from experiments.builders.build_pose_prior import Skeleton, held_out, load_poses

    poses = load_poses(folder, Skeleton(model))
    rng = np.random.default_rng(seed)
    chosen = rng.choice(np.flatnonzero(held_out(poses.clip)), count, replace=False)
    gender = rng.choice([0.0, 1.0], count)
    shape = calibrated_phenotypes(np.full(count, 0.72), gender)
    shape[:, 2:] += rng.normal(size=(count, 4)) * [0.12, 0.12, 0.06, 0.12]
    # The body's up, turned to the camera's, after a turn about itself; then the pitch and roll of the camera.
    up, z = poses.root_up[chosen], np.array([0.0, 0.0, 1.0])
    axis = np.cross(up, z)
    angle = np.arctan2(np.linalg.norm(axis, axis=1), up @ z)
    level = axis / np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-9) * angle[:, None]
    yaw = rng.uniform(-np.pi, np.pi, count)[:, None] * z
    pitch = np.deg2rad(rng.normal(7.0, 10.0, count))[:, None] * np.array([1.0, 0.0, 0.0])
    roll = np.deg2rad(rng.normal(0.0, 4.0, count))[:, None] * z
    turns = [roll, pitch, np.array([np.pi / 2, 0.0, 0.0]), yaw, level]
    root = functools.reduce(operator.mul, map(Rotation.from_rotvec, turns)).as_rotvec()
    size, focal = (1280, 960), 1100.0
    depth = rng.uniform(2.5, 8.0, count)
    transl = np.stack([rng.uniform(-0.25, 0.25, count) * depth, rng.uniform(-0.15, 0.15, count) * depth, depth], 1)
    points = anny.contract(model, np.asarray(model.keypoint_regressor)[:17])
    params = anny.Params(*(jnp.asarray(a, jnp.float32) for a in (shape, root, poses.pose[chosen], transl)))
    joints = np.asarray(jax.jit(anny.points)(points, params), np.float64)
    k = np.array([[focal, 0.0, size[0] / 2], [0.0, focal, size[1] / 2], [0.0, 0.0, 1.0]])
    scenes = []
    for i in range(count):
        px = project(joints[i], k)
        noise = 0.01 * np.ptp(px, axis=0).max() * rng.normal(size=px.shape)
        keypoints = np.c_[px + noise, rng.random(17) > 1 / 15][None]
        truth = BodyParameters(root[i : i + 1], transl[i : i + 1], poses.pose[chosen[i : i + 1]], shape[i : i + 1])
        scenes.append(
            Scene(
                f"mocap_{seed}_{i}", size, k, keypoints, np.zeros((1, NUM_DENSE, 3)), np.full(1, np.nan), np.full(1, -1),
                np.array([0.66]), gender[i : i + 1], truth=truth, extra={"gt_coco3d": joints[i : i + 1], "gt_coco2d": px[None]},
            )
        )  # fmt: skip
    return scenes


def real_scenes(folder: Path, file: str) -> list[Scene]:
    """Annotated photos with the joints of their people in camera axes, in metres; NaN where a joint or person is not known."""
    truth = json.loads((folder / "truth.json").read_text())
    source, scenes = open_input(str(folder / file), images=str(folder / "photos")), []
    for i in range(len(source)):
        scene = source.load(i)
        joints = np.full((len(scene), 17, 3), np.nan)
        for row, person in enumerate(scene.person_ids):
            if person in truth:
                joints[row, _FACE:] = np.array(truth[person]["j17"], float)[_FACE:]
        scenes.append(dataclasses.replace(scene, extra={**scene.extra, "gt_coco3d": joints}))
    return scenes


def make(
    name: str, model: anny.AnnyModel, seed: int, count: int, mocap: str | None = None, real: str | None = None
) -> list[Scene]:
    """The scenes of a set. Raises ValueError for an unknown name."""
    rng = np.random.default_rng(seed)
    if name == "fov":
        narrow = plain_scenes(model, seed, count // 2, (35.0, 35.0))
        return [told_as(s, 60.0) for s in (*narrow, *plain_scenes(model, seed + 1, count // 2, (90.0, 90.0)))]
    if name == "seated":
        people = world_people(model, seed, count, lambda s: s.extra["gt_posture"] == "sit")
        return [keypoints_and_words(s) for s in people]
    if name == "babies":
        people = world_people(model, seed, 2 * count, lambda s: s.extra["gt_age_years"] < 1.5)
        return [keypoints_and_words(s) for s in people]
    if name == "mocap":
        if mocap is None:
            raise ValueError("--sets=mocap needs --mocap=DIR, the folder of the poses")
        return [faces_away_hidden(s) for s in mocap_scenes(model, seed, 3 * count, Path(mocap))]
    if name in _REAL:
        if real is None:
            raise ValueError(f"--sets={name} needs --real=DIR, a folder with {_REAL[name]}, photos and truth.json")
        return real_scenes(Path(real), _REAL[name])
    sides = {"swapped": 1, "legs": 2}
    exchanged = lambda s, k: dataclasses.replace(s, keypoints=s.keypoints[:, READINGS[k]])  # noqa: E731
    makers: dict[str, Callable[[Scene], Scene]] = {
        "all": lambda s: s,
        "words": keypoints_and_words,
        "alone": lambda s: without(s, "dense", "depth", "start", "words"),
        "halves": lambda s: halved(keypoints_and_words(s), rng),
        "depth": lambda s: noisy_depth(s, rng),
        "faces": lambda s: faces_away_hidden(keypoints_and_words(s)),
        "swapped_faces": lambda s: exchanged(faces_away_hidden(keypoints_and_words(s)), 1),
        **{name: lambda s, k=k: exchanged(keypoints_and_words(s), k) for name, k in sides.items()},
    }
    if name not in makers:
        raise ValueError(
            f"--sets: unknown set {name!r}; there are {sorted([*makers, *_REAL, 'fov', 'seated', 'babies', 'mocap'])}"
        )
    return [makers[name](s) for s in plain_scenes(model, seed, count)]


def can_be_fitted(fitter: Fitter, scene: Scene) -> bool:
    """False, said on the screen, where the fit sets the whole scene aside: hiding half of a person may leave too little."""
    try:
        fitter.prepare(scene)
    except NobodyToFit as error:
        print(f"set aside: {error}", flush=True)
        return False
    return True


def judge(scenes: list[Scene], fits: list[SceneFit]) -> dict[str, Float[np.ndarray, "n"]]:
    """Errors of all fitted people whose hips are known, and the share of joints within their 90 % intervals."""
    rows: dict[str, list[float]] = {}
    for scene, fit in zip(scenes, fits, strict=True):
        truth = np.asarray(scene.extra["gt_coco3d"], np.float64)
        for i in np.flatnonzero(fit.ok & np.isfinite(truth[:, _HIPS]).all((1, 2))):
            known = np.isfinite(truth[i]).all(-1)
            joints, found = truth[i], fit.fitted_keypoints_3d[i].astype(np.float64)
            z = scene.truth.transl[i, 2] if scene.truth is not None else joints[_HIPS, 2].mean()
            depth_m = fit.depth_m[i] if scene.truth is not None else found[_HIPS, 2].mean()
            off = np.linalg.norm(found - joints - (found - joints)[_HIPS].mean(0), axis=-1)[known]
            values = {
                "mpjpe": off.mean() * 1000,
                "pa": pa_mpjpe(found[known], joints[known]) * 1000,
                "depth": abs(depth_m / z - 1),
                "lean": np.degrees(np.arccos(np.clip(_axis(found) @ _axis(joints), -1.0, 1.0))),
                "px": fit.reprojection_px[i],
                "depth_covered": abs(depth_m - z) <= _Z90 * fit.sd_depth_m[i],
                "joints_covered": (np.linalg.norm(found - joints, axis=-1) <= _Z90 * fit.sd_joints_m[i])[known].mean(),
            }
            for key, value in values.items():
                rows.setdefault(key, []).append(float(value))
    out = {key: np.array(value) for key, value in rows.items()}
    out["broken"] = (out["mpjpe"] > BROKEN_MPJPE_MM) | (out["depth"] > BROKEN_DEPTH)
    return out


def _axis(joints: Float[np.ndarray, "17 3"]) -> Float[np.ndarray, "3"]:
    """Unit vector from the middle of the ankles to that of the shoulders."""
    up = joints[_SHOULDERS].mean(0) - joints[_ANKLES].mean(0)
    return up / np.linalg.norm(up)


HEAD = (
    "| set | n | broken % | MPJPE mm mean, 50 / 90 % | PA mm mean, 50 % | lean | depth % mean, 50 / 90 % | px | "
    "depth in 90 % | joints in 90 % |\n" + "|---" * 10 + "|"
)


def row(name: str, r: dict[str, np.ndarray]) -> str:
    """A line of the table."""
    q = lambda key, p: np.nanpercentile(r[key], p)  # noqa: E731
    return (
        f"| {name} | {len(r['mpjpe'])} | {100 * r['broken'].mean():.1f} | {r['mpjpe'].mean():.1f}, {q('mpjpe', 50):.0f} / "
        f"{q('mpjpe', 90):.0f} | {r['pa'].mean():.1f}, {q('pa', 50):.0f} | {np.nanmean(r['lean']):.1f} | "
        f"{100 * r['depth'].mean():.1f}, {100 * q('depth', 50):.1f} / {100 * q('depth', 90):.1f} | {np.nanmean(r['px']):.1f} | "
        f"{r['depth_covered'].mean():.2f} | {r['joints_covered'].mean():.2f} |"
    )


def main(_: list[str]) -> None:
    model = anny.load()
    config = apply_overrides(load_config(FLAGS.config), ["person_lengths=[64]", *(FLAGS["set"].value or ())])
    variants = {"": config}
    for name in FLAGS.switches:
        off = {
            "starts": "0",
            "lifted": "0",
            "supposed_ages": "()",
            "depth_order": "never",
            "robust_widening": "1.0",
        }.get(name, "false")
        variants[f", `{name}` {'= ' + off if off != 'false' else 'off'}"] = apply_overrides(
            config, [f"map.{name}={off}"]
        )
    sets = {name: make(name, model, FLAGS.seed, FLAGS.scenes, FLAGS.mocap, FLAGS.real) for name in FLAGS.sets}
    judged = Fitter(config, model)
    sets = {name: [scene for scene in scenes if can_be_fitted(judged, scene)] for name, scenes in sets.items()}
    print(HEAD, flush=True)
    for suffix, variant in variants.items():
        fitter = Fitter(variant, model)
        for name, scenes in sets.items():
            print(row(name + suffix, judge(scenes, list(fitter.fit(scenes)))), flush=True)


if __name__ == "__main__":
    flags.DEFINE_list("sets", ["words"], "Which sets, see above.")
    flags.DEFINE_integer("seed", 7001, "Seed of the scenes.")
    flags.DEFINE_integer("scenes", 60, "Scenes of each set.")
    flags.DEFINE_list("switches", [], "Switches of `map` to turn off one at a time.")
    flags.DEFINE_string("config", "experiments/configs/annyfit_plus.py", "Config file.")
    flags.DEFINE_multi_string("set", [], "path=value changes of the config.")
    flags.DEFINE_string("mocap", None, "Folder of the poses of the motion capture.")
    flags.DEFINE_string("real", None, "Folder of the real people with truth.")
    app.run(main)
