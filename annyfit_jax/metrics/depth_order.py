"""Order of people in depth: the percentage of correct relative depths, published and plain. Pure numpy; metres."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

EQUAL_DEPTH_M = 0.2
MISS_FINE = 0.3
"""Share of a wrong pair that a missed person counts as."""
AGE_NAMES = ("adult", "teen", "kid", "baby")
"""Age codes 0 to 3 of Relative Human; -1 is unknown."""


def depth_relation(difference: Float[np.ndarray, "*batch"], equal: float = EQUAL_DEPTH_M) -> Int[np.ndarray, "*batch"]:
    """1 where a depth difference exceeds `equal` metres, -1 where it is below -`equal`, else 0."""
    return np.where(difference > equal, 1, np.where(difference < -equal, -1, 0))


def ordered_pairs(depth: Float[np.ndarray, "n"], layer: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "pairs"]:
    """Per pair of people in different depth layers: whether the one in the nearer layer (smaller number) is nearer.

    People without a layer (-1) or without a finite depth make no pair; equal depths are wrong. The mean of the result is the
    share of correctly ordered pairs.
    """
    depth, layer = np.asarray(depth, np.float64), np.asarray(layer)
    if depth.shape != layer.shape or depth.ndim != 1:
        raise ValueError(f"ordered_pairs: expected depth (n,) and layer (n,), got {depth.shape} and {layer.shape}")
    use = (layer >= 0) & np.isfinite(depth)
    depth, layer = depth[use], layer[use].astype(np.int64)
    i, j = np.triu_indices(len(depth), 1)
    different = layer[i] != layer[j]
    i, j = i[different], j[different]
    return np.sign(depth[i] - depth[j]) == np.sign(layer[i] - layer[j])


class DepthPairs(NamedTuple):
    """Pairs of labelled people of one image."""

    right: Bool[np.ndarray, "pairs"]
    relation: Int[np.ndarray, "pairs"]
    """0 equal, -1 the second is nearer, 1 farther."""
    ages: Int[np.ndarray, "pairs 2"]
    """Age codes of the two people."""


def depth_pairs(
    depth: Float[np.ndarray, "n"], layer: Int[np.ndarray, "n"], age: Int[np.ndarray, "n"], equal: float = EQUAL_DEPTH_M
) -> DepthPairs:
    """Pairs (i, j > i) of people with a depth layer, and whether their depths are rightly related (BEV, PCDR^0.2).

    With dl = layer_j - layer_i and dz = z_j - z_i: right if dl = 0 and |dz| < `equal`, dl < 0 and dz < -`equal`, or dl > 0
    and dz > `equal`. A depth that is not finite is wrong.
    """
    depth, layer, age = np.asarray(depth, np.float64), np.asarray(layer, np.int64), np.asarray(age, np.int64)
    if not depth.shape == layer.shape == age.shape or depth.ndim != 1:
        raise ValueError(f"depth_pairs: expected three arrays (n,), got {depth.shape}, {layer.shape}, {age.shape}")
    use = layer != -1
    depth, layer, age = depth[use], layer[use], age[use]
    i, j = np.triu_indices(len(depth), 1)
    relation = np.sign(layer[j] - layer[i])
    dz = depth[j] - depth[i]
    right = np.where(relation == 0, np.abs(dz) < equal, relation * dz > equal)
    return DepthPairs(right, relation, np.stack([age[i], age[j]], 1).reshape(-1, 2))


def pcrd(pairs: DepthPairs, missed_ages: Int[np.ndarray, "k"]) -> dict[str, float]:
    """Published PCRD: right pairs / (pairs + 0.3 x missed people), overall and per age class.

    Keys `PCRD_0.2`, `PCRD_0.2_<class>`; a class counts the pairs with at least one of its members and the misses of its own;
    without such a pair it is NaN. A missed person counts whether or not it has a depth layer.
    """
    missed_ages = np.asarray(missed_ages)
    out = {"PCRD_0.2": _share(pairs.right, MISS_FINE * len(missed_ages))}
    for code, name in enumerate(AGE_NAMES):
        member = (pairs.ages == code).any(1)
        fine = MISS_FINE * int((missed_ages == code).sum())
        out[f"PCRD_0.2_{name}"] = _share(pairs.right[member], fine) if member.any() else float("nan")
    return out


def _share(right: np.ndarray, fine: float) -> float:
    whole = len(right) + fine
    return float(right.sum() / whole) if whole else float("nan")
