"""How near conversions between Anny and SMPL-X come, over ages.

    python -m experiments.studies.conversion_errors --body_file=SMPLX_NEUTRAL.npz --people=8

For each age, people of calibrated height, both sexes, in everyday poses (`synthetic.plain_people`), to SMPL-X and back.
Prints a Markdown table: mean distance of the converted body's vertices from the surface of the source, its 95th percentile,
the angle between bones with a counterpart (root mean square), and for the way there and back the distance of Anny's vertices.
Recorded in `experiments/results/ways_out.md`.
"""

from __future__ import annotations

import time

import numpy as np
from absl import app, flags

from annyfit_jax.conversion.convert_people import Converter
from annyfit_jax.conversion.convertible import convertible_anny, convertible_smplx, posed
from annyfit_jax.fit.keypoint_start import calibrated_phenotypes
from annyfit_jax.people.fitted import markdown_table
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.synthetic.plain_people import PoseSampler
from body_models import anny, smplx

FLAGS = flags.FLAGS
_AGES = {"baby": 0.03, "toddler": 0.12, "child": 0.33, "teenager": 0.5, "adult": 0.66, "elder": 0.95}


def define_flags() -> None:
    """Called by the program alone, so that programs can be imported side by side."""
    flags.DEFINE_string("body_file", None, "SMPLX_NEUTRAL.npz or another SMPL-X file.", required=True)
    flags.DEFINE_string("kid_template", None, "AGORA's smplx_kid_template.npy.")
    flags.DEFINE_integer("people", 8, "Of each age.", lower_bound=1)
    flags.DEFINE_integer("num_betas", 10, "Of SMPL-X.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the people.")


def main(_: list[str]) -> None:
    rng = np.random.default_rng(FLAGS.seed)
    model = anny.load()
    body = smplx.load(FLAGS.body_file, num_betas=FLAGS.num_betas, kid_template=FLAGS.kid_template)
    bodies = convertible_anny(model), convertible_smplx(body)
    forth, back = Converter(*bodies), Converter(*bodies[::-1])
    sampler, rows, n = PoseSampler(model), [], FLAGS.people
    spent = 0.0
    for name, age in _AGES.items():
        shape = calibrated_phenotypes(np.full(n, age), np.arange(n) % 2.0)
        shape[:, [2, 3, 5]] += rng.normal(size=(n, 3)) * 0.12
        root, transl = np.tile([np.pi / 2, 0.0, 0.0], (n, 1)), np.tile([0.0, 0.0, 4.0], (n, 1))
        people = BodyParameters(root, transl, sampler.draw(rng, np.zeros(n, bool)), shape.clip(0.05, 0.95))
        started = time.process_time()
        there = forth.convert(people)
        spent += time.process_time() - started
        here = back.convert(there.people)
        off = np.linalg.norm(posed(bodies[0], people).vertices - posed(bodies[0], here.people).vertices, axis=-1)
        figures = (
            1e3 * there.surface_m.mean(), 1e3 * there.surface_m.max(), 1e3 * there.surface_p95_m.mean(),
            np.degrees(there.turn_rad.mean()), 1e3 * here.surface_m.mean(), 1e3 * off.mean(),
        )  # fmt: skip
        age_error = np.abs(here.people.shape[:, 1] - people.shape[:, 1]).mean()
        rows.append([name, *(f"{x:.1f}" for x in figures), f"{age_error:.2f}"])
    header = (
        "age",
        "surface mm",
        "worst",
        "95 % mm",
        "turns degrees",
        "back: surface mm",
        "back: vertices mm",
        "back: age",
    )
    print(markdown_table(header, rows), end="")
    print(f"{spent / (n * len(rows)):.2f} s of processor time a person to SMPL-X, with compiling")


if __name__ == "__main__":
    define_flags()
    app.run(main)
