"""Types in the tests: annotations of the packages, shapes included, are checked for whatever passes through them.

Importing this module switches the checks on for packages that are imported afterwards. Programs that a test starts as processes
of their own are not checked, and nothing is within `pytest.raises`: there arguments are wrong on purpose.
"""

from __future__ import annotations

import contextlib
import io
import typing
from collections.abc import Callable, Iterator

import jaxtyping
import numpy as np
import pytest
from beartype import BeartypeConf, FrozenDict, beartype
from beartype.roar import BeartypeDecorHintPep3119Exception

PACKAGES = ["body_models"]
"""Those whose types are checked."""
CONFIGURATION = BeartypeConf(
    hint_overrides=FrozenDict(
        {
            bool: bool | np.bool_,  # numpy's scalars pass for Python's
            int: int | np.integer,
            float: float | int | np.floating | np.integer,
            typing.IO[bytes]: typing.IO[bytes] | io.IOBase,  # beartype does not take BytesIO for one
            typing.BinaryIO: typing.BinaryIO | io.IOBase,
        }
    )
)


def check(function: Callable) -> Callable:
    """The function with its arguments and its result checked.

    Left alone are constructors, as JAX makes pytrees of tracers, axes, specifications and placeholders, not only of arrays; and
    functions that take a protocol which cannot be asked for at run time.
    """
    if function.__name__ == "__init__":
        return function
    try:
        return beartype(conf=CONFIGURATION)(function)
    except BeartypeDecorHintPep3119Exception:
        return function


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """No types are checked in here."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


_raises = pytest.raises


def _unchecked_raises(*arguments, **options):
    """`pytest.raises` without checks of types."""
    if len(arguments) > 1:  # the form with a function to call
        with unchecked():
            return _raises(*arguments, **options)
    return _unchecked_context(_raises(*arguments, **options))


@contextlib.contextmanager
def _unchecked_context(context) -> Iterator[pytest.ExceptionInfo]:
    with unchecked(), context as caught:
        yield caught


jaxtyping.install_import_hook(PACKAGES, "typechecking.check")
pytest.raises = typing.cast(typing.Any, _unchecked_raises)
