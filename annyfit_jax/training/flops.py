"""Floating point operations of a computation, counted in its trace: products of matrices and convolutions, loops included.

XLA's own analysis counts the body of a loop once, whatever its length; a network that scans over layers needs this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax


def count(function: Callable[..., Any], *args: Any) -> float:
    """Operations of one call, multiplications and additions counted apart. Arguments may be shapes."""
    return _of(jax.make_jaxpr(function)(*args).jaxpr)


def _of(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _matrix_product(equation)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "scan":
            total += parameters["length"] * _of(parameters["jaxpr"].jaxpr)
        elif name == "cond":
            total += max(_of(branch.jaxpr) for branch in parameters["branches"])
        else:  # `pjit`, `remat`, custom derivatives; a `while` counts once, for its length is not known
            total += sum(_of(inner) for value in parameters.values() for inner in _jaxprs(value))
    return total


def _jaxprs(value: Any) -> list[Any]:
    if hasattr(value, "eqns"):
        return [value]
    if hasattr(value, "jaxpr"):
        return _jaxprs(value.jaxpr)
    return []


def _matrix_product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: Any) -> float:
    kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * math.prod(out) * math.prod(kernel) / outputs
