"""Deformable attention of AiOS against recordings and a plain interpolation."""

from __future__ import annotations

import aios_golden as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aios_parts import TOLERANCE, no_draws, sizes_of
from helpers import max_abs

from annyfit_jax.regressors.aios import (
    deformable,
)

# ------------------------------------------------------------------------------------------------ deformable attention


@pytest.mark.parametrize("step_bytes", [2**30, 12_000, 1], ids=["one step", "steps with a rest", "one query a step"])
def test_sampling_and_its_gradients(step_bytes):
    found = golden.arrays("msda")
    inputs = [jnp.asarray(found[f"core_{key}"]) for key in ("value", "loc", "attn")]
    sample = jax.jit(lambda v, x, a: deformable.sample(v, x, a, sizes_of(found), step_bytes))
    result, vjp = jax.vjp(sample, *inputs)
    assert max_abs(result.reshape(2, 6, 32), found["core_out"]) < TOLERANCE
    for gradient, key in zip(vjp(jnp.asarray(found["core_grad_out"]).reshape(result.shape)), ("value", "loc", "attn")):
        expected = found[f"core_grad_{key}"]
        assert max_abs(gradient, expected) < TOLERANCE * np.linalg.norm(expected), key


def test_sampling_equals_plain_bilinear_interpolation():
    """One level, one head, one point: numpy interpolation of an image with a border of zeros."""
    rng = np.random.default_rng(0)
    h, w = 5, 7
    value = rng.normal(size=(h, w)).astype(np.float32)
    where = rng.uniform(-0.3, 1.3, (40, 2)).astype(np.float32)
    framed = np.pad(value, 1).astype(np.float64)
    expected = []
    for x, y in where * [w, h] + 0.5:  # pixel index in the framed image
        x, y = np.clip(x, 0, w + 1 - 1e-9), np.clip(y, 0, h + 1 - 1e-9)
        j, i = int(x), int(y)
        a, b = x - j, y - i
        expected.append(
            (1 - b) * ((1 - a) * framed[i, j] + a * framed[i, j + 1])
            + b * ((1 - a) * framed[i + 1, j] + a * framed[i + 1, j + 1])
        )
    got = jax.jit(lambda values, places, weights: deformable.sample(values, places, weights, [(h, w)]))(
        value.reshape(1, -1, 1, 1), where.reshape(1, 40, 1, 1, 1, 2), np.ones((1, 40, 1, 1, 1), np.float32)
    )
    np.testing.assert_allclose(got.ravel(), expected, atol=1e-5)


def test_steps_bound_the_memory():
    """What XLA reserves for 4000 queries: in steps an eighth of the naive gather, forward and backward."""
    sizes = [(40, 60), (20, 30), (10, 15), (5, 8)]
    cells = sum(h * w for h, w in sizes)
    shapes = [(1, cells, 8, 32), (1, 4000, 8, 4, 4, 2), (1, 4000, 8, 4, 4)]
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def reserved(step_bytes: int, gradient: bool) -> int:
        def total(value: jax.Array, locations: jax.Array, weights: jax.Array) -> jax.Array:
            return jnp.square(deformable.sample(value, locations, weights, sizes, step_bytes)).sum()

        function = jax.grad(total, argnums=(0, 1, 2)) if gradient else total
        analysis = jax.jit(function).lower(*inputs).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    gathered = 4000 * 8 * 16 * 4 * 32 * 4
    assert reserved(2**40, False) > gathered
    assert reserved(gathered // 32, False) < gathered / 6
    assert reserved(gathered // 32, True) < gathered / 5


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="do not fit sizes"):
        deformable.sample(jnp.zeros((1, 5, 1, 1)), jnp.zeros((1, 1, 1, 1, 1, 2)), jnp.zeros((1, 1, 1, 1, 1)), [(2, 2)])


@pytest.mark.parametrize("case", ["ref2", "ref2_nomask", "ref4"])
def test_deformable_attention(case):
    found = golden.arrays("msda")
    module = golden.fill_module(
        lambda: deformable.DeformableAttention(32, 4, 3, 2, rngs=no_draws()), golden.under("w/", found),
        ("encoder", "layers", 0, "attention"), "transformer.encoder.layers.0.self_attn.",
    )  # fmt: skip
    references = jnp.asarray(found[case.removesuffix("_nomask")])
    padding = None if case.endswith("nomask") else jnp.asarray(found["padding_mask"])
    got = module(jnp.asarray(found["query"]), references, jnp.asarray(found["memory"]), padding, sizes_of(found))
    assert max_abs(got, found[f"out_{case}"]) < TOLERANCE


def test_first_offsets():
    expected = golden.arrays("msda")["init_sampling_offsets_bias"]
    assert max_abs(deformable.head_directions(8, 4, 4), expected) < 1e-5
