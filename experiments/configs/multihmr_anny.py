"""Multi-HMR (Anny), ViT-L at 672, trained on fits of photos mixed with synthetic scenes.

--set=feed.sets.fits.path=DATASET --set=feed.sets.synthetic.path=DATASET --set=start_from=dinov2_vitl14_pretrain.pth

The official checkpoint's learning rate, weights and mixture are not published; 600 000 steps and the two kinds of data are.
"""

from annyfit_jax.regressors.multihmr.multihmr_config import MultiHmrConfig
from annyfit_jax.regressors.multihmr.multihmr_feed import FitSet, MultiHmrFeed
from annyfit_jax.regressors.multihmr.multihmr_regressor import MultiHmrRegressor
from annyfit_jax.regressors.vit import VitConfig
from annyfit_jax.training.training_config import OptimiserConfig, TrainConfig


def get_config() -> TrainConfig:
    vit = VitConfig(1024, 24, 16, dtype="bfloat16", remat=True)
    return TrainConfig(
        regressor=MultiHmrRegressor(MultiHmrConfig(vit=vit)),
        feed=MultiHmrFeed((FitSet("fits", 0.5), FitSet("synthetic", 0.5)), colour=0.1),
        optimiser=OptimiserConfig(lr=1e-5, backbone=1.0, weight_decay=0.0, clip=1.0, warmup_steps=1000),
        steps=600_000,
        batch=32,
    )
