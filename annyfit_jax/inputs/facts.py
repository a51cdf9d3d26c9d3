"""Facts that somebody knows: a person's height or distance, the camera's pitch, roll and height above the ground.

In annotations and images of a COCO file, a fact is a number, or a number and its standard deviation:

    "height_m": 1.72            "height_m": [1.72, 0.02]         of a person; also "distance_m"
    "camera_pitch_degrees": 12  "camera_roll_degrees": [0, 1]    of an image or the file; also "camera_height_m"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from annyfit_jax.people.scene import SceneError

STANDARD_DEVIATIONS = {
    "height_m": 0.02, "distance_m": 0.1, "camera_pitch_degrees": 2.0, "camera_roll_degrees": 2.0, "camera_height_m": 0.05,
}  # fmt: skip
"""Where the input tells none."""


def fact(value: Any, name: str, where: str) -> tuple[float, float]:
    """(value, standard deviation) of a fact. Raises SceneError for anything but one or two finite numbers."""
    pair = list(value) if isinstance(value, list | tuple) else [value, STANDARD_DEVIATIONS[name]]
    numbers = [x for x in pair if isinstance(x, int | float) and not isinstance(x, bool) and np.isfinite(x)]
    if len(pair) != 2 or len(numbers) != 2 or numbers[1] <= 0:
        raise SceneError(f"{where}: {name}: expected a number or [number, standard deviation > 0], got {value!r}")
    if name in ("height_m", "distance_m") and numbers[0] <= 0:
        raise SceneError(f"{where}: {name}: expected metres above 0, got {value!r}")
    return float(numbers[0]), float(numbers[1])


def of_people(annotations: Sequence[dict], name: str, where: Callable[[dict], str]) -> Float[np.ndarray, "n 2"] | None:
    """The fact of each person, NaN where it is not told; None where nobody's is."""
    if not any(annotation.get(name) is not None for annotation in annotations):
        return None
    out = np.full((len(annotations), 2), np.nan)
    for i, annotation in enumerate(annotations):
        if annotation.get(name) is not None:
            out[i] = fact(annotation[name], name, where(annotation))
    return out


def of_camera(holders: Sequence[Mapping[str, Any]], where: str) -> dict[str, tuple[float, float]]:
    """Facts of the camera as `Scene.camera` holds them; the first holder that tells one counts."""
    out: dict[str, tuple[float, float]] = {}
    for holder in holders:
        for name in ("pitch_degrees", "roll_degrees", "height_m"):
            told = holder.get(f"camera_{name}")
            if told is not None and name not in out:
                out[name] = fact(told, f"camera_{name}", where)
    return out
