"""`.npz` files from strangers, with this package's error: see `body_models.foreign_npz`, which does the reading."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

import numpy as np

from annyfit_jax.people.scene import SceneError
from body_models import foreign_npz
from body_models.foreign_npz import Npz
from body_models.restricted_pickle import CONTAINERS, NUMPY

__all__ = ["PLAIN_PICKLES", "Npz", "checked_by_name", "open_npz", "read_by_name"]

PLAIN_PICKLES: Mapping[tuple[str, str], Any] = MappingProxyType({**CONTAINERS, **NUMPY})
"""Everything the official preprocessing files name: numpy arrays and numbers of either major version, containers."""


def open_npz(path: str, pickles: Mapping[tuple[str, str], Any] | None = None) -> AbstractContextManager[Npz]:
    """Opens an `.npz`. `pickles`: the stand-ins allowed in object arrays; None refuses those. Raises SceneError."""
    return foreign_npz.open_npz(path, pickles, SceneError)


def read_by_name(path: str, key: str, expected: str) -> dict[str, Any]:
    """The dictionary by name that an object array holds. `expected` names its values in the SceneError of another content."""
    with open_npz(path, PLAIN_PICKLES) as npz:
        stored = npz.read(key)
    content = stored.item() if isinstance(stored, np.ndarray) and stored.shape == () else stored
    return checked_by_name(content, f"{path}: {key}", expected)


def checked_by_name(content: Any, where: str, expected: str) -> dict[str, Any]:
    """The content if it is a dictionary with texts as keys, else a SceneError."""
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise SceneError(f"{where}: expected a dictionary {{image name: {expected}}}, got {type(content).__name__}")
    return content
