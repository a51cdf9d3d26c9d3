"""AiOS with Anny's head, trained on our fits: all-age pseudo ground truth.

--set=feed.sets.fits.path=DATASET        (experiments.export --format=tfds with --images)
"""

from annyfit_jax.regressors.aios.aios_config import ANNY, AiosConfig, loss_config
from annyfit_jax.regressors.aios.aios_feed import AiosFeed, DataSet
from annyfit_jax.regressors.aios.aios_regressor import AiosRegressor
from annyfit_jax.training.training_config import OptimiserConfig, TrainConfig


def get_config() -> TrainConfig:
    # Phenotypes lie in [0, 1], betas in standard deviations: one needs more weight.
    loss = loss_config("released", slips=False, shape=1.0, oks_face=0.5)
    return TrainConfig(
        regressor=AiosRegressor(AiosConfig(body=ANNY, compute_dtype="bfloat16", remat=True), loss),
        feed=AiosFeed((DataSet("fits", 1.0, kind="fits", crop=0.5),), head=ANNY),
        optimiser=OptimiserConfig(lr=1e-4, milestones=(150_000,)),
        steps=200_000,
        batch=32,
    )
