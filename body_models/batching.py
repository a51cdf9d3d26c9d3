"""From leading batch dimensions, as users write them, to people as the last axis, as the kinematics wants them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

AnyArray = Array | np.ndarray
"""What functions on parameters of a body take: NumPy's arrays as well."""


def people_last(
    fields: Sequence[tuple[str, AnyArray | None, tuple[int, ...]]], owner: str
) -> tuple[tuple[int, ...], list[Any]]:
    """Broadcast the leading dimensions of parameter arrays, flatten them and put them last.

    Args:
      fields: (name, array, trailing shape) each; an array (..., *trailing), or None for an absent optional parameter.
      owner: what the fields belong to, for the error message, e.g. `anny.Params`.

    Returns:
      The common batch shape, and per field an array (*reversed(trailing), N), or None. N is the product of the batch.

    Raises:
      ValueError: names the field and its expected shape, or all leading shapes when they do not broadcast.
    """
    leading = []
    for name, array, trailing in fields:
        if array is None:
            continue
        shape = jnp.shape(array)
        split = len(shape) - len(trailing)
        if split < 0 or shape[split:] != trailing:
            wanted = ", ".join(("...", *map(str, trailing)))
            raise ValueError(f"{owner}: {name} must be ({wanted}), got {shape}")
        leading.append((name, shape[:split]))
    try:
        batch = jnp.broadcast_shapes(*(shape for _, shape in leading))
    except ValueError:
        listed = ", ".join(f"{name} {shape}" for name, shape in leading)
        raise ValueError(f"{owner}: leading dimensions do not broadcast: {listed}") from None
    people = math.prod(batch)

    def last(array: AnyArray | None, trailing: tuple[int, ...]) -> Array | None:
        if array is None:
            return None
        full = jnp.broadcast_to(array, (*batch, *trailing)).reshape(people, *trailing)
        return full.transpose(*range(full.ndim - 1, 0, -1), 0)

    return tuple(int(n) for n in batch), [last(array, trailing) for _, array, trailing in fields]
