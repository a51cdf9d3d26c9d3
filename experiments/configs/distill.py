"""Distillation as published: 30 000 fitted photos mixed with synthetic scenes, ViT-L at 672 pixels, 600 000 steps.

    python -m experiments.distill --config=experiments/configs/distill.py --output=OUT --set=stream.path=CUES \\
        --set=synthetic.path=SCENES --set=held_out.path=OTHER_SCENES --set=checkpoint=multiHMR_672_L_anny.pt

CUES is a cue dataset of photos with their pictures (`experiments.precompute`); SCENES and OTHER_SCENES are cue datasets with
pictures and truth (`experiments.synthesize --render=picture`, or a converted BEDLAM). On several hosts the steps are run one by
one, see `experiments/launch/distill_slurm.sh`. Step size, weights and mixture are not published.
"""

from dataclasses import replace

from annyfit_jax.distillation.distillation_config import DistillConfig, Labels, Scenes, Student
from annyfit_jax.regressors.multihmr.multihmr_config import MultiHmrConfig
from annyfit_jax.regressors.multihmr.multihmr_feed import FitSet, MultiHmrFeed
from annyfit_jax.regressors.multihmr.multihmr_regressor import MultiHmrRegressor
from annyfit_jax.regressors.vit import VitConfig
from annyfit_jax.training.training_config import OptimiserConfig, TrainConfig


def get_config() -> DistillConfig:
    vit = VitConfig(1024, 24, 16, dtype="bfloat16", remat=True)
    feed = MultiHmrFeed((FitSet("labels", 0.5), FitSet("synthetic", 0.5)), colour=0.1)
    student = TrainConfig(
        regressor=MultiHmrRegressor(MultiHmrConfig(vit=vit)),
        feed=feed,
        optimiser=OptimiserConfig(lr=1e-5, backbone=1.0, weight_decay=0.0, clip=1.0, warmup_steps=1000),
        steps=600_000,
        batch=32,
    )
    return DistillConfig(
        train=student,
        teacher=replace(student, feed=replace(feed, sets=(FitSet("synthetic", 1.0),))),
        synthetic=Scenes(),
        stream=Scenes(),
        held_out=Scenes(),
        labels=(Labels("fits"),),
        students=(Student("fits", "fits"),),
        main="fits",
    )
