"""The default with starts from the lifter alone, without a search: the same objective in less time.

    annyfit fit --input=annotations.json --images=DIR --output=OUT --config=annyfit_lifted

What is better and what is worse than by the search: experiments/results/lifter.md.
"""

from annyfit_jax.fit.config import FitConfig, LevenbergMarquardt, MapObjective

FACE = ("oris", "levator", "eye", "temporalis", "orbicularis", "oculi", "risorius", "jaw", "tongue", "special")
DIGITS = ("toe", "finger", "metacarpal")


def get_config() -> FitConfig:
    """The MAP objective from three hypotheses of the lifter."""
    return FitConfig(
        stages=(),
        frozen_bones=FACE + DIGITS,
        solver="lm",
        lm=LevenbergMarquardt(),
        map=MapObjective(starts=0, lifted=3),
    )
