"""Fits saved by the official Anny-Fit program (`version_<stem>/params.npz`), read without PyTorch.

The file is an `.npz` whose entries "0", "1", ... are pickled dictionaries of tensors. A tensor names its storage, and a
storage carries its bytes in PyTorch's legacy file format: five pickles (magic number, protocol version, system
information, a storage reference, the storage keys), then the number of elements as a 64-bit integer and the raw
elements. Both layers go through the restricted unpickler; the few PyTorch names are replaced by the functions below.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.npz import PLAIN_PICKLES, open_npz
from body_models.restricted_pickle import RestrictedUnpickler

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_STORAGE_TYPES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "<?",
}  # fmt: skip


class _StorageType:
    """Stands for a storage class such as `torch.FloatStorage`."""

    def __init__(self, code: str):
        self.dtype = np.dtype(code)


class _Storage:
    """The elements of a storage."""

    def __init__(self, elements: np.ndarray):
        self.elements = elements


class _LegacyUnpickler(RestrictedUnpickler):
    """Reads the storage reference: a persistent id ("storage", type, key, location, elements, view)."""

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) != 6 or pid[0] != "storage" or not isinstance(pid[1], _StorageType):
            raise SceneError("unknown storage reference")
        return pid


def read_official_params(path: str) -> dict[str, dict[str, Any]]:
    """The people of a saved fit: {"0": {"root_rotation_params": (1, 3), "body_pose_params": (162, 3), ...}, ...}.

    Tensors become numpy arrays, lists of labels stay lists. Frame and units are the release's: camera space, metres,
    radians; the translation places the root bone. Raises SceneError on anything that is not such a file.
    """
    with open_npz(path, _PARAMS_PICKLES) as npz:
        people: dict[str, dict[str, Any]] = {}
        for key in npz.keys():  # noqa: SIM118 (not a mapping)
            content = npz.read(key)
            content = content.reshape(-1)[0] if isinstance(content, np.ndarray) and content.size == 1 else content
            if not isinstance(content, dict):
                raise SceneError(f"{npz.where(key)}: expected a dictionary of parameters")
            people[key] = content
    if not people:
        raise SceneError(f"{path}: expected one entry per person, got none")
    return people


def _load_from_bytes(data: object) -> _Storage:
    """Reads a storage from PyTorch's legacy format."""
    if not isinstance(data, bytes):
        raise SceneError("a tensor storage has an unknown layout")
    stream = io.BytesIO(data)

    def pickled() -> Any:
        return _LegacyUnpickler(stream, _LEGACY_PICKLES).load()

    if pickled() != _LEGACY_MAGIC or pickled() != _LEGACY_PROTOCOL:
        raise SceneError("a tensor storage is not in PyTorch's legacy format")
    pickled()  # system information; the numbers are little-endian on every platform PyTorch is released for
    reference, keys = pickled(), pickled()
    if not isinstance(reference, tuple) or len(reference) != 6 or keys != [reference[2]] or reference[5] is not None:
        raise SceneError("a tensor storage holds more than one plain storage")
    dtype, count = reference[1].dtype, reference[4]
    header = stream.read(8)
    stored = struct.unpack("<q", header)[0] if len(header) == 8 else -1
    body = stream.read()
    if type(count) is not int or stored != count or count * dtype.itemsize != len(body):
        raise SceneError(f"a tensor storage announces {count} elements and holds {len(body)} bytes")
    return _Storage(np.frombuffer(body, dtype))


def _rebuild_tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> np.ndarray:
    """The view of a storage that a tensor is; every element it touches must exist."""
    plain = (
        isinstance(storage, _Storage)
        and isinstance(size, tuple)
        and isinstance(stride, tuple)
        and len(size) == len(stride)
        and all(type(number) is int and number >= 0 for number in (offset, *size, *stride))
    )
    if not plain:
        raise SceneError("a tensor has an unknown layout")
    elements = storage.elements  # pyright: ignore[reportAttributeAccessIssue]
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))  # pyright: ignore
    if 0 in size:  # pyright: ignore[reportOperatorIssue]
        return np.zeros(size, elements.dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]
    if last >= len(elements) or np.prod(size, dtype=object) > len(elements):  # pyright: ignore
        raise SceneError(f"a tensor of size {size} does not fit its storage of {len(elements)} elements")
    strides = [step * elements.itemsize for step in stride]  # pyright: ignore[reportGeneralTypeIssues]
    return np.lib.stride_tricks.as_strided(elements[offset:], size, strides).copy()  # pyright: ignore


def _rebuild_parameter(tensor: object, *_: object) -> object:
    return tensor


_STORAGE_NAMES = {("torch", name): _StorageType(code) for name, code in _STORAGE_TYPES.items()}
_LEGACY_PICKLES: Mapping[tuple[str, str], object] = _STORAGE_NAMES
_PARAMS_PICKLES: Mapping[tuple[str, str], object] = {
    **PLAIN_PICKLES,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _load_from_bytes,
}
