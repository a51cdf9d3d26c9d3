"""A made-up labelled picture for the feed of AiOS."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from annyfit_jax.regressors.aios import examples
from annyfit_jax.regressors.aios.aios_config import SMPLX
from annyfit_jax.regressors.aios.examples import Example
from annyfit_jax.regressors.aios.targets import PartArrays

WIDTH, HEIGHT = 60, 40


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def example(seed: int = 0, head=SMPLX, n: int = 3) -> Example:
    """People inside the picture, everything known."""
    rng = np.random.default_rng(seed)
    full = np.array([WIDTH, HEIGHT])

    def joints(*shape: int) -> np.ndarray:
        return np.concatenate([rng.uniform(0, full - 1, (*shape, 2)), np.ones((*shape, 1))], -1)

    low, high = np.sort(rng.uniform(0, 1, (2, n, 2)), axis=0) * full
    rotvecs = PartArrays(*(rng.normal(size=(n, len(bones), 3)).astype(np.float32) for bones in head.parts.values()))
    valid = PartArrays(*(np.ones(x.shape[:2], np.float32) for x in rotvecs))
    points = 137 if head is SMPLX else 0
    body: Any = (
        rotvecs,
        valid,
        rng.uniform(size=(n, head.shape)),
        np.ones(n),
        np.zeros((n, head.expression)),
        np.ones(n),
    )
    return Example(
        name="drawn", photo=png(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)), size=(WIDTH, HEIGHT),
        boxes=np.concatenate([low, high - low], 1), part_boxes=rng.uniform(5, 15, (n, 3, 4)), body_joints=joints(n, 17),
        part_joints=joints(n, 3, 6), body=examples._body(*body), points=rng.normal(size=(n, points, 4)),
        image_points=joints(n, points), transl=rng.normal(size=(n, 3)) + np.array([0, 0, 5]),
        intrinsics=np.array([[70.0, 0, 31], [0, 72, 19], [0, 0, 1]]), has_3d=1.0,
    )  # fmt: skip
