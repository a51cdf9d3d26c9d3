"""Better than the release: one MAP objective with noise-scaled terms, a closed-form start, a second-order solver.

    python -m experiments.fit --input=SCENES --output=OUT --config=experiments/configs/annyfit_plus.py

Every improvement is a switch of `map`: --set=map.metric_depth=false, --set=map.refit_start=false and so on.
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
