"""Linear fields against NumPy, their gradients, and how host arrays come to the device."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax import monitoring

from body_models import linear


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (3, 5), basis (4, 3, 5), coefficients (4, 2) of two people."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 5)), rng.normal(size=(4, 3, 5)), rng.normal(size=(4, 2))


def test_a_field_is_its_mean_and_its_changes(arrays, x64):
    mean, basis, z = arrays
    field = linear.field(mean, basis, np.float64)
    expected = mean[..., None] + np.einsum("kij,kn->ijn", basis, z)
    np.testing.assert_allclose(jax.jit(linear.evaluate)(field, z), expected, atol=1e-14)
    np.testing.assert_array_equal(field.basis, basis)
    chosen = field.select((slice(None), np.array([3, 0])))
    np.testing.assert_allclose(jax.jit(linear.evaluate)(chosen, z), expected[:, [3, 0]], atol=1e-14)


def test_the_gradient_is_the_transpose_and_the_matrix_has_none(arrays, x64):
    mean, basis, z = arrays
    field, weights = linear.field(mean, basis, np.float64), np.random.default_rng(1).normal(size=(3, 5, 2))
    of_field, of_z = jax.jit(jax.grad(lambda f, z: (weights * linear.evaluate(f, z)).sum(), argnums=(0, 1)))(field, z)
    np.testing.assert_allclose(of_z, np.einsum("kij,ijn->kn", basis, weights), atol=1e-14)
    assert not np.asarray(of_field.matrix.rows).any() and not np.asarray(of_field.matrix.columns).any()


def test_a_basis_of_another_shape_is_refused(arrays):
    mean, basis, _ = arrays
    with pytest.raises(ValueError, match=r"basis must be \(rank, 3, 5\), got \(4, 3, 4\)"):
        linear.field(mean, basis[..., :4], np.float32)


def test_host_arrays_come_to_the_device_without_a_program():
    """Also transposed ones, of another type, and numbers."""
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        compiled.append(event)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        for host in (
            np.arange(6.0).reshape(2, 3),
            np.arange(6, dtype=np.float32).reshape(2, 3).T,
            np.float64(2.5),
            [1, 2],
        ):
            moved = linear.on_device(host, np.float32)
            assert isinstance(moved, jax.Array) and moved.dtype == np.float32
            np.testing.assert_array_equal(moved, np.asarray(host, np.float32), strict=True)
        assert not any("compile" in name for name in compiled)
        jax.jit(lambda x: x + 17.25)(np.ones((7, 3), np.float32))
        assert any("compile" in name for name in compiled)  # the listener hears of programs
    finally:
        monitoring.unregister_event_duration_listener(listen)
