"""Rotation vectors on the host, in float64 (numpy)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def rotvec_to_matrix(rotvec: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Rodrigues' formula."""
    angle = np.linalg.norm(rotvec, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(rotvec, -1, 0)
    zero = np.zeros_like(x)
    skew = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    safe = np.maximum(angle, 1e-12)
    return np.eye(3) + np.sin(angle) / safe * skew + 2.0 * (np.sin(angle / 2) / safe) ** 2 * (skew @ skew)


def compose(a: Float[np.ndarray, "*batch 3"], b: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Rotation vector of R(a) R(b), angle at most pi; through quaternions, which are exact at every angle."""
    (wa, va), (wb, vb) = _quaternion(a), _quaternion(b)
    w = wa * wb - (va * vb).sum(-1, keepdims=True)
    v = wa * vb + wb * va + np.cross(va, vb)
    v = np.where(w < 0, -v, v)
    sine = np.linalg.norm(v, axis=-1, keepdims=True)
    angle = 2.0 * np.arctan2(sine, np.abs(w))
    return v * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2.0)


def _quaternion(rotvec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    angle = np.linalg.norm(rotvec, axis=-1, keepdims=True)
    return np.cos(angle / 2), rotvec * np.where(angle > 1e-12, np.sin(angle / 2) / np.maximum(angle, 1e-12), 0.5)
