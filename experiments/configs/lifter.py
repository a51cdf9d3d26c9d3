"""The lifter that ships: from a person's keypoints to hypotheses of the body.

This is the first part of its training, about 45 minutes on one CPU core; the second goes on from there
(`experiments/results/lifter.md` has both commands).

--set=regressor.data.bank=lifter_bank.npz      the poses, made by experiments.builders.build_lifter_bank
--set=regressor.config.width=1024 --set=batch=64 --set=steps=100000 ...         larger, for an accelerator
"""

from annyfit_jax.lifting.lifter_config import LifterConfig
from annyfit_jax.regressors.lifter.lifter_feed import LifterFeed
from annyfit_jax.regressors.lifter.lifter_losses import LifterLoss
from annyfit_jax.regressors.lifter.lifter_regressor import LifterRegressor
from annyfit_jax.regressors.lifter.lifter_views import LifterData
from annyfit_jax.training.training_config import OptimiserConfig, TrainConfig

STEPS = 24_000


def get_config() -> TrainConfig:
    return TrainConfig(
        regressor=LifterRegressor(LifterConfig(), LifterData(half_hidden=0.1), LifterLoss(), people=48),
        feed=LifterFeed(),
        optimiser=OptimiserConfig(lr=2e-3, b2=0.98, clip=1.0, ema=0.999, warmup_steps=200, cosine_steps=STEPS),
        steps=STEPS,
        batch=8,
        log_every=100,
        checkpoint_every=1000,
        reader_threads=1,
    )
