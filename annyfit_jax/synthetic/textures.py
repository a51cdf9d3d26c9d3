"""Procedural noise (numpy), the same in every process."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float, Int

_SIDE = 256
_MASK = _SIDE - 1


@functools.cache
def _tiles() -> Float[np.ndarray, "tile 256 256"]:
    """Four tileable noise images of mean 0 and standard deviation 1: octaves of smoothed white noise, coarse to fine."""
    rng = np.random.default_rng(20240501)
    frequency = np.fft.fftfreq(_SIDE)
    radius = np.hypot(frequency[:, None], frequency[None]) + 1.0 / _SIDE
    tiles = []
    for slope in (2.0, 1.5, 1.0, 0.3):  # spectral slope: clouds, plaster, soil, grain
        spectrum = np.fft.fft2(rng.normal(size=(_SIDE, _SIDE))) / radius**slope
        spectrum[0, 0] = 0.0
        tile = np.fft.ifft2(spectrum).real
        tiles.append(tile / tile.std())
    return np.stack(tiles).astype(np.float32)


CLOUDS, PLASTER, SOIL, GRAIN = range(4)


def noise(
    kind: int, u: Float[np.ndarray, "*p"], v: Float[np.ndarray, "*p"], smooth: bool = False
) -> Float[np.ndarray, "*p"]:
    """Noise at tile coordinates (period 256), float32, mean 0 and standard deviation 1; nearest neighbour, or bilinear."""
    tile = _tiles()[kind].ravel()
    if not smooth:
        return tile[_cell(u) * _SIDE + _cell(v)]
    low_u, low_v = np.floor(u), np.floor(v)
    s, t = (u - low_u).astype(np.float32), (v - low_v).astype(np.float32)
    i, j = _cell(low_u), _cell(low_v)
    k, m = (i + 1) & _MASK, (j + 1) & _MASK
    first = (1 - t) * tile[i * _SIDE + j] + t * tile[i * _SIDE + m]
    second = (1 - t) * tile[k * _SIDE + j] + t * tile[k * _SIDE + m]
    return (1 - s) * first + s * second


def _cell(x: np.ndarray) -> Int[np.ndarray, "*p"]:
    return np.floor(x).astype(np.int64) & _MASK


def hashed(kind: int, i: Int[np.ndarray, "*p"], j: Int[np.ndarray, "*p"]) -> Float[np.ndarray, "*p"]:
    """One random number per pair of integers (bricks, tiles, planks)."""
    return _tiles()[kind].ravel()[((i * 73 + j * 151) & _MASK) * _SIDE + ((i * 199 + j * 37) & _MASK)]
