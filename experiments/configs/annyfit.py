"""Anny-Fit as released (demo configuration for Multi-HMR starts): three stages, 400 Adam steps.

    python -m experiments.fit --input=SCENES --output=OUT --config=experiments/configs/annyfit.py

Weights marked (inert) multiply the distance to the stage's own start in a group that is frozen there: exactly zero.
"""

from annyfit_jax.fit.config import FitConfig, PartFit, Stage
from annyfit_jax.records.settings import table

FACE = ("oris", "levator", "eye", "temporalis", "orbicularis", "oculi", "risorius", "jaw", "tongue", "special")
DIGITS = ("toe", "finger", "metacarpal")


def get_config() -> FitConfig:
    """The released schedule; `mesh='exact'` reproduces its numbers, the default samples the mesh regulariser."""
    evidence = {"keypoints": 0.01, "dense": 0.001, "words": 10.0}
    return FitConfig(
        stages=(
            Stage(
                name="translation",
                steps=100,
                lr=table(transl=0.01),
                weights=table(**evidence, pose_prior=10.0, shape_prior=10.0, depth_order=10.0),  # priors inert
            ),
            Stage(
                name="shape",
                steps=100,
                lr=table(transl=0.01, root_rotvec=0.01, shape=0.001),
                weights=table(**evidence, pose_prior=10.0, shape_prior=0.01, mesh_prior=0.01, depth_order=50.0),
            ),
            Stage(
                name="pose",
                steps=200,
                lr=table(transl=0.01, root_rotvec=0.01, shape=0.001, pose=0.001),
                weights=table(**evidence, pose_prior=0.01, shape_prior=5.0, mesh_prior=0.01),
            ),
        ),
        frozen_bones=FACE + DIGITS,
        parts=PartFit(on=False),  # the release moves neither fingers nor face
    )
