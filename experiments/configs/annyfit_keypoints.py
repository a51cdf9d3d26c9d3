"""The default with starts from 2D keypoints alone, also where the input brings a feed-forward estimate.

    annyfit fit --input=annotations.json --images=DIR --output=OUT --config=annyfit_keypoints

The default searches for starts itself where there is none: this config differs from it only for inputs with starts.
"""

from annyfit_jax.fit.config import FitConfig, LevenbergMarquardt, MapObjective

FACE = ("oris", "levator", "eye", "temporalis", "orbicularis", "oculi", "risorius", "jaw", "tongue", "special")
DIGITS = ("toe", "finger", "metacarpal")


def get_config() -> FitConfig:
    """The MAP objective from keypoint starts."""
    return FitConfig(
        stages=(),
        frozen_bones=FACE + DIGITS,
        start="keypoints",
        solver="lm",
        lm=LevenbergMarquardt(),
        map=MapObjective(),
    )
