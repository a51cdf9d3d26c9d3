"""Reading `.npz` files from strangers: no code runs, no array is allocated before its size is known to be in the file.

Plain arrays are read from their header and bytes. Object arrays (the official preprocessing stores dictionaries that
way) are pickles; they are read only on request and by the restricted unpickler, where even the numpy constructors are
replaced: a pickled array is rebuilt here from its shape, type and bytes, so that a forged type cannot reach numpy's own
`__setstate__`.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.lib import format as npy

from annyfit_jax.people.scene import SceneError
from body_models.restricted_pickle import RestrictedUnpickler

MAX_MEMBER_BYTES = 4 << 30
"""A larger entry is refused; 20 masks of a 24 megapixel photo take half a gigabyte."""
_PLAIN_KINDS = "biufUS"
_MAX_DEPTH = 32


class Npz:
    """An open `.npz`: entries are read on access. Every failure is a SceneError naming file and entry."""

    def __init__(self, archive: zipfile.ZipFile, path: str, pickles: Mapping[tuple[str, str], object] | None):
        self.path = path
        self._archive = archive
        self._pickles = pickles
        self._members = {name.removesuffix(".npy"): name for name in archive.namelist()}

    def __contains__(self, key: str) -> bool:
        return key in self._members

    def keys(self) -> list[str]:
        """Names of the entries, without `.npy`."""
        return list(self._members)

    def where(self, key: str) -> str:
        """File and field, for messages."""
        return f"{self.path}: field `{key}`"

    def read(self, key: str) -> Any:
        """The entry: a numpy array, or the content of a pickled object array with containers and arrays rebuilt."""
        if key not in self:
            raise SceneError(
                f"{self.where(key)}: missing; the file has {', '.join(sorted(self.keys())[:20]) or 'none'}"
            )
        try:
            with self._archive.open(self._members[key]) as stream:
                return self._read_member(stream, self._archive.getinfo(self._members[key]).file_size)
        except SceneError as error:
            raise SceneError(f"{self.where(key)}: {error}") from error
        except Exception as error:  # a hostile or broken member can fail in zlib, zipfile, struct, pickle, ...
            raise SceneError(f"{self.where(key)}: cannot be read ({type(error).__name__}: {error})") from error

    def _read_member(self, stream: Any, size: int) -> Any:
        if size > MAX_MEMBER_BYTES:
            raise SceneError(f"{size} bytes; at most {MAX_MEMBER_BYTES} are read")
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise SceneError(f"array format {version} is not known; expected (1, 0) or (2, 0)")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
        payload_size = size - stream.tell()
        if dtype.kind == "O":
            return self._read_pickle(stream.read(), shape)
        _check_plain(dtype, shape, payload_size)
        return _from_bytes(stream.read(), dtype, shape, fortran)

    def _read_pickle(self, payload: bytes, shape: tuple[int, ...]) -> Any:
        if self._pickles is None:
            raise SceneError("holds pickled Python objects; plain numbers or text are expected here")
        array = rebuild(RestrictedUnpickler(io.BytesIO(payload), self._pickles).load())
        if not isinstance(array, np.ndarray) or array.shape != shape:
            raise SceneError(f"the pickled content is not the array of shape {shape} that the header announces")
        return array


@contextmanager
def open_npz(path: str, pickles: Mapping[tuple[str, str], object] | None = None) -> Iterator[Npz]:
    """Opens an `.npz`. `pickles`: the globals allowed in object arrays; None refuses those. Raises SceneError."""
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise SceneError(f"{path}: no such file") from error
    except Exception as error:  # the directory of a broken zip can fail in many ways
        raise SceneError(f"{path}: not a readable .npz file ({type(error).__name__}: {error})") from error
    with archive:
        yield Npz(archive, path, pickles)


def _check_plain(dtype: np.dtype, shape: tuple[int, ...], payload_size: int) -> None:
    if dtype.kind not in _PLAIN_KINDS or dtype.hasobject:
        raise SceneError(f"array type {dtype} is not accepted; expected numbers, booleans or text")
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != payload_size:
        raise SceneError(f"an array of shape {shape} and type {dtype} does not fit the {payload_size} bytes stored")


def _from_bytes(data: bytes, dtype: np.dtype, shape: tuple[int, ...], fortran: bool) -> np.ndarray:
    if dtype.itemsize == 0:  # empty text: frombuffer refuses a width of 0
        return np.zeros(shape, dtype)
    if dtype.kind == "U" and (np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder)) > 0x10FFFF).any():
        raise SceneError("holds text that is not Unicode")  # numpy would fail later, when the text is used
    array = np.frombuffer(data, dtype, math.prod(shape)).reshape(shape, order="F" if fortran else "C").copy()
    return array.astype(dtype.newbyteorder("="), copy=False)


# --- Stand-ins for the numpy globals of a pickle ---


class _PickledType:
    """Stands for `numpy.dtype(...)`: only plain numbers, text and `object` exist here."""

    def __init__(self, code: str, align: object = False, copy: object = False):
        del align, copy
        if not isinstance(code, str) or len(code) > 12 or code.lstrip("<>=|")[:1] not in tuple(_PLAIN_KINDS + "O"):
            raise SceneError(f"pickled array type {code!r:.40} is not accepted")
        self.is_object = code.lstrip("<>=|")[0] == "O"
        self.dtype = np.dtype(object if self.is_object else code)

    def __setstate__(self, state: tuple) -> None:
        # (version, byte order, subarray, names, fields, item size, alignment, flags): all but the order must be plain.
        if not isinstance(state, tuple) or len(state) != 8 or any(part is not None for part in state[2:5]):
            raise SceneError("a pickled array type with fields, subarrays or metadata is not accepted")
        if state[1] in ("<", ">") and not self.is_object:
            self.dtype = self.dtype.newbyteorder(state[1])


class _PickledArray:
    """Stands for an array under construction; `rebuild` replaces it by the array."""

    def __init__(self):
        self.state: tuple | None = None

    def __setstate__(self, state: tuple) -> None:
        ok = (
            isinstance(state, tuple)
            and len(state) == 5
            and isinstance(state[1], tuple)
            and all(type(size) is int and size >= 0 for size in state[1])
            and isinstance(state[2], _PickledType)
            and isinstance(state[4], list if state[2].is_object else bytes)
        )
        if not ok:
            raise SceneError("a pickled array has an unknown layout")
        self.state = state


class _NdarrayName:
    """Stands for the class `numpy.ndarray` as an argument."""


def _reconstruct(subtype: object, shape: object, code: object) -> _PickledArray:
    if subtype is not _NdarrayName:
        raise SceneError("a pickled array is not a plain numpy array")
    return _PickledArray()


def _scalar(dtype: object, data: object = b"") -> Any:
    if not isinstance(dtype, _PickledType) or dtype.is_object or not isinstance(data, bytes):
        raise SceneError("a pickled numpy number has an unknown layout")
    _check_plain(dtype.dtype, (), len(data))
    return _from_bytes(data, dtype.dtype, (), False)[()]


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise SceneError("a pickled byte string has an unknown encoding")
    return text.encode("latin1")


def _numpy_names() -> dict[tuple[str, str], object]:
    names: dict[tuple[str, str], object] = {("numpy", "ndarray"): _NdarrayName, ("numpy", "dtype"): _PickledType}
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[module, "_reconstruct"] = _reconstruct
        names[module, "scalar"] = _scalar
    return names


PLAIN_PICKLES: Mapping[tuple[str, str], object] = {
    **_numpy_names(),
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    **{("builtins", kind.__name__): kind for kind in (dict, list, tuple, set)},
    **{("__builtin__", kind.__name__): kind for kind in (dict, list, tuple, set)},
}
"""Everything the official preprocessing files name: numpy arrays and numbers of either major version, containers."""


def rebuild(value: Any) -> Any:
    """Replaces the pickled arrays inside nested containers by numpy arrays. Raises SceneError on cycles."""
    return _rebuild(value, {}, 0)


def _rebuild(value: Any, done: dict[int, Any], depth: int) -> Any:
    if not isinstance(value, dict | list | tuple | _PickledArray):
        if isinstance(value, type | _PickledType) or callable(value):
            raise SceneError("pickled content names a type where a value is expected")
        return value
    if depth > _MAX_DEPTH:
        raise SceneError(f"pickled content is nested more than {_MAX_DEPTH} deep or contains itself")
    # Shared parts are rebuilt once, otherwise nested sharing could grow without bound.
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, dict):
        result: Any = {key: _rebuild(item, done, depth + 1) for key, item in value.items()}
    elif isinstance(value, list):
        result = [_rebuild(item, done, depth + 1) for item in value]
    elif isinstance(value, tuple):
        result = tuple(_rebuild(item, done, depth + 1) for item in value)
    else:
        result = _array_from_state(value.state, done, depth)
    done[id(value)] = (value, result)  # the value is kept alive: its id stays its own
    return result


def _array_from_state(state: tuple | None, done: dict[int, Any], depth: int) -> np.ndarray:
    if state is None:
        raise SceneError("a pickled array has no content")
    _, shape, pickled_type, fortran, content = state
    if not pickled_type.is_object:
        _check_plain(pickled_type.dtype, shape, len(content))
        return _from_bytes(content, pickled_type.dtype, shape, bool(fortran))
    if math.prod(shape) != len(content):
        raise SceneError(f"a pickled array of shape {shape} has {len(content)} entries")
    array = np.empty(len(content), object)
    for index, item in enumerate(content):
        array[index] = _rebuild(item, done, depth + 1)
    return array.reshape(shape, order="F" if fortran else "C")
