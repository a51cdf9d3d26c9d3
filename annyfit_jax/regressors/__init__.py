"""Networks that regress people from one image. `protocol.Regressor` is what a trainer may expect of each of them."""

from annyfit_jax.training.protocol import Regressor

__all__ = ["Regressor"]
