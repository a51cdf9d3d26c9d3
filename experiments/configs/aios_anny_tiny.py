"""A small AiOS with Anny's head on small pictures: to overfit a few scenes on a CPU, and for ablations at that scale.

--set=feed.sets.fits.path=DATASET --set=regressor.config.attention=full
"""

from annyfit_jax.regressors.aios.aios_config import ANNY, loss_config, tiny
from annyfit_jax.regressors.aios.aios_feed import AiosFeed, DataSet
from annyfit_jax.regressors.aios.aios_regressor import AiosRegressor
from annyfit_jax.regressors.aios.augment import Augmentation
from annyfit_jax.training.training_config import OptimiserConfig, TrainConfig

SIDE = 160


def get_config() -> TrainConfig:
    # A camera of the published 5000 pixels would move people by 5000 times as many pixels as a step changes its output.
    network = tiny(
        body=ANNY, heads=4, points=2, encoder_layers=1, queries=20, people=5, denoising=10, focal=600.0,
        sampling_bytes=2**20,
    )  # fmt: skip
    loss = loss_config("released", slips=False, shape=1.0, oks_face=0.5, rotation_body=1.0)
    return TrainConfig(
        regressor=AiosRegressor(network, loss),
        feed=AiosFeed(
            (DataSet("fits", 1.0, kind="fits", crop=0.0),),
            head=ANNY,
            augmentation=Augmentation.none(short_side=SIDE, long_limit=SIDE),
            max_people=3,
            buckets=((SIDE, SIDE),),
        ),
        optimiser=OptimiserConfig(
            lr=1e-3, backbone=1.0, clip=1.0, ema=0.99, warmup_steps=50, milestones=(1200,), drop=0.3
        ),
        steps=1600,
        batch=8,
        log_every=50,
        checkpoint_every=500,
        reader_threads=2,
    )
