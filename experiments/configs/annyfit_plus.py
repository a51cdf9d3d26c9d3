"""The default: one objective for all cues, several starts, a second-order solver.

    annyfit fit --input=SCENES --output=OUT
    annyfit fit --input=annotations.json --images=DIR --output=OUT

Every improvement on the release (`annyfit.py`) is a switch of `map`: --set=map.gravity=false, --set=map.pose_prior=false.
"""

from annyfit_jax.fit.config import FitConfig, LevenbergMarquardt, MapObjective

FACE = ("oris", "levator", "eye", "temporalis", "orbicularis", "oculi", "risorius", "jaw", "tongue", "special")
DIGITS = ("toe", "finger", "metacarpal")


def get_config() -> FitConfig:
    """The MAP objective by Levenberg-Marquardt."""
    return FitConfig(
        stages=(),
        frozen_bones=FACE + DIGITS,
        solver="lm",
        lm=LevenbergMarquardt(),
        map=MapObjective(),
    )
