"""Where the members of a group stand, sit and crawl: formations on the ground, nobody inside anybody else (numpy).

World axes: the ground is z = 0, z up; the camera looks along y, x is to its right. A body without yaw faces the camera (-y).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from annyfit_jax.people.scene import COCO17
from annyfit_jax.synthetic.world_config import LayoutConfig

_J = {name: i for i, name in enumerate(COCO17)}
_LIMBS = tuple(
    (f"{s}_{a}", f"{s}_{b}", radius)
    for s in ("left", "right")
    for a, b, radius in (
        ("shoulder", "elbow", 0.11),
        ("elbow", "wrist", 0.09),
        ("hip", "knee", 0.17),
        ("knee", "ankle", 0.12),
    )
)
_ALONG = np.array([0.2, 0.5, 0.8, 1.0])
_BEYOND = {"elbow": 1.45, "knee": 1.15}
"""The last sphere of a limb that ends at the wrist or ankle is as far out as the hand or foot."""
_PUSHES = 120
_SPREAD_AFTER = 40
_NEIGHBOUR_M = 0.75
_BOX_CORNERS = np.array([[x, y, z] for z in (0, 1) for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))])
BOX_FACES = np.array(
    [[0, 2, 1], [0, 3, 2], [4, 5, 6], [4, 6, 7], [0, 1, 5], [0, 5, 4], [1, 2, 6], [1, 6, 5], [2, 3, 7], [2, 7, 6],
     [3, 0, 4], [3, 4, 7]]
)  # fmt: skip
"""Outward triangles of `box`."""


@dataclass(frozen=True)
class Arrangement:
    """Places of n people."""

    yaw: Float[np.ndarray, "n"]
    """Turn about z, radians; 0 faces the camera."""
    position: Float[np.ndarray, "n 2"]
    """x, y of the body's origin, metres; the group is about (0, 0)."""


def limb_spheres(joints: Float[np.ndarray, "n 17 3"]) -> tuple[Float[np.ndarray, "n k 3"], Float[np.ndarray, "n k"]]:
    """Centres and radii of spheres that fill a body's limbs, trunk and head; radii as shares of the trunk's length."""
    shoulders, hips, ears = (
        joints[:, [_J[f"left_{part}"], _J[f"right_{part}"]]].mean(1) for part in ("shoulder", "hip", "ear")
    )
    trunk = np.linalg.norm(shoulders - hips, axis=-1)[:, None]
    centres, radii = [], []

    def along(start: np.ndarray, end: np.ndarray, shares: np.ndarray, radius: float) -> None:
        centres.append(start[:, None] + shares[:, None] * (end - start)[:, None])
        radii.append(np.repeat(radius * trunk, len(shares), axis=1))

    for first, second, radius in _LIMBS:
        shares = _ALONG.copy()
        shares[-1] = _BEYOND.get(first.split("_")[1], 1.0)
        along(joints[:, _J[first]], joints[:, _J[second]], shares, radius)
    side = 0.5 * (joints[:, _J["left_shoulder"]] - joints[:, _J["right_shoulder"]])
    for sign in (-0.55, 0.55):
        along(shoulders + sign * side, hips + 0.8 * sign * side, np.array([0.1, 0.5, 0.95]), 0.24)
    along(shoulders, ears, np.array([0.6, 1.0, 1.3]), 0.24)
    return np.concatenate(centres, axis=1), np.concatenate(radii, axis=1)


def arrange(
    rng: np.random.Generator,
    kind: str,
    centres: Float[np.ndarray, "n k 3"],
    radii: Float[np.ndarray, "n k"],
    config: LayoutConfig,
) -> Arrangement:
    """Formation of a group of a kind (`population.GROUPS`); `centres` and `radii` are the bodies' limb spheres without yaw.

    People are pushed apart until their spheres are `config.gap` apart (one draw for the group).
    """
    n = len(centres)
    formations = list(_SHARES[kind])
    shares = np.array([_SHARES[kind][name] for name in formations])
    yaw, position = _FORMATIONS[formations[int(rng.choice(len(shares), p=shares / shares.sum()))]](rng, n)
    for person in range(1, n):
        if rng.random() < config.behind:
            front = int(rng.integers(person))
            position[person] = position[front] + [rng.normal(0.0, 0.18), rng.uniform(0.4, 1.2)]
    view = rng.normal(0.0, 0.4)  # the camera is not always square to the formation
    turn = np.array([[np.cos(view), -np.sin(view)], [np.sin(view), np.cos(view)]])
    yaw, position = yaw + view, position @ turn.T
    position = push_apart(rng, _turned(centres, yaw), radii, position, rng.uniform(*config.gap))
    return Arrangement(yaw, position - position.mean(0))


def overlaps(
    centres: Float[np.ndarray, "n k 3"], radii: Float[np.ndarray, "n k"], position: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n n"]:
    """Depth by which the spheres of two people overlap at most, metres; negative = free space; the diagonal is -inf."""
    n, k = radii.shape
    placed = centres.copy()
    placed[..., :2] += position[:, None]
    flat = placed.reshape(-1, 3)
    square = (flat**2).sum(-1)
    distance = np.sqrt(np.maximum(square[:, None] + square - 2.0 * flat @ flat.T, 0.0))
    depth = (radii.reshape(-1, 1) + radii.reshape(-1) - distance).reshape(n, k, n, k).max((1, 3))
    np.fill_diagonal(depth, -np.inf)
    return depth


def push_apart(
    rng: np.random.Generator, centres: np.ndarray, radii: np.ndarray, position: np.ndarray, gap: float
) -> Float[np.ndarray, "n 2"]:
    """Positions at which everybody is `gap` metres from everybody else."""
    position = position.copy()
    for push in range(_PUSHES):
        depth = overlaps(centres, radii, position) + gap
        if (depth <= 1e-3).all():
            break
        for a, b in np.argwhere(np.triu(depth > 1e-3)):
            apart = position[b] - position[a]
            if np.linalg.norm(apart) < 1e-3:
                apart = rng.normal(size=2)
            step = 0.5 * depth[a, b] * apart / np.linalg.norm(apart)
            position[a] -= step
            position[b] += step
        if push >= _SPREAD_AFTER:  # a deadlock: more room for all
            position *= 1.1
    return position


def box(centre: Float[np.ndarray, "2"], size: Float[np.ndarray, "3"], yaw: float) -> Float[np.ndarray, "8 3"]:
    """Corners of a box on the ground; size along its own x, y, z."""
    corners = _BOX_CORNERS * size
    cos, sin = np.cos(yaw), np.sin(yaw)
    corners[:, :2] = corners[:, :2] @ np.array([[cos, sin], [-sin, cos]]) + centre
    return corners


# ------------------------------------------------------------------------------------------------ formations


def _row(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """For a photo: side by side, in two rows from five on, facing the camera."""
    behind = (np.arange(n) % 2) * (n >= 5)
    order = rng.permutation(n)
    x = np.where(n >= 5, np.arange(n) * 0.5, np.arange(n)) * _NEIGHBOUR_M
    position = np.stack([x, behind * 0.9 + rng.normal(0, 0.12, n)], axis=1)
    return rng.normal(0.0, 0.35, n), position[order]


def _circle(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Facing each other."""
    angle = rng.uniform(0, 2 * np.pi) + 2 * np.pi * (np.arange(n) + rng.normal(0, 0.1, n)) / n
    radius = max(0.5, 0.13 * n * _NEIGHBOUR_M + 0.25)
    position = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    # A body without yaw faces -y; it has to face -position.
    return np.arctan2(-position[:, 0], position[:, 1]) + rng.normal(0, 0.3, n), position


def _together(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """One heading."""
    heading = rng.uniform(-np.pi, np.pi)
    position = rng.uniform(-0.5, 0.5, (n, 2)) * np.sqrt(n) * 0.9
    return heading + rng.normal(0, 0.25, n), position


def _scatter(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(0.0, 1.2, n), rng.uniform(-0.5, 0.5, (n, 2)) * np.sqrt(n) * 1.7


_FORMATIONS: dict[str, Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]] = {
    "row": _row, "circle": _circle, "together": _together, "scatter": _scatter,
}  # fmt: skip
_SHARES: dict[str, dict[str, float]] = {
    "single": {"row": 0.6, "scatter": 0.4},
    "couple": {"row": 0.55, "circle": 0.2, "together": 0.25},
    "family": {"row": 0.5, "circle": 0.15, "together": 0.2, "scatter": 0.15},
    "friends": {"row": 0.4, "circle": 0.25, "together": 0.25, "scatter": 0.1},
    "school": {"row": 0.5, "circle": 0.2, "scatter": 0.3},
    "crowd": {"row": 0.1, "together": 0.3, "scatter": 0.6},
    "adults": {"row": 0.3, "circle": 0.1, "together": 0.25, "scatter": 0.35},
}


def _turned(points: Float[np.ndarray, "n k 3"], yaw: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n k 3"]:
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1)
