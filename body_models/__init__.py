"""Functional body models in JAX: `anny` (bundled) and `smplx` (from your own official file)."""

OWNER = "annyfit-jax"
"""Tells this package from the PyPI distribution `body-models`, which owns the same import name."""
