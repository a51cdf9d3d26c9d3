"""Operations counted through loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from annyfit_jax.training import flops, training_metrics

# ------------------------------------------------------------------------------------------------ operations


def test_operations_are_counted_through_loops():
    a, b = jnp.zeros((3, 5)), jnp.zeros((5, 7))
    assert flops.count(lambda a, b: a @ b, a, b) == 2 * 3 * 5 * 7

    def looped(a, w):
        return jax.lax.scan(lambda x, _: (jax.checkpoint(lambda x: x @ w)(x), None), a, None, length=4)[0]

    assert flops.count(looped, a, jnp.zeros((5, 5))) == 4 * 2 * 3 * 5 * 5
    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 6))

    def convolve(x, k):
        return jax.lax.conv_general_dilated(x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert flops.count(convolve, image, kernel) == 2 * (2 * 4 * 4 * 6) * 3 * 3 * 3


def test_peaks_are_found_by_name():
    assert training_metrics.peak_tflops("NVIDIA H100 80GB HBM3") == 989.0
    assert training_metrics.peak_tflops("cpu") is None
