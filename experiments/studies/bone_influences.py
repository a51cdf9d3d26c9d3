"""What it costs to keep only the largest skinning weights of each vertex, as files for other programs do.

    python -m experiments.studies.bone_influences --people=60

People of all ages in everyday poses (`annyfit_jax.synthetic.plain_people`). Prints a Markdown table: the distance of vertices
from those of the whole sum, in millimetres. Recorded in `experiments/results/ways_out.md`.
"""

from __future__ import annotations

import numpy as np
from absl import app, flags

from annyfit_jax.exports import rigs
from annyfit_jax.people.fitted import markdown_table
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.synthetic.plain_people import PoseSampler, draw_phenotypes
from body_models import anny

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_integer("people", 60, "How many people are drawn.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the people.")


def main(_: list[str]) -> None:
    rng = np.random.default_rng(FLAGS.seed)
    model = anny.load()
    people = drawn(rng, FLAGS.people, model)
    errors: dict[int, list[np.ndarray]] = {4: [], 8: []}
    whole = rigs.anny_rig(model, rigs.MOST_INFLUENCES)
    kept = {k: rigs.anny_rig(model, k) for k in errors}
    for person in rigs.rigged_anny(model, people):
        world = rigs.world_poses(whole, rigs.local_poses(whole, person, np.eye(4)))
        exact = rigs.skinned(whole, person, world)
        for k, rig in kept.items():
            errors[k].append(1e3 * np.linalg.norm(rigs.skinned(rig, person, world) - exact, axis=1))
    rows = []
    for k, values in errors.items():
        all_ = np.stack(values)
        figures = (all_.mean(), np.quantile(all_, 0.99), all_.max())
        rows.append([str(k), *(f"{x:.3f}" for x in figures), f"{100 * (all_ > 1).mean():.2f} %"])
    print(markdown_table(("influences", "mean mm", "99 % mm", "largest mm", "above 1 mm"), rows), end="")


def drawn(rng: np.random.Generator, n: int, model: anny.AnnyModel) -> BodyParameters:
    """n people of all ages in everyday poses, upright, facing the camera from 4 m."""
    phenotypes = draw_phenotypes(rng, n)
    root = np.tile([np.pi / 2, 0.0, 0.0], (n, 1))
    pose = PoseSampler(model).draw(rng, phenotypes.age <= 1)
    return BodyParameters(root, np.tile([0.0, 0.0, 4.0], (n, 1)), pose, phenotypes.shape)


if __name__ == "__main__":
    define_flags()
    app.run(main)
