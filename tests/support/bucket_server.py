"""A server of buckets that fails now and then, with the project pointed at it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from annyfit_jax.store import locations
from experiments.studies.faulty_s3 import FaultyS3


@contextlib.contextmanager
def failing_server(share: float, lag_s: float = 0.0) -> Iterator[FaultyS3]:
    """A running server that fails this share of the requests, and whose listings lag; skips where it is not installed."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    with FaultyS3(share=share, lag_s=lag_s) as made, pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment.items():
            patch.setenv(name, value)
        patch.setattr(locations, "FIRST_PAUSE_S", 0.005)
        locations._fs_of.cache_clear()
        yield made
    locations._fs_of.cache_clear()
