"""Distillation that runs on one CPU core in an hour: rendered scenes, an adult-biased teacher, students by quality and number
of their labels.

    python -m experiments.distill --config=experiments/configs/distill_tiny.py --output=OUT
"""

from dataclasses import replace

from annyfit_jax.distillation.distillation_config import DistillConfig, Labels, Scenes, Student
from annyfit_jax.records.settings import table
from annyfit_jax.regressors.multihmr.multihmr_config import HeadConfig, LossConfig, MultiHmrConfig
from annyfit_jax.regressors.multihmr.multihmr_feed import FitSet, MultiHmrFeed
from annyfit_jax.regressors.multihmr.multihmr_regressor import MultiHmrRegressor
from annyfit_jax.regressors.vit import VitConfig
from annyfit_jax.synthetic.world_config import CameraConfig, LayoutConfig, PeopleConfig, PoseConfig, WorldConfig
from annyfit_jax.training.training_config import OptimiserConfig, TrainConfig

SIDE, PEOPLE = 140, 3
ROUGH_START = ("map.pose_sd.limb=0.35", "map.pose_sd.spine=0.15", "map.pose_sd.pelvis=0.15", "map.root_sd=0.5")
"""The teacher's poses are rough: fits may go farther from them."""
ALL_AGES = {"single": 0.2, "family": 0.3, "friends": 0.1, "school": 0.1, "crowd": 0.3}


def world(name: str, **groups: float) -> WorldConfig:
    return WorldConfig(
        name=name,
        people=PeopleConfig(groups=table(**groups), max_people=PEOPLE),
        pose=PoseConfig(unusual=0.3, spread=0.8),
        layout=LayoutConfig(gap=(0.1, 0.6), behind=0.15, occluders=0.05),
        camera=CameraConfig(
            image_sizes=((224, 224),), fov_degrees=(45.0, 65.0), height=(0.9, 1.8), apparent=(0.6, 0.95), aim=0.04
        ),
    )


def get_config() -> DistillConfig:
    network = MultiHmrConfig(
        size=SIDE,
        vit=VitConfig(128, 3, 4, patch=20, table=7),
        head=HeadConfig(128, 2, 4, 32, 256),
        max_people=PEOPLE + 1,
    )
    # A network of this size cannot learn poses; the question is about distance and shape.
    loss = LossConfig(
        bce=2.0,
        offset=0.2,
        rotmat=0.02,
        shape=5.0,
        dist=10.0,
        transl=0.2,
        j3d=2.0,
        v3d=2.0,
        j2d=0.005,
        v2d=0.005,
        fov=0.2,
    )
    feed = MultiHmrFeed(
        (FitSet("labels", 0.75, in_memory=True), FitSet("synthetic", 0.25, in_memory=True)),
        side=SIDE,
        max_people=PEOPLE + 1,
        colour=0.1,
    )
    student = TrainConfig(
        regressor=MultiHmrRegressor(network, loss),
        feed=feed,
        optimiser=OptimiserConfig(
            lr=6e-4, backbone=1.0, weight_decay=0.05, clip=10.0, ema=0.99, warmup_steps=30, milestones=(300,), drop=0.2
        ),
        steps=400,
        batch=16,
        log_every=50,
        checkpoint_every=200,
        keep_checkpoints=1,
        reader_threads=1,
    )
    teacher = replace(
        student,
        feed=replace(feed, sets=(FitSet("synthetic", 1.0, in_memory=True),)),
        optimiser=replace(student.optimiser, lr=1.5e-3, warmup_steps=100, milestones=(1800,)),
        steps=2000,
        checkpoint_every=400,
    )
    everybody, adults = world("all_ages", **ALL_AGES), world("adults", adults=1.0)
    return DistillConfig(
        train=student,
        teacher=teacher,
        synthetic=Scenes(world=adults, seed=11, count=2500),
        stream=Scenes(world=everybody, seed=21, count=1024),
        held_out=Scenes(world=everybody, seed=31, count=256),
        labels=(
            Labels("fits", set=ROUGH_START),
            Labels("points", set=ROUGH_START, cues=()),
            Labels("fits_all", set=ROUGH_START, threshold=0.0),
            Labels("points_all", set=ROUGH_START, cues=(), threshold=0.0),
            Labels("raw", source="teacher"),
            Labels("truth", source="truth"),
        ),
        students=(
            Student("fits", "fits", title="our fits"),
            Student("raw", "raw", title="raw predictions"),
            Student("truth", "truth", title="true labels (ceiling)"),
            Student("points", "points", title="fits to 2D points alone"),
            Student("fits_4", "fits", every=4, title="our fits, every 4th scene"),
            Student("fits_16", "fits", every=16, title="our fits, every 16th scene"),
            Student("fits_uncertain", "fits", uncertainty=True, title="our fits, weighted by their spread"),
            Student("fits_all", "fits_all", title="our fits, nobody left out"),
            Student("points_all", "points_all", title="fits to 2D points alone, nobody left out"),
        ),
        ceiling="truth",
        main="fits",
        batch=16,
    )
