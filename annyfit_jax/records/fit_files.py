"""Fit files: the fitted people of a scene in one `.npz`, plain arrays, no pickles. Fields: `annyfit_jax.people.fitted`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from annyfit_jax.people.fitted import ADDED, FACTS, FORMAT_VERSION, FRAME, OPTIONAL, SceneFit
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.files import write_npz
from annyfit_jax.records.npz import open_npz

__all__ = ["ADDED", "FORMAT_VERSION", "FRAME", "FitFileError", "SceneFit", "load", "save"]


class FitFileError(ValueError):
    """A fit file that cannot be read; the message names file and field."""


def save(fit: SceneFit, path: str | Path) -> None:
    """Write a fit. The file appears complete or not at all."""
    arrays = {name: getattr(fit, name) for name in FACTS if getattr(fit, name) is not None}
    write_npz(path, arrays)


def load(path: str | Path) -> SceneFit:
    """Read a fit written by `save`. Raises FitFileError naming the file and the missing or wrong field."""
    try:
        with open_npz(str(path)) as archive:
            arrays = {name: archive.read(name) for name in archive.keys()}  # noqa: SIM118 (no mapping)
    except SceneError as error:
        raise FitFileError(str(error)) from None
    version = arrays.get("format_version")
    if version is None or version.shape or version not in range(1, FORMAT_VERSION + 1):
        raise FitFileError(f"{path}: format_version {version}, expected 1 to {FORMAT_VERSION}")
    missing = set(FACTS) - set(arrays) - OPTIONAL
    if missing:
        raise FitFileError(f"{path}: missing {', '.join(sorted(missing))}")
    _check(arrays, path)
    values: dict[str, Any] = {k: str(v) if FACTS[k].kind == "text" else v for k, v in arrays.items() if k in FACTS}
    return SceneFit(**values)


def _check(arrays: dict[str, np.ndarray], path: str | Path) -> None:
    """Raises FitFileError where an array has another shape or kind than `SceneFit` says; letters agree within a file."""
    sizes: dict[str, int] = {}
    for name, fact in FACTS.items():
        array, shape = arrays.get(name), fact.shape
        if array is None or not shape:
            continue
        fits = array.ndim == len(shape) and all(
            size == (sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted)
            for wanted, size in zip(shape, array.shape, strict=True)
        )
        if not fits:
            known = [sizes.get(size, size) if isinstance(size, str) else size for size in shape]
            spelled = ", ".join(map(str, known)) + ("," if len(shape) == 1 else "")
            raise FitFileError(f"{path}: {name}: expected shape ({spelled}), got {array.shape}")
        text = fact.kind == "texts"
        if array.size and (array.dtype.kind == "U") != text:
            raise FitFileError(f"{path}: {name}: expected {'text' if text else 'numbers'}, got {array.dtype}")
