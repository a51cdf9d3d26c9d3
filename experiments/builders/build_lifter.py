"""Trains the lifter that ships and writes its weights, with the errors on people that training never saw.

    python -m experiments.builders.build_lifter --mocap=../shared/data/mocap --run=lifter_run
    python -m experiments.builders.build_lifter --run=RUN --bank=lifter_bank.npz --output=lifter.npz

The bank of poses is made in the folder of the run; what was interrupted is continued.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from annyfit_jax.lifting import lifter_network, lifter_weights
from annyfit_jax.lifting.lifter_rig import BONES, LifterRig, load_rig
from annyfit_jax.regressors.lifter import lifter_losses, lifter_views
from annyfit_jax.regressors.lifter.lifter_bank import SOURCES, Bank, load_bank
from annyfit_jax.regressors.lifter.lifter_regressor import LifterRegressor
from annyfit_jax.regressors.photo_predictions import trained_variables
from annyfit_jax.training.training_config import load_config, override
from annyfit_jax.training.training_loop import train
from body_models import anny
from experiments import program
from experiments.builders import build_lifter_bank

FLAGS = flags.FLAGS
LICENCE = (
    "Weights: the licence of this project. Trained on poses of the CMU Graphics Lab Motion Capture Database (mocap.cs.cmu.edu, "
    "created with funding from NSF EIA-0196217), which may be included in commercially sold products, and on postures drawn by "
    "annyfit_jax.synthetic. The file holds no poses."
)
_PEOPLE = 2000
_SEED = 77


def errors_on(regressor: LifterRegressor, variables: object, poses: Bank, people: int, seed: int) -> dict[str, float]:
    """Errors on views of poses; millimetres for a body of 1.70 m, hips aligned, below the face."""

    @jax.jit
    def judge(variables: Any, poses: Bank, rig: LifterRig, key: jax.Array) -> dict[str, jax.Array]:
        view = lifter_views.look(regressor.data, rig, lifter_views.draw(regressor.data, poses, key, people))
        lifted = lifter_network.bind(regressor.config, variables)(view.seen.features)
        values = lifter_losses.terms(lifted, view, regressor.loss_config)[1]
        # How often the likeliest hypothesis is the nearest, and how far from what it says, in ten bins of what it says.
        nearest = jax.nn.one_hot(lifter_losses.distances(lifted, view)[0].argmin(1), regressor.config.hypotheses)
        said = jnp.exp(lifted.log_probability)
        likeliest = said.max(1)
        right = jnp.take_along_axis(nearest, said.argmax(1)[:, None], axis=1)[:, 0]
        bins = jnp.clip((likeliest * 10).astype(jnp.int32), 0, 9)
        gap = jnp.abs(jax.ops.segment_sum(right - likeliest, bins, 10)).sum() / people
        ages = (lifted.age_logits.argmax(1) == view.age).mean()
        said_so = {"likeliest_is_nearest": right.mean(), "said_so": likeliest.mean(), "calibration_gap": gap}
        return values | said_so | {"age_right": ages}

    values = judge(variables, poses, load_rig(anny.load()), jax.random.key(seed))
    return {key: round(float(value), 4) for key, value in values.items()}


def held_out_errors(regressor: LifterRegressor, variables: object, bank: str) -> dict[str, dict[str, float]]:
    """Errors on views of held-out poses, by source."""
    poses = load_bank(bank, held_out=True)
    out = {}
    for s, name in enumerate(SOURCES):
        rows = tuple(poses.rows[s] for _ in SOURCES)
        out[name] = errors_on(regressor, variables, poses._replace(rows=rows), _PEOPLE, _SEED + s)
    return out


def errors_on_drawn(regressor: LifterRegressor, variables: object) -> dict[str, float]:
    """Errors on newly drawn postures of our own: a figure that needs no file."""
    model = anny.load()
    pose, up, age = build_lifter_bank.own_postures(model, 200, _SEED)
    rows = np.array([model.labels.bones.index(name) - 1 for name in BONES])
    everybody = jnp.arange(len(pose))
    poses = Bank(
        jnp.asarray(pose[:, rows], jnp.float32), jnp.asarray(up, jnp.float32), jnp.asarray(age),
        tuple(everybody for _ in SOURCES),
    )  # fmt: skip
    return errors_on(regressor, variables, poses, 500, _SEED)


def main(_: list[str]) -> None:
    run = Path(FLAGS.run)
    bank = Path(FLAGS.bank) if FLAGS.bank else run / "bank.npz"
    if not bank.is_file():
        bank.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(bank, allow_pickle=False, **build_lifter_bank.build(Path(FLAGS.mocap), FLAGS.postures))
    assignments = [f"regressor.data.bank={bank}", *(FLAGS["set"].value or ())]
    config = override(load_config(program.find_config(FLAGS.config)), assignments)
    if FLAGS.mocap:
        train(config, run / "run")
        run = run / "run"
    variables = trained_variables(config, run)
    regressor = config.regressor
    assert isinstance(regressor, LifterRegressor)
    # Errors are those of the weights as they are stored.
    rounded = jax.tree.map(lambda x: x.astype(jnp.float16).astype(jnp.float32), variables)
    errors = held_out_errors(regressor, rounded, str(bank))
    drawn = errors_on_drawn(regressor, rounded)
    print(json.dumps(errors | {"drawn": drawn}, indent=1))
    about = {"licence": LICENCE, "steps": config.steps, "held_out": errors, "drawn": drawn}
    lifter_weights.write_weights(FLAGS.output, regressor.config, variables, about)
    print(f"{FLAGS.output}: {Path(FLAGS.output).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    flags.DEFINE_string("mocap", None, "Folder of the two files of poses; without it nothing is trained.")
    flags.DEFINE_string(
        "bank", None, "A bank of poses that is there (build_lifter_bank); default: in the folder of the run."
    )
    flags.DEFINE_integer("postures", 12000, "Postures of our own in the bank.")
    flags.DEFINE_string("run", None, "Folder of the training run, made or continued.", required=True)
    flags.DEFINE_string("config", "lifter", "Config of the training.")
    flags.DEFINE_multi_string("set", [], "path=value changes of the config.")
    flags.DEFINE_string("output", str(lifter_weights.shipped()), "The weights.")
    app.run(main)
