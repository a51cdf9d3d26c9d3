"""Fits that start from 2D keypoints and words alone: no feed-forward estimator, no dense points needed.

    python -m experiments.fit --input=annotations.json --images=DIR --output=OUT

The three stages of Anny-Fit, with what a start without pose needs: larger steps, no pull to the (unknown) start pose,
joint limits so that elbows and knees bend the right way, and a weak pull to a relaxed pose.
"""

from annyfit_jax.fit.config import FitConfig, Stage
from annyfit_jax.records.settings import table

FACE = ("oris", "levator", "eye", "temporalis", "orbicularis", "oculi", "risorius", "jaw", "tongue", "special")
DIGITS = ("toe", "finger", "metacarpal")


def get_config() -> FitConfig:
    """Schedule for keypoint starts."""
    evidence = {"keypoints": 0.01, "dense": 0.001, "words": 10.0}
    body = {"joint_limits": 10.0, "relaxed_pose": 0.005}
    return FitConfig(
        stages=(
            Stage(
                name="translation",
                steps=60,
                lr=table(transl=0.02),
                weights=table(**evidence, depth_order=1.0),
            ),
            Stage(
                name="shape",
                steps=100,
                lr=table(transl=0.02, root_rotvec=0.02, shape=0.002),
                weights=table(**evidence, depth_order=1.0, shape_prior=5.0),
            ),
            Stage(
                name="pose",
                steps=400,
                lr=table(transl=0.01, root_rotvec=0.01, shape=0.001, pose=0.02),
                weights=table(**evidence, depth_order=1.0, shape_prior=5.0, **body),
            ),
        ),
        frozen_bones=FACE + DIGITS,
        start="keypoints",
    )
