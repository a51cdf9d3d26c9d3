"""A small AiOS with Anny's head on small pictures: to overfit a few scenes on a CPU, and for ablations at that scale.

--set=feed.sets.fits.path=DATASET --set=regressor.config.attention=full
"""

from annyfit_jax.regressors.aios.augment import Augmentation
from annyfit_jax.regressors.aios.config import ANNY, loss_config, tiny
from annyfit_jax.regressors.aios.feed import AiosFeed, DataSet
from annyfit_jax.regressors.aios.regressor import AiosRegressor
from annyfit_jax.training.config import OptimiserConfig, TrainConfig


def get_config() -> TrainConfig:
    loss = loss_config("released", slips=False, shape=1.0, oks_face=0.5, rotation_body=1.0)
    return TrainConfig(
        regressor=AiosRegressor(tiny(body=ANNY), loss),
        feed=AiosFeed(
            (DataSet("fits", 1.0, kind="fits", crop=0.0),),
            head=ANNY,
            augmentation=Augmentation.none(short_side=128, long_limit=224),
            max_people=8,
            buckets=((224, 128), (128, 224), (160, 160), (224, 224)),
        ),
        optimiser=OptimiserConfig(lr=4e-4, backbone=1.0, clip=1.0, ema=0.99, warmup_steps=50, milestones=(3000,)),
        steps=4000,
        batch=8,
        log_every=50,
        checkpoint_every=500,
        reader_threads=2,
    )
