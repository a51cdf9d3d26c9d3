"""What touches the ground, and the small turn of a body that brings it there (numpy).

World axes here: the body's own at rest, x its left, y its back, z up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

PARTS: dict[str, tuple[str, ...]] = {
    **{f"foot.{s}": (f"foot.{s}", *(f"toe{i}-{j}.{s}" for i in range(1, 6) for j in (1, 2, 3))) for s in "LR"},
    **{
        f"hand.{s}": (f"wrist.{s}", *(f"{p}{i}{j}.{s}" for p, js in (("finger", ("-1", "-2", "-3")), ("metacarpal", ("",)))
           for i in range(1, 6) for j in js))
        for s in "LR"
    },
    **{f"shin.{s}": (f"lowerleg01.{s}", f"lowerleg02.{s}") for s in "LR"},
    **{f"thigh.{s}": (f"upperleg01.{s}", f"upperleg02.{s}") for s in "LR"},
    **{f"forearm.{s}": (f"lowerarm01.{s}", f"lowerarm02.{s}") for s in "LR"},
    "seat": ("pelvis.L", "pelvis.R", "upperleg01.L", "upperleg01.R", "spine05"),
    "back": ("spine03", "spine02", "spine01", "clavicle.L", "clavicle.R", "shoulder01.L", "shoulder01.R"),
    "front": ("spine05", "spine04", "spine03", "breast.L", "breast.R"),
}  # fmt: skip
"""Bones of the parts that can touch the ground; a vertex belongs to the bone that moves it most."""
_ITERATIONS = 6


def part_vertices(dominant: Sequence[str]) -> dict[str, Int[np.ndarray, "k"]]:
    """Indices of the vertices of each part, from the name of each vertex's bone."""
    names = np.array(dominant)
    return {part: np.flatnonzero(np.isin(names, bones)) for part, bones in PARTS.items()}


def settle(
    vertices: Float[np.ndarray, "v 3"],
    parts: Mapping[str, Int[np.ndarray, "k"]],
    contacts: Sequence[str],
    pitch: float,
    max_tilt: float,
) -> Float[np.ndarray, "3"]:
    """Orientation (rotation vector) in which the lowest points of the contact parts are level.

    From the forward pitch, the body is turned about horizontal axes until the plane through the lowest point of every part
    (least squares; with two parts, about the axis across them) is level, by at most `max_tilt` radians in all.
    """
    nominal = np.array([pitch, 0.0, 0.0])
    members = [vertices[parts[name]] @ Rotation.from_rotvec(nominal).as_matrix().T for name in contacts]
    tilt = np.zeros(3)
    for _ in range(_ITERATIONS):
        turn = Rotation.from_rotvec(tilt).as_matrix()
        lowest = np.array([(part @ turn.T)[(part @ turn[2]).argmin()] for part in members])
        offset = lowest - lowest.mean(0)
        # Least norm: with two contacts nothing says how to turn about the line through them.
        slope = np.linalg.lstsq(offset[:, :2], offset[:, 2], rcond=1e-3)[0]
        # A turn by (a, b, 0) lifts a point (x, y) by a y - b x.
        tilt = tilt + np.array([-slope[1], slope[0], 0.0])
        size = np.linalg.norm(tilt)
        tilt = tilt * min(1.0, max_tilt / max(size, 1e-12))
    return (Rotation.from_rotvec(tilt) * Rotation.from_rotvec(nominal)).as_rotvec()
