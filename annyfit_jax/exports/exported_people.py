"""What several formats say of the people of a fit: projections, boxes, seen keypoints."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from absl import logging
from jaxtyping import Bool, Float

from annyfit_jax.people.camera import project
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.store.work_progress import duration, number_of

T = TypeVar("T")


def seen(fit: SceneFit) -> Bool[np.ndarray, "n 17"]:
    """Which of the 2D keypoints that the fit was given have a confidence above 0."""
    return np.nan_to_num(fit.keypoints_2d[..., 2]) > 0


def projections(fit: SceneFit) -> Float[np.ndarray, "n 17 2"]:
    """The fitted keypoints in pixels, as the fit's camera sees them; NaN without a fit and behind the camera."""
    points = np.asarray(fit.fitted_keypoints_3d, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(points[..., 2:] > 0, project(points, np.asarray(fit.K, np.float64)), np.nan)


def boxes(fit: SceneFit) -> Float[np.ndarray, "n 4"]:
    """x0, y0, x1, y1 in pixels around the seen keypoints; without one around the projections inside the image, else NaN.

    Keypoints end at wrists, ankles and eyes: a box of the whole body is some 10 % larger on each side.
    """
    width, height = (float(side) for side in fit.image_size)
    projected, known = projections(fit), seen(fit)
    with np.errstate(invalid="ignore"):
        inside = np.all((projected >= 0) & (projected <= np.array([width, height])), axis=-1)
    out = np.full((len(fit), 4), np.nan)
    for i in range(len(fit)):
        points = fit.keypoints_2d[i, known[i], :2] if known[i].any() else projected[i, inside[i]]
        if len(points):
            out[i] = [*points.min(0), *points.max(0)]
    return out


def number(value: float, digits: int = 6) -> float | None:
    """A rounded JSON number, None for NaN and infinities."""
    return round(float(value), digits) if np.isfinite(value) else None


def with_progress(items: Iterable[T], total: int, what: str, every_s: float = 10.0) -> Iterator[T]:
    """Passes items on and logs at intervals how many of `total` there were, the rate, and the time left."""
    started = last = time.monotonic()
    done = 0
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= every_s:
            last, rate = now, done / (now - started)
            logging.info("%d/%d %s, %.1f/s, %s left", done, total, what, rate, duration(max(total - done, 0) / rate))
    logging.info("%s, %s", number_of(done, what), duration(time.monotonic() - started))
