"""What a trainer and a predictor may expect of a network: a model, a loss and a config.

    variables = regressor.init(key)
    constants = regressor.constants()
    (value, metrics), gradient = jax.value_and_grad(regressor.loss, has_aux=True)(variables, constants, batch, key)

Everything static is in the regressor (hashable, a static argument of `jit`); everything else is an argument. `loss` and
`predict` are pure and know nothing of devices: sums over the batch are over the global batch when it is sharded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeVar

import jax
from jaxtyping import Array, Float

Group = Literal["frozen", "backbone", "rest"]
"""How a variable is trained: not at all, with the (smaller) step size of the backbone, or with the full one."""

Variables = Any
"""A pytree of arrays: parameters and frozen statistics."""
Constants = Any
"""A pytree of arrays that are no variables: the body model."""

Batch_contra = TypeVar("Batch_contra", contravariant=True)
Prediction_co = TypeVar("Prediction_co", covariant=True)


class Regressor(Protocol[Batch_contra, Prediction_co]):
    """A network that regresses people from an image, with the loss it is trained on."""

    def init(self, key: jax.Array) -> Variables:
        """Variables to train from scratch."""
        ...

    def constants(self) -> Constants:
        """Arrays that `loss` needs besides the variables; loaded once, passed to every step."""
        ...

    def loss(
        self, variables: Variables, constants: Constants, batch: Batch_contra, key: jax.Array
    ) -> tuple[Float[Array, ""], Mapping[str, Float[Array, ""]]]:
        """The training loss of a batch and its unweighted terms. `key` decides everything random in it."""
        ...

    def predict(self, variables: Variables, batch: Batch_contra, threshold: float) -> Prediction_co:
        """People of a batch, scored; targets in the batch are not looked at."""
        ...

    def groups(self, variables: Variables) -> Any:
        """The `Group` of every variable, as a pytree of the same structure."""
        ...
