"""Tensors in PyTorch's files, without PyTorch: the zip archive (since 1.6), the older stream, tensors inside other pickles.

A tensor names a storage and a strided view of it. Where the storage's bytes are differs: in a member of the archive, behind
the pickle in the stream, or in a byte string inside the pickle (`torch.storage._load_from_bytes`). Tensors come back as
read-only numpy views of their storage, so that many tensors on one storage take its memory once.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO, Any

import ml_dtypes
import numpy as np

from body_models.restricted_pickle import (
    CONTAINERS,
    Budget,
    ForeignFileError,
    Names,
    Stand,
    Stream,
    Unknown,
    brief,
    finish,
    foreign,
    interpret,
    load,
    sparse_matrix,
)

ELEMENT_TYPES: Mapping[str, np.dtype] = MappingProxyType(
    {
        "FloatStorage": np.dtype("<f4"),
        "DoubleStorage": np.dtype("<f8"),
        "HalfStorage": np.dtype("<f2"),
        "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
        "LongStorage": np.dtype("<i8"),
        "IntStorage": np.dtype("<i4"),
        "ShortStorage": np.dtype("<i2"),
        "CharStorage": np.dtype("i1"),
        "ByteStorage": np.dtype("u1"),
        "BoolStorage": np.dtype("?"),
    }
)
"""Storage classes and what their bytes are (little-endian)."""

LEGACY_MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_CODECS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class _StorageType:
    """Stands for a storage class such as `torch.FloatStorage`."""

    dtype: np.dtype


class _Storage(Stand):
    """The elements of a storage; in the older stream they are filled in after the pickle has been read."""

    def __init__(self, dtype: np.dtype, count: int, elements: np.ndarray | None = None) -> None:
        super().__init__()
        self.dtype, self.count, self.elements = dtype, count, elements

    def finish(self, *parts: Any) -> np.ndarray:
        """The elements."""
        if self.elements is None:
            raise ForeignFileError("refused: a tensor without its elements")
        return self.elements


class _Tensor(Stand):
    """The strided view (offset, size, stride in elements) of a storage."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
        super().__init__()
        plain = isinstance(storage, _Storage) and isinstance(size, tuple) and isinstance(stride, tuple)
        if not plain or len(size) != len(stride) or len(size) > 32:
            raise ForeignFileError("refused: tensor of unknown layout")
        if any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
            raise ForeignFileError("refused: tensor of unknown layout")
        count = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if count > storage.count or (count and last >= storage.count):
            raise ForeignFileError(f"refused: tensor of shape {size} reaches outside its {storage.count} elements")
        self.view = (storage, offset, size, stride)

    def finish(self, *parts: Any) -> np.ndarray:
        """The view. It cannot be written to."""
        storage, offset, size, stride = self.view
        if not math.prod(size):
            return np.zeros(size, storage.dtype)
        steps = tuple(step * storage.dtype.itemsize for step in stride)
        return np.lib.stride_tricks.as_strided(storage.finish()[offset:], size, steps, writeable=False)


class _SparseTensor(Stand):
    """A sparse COO tensor of two dimensions: (indices (2, nnz), values (nnz,), size, ...)."""

    def parts(self) -> tuple[Any, ...]:
        """Layout and the arrays."""
        return self.arguments

    def finish(self, *parts: Any) -> Any:
        """As `scipy.sparse.coo_array`."""
        layout, content = parts if len(parts) == 2 else (None, ())
        if layout != "torch.sparse_coo" or not isinstance(content, tuple) or len(content) < 3:
            raise ForeignFileError(f"refused: a torch tensor of layout {brief(layout)}; expected torch.sparse_coo")
        indices, values, size = content[:3]
        plain = isinstance(indices, np.ndarray) and isinstance(values, np.ndarray) and isinstance(size, tuple)
        if not plain or len(size) != 2 or indices.ndim != 2 or indices.shape[0] != 2 or values.ndim != 1:
            raise ForeignFileError("refused: a sparse torch tensor of unknown layout")
        return sparse_matrix(indices[0].astype(np.int64), indices[1].astype(np.int64), values, size)


def _parameter(tensor: Any, *_: Any) -> Any:
    """A parameter is its tensor."""
    if not isinstance(tensor, _Tensor | Unknown):
        raise ForeignFileError("refused: torch._utils._rebuild_parameter of something else than a tensor")
    return tensor


def _layout(name: Any) -> Any:
    """A layout is its name."""
    return name


def _size(numbers: Any = ()) -> tuple:
    if not isinstance(numbers, list | tuple):
        raise ForeignFileError("refused: a size of unknown layout")
    return tuple(numbers)


TORCH: Names = MappingProxyType(
    {
        **CONTAINERS,
        **{("torch", name): _StorageType(dtype) for name, dtype in ELEMENT_TYPES.items()},
        ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch._utils", "_rebuild_sparse_tensor"): _SparseTensor,
        ("torch.serialization", "_get_layout"): _layout,
        ("torch", "Size"): _size,
    }
)
"""Containers and tensors. The storages are found by the functions below."""


def embedded_names(budget: Budget) -> Names:
    """`TORCH` and the function by which a pickle that is not PyTorch's own carries the bytes of a storage."""

    def load_from_bytes(data: Any) -> _Storage:
        if not isinstance(data, bytes):
            raise ForeignFileError("refused: a tensor storage of unknown layout")
        storages: dict[str, _Storage] = {}
        storage = _read_stream(io.BytesIO(data), TORCH, budget, None, storages)
        if not isinstance(storage, _Storage) or len(storages) != 1:
            raise ForeignFileError("refused: bytes that hold more than one plain tensor storage")
        return storage

    return MappingProxyType({**TORCH, ("torch.storage", "_load_from_bytes"): load_from_bytes})


def _reference(pid: Any, length: int) -> tuple[np.dtype, str, int]:
    """Element type, key and count of ("storage", class, key, location, count), in streams with a view (None) behind."""
    if not isinstance(pid, tuple) or len(pid) != length or pid[0] != "storage" or not isinstance(pid[1], _StorageType):
        raise ForeignFileError("refused: unknown storage reference")
    _, storage, key, _, count = pid[:5]
    if not isinstance(key, str) or type(count) is not int or count < 0 or pid[5:] not in ((), (None,)):
        raise ForeignFileError(f"refused: storage {brief(key)} is a view or has no size")
    return storage.dtype, key, count


def read_zip(
    file: IO[bytes], known: Names = TORCH, budget: Budget | None = None, unknown: type[Unknown] | None = None
) -> Any:
    """The object that `torch.save` wrote into a zip archive, with tensors as numpy arrays.

    `known` and `unknown` are those of `restricted_pickle.load`; `budget` None: by the size of the file.

    Raises: ForeignFileError.
    """
    budget = budget or Budget.for_file(file.seek(0, io.SEEK_END))
    file.seek(0)
    with foreign("PyTorch zip file"):
        try:
            archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise ForeignFileError(f"not a PyTorch zip file: {error}") from error
        with archive:
            return _read_archive(archive, known, budget, unknown)


def _read_archive(archive: zipfile.ZipFile, known: Names, budget: Budget, unknown: type[Unknown] | None) -> Any:
    tops = [name.removesuffix("/data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(tops) != 1:
        raise ForeignFileError("not a PyTorch zip file: expected one data.pkl")

    def member(name: str, expected: int | None = None) -> bytes:
        info = archive.getinfo(f"{tops[0]}/{name}")
        if expected is not None and info.file_size != expected:
            raise ForeignFileError(f"refused: {name} has {info.file_size} bytes, not {expected}")
        if info.compress_type not in _CODECS:
            raise ForeignFileError(f"refused: {name} is compressed by method {info.compress_type}")
        budget.take(info.file_size)
        return archive.read(info)

    if f"{tops[0]}/byteorder" in archive.NameToInfo and member("byteorder") != b"little":
        raise ForeignFileError("a big-endian PyTorch file is not supported")
    storages: dict[str, _Storage] = {}

    def persistent(pid: Any) -> _Storage:
        dtype, key, count = _reference(pid, 5)
        if f"{tops[0]}/data/{key}" not in archive.NameToInfo:
            raise ForeignFileError(f"refused: storage {brief(key)} is not in the file")
        if key not in storages:
            content = member(f"data/{key}", count * dtype.itemsize)
            storages[key] = _Storage(dtype, count, np.frombuffer(content, dtype))
        if (storages[key].dtype, storages[key].count) != (dtype, count):
            raise ForeignFileError(f"refused: storage {brief(key)} is described in two ways")
        return storages[key]

    return load(io.BytesIO(member("data.pkl")), known, budget=budget, unknown=unknown, persistent=persistent)


def read_stream(stream: Stream, known: Names, budget: Budget, unknown: type[Unknown] | None = None) -> Any:
    """The object in the older layout of `torch.save`, as `read_zip` does it. Raises: ForeignFileError."""
    return finish(_read_stream(stream, known, budget, unknown, {}), budget, unknown)


def _read_stream(
    stream: Stream, known: Names, budget: Budget, unknown: type[Unknown] | None, storages: dict[str, _Storage]
) -> Any:
    """Magic number, version, description of the machine, object, names of storages, then each storage's bytes."""

    def persistent(pid: Any) -> _Storage:
        dtype, key, count = _reference(pid, 6)
        storage = storages.setdefault(key, _Storage(dtype, count))
        if (storage.dtype, storage.count) != (dtype, count):
            raise ForeignFileError(f"refused: storage {brief(key)} is described in two ways")
        return storage

    with foreign("PyTorch file"):
        magic, version, machine = (load(stream, CONTAINERS, budget=budget) for _ in range(3))
        if magic != LEGACY_MAGIC or version != LEGACY_VERSION:
            raise ForeignFileError("neither of the two layouts of torch.save")
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise ForeignFileError("a big-endian PyTorch file is not supported")
        raw = interpret(stream, known, budget, unknown, persistent)
        keys = load(stream, CONTAINERS, budget=budget)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
            raise ForeignFileError("the list of storages does not fit the tensors")
        for key in keys:
            storage = storages[key]
            (count,) = struct.unpack("<q", stream.read(8))
            if count != storage.count:
                raise ForeignFileError(f"storage {key!r:.40} has {count} elements, the tensors need {storage.count}")
            content = stream.read(count * storage.dtype.itemsize)
            if len(content) != count * storage.dtype.itemsize:
                raise ForeignFileError(f"the file ends inside storage {key!r:.40}")
            budget.take(len(content))
            storage.elements = np.frombuffer(content, storage.dtype)
        return raw
