"""AiOS as released: SMPL-X, second phase, all sets. The sets are licensed; give their places with --set.

--set=feed.sets.agora.path=agora/*.npz --set=feed.sets.agora.images=agora/images ...
--set=feed.sets.ubody.probability=0                       leaves a set out
--set=regressor.body_file=SMPLX_NEUTRAL.npz --set=start_from=edpose_r50_coco.pth
"""

from annyfit_jax.regressors.aios.aios_config import AiosConfig, loss_config
from annyfit_jax.regressors.aios.aios_feed import AiosFeed, DataSet
from annyfit_jax.regressors.aios.aios_regressor import AiosRegressor
from annyfit_jax.training.training_config import OptimiserConfig, TrainConfig

# Paper, second phase. The released file has UBody .2 and EgoBody .1.
SETS = (
    DataSet("agora", 0.2, crop=0.7, subset=0.5),
    DataSet("bedlam", 0.2, crop=0.7, subset=0.6, every=5),
    DataSet("coco", 0.2, crop=0.7, subset=0.6, has_3d=False),
    DataSet("egobody", 0.2, every=2),
    DataSet("arctic", 0.1, every=1000),
    DataSet("ubody", 0.1, every=5),
)


def get_config() -> TrainConfig:
    return TrainConfig(
        regressor=AiosRegressor(AiosConfig(compute_dtype="bfloat16", remat=True), loss_config("released")),
        feed=AiosFeed(SETS),
        optimiser=OptimiserConfig(lr=1e-5, milestones=(100_000,)),
        steps=200_000,
        batch=32,
    )
