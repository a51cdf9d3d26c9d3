"""Builds the mixture of Gaussians over poses that the fit uses as its prior (`pose_prior.npz`).

    python -m experiments.builders.build_pose_prior --mocap=DIR --output=pose_prior.npz

`DIR` holds two files of poses from the CMU Graphics Lab Motion Capture Database (mocap.cs.cmu.edu, created with funding from
NSF EIA-0196217): `cmu_subjects_1_3.npz` and `cmu_activities.npz`. Neither file is part of this project. They are retargeted to
the bones of Anny: the world rotation of a bone times the rotation that takes the rest direction of the bone to the one of the
motion capture. Nobody in those files sits, lies or crawls, and nobody is a child: components for these postures are fitted to
the postures of `annyfit_jax.synthetic`.

The mixture is mirror-symmetric: every component has a mirrored twin of equal weight. Of every clip of `--held_out` nothing is
used, so that what the prior is worth can be measured on it (`experiments.studies.hard_sets`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from annyfit_jax.people.anatomy import other_side
from body_models import anny

FLAGS = flags.FLAGS

_NAMES = (
    "root", "lhipjoint", "lfemur", "ltibia", "lfoot", "ltoes", "", "rhipjoint", "rfemur", "rtibia", "rfoot", "rtoes", "",
    "lowerback", "upperback", "thorax", "lowerneck", "upperneck", "head", "", "lclavicle", "lhumerus", "lradius", "lwrist",
    "lhand", "lfingers", "", "lthumb", "", "rclavicle", "rhumerus", "rradius", "rwrist", "rhand", "rfingers", "", "rthumb", "",
)  # fmt: skip
"""Names of the 38 joints of `cmu_activities.npz`; the ends of chains have none."""
_TO_ANNY = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""Axes of the motion capture (x left, y up, z front) to Anny's (x left, y back, z up)."""
_NEXT = {"upperarm01": "lowerarm01", "lowerarm01": "wrist", "upperleg01": "lowerleg01", "lowerleg01": "foot"}
"""The bone whose head ends a limb segment."""
_MIRROR = np.diag([-1.0, 1.0, 1.0])
HELD_OUT = ("02", "test/")
"""Beginnings of the clips that are kept for testing: subject 2 of the first file, the test clips of the second."""
POSTURE_SHARES: Mapping[str, Mapping[str, float]] = {
    "baby": {"mocap": 0.10, "sit": 0.10, "floor": 0.28, "crawl": 0.12, "lie": 0.40},
    "toddler": {"mocap": 0.55, "sit": 0.12, "squat": 0.08, "floor": 0.17, "crawl": 0.06, "lie": 0.02},
    "child": {"mocap": 0.70, "sit": 0.14, "squat": 0.06, "floor": 0.07, "crawl": 0.01, "lie": 0.02},
    "teenager": {"mocap": 0.76, "sit": 0.15, "squat": 0.04, "floor": 0.03, "crawl": 0.005, "lie": 0.015},
    "adult": {"mocap": 0.76, "sit": 0.16, "squat": 0.04, "floor": 0.02, "crawl": 0.005, "lie": 0.015},
    "senior": {"mocap": 0.68, "sit": 0.28, "squat": 0.01, "floor": 0.01, "crawl": 0.005, "lie": 0.015},
}
"""Share of each posture by age class. Estimates, not measured: photos of adults mostly show people who stand, walk or sit."""
_COMPONENTS = {"mocap": 6, "sit": 1, "squat": 1, "floor": 1, "crawl": 1, "lie": 1}
"""Pairs of a component and its mirrored twin."""
_POSTURES = {"sit": ("sit",), "squat": ("squat", "kneel"), "floor": ("floor",), "crawl": ("crawl",), "lie": ("lie",)}
_POSES_PER_POSTURE = 900
_POOLED_WEIGHT = 60.0
"""What the pooled covariance counts for in a component's covariance, in poses."""
_FLOOR_RAD = 0.1
"""Least spread of a rotation component; `_LIMB_FLOOR_RAD` for bones of the limbs."""
_LIMB_FLOOR_RAD = 0.2


class Poses(NamedTuple):
    """Poses of the motion capture on Anny's bones."""

    clip: np.ndarray
    """(n,) name of the clip of each pose."""
    root_up: Float[np.ndarray, "n 3"]
    """The world's up in the axes of Anny's root."""
    pose: Float[np.ndarray, "n 162 3"]
    """Rotation vectors of the bones, each in its own rest frame, radians."""


class Skeleton:
    """Anny's bones at rest, and what mirroring does to rotation vectors of them."""

    def __init__(self, model: anny.AnnyModel) -> None:
        matrices = jax.jit(anny.rest_orientations)(jnp.asarray(np.asarray(model.axes.mean)[..., None]), model.roll)
        self.rest = np.moveaxis(np.asarray(matrices, np.float64)[..., 0], -1, 0)
        self.heads = np.asarray(model.heads.mean, np.float64).T
        """(163, 3) joints of the mean body at rest."""
        self.names = list(model.labels.bones)
        self.parents = list(model.labels.parents)
        self.index = {name: i for i, name in enumerate(self.names)}
        self.twin = np.array([self.index[other_side(name)] for name in self.names])

    def direction(self, bone: str) -> Float[np.ndarray, "3"]:
        """Rest direction of a limb from its first joint to the next limb's; of other bones, along the bone."""
        stem, _, side = bone.partition(".")
        if stem not in _NEXT:
            return self.rest[self.index[bone]][:, 1]
        return self.heads[self.index[f"{_NEXT[stem]}.{side}"]] - self.heads[self.index[bone]]

    def mirrored(self, pose: Float[np.ndarray, "n 162 3"]) -> Float[np.ndarray, "n 162 3"]:
        """The same postures with left and right exchanged: rotation vectors are axial, so they turn by minus the mirror."""
        body = np.einsum("bij,nbj->nbi", self.rest[1:], pose)
        twin = self.twin[1:] - 1
        return np.einsum("bji,nbj->nbi", self.rest[1:], (body @ -_MIRROR)[:, twin])


def shortest_arc(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The rotation matrix of least angle that takes the direction of a to that of b."""
    return Rotation.align_vectors(b[None] / np.linalg.norm(b), a[None] / np.linalg.norm(a))[0].as_matrix()


def retarget(
    skeleton: Skeleton, world: Mapping[str, Float[np.ndarray, "n 3 3"]], rest: Mapping[str, np.ndarray]
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 162 3"]]:
    """(up in the root's axes, pose) of frames of a motion capture.

    Args:
      world: world rotation of each of its bones, columns convention, axes of the motion capture.
      rest: offset along each bone at rest, same axes.
    """
    turn = {name: _TO_ANNY @ matrices @ _TO_ANNY.T for name, matrices in world.items()}

    def aligned(bone: str, source: str) -> np.ndarray:
        """World rotation of Anny's bone from rest: its rest direction is first brought to the source's."""
        return turn[source] @ shortest_arc(skeleton.direction(bone), _TO_ANNY @ rest[source])

    def between(a: str, b: str) -> np.ndarray:
        relative = Rotation.from_matrix(np.swapaxes(turn[a], 1, 2) @ turn[b]).as_rotvec()
        return turn[a] @ Rotation.from_rotvec(0.5 * relative).as_matrix()

    of: dict[str, np.ndarray] = {
        "root": turn["root"],
        "spine05": between("root", "lowerback"),
        "spine04": turn["lowerback"],
        "spine03": between("lowerback", "upperback"),
        "spine02": turn["upperback"],
        "spine01": turn["thorax"],
        "neck01": turn["lowerneck"],
        "neck02": between("lowerneck", "upperneck"),
        "neck03": turn["upperneck"],
        "head": turn["head"],
    }
    for side, s in (("L", "l"), ("R", "r")):
        of[f"clavicle.{side}"] = of[f"shoulder01.{side}"] = turn["thorax"]
        for bone, source in (
            ("upperarm", "humerus"),
            ("lowerarm", "radius"),
            ("upperleg", "femur"),
            ("lowerleg", "tibia"),
        ):
            of[f"{bone}01.{side}"] = of[f"{bone}02.{side}"] = aligned(f"{bone}01.{side}", s + source)
        of[f"wrist.{side}"] = of[f"lowerarm01.{side}"]  # the hands of the motion capture are noisy
        of[f"foot.{side}"] = aligned(f"foot.{side}", s + "foot")
    frames = len(of["root"])
    pose = np.zeros((frames, len(skeleton.names) - 1, 3))
    placed: list[np.ndarray] = [of["root"]]
    for i, name in enumerate(skeleton.names[1:], 1):
        above = placed[skeleton.parents[i]]
        placed.append(of.get(name, above))
        local = skeleton.rest[i].T @ np.swapaxes(above, 1, 2) @ placed[i] @ skeleton.rest[i]
        pose[:, i - 1] = Rotation.from_matrix(local).as_rotvec()
    up = np.swapaxes(of["root"], 1, 2) @ np.array([0.0, 0.0, 1.0])
    return up, pose


def load_poses(folder: Path, skeleton: Skeleton) -> Poses:
    """Both files, retargeted. Raises FileNotFoundError, KeyError where a file or an array is missing."""
    clips, ups, poses = [], [], []
    with np.load(folder / "cmu_subjects_1_3.npz") as file:
        names = [str(name) for name in file["names"]]
        clip, rotations = file["clip"].astype(str), file["rotations"].astype(np.float64)
        for subject in ("01", "02", "03"):
            mine = np.char.startswith(clip, subject + "_")
            offsets = dict(zip(names, file[f"rest_offset_{subject}"].astype(np.float64)))
            up, pose = retarget(skeleton, {n: rotations[mine, i] for i, n in enumerate(names)}, offsets)
            for found, part in ((clips, clip[mine]), (ups, up), (poses, pose)):
                found.append(part)
    with np.load(folder / "cmu_activities.npz") as file:
        parents, offsets = file["parents"], file["offset_m"].astype(np.float64)
        expmap = file["expmap"].astype(np.float64)[:, 3:].reshape(-1, len(parents), 3)
        local = Rotation.from_rotvec(expmap.reshape(-1, 3)).as_matrix().reshape(*expmap.shape[:2], 3, 3)
        world: list[np.ndarray] = []
        for joint, parent in enumerate(parents):  # row vectors: child = R(expmap) parent
            world.append(local[:, joint] if parent < 0 else local[:, joint] @ world[parent])
        child = {int(p): j for j, p in reversed(list(enumerate(parents)))}
        named = {name: i for i, name in enumerate(_NAMES) if name}
        rest = {name: offsets[child[i]] for name, i in named.items() if i in child and np.any(offsets[child[i]])}
        up, pose = retarget(skeleton, {n: np.swapaxes(world[i], 1, 2) for n, i in named.items()}, rest)
        for found, part in ((clips, file["clip"].astype(str)), (ups, up), (poses, pose)):
            found.append(part)
    return Poses(np.concatenate(clips), np.concatenate(ups), np.concatenate(poses))


def held_out(clip: np.ndarray, prefixes: Iterable[str] = HELD_OUT) -> np.ndarray:
    """Which poses belong to the test part."""
    return np.any([np.char.startswith(clip.astype(str), prefix) for prefix in prefixes], axis=0)


def mixture(
    pose: Float[np.ndarray, "n d"],
    mirrored: Float[np.ndarray, "n d"],
    pairs: int,
    floor: Float[np.ndarray, "d"],
    rng: np.random.Generator,
    iterations: int = 25,
) -> tuple[Float[np.ndarray, "pairs"], Float[np.ndarray, "pairs d"], Float[np.ndarray, "pairs d d"]]:
    """Weights, means and covariances of one component of each mirrored pair, by k-means on whichever side is nearer.

    A covariance is that of the component's poses with a share of the pooled one, plus `floor` squared.
    """
    both = np.stack([pose, mirrored])
    count = len(pose)
    means = pose[rng.choice(count, pairs, replace=False)]
    chosen, label = pose, np.zeros(count, int)
    for _ in range(iterations):
        distance = ((both[:, :, None] - means) ** 2).sum(-1)  # (side, n, pairs)
        best = distance.transpose(1, 0, 2).reshape(count, -1).argmin(1)
        side, label = best // pairs, best % pairs
        chosen = both[side, np.arange(count)]
        means = np.stack([
            chosen[label == c].mean(0) if (label == c).any() else pose[rng.integers(count)] for c in range(pairs)
        ])  # fmt: skip
    pooled = np.cov(np.concatenate([pose, mirrored]).T)
    covariances = []
    for c in range(pairs):
        mine = chosen[label == c]
        share = len(mine) / (len(mine) + _POOLED_WEIGHT)
        own = np.cov(mine.T) if len(mine) > 2 else pooled
        covariances.append(share * own + (1.0 - share) * pooled + np.diag(floor**2))
    return np.maximum(np.bincount(label, minlength=pairs) / count, 1e-3), means, np.stack(covariances)


def balanced(clip: np.ndarray, rng: np.random.Generator, per_clip: int = 60) -> np.ndarray:
    """Indices of poses such that no long clip outweighs the others."""
    chosen = []
    for name in np.unique(clip):
        mine = np.flatnonzero(clip == name)
        chosen.append(rng.choice(mine, min(per_clip, len(mine)), replace=False))
    return np.concatenate(chosen)


def build(poses: Poses, model: anny.AnnyModel, bones: list[str], seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of the asset, for the bones that a fit moves."""
    from annyfit_jax.people import anatomy
    from annyfit_jax.synthetic.postures import PoseSampler
    from annyfit_jax.synthetic.world_config import PoseConfig

    rng = np.random.default_rng(seed)
    skeleton = Skeleton(model)
    rows = np.array([skeleton.index[bone] - 1 for bone in bones])
    spread = anatomy.pose_spread(bones)
    floor = np.repeat(np.where(spread > 0.4, _LIMB_FLOOR_RAD, np.minimum(spread, _FLOOR_RAD)), 3)
    sampler = PoseSampler(model, PoseConfig())
    kept = ~held_out(poses.clip)
    sources = {"mocap": poses.pose[kept][balanced(poses.clip[kept], rng)]}
    for kind, names in _POSTURES.items():
        years = rng.choice([0.6, 1.2, 3.0, 8.0, 30.0], _POSES_PER_POSTURE)
        sources[kind] = np.stack(
            [sampler.draw_posture(rng, names[i % len(names)], y).pose for i, y in enumerate(years)]
        )
    out: dict[str, list[np.ndarray]] = {"mean": [], "covariance": [], "log_weight": []}
    for kind, pose in sources.items():
        flat, mirrored = (p[:, rows].reshape(len(p), -1) for p in (pose, skeleton.mirrored(pose)))
        weight, mean, covariance = mixture(flat, mirrored, _COMPONENTS[kind], floor, rng)
        share = np.array([classes.get(kind, 1e-4) for classes in POSTURE_SHARES.values()])
        for w, m, c in zip(weight, mean, covariance):
            # Mirroring is a linear map of the pose.
            basis = np.eye(len(m)).reshape(len(m), len(bones), 3)
            whole = np.zeros((len(m), pose.shape[1], 3))
            whole[:, rows] = basis
            matrix = skeleton.mirrored(whole)[:, rows].reshape(len(m), -1).T
            for mean_side, covariance_side in ((m, c), (matrix @ m, matrix @ c @ matrix.T)):
                out["mean"].append(mean_side)
                out["covariance"].append(covariance_side)
                out["log_weight"].append(np.log(0.5 * w * share))
    return {
        "bones": np.array(bones),
        "classes": np.array(list(POSTURE_SHARES)),
        "kinds": np.array([kind for kind in sources for _ in range(2 * _COMPONENTS[kind])]),
        "mean": np.array(out["mean"], np.float32),
        "covariance": np.array(out["covariance"], np.float32),
        "log_weight": np.array(out["log_weight"], np.float32),
        "asset_version": np.array(model.labels.asset_version),
    }


def main(_: list[str]) -> None:
    from annyfit_jax.fit.fit_body import free_bones
    from experiments.configs.annyfit import DIGITS, FACE

    model = anny.load()
    names = model.labels.bones[1:]
    bones = [names[row] for row in free_bones(names, FACE + DIGITS)]
    poses = load_poses(Path(FLAGS.mocap), Skeleton(model))
    arrays = build(poses, model, bones)
    np.savez_compressed(FLAGS.output, allow_pickle=False, **arrays)
    print(
        f"{len(poses.pose)} poses, {int((~held_out(poses.clip)).sum())} not held out; "
        f"{len(arrays['mean'])} components: {FLAGS.output}"
    )


if __name__ == "__main__":
    flags.DEFINE_string("mocap", None, "Folder of the two files of poses.", required=True)
    flags.DEFINE_string("output", "annyfit_jax/data/pose_prior.npz", "The asset.")
    app.run(main)
