"""A small Multi-HMR (Anny) on small pictures: for a CPU, and for comparisons of labels at that scale.

--set=feed.sets.fits.path=DATASET
"""

from annyfit_jax.regressors.multihmr.multihmr_config import HeadConfig, LossConfig, MultiHmrConfig
from annyfit_jax.regressors.multihmr.multihmr_feed import FitSet, MultiHmrFeed
from annyfit_jax.regressors.multihmr.multihmr_regressor import MultiHmrRegressor
from annyfit_jax.regressors.vit import VitConfig
from annyfit_jax.training.training_config import OptimiserConfig, TrainConfig

SIDE = 168


def get_config() -> TrainConfig:
    network = MultiHmrConfig(
        size=SIDE, vit=VitConfig(128, 4, 4, table=12), head=HeadConfig(128, 2, 4, 32, 256), max_people=8
    )
    return TrainConfig(
        regressor=MultiHmrRegressor(network, LossConfig(j3d=20.0, v3d=20.0, j2d=0.02, v2d=0.02)),
        feed=MultiHmrFeed((FitSet("fits", 1.0),), side=SIDE, max_people=8),
        optimiser=OptimiserConfig(lr=5e-4, backbone=1.0, weight_decay=0.01, clip=1.0, ema=0.99, warmup_steps=50),
        steps=4000,
        batch=16,
        log_every=50,
        checkpoint_every=500,
        reader_threads=2,
    )
