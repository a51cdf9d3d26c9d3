"""Linear fields x(z) = mean + sum_k z_k basis_k of many people at once: rest vertices, joints and moments of a body.

The people are the last axis, so a field is a product of a constant matrix with a thin one. On CPUs such a product runs two to
eight times faster along the rows of the matrix than along its columns, and the gradient needs the transpose: both are kept.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

PRECISION = jax.lax.Precision.HIGHEST
"""Of every matrix product of a body: accelerators otherwise round float32 operands to 10 bits, which is a millimetre."""


@struct.dataclass
class Matrix:
    """A constant matrix. It gets no gradient."""

    rows: Float[Array, "out in"]
    columns: Float[Array, "in out"]
    """Its transpose."""


@struct.dataclass
class Field:
    """mean + sum_k z_k basis_k. The basis gets no gradient."""

    mean: Float[Array, "*shape"]
    matrix: Matrix

    @property
    def rank(self) -> int:
        """How many coefficients k the field has."""
        return self.matrix.columns.shape[0]

    @property
    def basis(self) -> Float[Array, "rank *shape"]:
        """basis_k, the change per unit of each coefficient."""
        return self.matrix.columns.reshape(self.rank, *self.mean.shape)

    def select(self, index: Any) -> Field:
        """The field of `mean[index]`; on the host."""
        whole = np.asarray(self.matrix.columns).reshape(self.rank, *self.mean.shape)
        basis = whole[(slice(None), *(index if isinstance(index, tuple) else (index,)))]
        return field(np.asarray(self.mean)[index], basis, self.mean.dtype)


def on_device(values: Any, dtype: Any) -> jax.Array:
    """Host values as a contiguous device array. `jnp.asarray` would compile a program of its own for every shape."""
    return jax.device_put(np.ascontiguousarray(np.asarray(values, dtype)).reshape(np.shape(values)))


def matrix(rows: Float[np.ndarray, "out in"], dtype: Any) -> Matrix:
    """From a host array."""
    return Matrix(on_device(rows, dtype), on_device(np.transpose(rows), dtype))


def field(mean: Float[np.ndarray, "*shape"], basis: Float[np.ndarray, "rank *shape"], dtype: Any) -> Field:
    """From host arrays. Raises ValueError where their shapes do not belong together."""
    mean, basis = np.asarray(mean), np.asarray(basis)
    if basis.shape[1:] != mean.shape:
        raise ValueError(f"linear field: basis must be (rank, {', '.join(map(str, mean.shape))}), got {basis.shape}")
    return Field(on_device(mean, dtype), matrix(basis.reshape(len(basis), math.prod(mean.shape)).T, dtype))


@jax.custom_vjp
def times(m: Matrix, z: Float[Array, "in person"]) -> Float[Array, "out person"]:
    """M z."""
    return jnp.matmul(m.rows, z, precision=PRECISION)


def _times_forward(m, z):
    return times(m, z), m.columns


def _times_backward(columns, g):
    return None, jnp.matmul(columns, g, precision=PRECISION)


times.defvjp(_times_forward, _times_backward)


def evaluate(field: Field, z: Float[Array, "rank person"]) -> Float[Array, "*shape person"]:
    """mean + sum_k z_k basis_k, people last."""
    return times(field.matrix, z).reshape(*field.mean.shape, z.shape[-1]) + field.mean[..., None]
