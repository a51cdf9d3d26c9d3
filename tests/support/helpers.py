"""Paths and small numeric helpers shared by the tests."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

REPO = Path(__file__).resolve().parents[2]
GOLDENS = REPO / "tests" / "goldens"
SHARED = REPO.parent / "shared"
HANG_S = 3600
"""A process that says nothing for so long hangs. No test may need it: a machine that is slow or busy is not a failure."""


def require_shared(path: str | Path) -> Path:
    """`SHARED / path`, or skip the calling test when that data is not beside the repository."""
    full = SHARED / path
    if not full.exists():
        pytest.skip(f"shared data not present: {Path('..') / 'shared' / path}")
    return full


@functools.cache
def anny_golden() -> dict[str, np.ndarray]:
    """Official numbers of `anny` 0.6.2 (float64); block layout in the README of the shared goldens."""
    return read_only(GOLDENS / "anny_golden.npz")


def read_only(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file, which nobody may write to: the tests of a process share them."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def max_abs(actual, expected) -> float:
    """Largest absolute difference, NaN if anything is NaN. Shapes must agree: broadcasting would hide a missing axis."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shapes differ: {actual.shape} and {expected.shape}"
    return float(np.abs(actual - expected).max())


def max_relative(actual, expected) -> float:
    """Largest difference of each leading-axis entry relative to that entry's largest value; the worst over entries."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shapes differ: {actual.shape} and {expected.shape}"
    axes = tuple(range(1, actual.ndim))
    error, scale = np.abs(actual - expected).max(axes), np.abs(expected).max(axes)
    return float((error / np.maximum(scale, 1e-12)).max())


def stored_error(actual, stored: np.ndarray) -> float:
    """Largest difference beyond what rounding to the golden's float32 storage explains."""
    actual = np.asarray(actual, np.float64)
    assert actual.shape == stored.shape, f"shapes differ: {actual.shape} and {stored.shape}"
    rounding = np.spacing(np.abs(stored)).astype(np.float64) / 2
    return float((np.abs(actual - stored.astype(np.float64)) - rounding).max())
