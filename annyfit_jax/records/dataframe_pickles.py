"""Standalone pickles of data sets, read without running anything in them: arrays, containers, pandas data frames.

A data frame comes out as a dictionary of columns, without pandas: its blocks are arrays, and which column lies in which row of
which block is stored beside them. Known: pandas before 1.3 (state with the key `0.14.1`), 1.3 to 2 (`_unpickle_block`), and
the text columns of pandas 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from annyfit_jax.people.scene import SceneError
from body_models.restricted_pickle import CONTAINERS, NUMPY, Budget, ForeignFileError, Names, Stand, load, mapped


def read_pickle(path: str | Path, more: Names | None = None) -> Any:
    """The content of a pickle of numbers, text, containers and arrays. Raises SceneError; no code of the file runs."""
    try:
        with mapped(path) as stream:
            budget = Budget.for_file(Path(path).stat().st_size)
            return load(stream, {**CONTAINERS, **NUMPY, **(more or {})}, budget=budget)
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror})") from error
    except ForeignFileError as error:
        raise SceneError(f"{path}: {error}") from error


# ------------------------------------------------------------------------------------------------ data frames


class _Pandas(Stand):
    """Stands for a pandas object: keeps its arguments and its state."""

    def parts(self) -> tuple[Any, ...]:
        """Arguments and state."""
        return self.arguments, self.state

    def finish(self, *parts: Any) -> Any:
        """Itself, with finished arguments and state."""
        self.arguments, self.state = parts
        return self


class _Frame(_Pandas):
    """`DataFrame`."""


class _Manager(_Pandas):
    """`BlockManager`: blocks and axes."""


class _Backed(_Pandas):
    """An extension array: its state holds the plain one."""


class _IndexClass(_Pandas):
    """A class of index as an argument."""


def _new_index(kind: Any, values: Any) -> Any:
    del kind
    return values


def _block(values: Any, places: Any, ndim: Any = 2) -> tuple[Any, Any]:
    del ndim
    return values, places


def _backed(kind: Any, checksum: Any, state: Any = None) -> _Backed:
    del kind, checksum
    stand = _Backed()
    stand.build(state)
    return stand


def _slice(*bounds: Any) -> slice:
    if len(bounds) > 3 or not all(bound is None or type(bound) is int for bound in bounds):
        raise ForeignFileError("refused: a slice of anything but whole numbers")
    return slice(*bounds)


_PANDAS: Names = {
    ("pandas.core.frame", "DataFrame"): _Frame,
    ("pandas", "DataFrame"): _Frame,
    ("pandas.core.internals.managers", "BlockManager"): _Manager,
    ("pandas._libs.internals", "_unpickle_block"): _block,
    ("pandas.core.indexes.base", "_new_Index"): _new_index,
    ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"): _backed,
    ("builtins", "slice"): _slice,
    ("__builtin__", "slice"): _slice,
    **{
        (module, name): _IndexClass
        for module, names in {
            "pandas.core.indexes.base": ("Index",),
            "pandas.core.indexes.range": ("RangeIndex",),
            "pandas.core.indexes.numeric": ("Int64Index", "Float64Index", "UInt64Index"),
            "pandas.arrays": ("StringArray",),
            "pandas.core.arrays.string_": ("StringArray", "StringDtype"),
            "pandas": ("Index", "RangeIndex", "StringDtype"),
        }.items()
        for name in names
    },
}


def read_dataframe(path: str | Path) -> dict[str, list]:
    """The columns of a pickled pandas data frame as lists of equal length. Raises SceneError naming the file."""
    frame = read_pickle(path, _PANDAS)
    try:
        columns = _columns(frame)
    except SceneError as error:
        raise SceneError(f"{path}: {error}") from None
    except Exception as error:  # a state of another layout
        raise SceneError(f"{path}: a data frame of unknown layout ({type(error).__name__}: {error})") from error
    if len({len(column) for column in columns.values()}) > 1:
        raise SceneError(f"{path}: a data frame whose columns have different lengths")
    return columns


def _columns(frame: Any) -> dict[str, list]:
    if not isinstance(frame, _Frame) or not isinstance(frame.state, dict):
        raise SceneError(f"expected a pickled pandas data frame, got {type(frame).__name__.strip('_')}")
    manager = frame.state.get("_mgr", frame.state.get("_data"))
    if not isinstance(manager, _Manager):
        raise SceneError("expected a pandas data frame with its blocks")
    if len(manager.arguments) >= 2:
        blocks, axes = manager.arguments[:2]
    else:
        stored = manager.state[3]["0.14.1"]
        blocks, axes = [(block["values"], block["mgr_locs"]) for block in stored["blocks"]], stored["axes"]
    names = [str(name) for name in _plain(axes[0]["data"])]
    columns: dict[str, list] = {}
    for values, places in blocks:
        values = _plain(values)
        rows = np.arange(len(names))[places]
        if values.ndim == 1:
            values = values[None]
        if len(values) != len(rows):
            raise SceneError(f"a block of {len(values)} columns stands in {len(rows)} places")
        columns |= {names[place]: list(row) for place, row in zip(rows, values, strict=True)}
    missing = [name for name in names if name not in columns]
    if missing:
        raise SceneError(f"column {missing[0]!r} has no values")
    return {name: columns[name] for name in names}


def _plain(values: Any) -> np.ndarray:
    if isinstance(values, _Backed):
        state = values.state if isinstance(values.state, tuple) else ()
        values = next((part for part in state if isinstance(part, np.ndarray)), None)
    if not isinstance(values, np.ndarray):
        raise SceneError(f"expected arrays in a data frame, got {type(values).__name__.strip('_')}")
    return np.asarray(values)
