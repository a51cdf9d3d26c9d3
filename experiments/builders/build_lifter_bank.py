"""Makes the bank of poses that the lifter is trained on; it is made where it is needed and not shipped.

    python -m experiments.builders.build_lifter_bank --mocap=../shared/data/mocap --output=lifter_bank.npz

Poses: motion capture retargeted to Anny (`build_pose_prior` says how, and which clips are kept for testing), and the project's
own postures, which bring who sits, squats, kneels, crawls and lies, at every age. Every pose comes with its mirrored twin.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from absl import app, flags
from scipy.spatial.transform import Rotation

from annyfit_jax.lifting.lifter_rig import BONES
from annyfit_jax.synthetic.postures import POSTURES, PoseSampler
from annyfit_jax.synthetic.world_config import PoseConfig
from body_models import anny
from experiments.builders.build_pose_prior import Skeleton, held_out, load_poses

FLAGS = flags.FLAGS

_YEARS: tuple[tuple[float, int, float], ...] = (
    (0.3, 0, 0.08), (0.7, 0, 0.08), (1.2, 1, 0.08), (2.5, 1, 0.08), (6.0, 2, 0.12), (14.0, 3, 0.08), (30.0, 4, 0.36),
    (75.0, 5, 0.12),
)  # fmt: skip
"""Age in years, its class, its share of the postures."""
_BY_HABIT = 0.6
"""Share of the postures that are drawn as often as people of the age take them; of the others all are as frequent."""
_HELD_OUT_EVERY = 10


def own_postures(model: anny.AnnyModel, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pose (n, 162, 3), up in the axes of the root (n, 3), age class (n,)) of drawn postures."""
    rng = np.random.default_rng(seed)
    sampler = PoseSampler(model, PoseConfig())
    years, ages, shares = (np.array(column) for column in zip(*_YEARS, strict=True))
    who = rng.choice(len(years), count, p=shares)
    poses, ups = [], []
    for k in who:
        habit = rng.random() < _BY_HABIT
        name = POSTURES[rng.integers(len(POSTURES))]
        made = sampler.draw(rng, float(years[k])) if habit else sampler.draw_posture(rng, name, float(years[k]))
        root = Rotation.from_rotvec([made.pitch + rng.normal(0, 0.05), rng.normal(0, 0.05), 0.0])
        poses.append(made.pose)
        ups.append(root.inv().apply([0.0, 0.0, 1.0]))
    return np.array(poses), np.array(ups), ages[who].astype(int)


def build(mocap: Path, postures: int) -> dict[str, np.ndarray]:
    """The arrays of the bank. Raises FileNotFoundError where there is no motion capture."""
    model = anny.load()
    skeleton = Skeleton(model)
    found = load_poses(mocap, skeleton)
    own, up, age = own_postures(model, postures)
    pose = np.concatenate([found.pose, own])
    up = np.concatenate([found.root_up, up])
    subjects = np.array([clip[:3] in ("01_", "02_", "03_") for clip in found.clip])
    source = np.concatenate([np.where(subjects, 0, 1), np.full(len(own), 2)])
    kept_back = np.concatenate([held_out(found.clip), np.arange(len(own)) % _HELD_OUT_EVERY == 0])
    age = np.concatenate([np.full(len(found.pose), -1), age])
    both = np.concatenate([pose, skeleton.mirrored(pose)])
    rows = np.array([skeleton.index[name] - 1 for name in BONES])
    return {
        "bones": np.array(BONES),
        "pose": both[:, rows].astype(np.float32),
        "up": np.concatenate([up, up * [-1.0, 1.0, 1.0]]).astype(np.float32),
        "age": np.tile(age, 2).astype(np.int8),
        "source": np.tile(source, 2).astype(np.int8),
        "held_out": np.tile(kept_back, 2),
    }


def main(_: list[str]) -> None:
    arrays = build(Path(FLAGS.mocap), FLAGS.postures)
    np.savez_compressed(FLAGS.output, allow_pickle=False, **arrays)
    counts = [int((arrays["source"] == s).sum()) for s in range(3)]
    print(
        f"{len(arrays['pose'])} poses, {int(arrays['held_out'].sum())} held out; of the subjects, the activities, our own: "
        f"{counts}: {FLAGS.output}"
    )


if __name__ == "__main__":
    flags.DEFINE_string("mocap", None, "Folder of the two files of poses.", required=True)
    flags.DEFINE_integer("postures", 12000, "Postures of our own.", lower_bound=10)
    flags.DEFINE_string("output", "lifter_bank.npz", "The bank.")
    app.run(main)
