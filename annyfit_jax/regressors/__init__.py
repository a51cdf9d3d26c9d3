"""Networks that regress people from one image. A trainer knows them by
`annyfit_jax.training.protocol.Regressor`."""

from annyfit_jax.training.protocol import Regressor

__all__ = ["Regressor"]
