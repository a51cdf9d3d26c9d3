"""Reading pickles of known layout without giving them the power to run code.

A pickle may name any importable object and have it called. `RestrictedUnpickler` resolves names only in a table given
by the caller; everything else is refused before it is looked up, and nothing is ever imported. On top of it: numpy
arrays and scalars (`NUMPY_GLOBALS`) and the tensors of a PyTorch zip file (`read_torch_zip`, without PyTorch).
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np


class RestrictedUnpickler(pickle.Unpickler):
    """`pickle.Unpickler` whose only globals are the keys of `allowed`.

    Args:
      file: binary file at the start of the pickle.
      allowed: (module, name) as written in the pickle -> the object to use in its place. Nothing is imported: give
        stand-ins for classes of libraries that are absent, and never a callable that trusts its arguments.
      mixed: the stream holds more than the pickle's instructions (joblib puts array bytes between them), so they cannot be
        looked through beforehand.
      **options: `encoding`, `errors`, `fix_imports` as in `pickle.Unpickler`. Python 2 names ("copy_reg") are not
        translated: list them too.

    Raises: pickle.UnpicklingError for a memo that would fill the memory; from `load`, naming the global, for every other
      global and persistent reference.
    """

    def __init__(
        self, file: IO[bytes], allowed: Mapping[tuple[str, str], object], *, mixed: bool = False, **options: Any
    ) -> None:
        if not mixed:
            start = file.tell()
            _check_memo(file)
            file.seek(start)
        super().__init__(file, **options)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a global of the pickle. Raises UnpicklingError for one that is not allowed."""
        try:
            return self._allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"refused: the pickle asks for the global {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        """Raises UnpicklingError: nothing outside the pickle is read."""
        raise pickle.UnpicklingError("refused: the pickle refers to an object outside itself")


def _check_memo(file: IO[bytes]) -> None:
    """Refuses places in the memo that no program writes: the unpickler would fill memory up to them (64 GB for the largest)."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > count:
            raise pickle.UnpicklingError(f"refused: place {argument} of the memo after {count} instructions")


# ------------------------------------------------------------------------------------------------------ numpy arrays
#
# numpy's own constructors believe what a pickle says of an array (a dtype whose state hides that it holds pointers,
# say). The stand-ins check first and hand numpy only bytes of the right length.


class _ArrayClass:
    """Stands for the class `numpy.ndarray` as an argument."""


class _PickledDtype:
    """Stands for `numpy.dtype`: numbers, booleans, text, bytes and `object`; no fields, no subarrays."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False):
        del align, copy
        if isinstance(code, bytes):
            code = code.decode("latin1")
        if not isinstance(code, str) or len(code) > 12 or code.lstrip("<>=|")[:1] not in tuple("biufcSUO"):
            raise pickle.UnpicklingError(f"refused: pickled array type {code!r:.40}")
        try:
            self.dtype = np.dtype(code)
        except TypeError as error:
            raise pickle.UnpicklingError(f"refused: pickled array type {code!r}") from error
        if self.dtype.names is not None or self.dtype.subdtype is not None:  # "u1,O" spells fields
            raise pickle.UnpicklingError(f"refused: pickled array type {code!r} with fields or subarrays")

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, item size, alignment, flags, ...): only the order is of use.
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("refused: pickled array type with fields or subarrays")
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _PickledArray(np.ndarray):
    """An array filled from a pickle's state, which is checked first."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("refused: pickled array of unknown layout")
        _, shape, pickled_type, fortran, content = state
        if not (
            isinstance(shape, tuple)
            and all(type(size) is int and size >= 0 for size in shape)
            and isinstance(pickled_type, _PickledDtype)
        ):
            raise pickle.UnpicklingError("refused: pickled array of unknown layout")
        dtype, count = pickled_type.dtype, math.prod(shape)
        if isinstance(content, str) and not dtype.hasobject:  # bytes of a Python 2 pickle read as latin1
            content = content.encode("latin1")
        fits = (
            isinstance(content, list) and len(content) == count
            if dtype.hasobject
            else isinstance(content, bytes) and len(content) == count * dtype.itemsize
        )
        if not fits:
            raise pickle.UnpicklingError(f"refused: content of a pickled array does not fit {shape} of {dtype}")
        super().__setstate__((1, shape, dtype, bool(fortran), content))  # pyright: ignore[reportArgumentType]


def _reconstruct(subtype: Any, shape: Any, code: Any) -> np.ndarray:
    del shape, code  # both are replaced by the state that follows
    if subtype is not _ArrayClass:
        raise pickle.UnpicklingError("refused: pickled array that is not a plain numpy array")
    return np.ndarray.__new__(_PickledArray, (0,))


def _scalar(pickled_type: Any, content: Any) -> Any:
    if not isinstance(pickled_type, _PickledDtype) or pickled_type.dtype.hasobject:
        raise pickle.UnpicklingError("refused: pickled numpy number of unknown layout")
    data = content.encode("latin1") if isinstance(content, str) else content
    if not isinstance(data, bytes) or len(data) != pickled_type.dtype.itemsize or not data:
        raise pickle.UnpicklingError("refused: pickled numpy number of unknown layout")
    return np.frombuffer(data, pickled_type.dtype)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("refused: byte string of unknown encoding")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocols 0 to 2 write the content of an empty array: a call of `bytes` without arguments."""
    return b""


NUMPY_GLOBALS: Mapping[tuple[str, str], object] = {
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy", "ndarray"): _ArrayClass,
    ("numpy", "dtype"): _PickledDtype,
    ("_codecs", "encode"): _encode,
    **{
        (module, name): function
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, function in (("_reconstruct", _reconstruct), ("scalar", _scalar))
    },
}
"""What numpy 1 and 2 write for arrays and scalars, protocols 0 to 4. Arrays come back as an ndarray subclass."""


# ------------------------------------------------------------------------------------------------------ torch zip files


class _Storage:
    """Stands for a torch storage class: names an element type."""

    def __init__(self, code: str):
        self.dtype = np.dtype(code)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """A contiguous copy of the strided view (offset, size, stride in elements) of a storage."""
    ok = isinstance(storage, np.ndarray) and isinstance(size, tuple) and isinstance(stride, tuple)
    if not ok or len(size) != len(stride) or any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
        raise pickle.UnpicklingError("refused: tensor of unknown layout")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if count > storage.size or (count and last >= storage.size):
        raise pickle.UnpicklingError(f"refused: tensor of shape {size} reaches outside its {storage.size} elements")
    if not count:
        return np.zeros(size, storage.dtype)
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()


TORCH_GLOBALS: Mapping[tuple[str, str], object] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): _Storage("<f4"),
    ("torch", "DoubleStorage"): _Storage("<f8"),
}
"""Dictionaries, lists and scalars holding float32 and float64 tensors."""


class _TorchUnpickler(RestrictedUnpickler):
    """Resolves ("storage", class, key, location, count) to the buffer `<top>/data/<key>` of the archive."""

    def __init__(self, archive: zipfile.ZipFile, top: str, allowed: Mapping[tuple[str, str], object]):
        super().__init__(io.BytesIO(archive.read(f"{top}/data.pkl")), allowed)
        self._archive, self._top = archive, top

    def persistent_load(self, pid: Any) -> np.ndarray:
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[1], _Storage):
            raise pickle.UnpicklingError("refused: unknown storage reference")
        _, storage, key, _, count = pid
        name = f"{self._top}/data/{key}"
        if name not in self._archive.NameToInfo:
            raise pickle.UnpicklingError(f"refused: storage {key!r} is not in the file")
        data = self._archive.read(name)
        if type(count) is not int or len(data) != count * storage.dtype.itemsize:
            raise pickle.UnpicklingError(f"refused: storage {key!r} has {len(data)} bytes, not {count} elements")
        return np.frombuffer(data, storage.dtype)


def read_torch_zip(file: IO[bytes], allowed: Mapping[tuple[str, str], object] = TORCH_GLOBALS) -> Any:
    """The object saved in a PyTorch zip file (`torch.save`), tensors as numpy arrays, without PyTorch.

    Raises: pickle.UnpicklingError for anything the allow-list does not name; ValueError for a file of another layout.
    """
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise ValueError(f"not a PyTorch zip file: {error}") from error
    with archive:
        tops = [name.removesuffix("/data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(tops) != 1:
            raise ValueError("not a PyTorch zip file: expected one data.pkl")
        order = f"{tops[0]}/byteorder"
        if order in archive.NameToInfo and archive.read(order) != b"little":
            raise ValueError("a big-endian PyTorch file is not supported")
        return _TorchUnpickler(archive, tops[0], allowed).load()
