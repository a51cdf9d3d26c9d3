"""`.npz` files from strangers, with this package's error: see `body_models.foreign_npz`, which does the reading."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

from annyfit_jax.people.scene import SceneError
from body_models import foreign_npz
from body_models.foreign_npz import Npz
from body_models.restricted_pickle import CONTAINERS, NUMPY

__all__ = ["PLAIN_PICKLES", "Npz", "open_npz"]

PLAIN_PICKLES: Mapping[tuple[str, str], Any] = MappingProxyType({**CONTAINERS, **NUMPY})
"""Everything the official preprocessing files name: numpy arrays and numbers of either major version, containers."""


def open_npz(path: str, pickles: Mapping[tuple[str, str], Any] | None = None) -> AbstractContextManager[Npz]:
    """Opens an `.npz`. `pickles`: the stand-ins allowed in object arrays; None refuses those. Raises SceneError."""
    return foreign_npz.open_npz(path, pickles, SceneError)
